//! Third-party platforms (第三方平台), which WeChat's APIs call components.
//!
//! A component calls WeChat for merchants that authorized it. `ticket` pushes the tickets with which a
//! component asks for its own token. `authorization` holds what each merchant granted, and pushes the
//! events about it. `token` and `authorizer` are the endpoints, `page` is the page on which a merchant
//! decides, and `control` serves the paths under `/_simulator/components`.

mod authorization;
mod authorizer;
mod control;
mod page;
mod ticket;
mod token;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use serde::Deserialize;

use self::{
    authorization::{Authorization, Code},
    ticket::Tickets,
};
pub(super) use self::{
    authorization::{authorize, check, unauthorize},
    control::act as control,
    page::page,
    ticket::{next_due, push as push_ticket, push_due},
    token::take as take_token,
};
use super::{
    Account, AccountKind, Simulator,
    cloud::seconds,
    endpoint::{Bearer, Call, Endpoint},
    error::Refusal,
    push::{self, Callback, Format, Mode},
    world::World,
};

/// The endpoints of this family.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::post("/cgi-bin/component/api_start_push_ticket", Bearer::NoToken, ticket::start),
    Endpoint::post("/cgi-bin/component/api_component_token", Bearer::NoToken, token::component),
    Endpoint::post("/cgi-bin/component/api_create_preauthcode", Bearer::Component, token::pre_auth),
    Endpoint::post("/cgi-bin/component/api_query_auth", Bearer::Component, token::query_auth),
    Endpoint::post("/cgi-bin/component/api_authorizer_token", Bearer::Component, token::authorizer),
    Endpoint::post(
        "/cgi-bin/component/api_get_authorizer_list",
        Bearer::Component,
        authorizer::list,
    ),
    Endpoint::post(
        "/cgi-bin/component/api_get_authorizer_info",
        Bearer::Component,
        authorizer::info,
    ),
];

/// A third-party platform at WeChat.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The app id, `wx…`.
    pub app_id: String,
    /// The app secret.
    pub secret: String,
    /// The token that signs pushes.
    pub token: String,
    /// The key that encrypts pushes, also those about merchants.
    pub encoding_aes_key: String,
    /// The address for tickets and for events about authorizations (授权事件接收URL). With `None` the
    /// component receives none.
    #[serde(default)]
    pub events_url: Option<String>,
    /// The address for the events of merchants (消息与事件接收URL). WeChat replaces `$APPID$` in it by the
    /// merchant's app id.
    #[serde(default)]
    pub messages_url: Option<String>,
    /// The time from one ticket to the next.
    #[serde(rename = "ticket_interval_seconds", default = "ten_minutes", with = "seconds")]
    pub ticket_interval: Duration,
    /// The permission sets (权限集) that the platform offers to merchants.
    #[serde(default = "usual_sets")]
    pub permission_sets: Vec<u16>,
}

/// A merchant that has authorized a component.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorizer {
    /// The app id, `wx…`. If there is no such account, it is added.
    pub app_id: String,
    /// The kind of a new account.
    pub kind: AccountKind,
    /// The permission sets that the merchant granted.
    pub permission_sets: Vec<u16>,
}

/// A component with its tickets, codes and merchants.
#[derive(Debug)]
pub(super) struct ComponentState {
    pub(super) settings: Component,
    pub(super) tickets: Tickets,
    /// The component's latest token.
    token: Option<String>,
    /// Each pre_auth_code that was not used, and its end.
    pre_auth_codes: HashMap<String, Instant>,
    /// Each authorization code that was not used.
    codes: HashMap<String, Code>,
    /// The merchants, by app id.
    pub(super) authorizers: BTreeMap<String, Authorization>,
}

impl Component {
    /// Returns a component with the usual interval and permission sets, and without addresses.
    pub fn new(app_id: &str, secret: &str, token: &str, encoding_aes_key: &str) -> Self {
        Self {
            app_id: app_id.to_owned(),
            secret: secret.to_owned(),
            token: token.to_owned(),
            encoding_aes_key: encoding_aes_key.to_owned(),
            events_url: None,
            messages_url: None,
            ticket_interval: ten_minutes(),
            permission_sets: usual_sets(),
        }
    }

