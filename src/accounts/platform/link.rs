//! The link with which an account authorizes a platform, and the request for tickets.

use std::time::{Instant, SystemTime};

use reqwest::Url;
use tracing::Span;

use super::{Error, Platform};
use crate::{
    accounts::token::SecretUnreadable,
    util::id::AppId,
    wechat::{
        self, Attempt, Client, Endpoint, Tries,
        component::{CreatePreauthCode, StartPushTicket},
    },
};

/// The device on which the administrator of the account opens the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A computer: the page shows a code to scan.
    Computer,
    /// A phone: the page opens in WeChat.
    Phone,
}

/// The wishes about a link.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// The address of the page that WeChat opens after the authorization.
    pub(crate) redirect_uri: String,
    /// WeChat's number for the kinds of accounts that may authorize: 1 official accounts, 2 mini programs, 3
    /// both.
    pub(crate) auth_type: u8,
    /// The only account that may authorize.
    pub(crate) app_id: Option<AppId>,
    /// The device.
    pub(crate) form: Form,
}

impl Platform {
    /// Returns a link, and when it expires.
    ///
    /// Fails if the platform has no token, or if WeChat gives no code for the link.
    pub(crate) async fn authorization_link(
        &self,
        link: &Link,
        deadline: Instant,
    ) -> Result<(Url, SystemTime), Error> {
        let clock = &self.services.clock;
        let asked_at = clock.wall();
        let call = CreatePreauthCode { component_appid: self.app_id.clone() };
        let reply = self.ask(&call, deadline).await?;
        let expires = asked_at + reply.life().unwrap_or_default();
        Ok((self.url(link, &reply.pre_auth_code.0), expires))
    }

    /// Returns the link with a code.
    fn url(&self, link: &Link, code: &str) -> Url {
        let mut url = self.settings.authorization_page.clone();
        let Link { redirect_uri, auth_type, app_id, form } = link;
        url.set_path(match form {
            Form::Computer => "/cgi-bin/componentloginpage",
            Form::Phone => "/safe/bindcomponent",
        });
        {
            let mut query = url.query_pairs_mut();
            if *form == Form::Phone {
                query.append_pair("action", "bindcomponent").append_pair("no_scan", "1");
            }
            query
                .append_pair("component_appid", self.app_id.as_str())
                .append_pair("pre_auth_code", code)
                .append_pair("redirect_uri", redirect_uri)
                .append_pair("auth_type", &auth_type.to_string());
            if let Some(app_id) = app_id {
                query.append_pair("biz_appid", app_id.as_str());
            }
        }
        if *form == Form::Phone {
            url.set_fragment(Some("wechat_redirect"));
        }
        url
    }

    /// Asks WeChat to push tickets.
    ///
    /// Fails if the secret cannot be read, or if WeChat refuses.
    pub(crate) async fn start_ticket_push(&self) -> Result<(), Error> {
        let secret = self.settings.secret.read().map_err(SecretUnreadable::from)?;
        let call =
            StartPushTicket { component_appid: self.app_id.clone(), component_secret: secret };
        start_push(&self.services.client, &call)
            .await
            .map_err(|error| Error::WeChat { path: StartPushTicket::PATH, error })
    }
}

/// Asks WeChat to push tickets. Succeeds if it pushes them already.
pub(super) async fn start_push(
    client: &Client,
    call: &StartPushTicket,
) -> Result<(), wechat::Error> {
    let (mut tries, limit) = (Tries::default(), StartPushTicket::REPLY_LIMIT);
    let parent = &Span::none();
    let attempt = Attempt { token: None, limit, time_left: limit, tries: &mut tries, parent };
    client.send(call, attempt).await.map(drop)
}
