//! Keeps `settings.schema.json` the same as the structs that the settings are parsed into.

#![expect(dead_code, reason = "only the schema of these types is used")]

use std::{fs, path::Path};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use super::{
    Audit, Callback, Limits, Listen, Log, Metrics, TokenService, account::RawAccount,
    activity::RawActivity, callers::RawCaller, issuers::RawIssuer, platforms::RawPlatform,
    state::RawState, wechat::RawWeChat,
};

/// The settings of wechat-store-gateway.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// The addresses that the gateway listens on.
    listen: Option<Listen>,
    /// The addresses of WeChat and the way to them.
    wechat: Option<RawWeChat>,
    /// Time limits and sizes.
    limits: Option<Limits>,
    /// Where the gateway keeps events, submissions and access tokens.
    state: Option<RawState>,
    /// How pushes from WeChat are received.
    callback: Option<Callback>,
    /// How the gateway follows reviews.
    audit: Option<Audit>,
    /// The lines that the log has.
    log: Option<Log>,
    /// The series that `/metrics` has.
    metrics: Option<Metrics>,
    /// Where the lines about writes go.
    activity: Option<RawActivity>,
    /// Whether other programs can get the access tokens.
    token_service: Option<TokenService>,
    /// The WeChat accounts.
    accounts: Option<Vec<RawAccount>>,
    /// The third-party platforms.
    platforms: Option<Vec<RawPlatform>>,
    /// The programs that may call.
    callers: Option<RawCallers>,
    /// The issuers of JWTs.
    issuers: Option<Vec<RawIssuer>>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
enum RawCallers {
    /// Every caller may do everything, on any address.
    Anyone(Anyone),
    /// Only these.
    Known(Vec<RawCaller>),
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Anyone {
    Anyone,
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a developer sets this variable")]
fn schema_describes_the_structs() {
    // The newest draft that Taplo supports.
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<File>();
    let mut schema = schema.to_value();
    remove_null(&mut schema);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("settings.schema.json");
    if std::env::var_os("WRITE_SCHEMA").is_some() {
        let text = serde_json::to_string_pretty(&schema).expect("JSON");
        fs::write(&path, text + "\n").expect("writable");
    }
    let written = fs::read_to_string(&path).expect("a schema");
    let written: Value = serde_json::from_str(&written).expect("JSON");
    assert!(written == schema, "settings.schema.json is old; WRITE_SCHEMA=1 writes it anew");
}

/// Removes null, which TOML does not have.
fn remove_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.retain(|key, value| key != "default" || !value.is_null());
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [kind] = types.as_slice() {
                    let kind = kind.clone();
                    object.insert("type".to_owned(), kind);
                }
            }
            if let Some(Value::Array(forms)) = object.get_mut("anyOf") {
                forms.retain(|form| form["type"] != "null");
            }
            object.values_mut().for_each(remove_null);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_null),
        _ => {}
    }
}
