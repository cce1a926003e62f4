//! Reads what WeChat pushes to the address for authorizations of a platform (授权事件接收 URL).

use super::{Refusal, message::Message};
use crate::{
    accounts::platform::Change,
    pb::AuditEvent,
    state::{EventKey, NewEvent, Origin},
    util::id::{AppId, Secret},
};

/// A time further ahead than this, in seconds, counts as this far ahead. Otherwise one wrong time would hide
/// every later change.
const FURTHEST_AHEAD: u64 = 3600;

/// Returns the change that a message reports, at the time `now`. `None` for a message that concerns no authorization.
///
/// Fails if the message is for another platform, or if a part is missing without which it means nothing.
pub(super) fn change(
    platform: &AppId,
    message: &Message,
    now: u64,
) -> Result<Option<Change>, Refusal> {
    // Several platforms may share an address by mistake. Their tickets must not replace each other.
    if !message.field("AppId").eq_ignore_ascii_case(platform.as_str()) {
        return Err(Refusal::forbidden("the message is for another platform"));
    }
    let sent_at = || {
        let sent_at = message.field("CreateTime").parse::<u64>().ok();
        let sent_at = sent_at.map(|sent_at| sent_at.min(now.saturating_add(FURTHEST_AHEAD)));
        sent_at.ok_or_else(|| Refusal::malformed("the message has no CreateTime"))
    };
    let app_id = || match message.field("AuthorizerAppid") {
        "" => Err(Refusal::malformed("the message names no account")),
        app_id => Ok(AppId::from(app_id.to_ascii_lowercase())),
    };
    let secret = |name| match message.field(name) {
        "" => None,
        text => Some(Secret::from(text.to_owned())),
    };
    Ok(Some(match &*message.name().to_ascii_lowercase() {
        "component_verify_ticket" => {
            let ticket = secret("ComponentVerifyTicket")
                .ok_or_else(|| Refusal::malformed("the message has no ticket"))?;
            Change::Ticket { ticket, sent_at: sent_at()? }
        }
        "authorized" | "updateauthorized" => {
            let (app_id, code) = (app_id()?, secret("AuthorizationCode"));
            Change::Authorized { app_id, code, sent_at: sent_at()? }
        }
        "unauthorized" => Change::Unauthorized { app_id: app_id()?, sent_at: sent_at()? },
        "" => return Err(Refusal::malformed("the message has no InfoType")),
        _ => return Ok(None),
    }))
}

/// Returns the event for the log: an account authorized the platform, changed what it grants, or withdrew it.
/// The message itself is left out, because it has a secret code. `None` for a ticket.
pub(super) fn event(platform: &AppId, name: &str, change: &Change) -> Option<NewEvent> {
    let (app_id, sent_at) = match change {
        Change::Authorized { app_id, sent_at, .. } | Change::Unauthorized { app_id, sent_at } => {
            (app_id, *sent_at)
        }
        Change::Ticket { .. } => return None,
    };
    let parts = [platform.as_str().as_bytes(), app_id.as_str().as_bytes(), name.as_bytes()];
    let event = AuditEvent {
        app_id: app_id.to_string(),
        wechat_event: name.to_owned(),
        event_time: Some(super::event::timestamp(sent_at)),
        ..AuditEvent::default()
    };
    Some(NewEvent::from_event(EventKey::of(sent_at, parts), event, Origin::Pushed))
}