    /// Checks the key and the addresses. Fails with a text that states what is wrong.
    pub fn check(&self) -> Result<(), String> {
        self.events().iter().try_for_each(Callback::check)?;
        self.messages().iter().try_for_each(Callback::check)?;
        if self.ticket_interval.is_zero() {
            return Err("ticket_interval must not be zero".to_owned());
        }
        Ok(())
    }

    pub(super) fn events(&self) -> Option<Callback> {
        self.callback(self.events_url.as_ref())
    }

    pub(super) fn messages(&self) -> Option<Callback> {
        self.callback(self.messages_url.as_ref())
    }

    /// WeChat pushes to a component only as encrypted XML.
    fn callback(&self, url: Option<&String>) -> Option<Callback> {
        Some(Callback {
            url: url?.clone(),
            token: self.token.clone(),
            encoding_aes_key: self.encoding_aes_key.clone(),
            mode: Mode::Safe,
            format: Format::Xml,
        })
    }
}

impl ComponentState {
    /// Returns whether the events of this account can go to the component.
    pub(super) fn receives(&self, app_id: &str) -> bool {
        self.settings.messages_url.is_some() && self.authorizers.contains_key(app_id)
    }

    /// Returns a merchant's authorization.
    pub(super) fn authorization(&mut self, app_id: &str) -> Result<&mut Authorization, String> {
        let missing = format!("{app_id} has not authorized {}", self.settings.app_id);
        self.authorizers.get_mut(app_id).ok_or(missing)
    }
}

/// Adds a component, or changes the settings of an existing one.
pub(super) fn add(world: &mut World, settings: Component) {
    let app_id = settings.app_id.clone();
    let first = world.now();
    match world.components.get_mut(&app_id) {
        Some(state) => {
            if state.settings.events_url != settings.events_url {
                state.tickets.push_at(first);
            }
            state.settings = settings;
        }
        None => {
            let state = ComponentState {
                settings,
                tickets: Tickets::new(first),
                token: None,
                pre_auth_codes: HashMap::new(),
                codes: HashMap::new(),
                authorizers: BTreeMap::new(),
            };
            world.components.insert(app_id, state);
        }
    }
    world.outbox.wake();
}

/// Returns a component.
pub(super) fn find<'a>(
    world: &'a mut World,
    component: &str,
) -> Result<&'a mut ComponentState, String> {
    world.components.get_mut(component).ok_or(format!("there is no component {component}"))
}

/// Returns the component that calls. Fails if the call names another one.
fn caller<'a>(world: &'a mut World, call: &Call) -> Result<&'a mut ComponentState, Refusal> {
    if call.text("component_appid")? != call.app_id {
        return Err(Refusal::new(40013));
    }
    world.components.get_mut(&call.app_id).ok_or(Refusal::new(61011))
}

/// Returns the component that proves itself by its secret.
fn by_secret<'a>(
    world: &'a mut World,
    call: &Call,
    secret_name: &str,
) -> Result<&'a mut ComponentState, Refusal> {
    let app_id = call.optional_text("component_appid")?;
    let secret = call.optional_text(secret_name)?;
    if app_id.is_empty() {
        return Err(Refusal::new(41002));
    }
    if secret.is_empty() {
        return Err(Refusal::new(41004));
    }
    // The document has both codes. Here an ordinary account's id is no component.
    let unknown = if world.accounts.contains_key(app_id) { 61011 } else { 40013 };
    let state = world.components.get_mut(app_id).ok_or(Refusal::new(unknown))?;
    if state.settings.secret == secret { Ok(state) } else { Err(Refusal::new(40125)) }
}

/// Adds merchants that authorized the component before the simulator started, without any event.
pub(super) fn add_authorizers(
    world: &mut World,
    component: &str,
    authorizers: impl IntoIterator<Item = Authorizer>,
) -> Result<(), String> {
    find(world, component)?;
    for Authorizer { app_id, kind, permission_sets } in authorizers {
        if !world.accounts.contains_key(&app_id) {
            let secret = format!("secret-of-{app_id}");
            world.add_account(Account { app_id: app_id.clone(), secret, kind, callback: None });
        }
        let mut authorization = Authorization::new(world, permission_sets);
        authorization.queried = true;
        find(world, component)?.authorizers.insert(app_id, authorization);
    }
    Ok(())
}

