//! An access token, ready to be sent.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use reqwest::Url;

use super::hosts::Host;
use crate::util::id::Secret;

/// An access token, and a URL that carries it; shows neither.
///
/// Going through 512 characters for some that a URL may not have takes as long as much else about a
/// call, and the result is the same each time. So it is kept, as long as the token.
pub struct AccessToken {
    value: Secret,
    /// Of the host that was asked last, with no path yet.
    url: Mutex<Option<(usize, Url)>>,
}

impl AccessToken {
    /// The token itself.
    pub fn value(&self) -> &Secret {
        &self.value
    }

    /// The URL of a path at this host, which has this place in the settings.
    pub(super) fn url(&self, index: usize, host: &Host, path: &str) -> Url {
        // Every change is complete before anything can panic.
        let mut kept = self.url.lock().unwrap_or_else(PoisonError::into_inner);
        let mut url = match &*kept {
            Some((of, url)) if *of == index => url.clone(),
            _ => {
                let mut url = host.url.clone();
                url.query_pairs_mut().append_pair("access_token", self.value.expose());
                kept.insert((index, url)).1.clone()
            }
        };
        drop(kept);
        url.set_path(path);
        url
    }
}

impl From<Secret> for AccessToken {
    fn from(value: Secret) -> Self {
        Self { value, url: Mutex::default() }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_url_has_its_host_its_path_and_the_token_as_urls_have_it() {
        let token = AccessToken::from(Secret::from("a b+c&d=é".to_owned()));
        let hosts = ["https://a", "http://b:8080"].map(|url| Host {
            url: Url::parse(url).expect("a URL"),
            address: String::new(),
            port: 0,
        });
        for (index, path, expected) in [
            (0, "/wxa/one", "https://a/wxa/one?access_token=a+b%2Bc%26d%3D%C3%A9"),
            (0, "/two", "https://a/two?access_token=a+b%2Bc%26d%3D%C3%A9"),
            (1, "/two", "http://b:8080/two?access_token=a+b%2Bc%26d%3D%C3%A9"),
            (0, "/wxa/one", "https://a/wxa/one?access_token=a+b%2Bc%26d%3D%C3%A9"),
        ] {
            assert_eq!(token.url(index, &hosts[index], path).as_str(), expected);
        }
        assert_eq!(format!("{token:?}"), "[redacted]");
    }
}
