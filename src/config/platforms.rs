//! `[[platforms]]`: the third-party platforms (第三方平台) through which other accounts are served.

use std::collections::HashSet;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{
    Account, AccountCallback, CallbackMode, ConfigErrors, Environment, ForwardTo, SecretSource,
    account::app_id_problem,
    callback::{self, RawAccountCallback, RawForwardTo, without_secrets},
    secret::{RawSecret, resolve},
    wechat::has_credentials,
};
use crate::util::id::AppId;

/// The host of the pages on which accounts authorize a platform.
const AUTHORIZATION_PAGE: &str = "https://mp.weixin.qq.com";

/// One section of `[[platforms]]`.
///
/// The accounts that authorize a platform are not in the settings. WeChat's pushes bring them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Platform {
    /// The platform's AppID: `wx` and 16 characters.
    pub app_id: AppId,
    /// The platform's AppSecret.
    pub secret: SecretSource,
    /// The Token that WeChat signs pushes with (消息校验 Token).
    pub token: SecretSource,
    /// The EncodingAESKey that WeChat encrypts pushes with (消息加解密 Key), also those about accounts.
    pub aes_key: SecretSource,
    /// The previous EncodingAESKey, which WeChat can still use for a while after a change.
    pub previous_aes_key: Option<SecretSource>,
    /// The names of further events of its accounts to keep in the log, in addition to events about reviews.
    pub keep: Vec<String>,
    /// The other systems that receive the pushes about its accounts, unchanged.
    pub forward_to: Vec<ForwardTo>,
    /// The host of the page on which accounts authorize the platform.
    #[serde(serialize_with = "without_secrets")]
    pub authorization_page: Url,
    /// Refuses every call of its accounts that needs WeChat. Pushes are still received, and authorizations completed.
    pub paused: bool,
    /// Refuses every call of its accounts that can change something.
    pub read_only: bool,
}

impl Platform {
    /// Returns how its pushes are received, as for an account. WeChat always encrypts them.
    pub fn callback(&self) -> AccountCallback {
        AccountCallback {
            token: Some(self.token.clone()),
            aes_key: Some(self.aes_key.clone()),
            previous_aes_key: self.previous_aes_key.clone(),
            mode: CallbackMode::Safe,
            public_route_closed: false,
            keep: self.keep.clone(),
            forward_to: self.forward_to.clone(),
        }
    }
}

/// A platform as it stands in the file.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(test, schemars(extend("required" = ["app_id", "secret", "token", "aes_key"])))]
pub(super) struct RawPlatform {
    /// The AppID: `wx` and 16 characters.
    #[cfg_attr(test, schemars(extend("pattern" = "^wx[0-9a-f]{16}$")))]
    app_id: String,
    /// The AppSecret.
    secret: Option<RawSecret>,
    /// The Token from the platform's page at WeChat: 3 to 32 letters and digits.
    token: Option<RawSecret>,
    /// The EncodingAESKey from the platform's page at WeChat.
    aes_key: Option<RawSecret>,
    /// The previous EncodingAESKey, which WeChat can still use for a while after a change.
    previous_aes_key: Option<RawSecret>,
    /// The names of further events to keep in the log.
    keep: Vec<String>,
    /// Other systems that receive the pushes about its accounts, unchanged.
    forward_to: Vec<RawForwardTo>,
    /// The host of the page on which accounts authorize the platform.
    authorization_page: Option<String>,
    /// Refuses every call of its accounts that needs WeChat. Pushes are still received, and authorizations completed.
    paused: bool,
    /// Refuses every call of its accounts that can change something.
    read_only: bool,
}

/// Checks all platforms.
pub(super) fn check(
    raw: Vec<RawPlatform>,
    accounts: &[Account],
    environment: &Environment,
    errors: &mut ConfigErrors,
) -> Vec<Platform> {
    // A platform and an account never share an AppID.
    let mut seen: HashSet<_> =
        accounts.iter().map(|account| account.app_id.as_str().to_owned()).collect();
    let mut platforms = Vec::new();
    for (index, platform) in raw.into_iter().enumerate() {
        let parent = format!("platforms[{index}]");
        let key = |name: &str| format!("{parent}.{name}");
        let RawPlatform {
            app_id,
            secret,
            token,
            aes_key,
            previous_aes_key,
            keep,
            forward_to,
            authorization_page,
            paused,
            read_only,
        } = platform;
        if let Some(problem) = app_id_problem(&app_id, &mut seen) {
            errors.add(key("app_id"), problem);
        }
        let secret = resolve(secret, environment, &key("secret"), errors);
        if aes_key.is_none() {
            errors.add(key("aes_key"), "missing; set the EncodingAESKey from the platform's page");
        }
        let callback = RawAccountCallback {
            token,
            aes_key,
            previous_aes_key,
            keep,
            forward_to,
            ..RawAccountCallback::default()
        };
        let callback = callback::check_account(callback, environment, &parent, errors);
        let page = authorization_page.as_deref().unwrap_or(AUTHORIZATION_PAGE);
        let page = parse_origin(page);
        if page.is_none() {
            errors.add(
                key("authorization_page"),
                "must be like https://mp.weixin.qq.com, without a path",
            );
        }
        let (
            Some(secret),
            Some(AccountCallback {
                token: Some(token),
                aes_key: Some(aes_key),
                previous_aes_key,
                keep,
                forward_to,
                ..
            }),
            Some(authorization_page),
        ) = (secret, callback, page)
        else {
            continue;
        };
        platforms.push(Platform {
            app_id: app_id.into(),
            secret,
            token,
            aes_key,
            previous_aes_key,
            keep,
            forward_to,
            authorization_page,
            paused,
            read_only,
        });
    }
    platforms
}