/// Makes every refresh token of a component's merchants invalid. The list of merchants has new ones.
pub(super) fn lose_refresh_tokens(world: &mut World, component: &str) -> Result<(), String> {
    let mint = &mut world.mint;
    let state = world.components.get_mut(component);
    let state = state.ok_or(format!("there is no component {component}"))?;
    for authorization in state.authorizers.values_mut() {
        authorization.lose_refresh_token(mint);
    }
    Ok(())
}

impl Simulator {
    /// Adds a third-party platform, or changes the settings of an existing one. It keeps its merchants.
    pub fn add_component(&self, component: Component) -> Result<(), String> {
        component.check()?;
        add(&mut self.world(), component);
        Ok(())
    }

    /// Adds merchants that authorized the component long ago. No event is pushed. An account that does
    /// not exist is added with the secret `secret-of-` and its app id.
    pub fn add_authorizers(
        &self,
        component: &str,
        authorizers: impl IntoIterator<Item = Authorizer>,
    ) -> Result<(), String> {
        add_authorizers(&mut self.world(), component, authorizers)
    }

    /// Authorizes the component as the merchant does on the page, pushes the event, and returns the
    /// authorization code. A merchant that has authorized it before changes its authorization.
    pub fn authorize(
        &self,
        component: &str,
        app_id: &str,
        permission_sets: &[u16],
    ) -> Result<String, String> {
        let sets = permission_sets.to_vec();
        authorize(&mut self.world(), component, app_id, sets, None).map(|confirmed| confirmed.code)
    }

    /// Takes an authorization back as the merchant does, and pushes the event.
    pub fn unauthorize(&self, component: &str, app_id: &str) -> Result<(), String> {
        unauthorize(&mut self.world(), component, app_id, true)
    }

    /// Changes the permission sets of a merchant, without an event.
    pub fn set_permission_sets(
        &self,
        component: &str,
        app_id: &str,
        permission_sets: &[u16],
    ) -> Result<(), String> {
        let world = &mut *self.world();
        find(world, component)?.authorization(app_id)?.permission_sets = permission_sets.to_vec();
        Ok(())
    }

    /// Decides whether the kind of the merchant's account has APIs at all. Without them there are no
    /// tokens for it.
    pub fn set_api(&self, component: &str, app_id: &str, api: bool) -> Result<(), String> {
        let world = &mut *self.world();
        find(world, component)?.authorization(app_id)?.api = api;
        Ok(())
    }

    /// Makes every refresh token of the component's merchants invalid. The list of merchants has new
    /// ones.
    pub fn lose_refresh_tokens(&self, component: &str) -> Result<(), String> {
        lose_refresh_tokens(&mut self.world(), component)
    }

    /// Pushes a new ticket now and returns the number of the push. A `create_time` replaces the time in
    /// it, in seconds since 1970.
    pub fn push_ticket(&self, component: &str, create_time: Option<u64>) -> Result<u64, String> {
        push_ticket(&mut self.world(), component, create_time)
    }

    /// Stops the tickets, or starts them again with one at once. A component can also start them by
    /// api_start_push_ticket.
    pub fn set_ticket_pushing(&self, component: &str, pushing: bool) -> Result<(), String> {
        ticket::set_pushing(&mut self.world(), component, pushing)
    }

    /// Replaces the component's token as another system with the same secret does, and returns the new
    /// one. The previous token ends at once: with 42001 if it `expired`, else with 40001.
    pub fn take_component_token(&self, component: &str, expired: bool) -> Result<String, String> {
        take_token(&mut self.world(), component, expired)
    }

    /// Sends an earlier push again, and returns the number of the new one. Its message is the same, its
    /// envelope is new.
    pub fn redeliver(&self, push: u64) -> Result<u64, String> {
        push::redeliver(&mut self.world(), push)
    }
}

const fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

/// Returns the sets that cover all APIs here, of official accounts and of mini programs.
fn usual_sets() -> Vec<u16> {
    vec![1, 3, 8, 9, 10, 11, 13, 18, 19, 30, 31, 37, 100]
}

#[cfg(test)]
mod tests;
