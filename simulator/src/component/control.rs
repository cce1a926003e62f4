//! Serves the paths under `/_simulator/components`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Authorizer, Component, ComponentState, find, ticket};
use crate::{
    AccountKind,
    control::{Problem, parse, yes},
    world::World,
};

/// At most this many merchants are added at once.
const MOST_MERCHANTS: u64 = 100_000;

/// Executes a control request whose path starts with `components`.
pub(crate) fn act(
    world: &mut World,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<Value, Problem> {
    let mut parts = path.split('/').skip(1);
    let (component, what) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if !component.is_empty() {
        find(world, component).map_err(Problem::bad)?;
    }
    match (method, component, what) {
        ("GET", "", "") => Ok(components(world)),
        ("POST", "", "") => add(world, body),
        (_, "", _) => Err(Problem::unknown(method, path)),
        ("GET", _, "authorizers") => authorizers(world, component),
        ("POST", _, "authorizers") => add_authorizers(world, component, body),
        ("POST", _, "authorize") => authorize(world, component, body),
        ("POST", _, "unauthorize") => unauthorize(world, component, body),
        ("POST", _, "permissions") => permissions(world, component, body),
        ("DELETE", _, "refresh_tokens") => done(super::lose_refresh_tokens(world, component)),
        ("POST", _, "tickets") => tickets(world, component, body),
        ("POST", _, "token") => token(world, component, body),
        _ => Err(Problem::unknown(method, path)),
    }
}

fn done(result: Result<(), String>) -> Result<Value, Problem> {
    result.map(|()| json!({})).map_err(Problem::conflict)
}

fn components(world: &World) -> Value {
    let describe = |(app_id, state): (&String, &ComponentState)| {
        json!({
            "app_id": app_id,
            "events_url": state.settings.events_url,
            "messages_url": state.settings.messages_url,
            "permission_sets": state.settings.permission_sets,
            "pushing": state.tickets.pushing,
            "tickets": state.tickets.count(),
            "authorizers": state.authorizers.len(),
        })
    };
    json!({ "components": world.components.iter().map(describe).collect::<Vec<_>>() })
}

fn add(world: &mut World, body: &[u8]) -> Result<Value, Problem> {
    let component: Component = parse(body)?;
    component.check().map_err(Problem::bad)?;
    super::add(world, component);
    Ok(json!({}))
}

fn authorizers(world: &mut World, component: &str) -> Result<Value, Problem> {
    let authorizers = &find(world, component).map_err(Problem::bad)?.authorizers;
    let rows = authorizers.iter().map(|(app_id, authorization)| {
        json!({
            "app_id": app_id,
            "permission_sets": authorization.permission_sets,
            "api": authorization.api,
        })
    });
    Ok(json!({ "authorizers": rows.collect::<Vec<_>>() }))
}

fn add_authorizers(world: &mut World, component: &str, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(untagged, deny_unknown_fields)]
    enum Add {
        These { authorizers: Vec<Authorizer> },
        Some { count: u64, kind: AccountKind, permission_sets: Vec<u16> },
    }
    let authorizers = match parse(body)? {
        Add::These { authorizers } => authorizers,
        Add::Some { count, .. } if count > MOST_MERCHANTS => {
            return Err(Problem::bad(format!("count: at most {MOST_MERCHANTS}")));
        }
        Add::Some { count, kind, permission_sets } => {
            let app_id = |_| format!("wx{:016x}", (0xa << 60) + world.mint.count("merchant"));
            let ids: Vec<_> = (0..count).map(app_id).collect();
            let permission_sets = || permission_sets.clone();
            let merchant = |app_id| Authorizer { app_id, kind, permission_sets: permission_sets() };
            ids.into_iter().map(merchant).collect()
        }
    };
    let ids: Vec<_> = authorizers.iter().map(|authorizer| authorizer.app_id.clone()).collect();
    super::add_authorizers(world, component, authorizers).map_err(Problem::conflict)?;
    Ok(json!({ "app_ids": ids }))
}

fn authorize(world: &mut World, component: &str, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Grant {
        app_id: String,
        permission_sets: Vec<u16>,
    }
    let Grant { app_id, permission_sets } = parse(body)?;
    let confirmed = super::authorize(world, component, &app_id, permission_sets, None);
    let code = confirmed.map_err(Problem::conflict)?.code;
    Ok(json!({ "authorization_code": code }))
}

fn unauthorize(world: &mut World, component: &str, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Revoke {
        app_id: String,
        #[serde(default = "yes")]
        push: bool,
    }
    let Revoke { app_id, push } = parse(body)?;
    done(super::unauthorize(world, component, &app_id, push))
}

fn permissions(world: &mut World, component: &str, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Change {
        app_id: String,
        permission_sets: Option<Vec<u16>>,
        api: Option<bool>,
    }
    let Change { app_id, permission_sets, api } = parse(body)?;
    let state = find(world, component).map_err(Problem::bad)?;
    let authorization = state.authorization(&app_id).map_err(Problem::conflict)?;
    if let Some(sets) = permission_sets {
        authorization.permission_sets = sets;
    }
    authorization.api = api.unwrap_or(authorization.api);
    Ok(json!({}))
}

fn tickets(world: &mut World, component: &str, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Tickets {
        pushing: Option<bool>,
        create_time: Option<u64>,
    }
    let Tickets { pushing, create_time } = parse(body)?;
    match pushing {
        Some(_) if create_time.is_some() => {
            Err(Problem::bad("pushing and create_time exclude each other"))
        }
        Some(pushing) => done(ticket::set_pushing(world, component, pushing)),
        None => {
            let push = ticket::push(world, component, create_time).map_err(Problem::conflict)?;
            Ok(json!({ "id": push }))
        }
    }
}

fn token(world: &mut World, component: &str, body: &[u8]) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Take {
        #[serde(default)]
        expired: bool,
    }
    let Take { expired } = parse(body)?;
    let token = super::take_token(world, component, expired).map_err(Problem::conflict)?;
    Ok(json!({ "component_access_token": token }))
}