/// Returns a URL that has only a scheme and a host. Returns `None` for any other text.
fn parse_origin(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_origin = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && !has_credentials(&url);
    is_origin.then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Changes, Settings};

    const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
    const ACCOUNT: &str =
        "[[accounts]]\napp_id = \"wx0000000000000001\"\nkind = \"official\"\nsecret = \"s\"\n";
    const CALLER: &str = "[[callers]]\nname = \"a\"\ntokens = \
        [\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"]\n\
        roles = { wx00000000000000ff = \"reader\" }\n";

    /// Returns a section of a platform with these further keys.
    fn platform(more: &str) -> String {
        format!(
            "[[platforms]]\napp_id = \"wx00000000000000c0\"\nsecret = \"hush\"\n\
             token = \"push-token\"\naes_key = \"{KEY}\"\n{more}\n"
        )
    }

    fn parse(file: &str) -> Result<Settings, Vec<String>> {
        let parsed = Settings::parse(file, &Environment::new());
        parsed.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn platform_alone_receives_pushes_and_needs_no_account() {
        let settings = parse(&platform("")).expect("good settings");
        assert!(settings.accounts.is_empty() && settings.receives_pushes());
        let [platform] = &settings.platforms[..] else { panic!("one platform") };
        assert_eq!(platform.authorization_page.as_str(), "https://mp.weixin.qq.com/");
        let callback = platform.callback();
        assert_eq!(callback.mode, CallbackMode::Safe);
        let token = callback.token.expect("a token").read();
        assert_eq!(token.expect("readable").expose(), "push-token");
        assert_eq!(callback.aes_key.expect("a key").read().expect("readable").expose(), KEY);
        let printed = toml::to_string(&settings).expect("settings print");
        for secret in ["hush", "push-token", KEY] {
            assert!(!printed.contains(secret) && !format!("{settings:?}").contains(secret));
        }
    }

    #[test]
    fn role_for_an_authorizer_needs_a_platform() {
        assert!(parse(&format!("{}{CALLER}", platform(""))).is_ok());
        let found = parse(&format!("{ACCOUNT}{CALLER}")).expect_err("an unknown account");
        let error = "callers[0].roles.wx00000000000000ff: no [[accounts]] section";
        assert!(found[0].starts_with(error), "{found:?}");
    }

    #[test]
    fn wrong_platform_returns_exactly_its_error() {
        let good = platform("");
        for (file, error) in [
            (good.replace("c0\"", "g0\""), "platforms[0].app_id: not an AppID"),
            (good.replace("secret = \"hush\"\n", ""), "platforms[0].secret: missing"),
            (good.replace("token = \"push-token\"\n", ""), "platforms[0].token: missing"),
            (good.replace("aes_key", "previous_aes_key"), "platforms[0].aes_key: missing"),
            (good.replace(KEY, "short"), "platforms[0].aes_key: not an EncodingAESKey"),
            (good.replace("push-token", "a!"), "platforms[0].token: not a Token of WeChat"),
            (platform("mode = \"plain\""), "platforms[0].mode: unknown field"),
            (
                platform("authorization_page = \"https://a/b\""),
                "platforms[0].authorization_page: must be like",
            ),
            (
                platform("forward_to = [{ url = \"ftp://a\" }]"),
                "platforms[0].forward_to[0].url: not an HTTP URL",
            ),
            (format!("{good}{good}"), "platforms[1].app_id: duplicate app_id"),
            (
                format!("{ACCOUNT}{}", good.replace("00c0", "0001")),
                "platforms[0].app_id: duplicate app_id wx0000000000000001",
            ),
        ] {
            let found = parse(&file).expect_err(&file);
            assert!(found.len() == 1 && found[0].starts_with(error), "{found:?} in {file}");
        }
    }

    #[test]
    fn platform_can_change_while_the_gateway_runs() {
        let [old, new] = ["", "paused = true"].map(|more| parse(&platform(more)).expect("good"));
        let changes = Changes::between(&old, &new);
        assert_eq!(changes.platforms.changed, ["wx00000000000000c0"]);
        assert!(changes.needing_restart().is_empty());
        let both = parse(&format!("{ACCOUNT}{}", platform(""))).expect("good");
        let without = parse(ACCOUNT).expect("good");
        assert_eq!(Changes::between(&both, &without).platforms.removed, ["wx00000000000000c0"]);
    }
}
