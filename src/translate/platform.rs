//! Translates third-party platforms, and the accounts that authorized them.

use std::time::{Duration, SystemTime};

use reqwest::Url;

use super::{
    Form,
    account::token,
    page::{self, Foreign},
};
use crate::{
    accounts::{
        platform::{self, Link, Platform},
        token as tokens,
    },
    pb::{self, ErrorReason, platform::Kind},
    state::{Authorizer, Ticket},
    util::id::AppId,
    validate::{Check, Invalid},
};

/// The name of the list in page tokens.
const AUTHORIZERS: &str = "authorizers";

/// WeChat's numbers for the kinds of accounts that the page of a link offers.
const OFFICIAL_ACCOUNTS: u8 = 1;
const MINI_PROGRAMS: u8 = 2;
const BOTH_KINDS: u8 = 3;

/// The longest address of a page, in characters, as `proto/` states.
const LONGEST_URI: usize = 1024;

/// A page of authorizers that a caller wants.
#[derive(Debug)]
pub(crate) struct WantedAuthorizers {
    /// The platform. Empty for the only one.
    pub platform: String,
    /// The number of rows.
    pub size: usize,
    /// The platform and the account of the row before the page. `None` for the first page.
    before: Option<(String, String)>,
}

impl WantedAuthorizers {
    /// Returns the account of the row before the page. `None` for the first page.
    ///
    /// Fails if the token belongs to the list of another platform.
    pub(crate) fn after(&self, platform: &AppId) -> Result<Option<AppId>, Foreign> {
        match &self.before {
            None => Ok(None),
            Some((of, after)) if of == platform.as_str() => Ok(Some(after.clone().into())),
            Some(_) => Err(Foreign),
        }
    }

    /// Returns the page, with the token of the page after it. `rows` has one row more than the page, if there
    /// is one.
    pub(crate) fn page(&self, mut rows: Vec<Authorizer>) -> pb::ListAuthorizersResponse {
        let more = rows.len() > self.size;
        rows.truncate(self.size);
        let place = |last: &Authorizer| format!("{}/{}", last.platform, last.app_id);
        let next = rows.last().filter(|_| more).map(place);
        pb::ListAuthorizersResponse {
            authorizers: rows.into_iter().map(Into::into).collect(),
            next_page_token: next
                .map(|place| page::text_page_token(AUTHORIZERS, &place))
                .unwrap_or_default(),
        }
    }
}

/// Parses a request for authorizers. The token of another list is an error of its own.
pub(crate) fn wanted_authorizers(
    request: pb::ListAuthorizersRequest,
) -> Result<Result<WantedAuthorizers, Foreign>, Invalid> {
    let pb::ListAuthorizersRequest { app_id: _, platform_app_id, page_size, page_token } = request;
    let mut check = Check::default();
    let platform = check.name("platform_app_id", platform_app_id);
    let size = check.rows(page_size);
    check.done(())?;
    let before = match page_token.is_empty() {
        true => Ok(None),
        false => place(&page_token).map(Some),
    };
    Ok(before.map(|before| WantedAuthorizers { platform, size, before }))
}

/// Returns the platform and the account in a page token.
fn place(page_token: &str) -> Result<(String, String), Foreign> {
    let text = page::parse_text_page_token(AUTHORIZERS, page_token)?;
    let (platform, app_id) = text.split_once('/').ok_or(Foreign)?;
    Ok((platform.to_owned(), app_id.to_owned()))
}

/// Parses a request for one authorizer. Returns the account and the platform, which is empty for any.
pub(crate) fn wanted_authorizer(
    app_id: &str,
    request: pb::GetAuthorizerRequest,
) -> Result<(AppId, String), Invalid> {
    let pb::GetAuthorizerRequest { app_id: _, platform_app_id } = request;
    let mut check = Check::default();
    let app_id = check.required("app_id", app_id.to_owned());
    let platform = check.name("platform_app_id", platform_app_id);
    check.done((app_id.into(), platform))
}

impl TryFrom<pb::CreateAuthorizationLinkRequest> for Link {
    type Error = Invalid;

