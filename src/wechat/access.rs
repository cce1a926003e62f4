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
    name: TokenName,
    /// The URL without a path, and the index of the host that it belongs to.
    url: Mutex<Option<(usize, Url)>>,
}

/// The name of the query parameter that carries a token.
///
/// A platform's token for one of its accounts has the field `authorizer_access_token` in WeChat's reply, and is
/// sent as `access_token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "these are WeChat's names")]
pub(crate) enum TokenName {
    /// `access_token`: the token of an account.
    AccessToken,
    /// `cloudbase_access_token`: the token of a container in WeChat's cloud hosting (微信云托管).
    CloudbaseAccessToken,
    /// `component_access_token`: the token of a third-party platform (第三方平台).
    ComponentAccessToken,
}

impl TokenName {
    /// Returns the name as WeChat spells it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::CloudbaseAccessToken => "cloudbase_access_token",
            Self::ComponentAccessToken => "component_access_token",
        }
    }
}

impl AccessToken {
    /// Returns a token that is sent under this name.
    pub(crate) fn new(value: Secret, name: TokenName) -> Self {
        Self { value, name, url: Mutex::default() }
    }

    /// Returns the token itself.
    pub(crate) fn value(&self) -> &Secret {
        &self.value
    }

    /// Returns the name of the query parameter that carries the token.
    pub(super) fn name(&self) -> TokenName {
        self.name
    }

    /// Returns the URL of `path` at `host`. `index` is the position of the host in the settings.
    pub(super) fn url(&self, index: usize, host: &Host, path: &str) -> Url {
        let mut cached = lock(&self.url);
        let mut url = match &*cached {
            Some((of, url)) if *of == index => url.clone(),
            _ => {
                let mut url = host.url.clone();
                url.query_pairs_mut().append_pair(self.name.as_str(), self.value.expose());
                cached.insert((index, url)).1.clone()
            }
        };
        drop(cached);
        url.set_path(path);
        url
    }
}

/// Makes the token of an account.
impl From<Secret> for AccessToken {
    fn from(value: Secret) -> Self {
        Self::new(value, TokenName::AccessToken)
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
        let hosts = ["https://a", "http://b:8080"].map(host);
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

    #[test]
    fn token_is_sent_under_its_name() {
        let host = host("https://a");
        for (name, expected) in [
            (TokenName::AccessToken, "https://a/x?access_token=hush"),
            (TokenName::CloudbaseAccessToken, "https://a/x?cloudbase_access_token=hush"),
            (TokenName::ComponentAccessToken, "https://a/x?component_access_token=hush"),
        ] {
            let token = AccessToken::new(Secret::from("hush".to_owned()), name);
            assert_eq!(token.url(0, &host, "/x").as_str(), expected);
        }
    }

    fn host(url: &str) -> Host {
        Host { url: Url::parse(url).expect("a URL"), address: String::new(), port: 0 }
    }
}
