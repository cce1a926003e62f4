//! An access token, ready to be sent.

use std::{fmt, sync::Mutex};

use reqwest::Url;

use super::hosts::Host;
use crate::util::{id::Secret, lock};

/// Holds an access token and a URL that carries it. `Debug` shows neither.
///
/// Escaping a token of 512 characters for a URL takes as long as the rest of a call, and the result
/// is always the same. The URL is therefore cached together with the token.
pub(crate) struct AccessToken {
    value: Secret,
    /// The URL without a path, and the index of the host that it belongs to.
    url: Mutex<Option<(usize, Url)>>,
}

impl AccessToken {
    /// Returns the token itself.
    pub(crate) fn value(&self) -> &Secret {
        &self.value
    }

    /// Returns the URL of `path` at `host`. `index` is the position of the host in the settings.
    pub(super) fn url(&self, index: usize, host: &Host, path: &str) -> Url {
        let mut cached = lock(&self.url);
        let mut url = match &*cached {
            Some((of, url)) if *of == index => url.clone(),
            _ => {
                let mut url = host.url.clone();
                url.query_pairs_mut().append_pair("access_token", self.value.expose());
                cached.insert((index, url)).1.clone()
            }
        };
        drop(cached);
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
    fn url_has_host_path_and_escaped_token() {
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