    fn try_from(request: pb::CreateAuthorizationLinkRequest) -> Result<Self, Invalid> {
        let pb::CreateAuthorizationLinkRequest {
            app_id: _,
            redirect_uri,
            kind,
            authorizer_app_id,
            device,
        } = request;
        let mut check = Check::default();
        let redirect_uri = checked_uri(&mut check, redirect_uri);
        let auth_type = match pb::AccountKind::try_from(kind) {
            Ok(pb::AccountKind::Official) => OFFICIAL_ACCOUNTS,
            Ok(pb::AccountKind::MiniProgram) => MINI_PROGRAMS,
            Ok(pb::AccountKind::Unspecified) => BOTH_KINDS,
            Err(_) => {
                check.refuse("kind", "must be one of its values");
                BOTH_KINDS
            }
        };
        let form = match pb::LinkDevice::try_from(device) {
            Ok(pb::LinkDevice::Computer | pb::LinkDevice::Unspecified) => platform::Form::Computer,
            Ok(pb::LinkDevice::Phone) => platform::Form::Phone,
            Err(_) => {
                check.refuse("device", "must be one of its values");
                platform::Form::Computer
            }
        };
        let app_id = check.formed_if_any("authorizer_app_id", authorizer_app_id, &Form::APP_ID);
        let app_id = Some(app_id).filter(|app_id| !app_id.is_empty()).map(AppId::from);
        check.done(Self { redirect_uri, auth_type, app_id, form })
    }
}

/// Checks the address of the page that WeChat opens after an authorization.
fn checked_uri(check: &mut Check, uri: String) -> String {
    let is_https = |url: Url| url.scheme() == "https" && url.has_host();
    if uri.is_empty() {
        check.refuse("redirect_uri", "required");
    } else if !uri.bytes().all(|byte| byte.is_ascii_graphic())
        || !Url::parse(&uri).is_ok_and(is_https)
    {
        check.refuse(
            "redirect_uri",
            "must be the address of a page that begins with https://, with other characters than those of ASCII \
             escaped",
        );
    }
    check.within("redirect_uri", &uri, LONGEST_URI);
    uri
}

impl From<(Url, SystemTime)> for pb::CreateAuthorizationLinkResponse {
    fn from((url, expires): (Url, SystemTime)) -> Self {
        Self { url: url.into(), expire_time: Some(expires.into()) }
    }
}

impl From<Authorizer> for pb::Authorizer {
    fn from(authorizer: Authorizer) -> Self {
        let record = platform::record(&authorizer);
        let Authorizer { platform, app_id, changed_at, authorized, refresh_token: _, record: _ } =
            authorizer;
        let kind = match record.kind() {
            Kind::MiniProgram => pb::AccountKind::MiniProgram,
            Kind::Official => pb::AccountKind::Official,
            Kind::Unspecified => pb::AccountKind::Unspecified,
        };
        let state = match authorized {
            true => pb::AuthorizationState::Authorized,
            false => pb::AuthorizationState::Unauthorized,
        };
        Self {
            app_id: app_id.into(),
            platform_app_id: platform.into(),
            kind: kind.into(),
            nick_name: record.nick_name,
            principal_name: record.principal_name,
            state: state.into(),
            permission_sets: record.permission_sets,
            // WeChat's list and the other calls do not always state a time.
            change_time: Some(changed_at).filter(|at| *at > 0).map(time),
            describe_time: record.describe_time,
        }
    }
}

/// Returns a platform for callers. `reason` returns the reason with which calls without a token fail.
pub(crate) fn platform(
    platform: &Platform,
    ticket: Option<&Ticket>,
    last_push: Option<SystemTime>,
    reason: fn(&tokens::Error) -> ErrorReason,
) -> pb::Platform {
    pb::Platform {
        app_id: platform.app_id.to_string(),
        ticket_time: ticket.map(|ticket| time(ticket.sent_at)),
        last_push_time: last_push.map(Into::into),
        token: Some(token(pb::TokenKind::Platform, Some(platform.tokens.status()), reason)),
        paused: platform.settings.paused,
        read_only: platform.settings.read_only,
    }
}

/// Returns a time in seconds since 1970 for callers.
fn time(seconds: u64) -> prost_types::Timestamp {
    (SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(request: pb::CreateAuthorizationLinkRequest) -> Result<Link, Vec<String>> {
        let uri = "https://shop.example.com/welcome?from=wechat".to_owned();
        let redirect_uri = match &*request.redirect_uri {
            "" => uri,
            given => given.to_owned(),
        };
        Link::try_from(pb::CreateAuthorizationLinkRequest { redirect_uri, ..request })
            .map_err(|invalid| invalid.violations().iter().map(|one| one.field.clone()).collect())
    }

    #[test]
    fn kinds_and_devices_have_wechats_numbers() {
        for (kind, auth_type) in [
            (pb::AccountKind::Unspecified, 3),
            (pb::AccountKind::Official, 1),
            (pb::AccountKind::MiniProgram, 2),
        ] {
            let request =
                pb::CreateAuthorizationLinkRequest { kind: kind.into(), ..Default::default() };
            assert_eq!(link(request).expect("valid").auth_type, auth_type);
        }
        let device = pb::LinkDevice::Phone.into();
        let on_phone = pb::CreateAuthorizationLinkRequest { device, ..Default::default() };
        assert_eq!(link(on_phone).expect("valid").form, platform::Form::Phone);
        assert_eq!(link(Default::default()).expect("valid").form, platform::Form::Computer);
    }

    #[test]
    fn malformed_link_is_refused_by_field() {
        for uri in ["http://a", "https://", "https://a b", "https://店", "javascript:x", "//a"] {
            let request = pb::CreateAuthorizationLinkRequest {
                redirect_uri: uri.to_owned(),
                ..Default::default()
            };
            assert_eq!(link(request).expect_err(uri), ["redirect_uri"], "{uri}");
        }
        let long = format!("https://a/{}", "x".repeat(LONGEST_URI));
        for (request, field) in [
            (
                pb::CreateAuthorizationLinkRequest { redirect_uri: long, ..Default::default() },
                "redirect_uri",
            ),
            (pb::CreateAuthorizationLinkRequest { kind: 9, ..Default::default() }, "kind"),
            (pb::CreateAuthorizationLinkRequest { device: 9, ..Default::default() }, "device"),
            (
                pb::CreateAuthorizationLinkRequest {
                    authorizer_app_id: "店".to_owned(),
                    ..Default::default()
                },
                "authorizer_app_id",
            ),
        ] {
            assert_eq!(link(request).expect_err(field), [field]);
        }
    }

    fn authorizer(app_id: &str) -> Authorizer {
        Authorizer {
            platform: "wx00000000000000c1".to_owned().into(),
            app_id: app_id.to_owned().into(),
            changed_at: 7,
            authorized: true,
            refresh_token: Some("hush".to_owned().into()),
            record: Vec::new(),
        }
    }

    fn wanted(page_token: &str) -> Result<WantedAuthorizers, Foreign> {
        let page_token = page_token.to_owned();
        let request = pb::ListAuthorizersRequest { page_size: 2, page_token, ..Default::default() };
        wanted_authorizers(request).expect("valid")
    }

    #[test]
    fn page_continues_after_its_last_row() {
        let first = wanted("").expect("the first page");
        let rows = ["wxa", "wxb", "wxc"].map(authorizer).to_vec();
        let page = first.page(rows.clone());
        assert_eq!(page.authorizers.len(), 2);
        assert_eq!(page.authorizers[1].change_time, Some(time(7)));
        let next = wanted(&page.next_page_token).expect("the next page");
        let platform = &rows[0].platform;
        assert_eq!(next.after(platform), Ok(Some("wxb".to_owned().into())));
        assert_eq!(next.after(&"wx00000000000000c2".to_owned().into()), Err(Foreign));
        let last = next.page(rows[2..].to_vec());
        assert_eq!((last.authorizers.len(), &*last.next_page_token), (1, ""));
    }

    #[test]
    fn foreign_page_token_is_refused() {
        for token in
            ["x", &page::page_token("accounts", 7), &page::text_page_token("stores", "a/b")]
        {
            assert!(matches!(wanted(token), Err(Foreign)), "{token}");
        }
    }
}
