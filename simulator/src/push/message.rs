//! The text of a push: the message, its envelope, and the query.

use serde::Serializer;
use serde_json::Value;

use super::{
    Callback, Format, Mode,
    outbox::{Letter, Stamp},
};

/// Returns a message with its fields in this order.
pub(super) fn write(fields: &[(String, Value)], format: Format) -> String {
    match format {
        Format::Json => {
            let mut text = Vec::new();
            let pairs = fields.iter().map(|(name, value)| (name, value));
            // A value that came from JSON can always be written as JSON.
            let _ = serde_json::Serializer::new(&mut text).collect_map(pairs);
            String::from_utf8(text).unwrap_or_default()
        }
        Format::Xml => {
            let elements = fields.iter().map(|(name, value)| element(name, value));
            format!("<xml>\n{}</xml>", elements.collect::<String>())
        }
    }
}

/// Returns an element. Texts are CDATA and numbers are bare, as in WeChat's samples.
fn element(name: &str, value: &Value) -> String {
    let inside = match value {
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => cdata(text),
        Value::Object(fields) => fields.iter().map(|(name, value)| element(name, value)).collect(),
        Value::Array(items) => return items.iter().map(|item| element(name, item)).collect(),
    };
    format!("<{name}>{inside}</{name}>\n")
}

/// Returns a CDATA section. The end of a section inside the text is split over two sections.
fn cdata(text: &str) -> String {
    format!("<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>"))
}

/// Returns the query and the body that are sent. A component's pushes are encrypted for the component,
/// also those about its merchants.
pub(super) fn envelope(letter: &Letter, callback: &Callback) -> Result<(String, String), String> {
    let Letter { owner, to: (name, to), from, message, stamp, .. } = letter;
    if callback.mode == Mode::Cloud {
        return Ok((String::new(), message.clone()));
    }
    let mut query = signed(callback, stamp);
    if let Some(from) = from {
        query.append_pair("openid", from);
    }
    if callback.mode == Mode::Plain {
        return Ok((query.finish(), message.clone()));
    }
    let sealed = callback.key()?.encrypt(message.as_bytes(), owner, stamp.random);
    query.append_pair("encrypt_type", "aes");
    let signature = callback.sign(&[&stamp.timestamp, &stamp.nonce, &sealed]);
    query.append_pair("msg_signature", &signature);
    let body = match callback.mode {
        Mode::Compatible => beside(message, &sealed, callback.format),
        _ => {
            let fields = [(*name, to.clone()), ("Encrypt", sealed)];
            let fields = fields.map(|(name, text)| (name.to_owned(), Value::String(text)));
            write(&fields, callback.format)
        }
    };
    Ok((query.finish(), body))
}

/// Returns the message with its encrypted form before its end. A text with another end stays
/// unchanged.
fn beside(message: &str, sealed: &str, format: Format) -> String {
    let (end, field) = match format {
        Format::Json => ("}", format!(",\"Encrypt\":\"{sealed}\"")),
        Format::Xml => ("</xml>", element("Encrypt", &Value::String(sealed.to_owned()))),
    };
    match message.strip_suffix(end) {
        Some(start) => format!("{start}{field}{end}"),
        None => message.to_owned(),
    }
}

/// Returns the query that proves the sender. It does not cover the body.
pub(super) fn signed(
    callback: &Callback,
    stamp: &Stamp,
) -> form_urlencoded::Serializer<'static, String> {
    let Stamp { timestamp, nonce, .. } = stamp;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("signature", &callback.sign(&[timestamp, nonce]));
    query.append_pair("timestamp", timestamp).append_pair("nonce", nonce);
    query
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wechat_clock::Clock;

    use super::*;
    use crate::{
        COMPANY, MINI_PROGRAM_APP_ID, OFFICIAL_AES_KEY, OFFICIAL_APP_ID, Settings,
        audit::{self, Decision, Kind},
        endpoint::Call,
        message_crypto::tests::decrypt,
        push::outbox::take,
        world::{World, endpoints},
    };

    /// WeChat's samples. Their numbers are as bare as there.
    const MERCHANT: &str = "<audit_id>11111</audit_id>\n<status>3</status>\n\
        <reason><![CDATA[xxx]]></reason>\n";
    const MAP_POI: &str = "<audit_id>11111</audit_id>\n<status>1</status>\n\
        <map_poi_id><![CDATA[xxx]]></map_poi_id>\n<name><![CDATA[xxx]]></name>\n\
        <address><![CDATA[xxx]]></address>\n<latitude><![CDATA[xxx]]></latitude>\n\
        <longitude><![CDATA[xxx]]></longitude>\n<sh_remark><![CDATA[xxx]]></sh_remark>\n";
    const STORE: &str = "<audit_id>11111</audit_id>\n<status>3</status>\n\
        <reason><![CDATA[xxx]]></reason>\n<is_upgrade>3</is_upgrade>\n<poiid>12344</poiid>\n";
    const PICTURES: &str = MERCHANT;
    const NEARBY: &str = "<audit_id>11111</audit_id>\n<status>3</status>\n\
        <reason><![CDATA[xxx]]></reason>\n<poi_id>111111</poi_id>\n";

    const PICTURE: &str = "http://mmbiz.qpic.cn/mmbiz_png/first/0";
    const PLACE: &str = "2708071440732747189";

    fn callback(mode: Mode, format: Format) -> Callback {
        let (url, token) = ("http://127.0.0.1/{app_id}".to_owned(), "token".to_owned());
        Callback { url, token, encoding_aes_key: OFFICIAL_AES_KEY.to_owned(), mode, format }
    }

    fn world(mode: Mode, format: Format) -> World {
        let mut settings = Settings { clock: Clock::frozen(), ..Settings::default() };
        for account in &mut settings.accounts {
            account.callback = Some(callback(mode, format));
        }
        World::new(settings)
    }

    fn call(world: &mut World, app_id: &str, path: &str, body: Value) -> Value {
        let endpoint = endpoints().find(|endpoint| endpoint.path == path).expect(path);
        let fields = body.as_object().expect("fields").clone();
        let call = Call { app_id: app_id.to_owned(), fields, ..Call::default() };
        (endpoint.run)(world, &call).expect(path)
    }

    /// Submits something of this kind and returns the id of its review.
    fn submit(world: &mut World, kind: Kind) -> u64 {
        let official = OFFICIAL_APP_ID;
        let pictures = |name: &str| json!({ "list": [PICTURE.replace("first", name)] }).to_string();
        let answer = match kind {
            Kind::AddNearbyPoi => {
                let service = json!({
                    "id": 2, "type": 1, "name": "快递", "appid": MINI_PROGRAM_APP_ID, "path": "a",
                });
                let body = json!({
                    "is_comm_nearby": "1", "store_name": "店", "contract_phone": "1",
                    "hour": "10:00-22:00", "credential": "1", "address": "路", "map_poi_id": PLACE,
                    "company_name": COMPANY, "pic_list": pictures("first"), "poi_id": "",
                    "kf_info": "", "qualification_list": "",
                    "service_infos": json!({ "service_infos": [service] }).to_string(),
                });
                call(world, MINI_PROGRAM_APP_ID, "/wxa/addnearbypoi", body)
            }
            Kind::AddStore => {
                let body = json!({
                    "map_poi_id": PLACE, "pic_list": pictures("first"), "contract_phone": "1",
                    "hour": "10:00-22:00", "credential": "1",
                });
                call(world, official, "/wxa/add_store", body)
            }
            // An application needs pictures, and those need files.
            Kind::ApplyMerchant => return audit::open(world, &Call::by(official), kind, "门店"),
            Kind::CreateMapPoi => {
                let body = json!({
                    "name": "hardenzhang", "longitude": "113.32", "latitude": "23.09",
                    "province": "广东省", "city": "广州市", "district": "海珠区", "address": "TIT",
                    "category": "类目1:类目2", "telephone": "1", "photo": PICTURE,
                    "license": PICTURE, "introduct": "test", "districtid": "440105",
                });
                let answer = call(world, official, "/wxa/create_map_poi", body);
                return answer["data"]["base_id"].as_u64().expect("a number");
            }
            Kind::ModifyStore => {
                let store = submit(world, Kind::AddStore);
                let (store, _) =
                    audit::end(world, store, Decision::Approve, String::new()).expect("open");
                let body = json!({
                    "poi_id": store.result, "map_poi_id": "", "pic_list": pictures("second"),
                    "contract_phone": "1", "hour": "10:00-22:00", "card_id": "",
                });
                call(world, official, "/wxa/update_store", body)
            }
        };
        answer["data"]["audit_id"].as_u64().expect("a number")
    }

    /// Returns the push that follows this decision about something of this kind.
    fn pushed(world: &mut World, kind: Kind, decision: Decision) -> String {
        let audit_id = submit(world, kind);
        audit::decide(world, audit_id, decision, "模糊".to_owned()).expect("open");
        let push = world.outbox.list().pop().expect("a push");
        assert_eq!(push.audit_id, Some(audit_id));
        push.message
    }

    /// Returns the elements in order, and whether each is CDATA.
    fn shape(xml: &str) -> Vec<(&str, bool)> {
        let lines = xml.lines().filter(|line| !line.contains("xml>"));
        lines
            .map(|line| (line.split(['<', '>']).nth(1).expect(line), line.contains("CDATA")))
            .collect()
    }

    #[test]
    fn event_matches_wechats_sample() {
        for (kind, event, sample) in [
            (Kind::ApplyMerchant, "apply_merchant_audit_info", MERCHANT),
            (Kind::CreateMapPoi, "create_map_poi_audit_info", MAP_POI),
            (Kind::AddStore, "add_store_audit_info", STORE),
            (Kind::ModifyStore, "modify_store_audit_info", PICTURES),
            (Kind::AddNearbyPoi, "add_nearby_poi_audit_info", NEARBY),
        ] {
            let sample = format!(
                "<xml>\n<ToUserName><![CDATA[gh_4346ac1514d8]]></ToUserName>\n\
                 <FromUserName><![CDATA[od1P50M-fNQI5Gcq-trm4a7apsU8]]></FromUserName>\n\
                 <CreateTime>1488856741</CreateTime>\n<MsgType><![CDATA[event]]></MsgType>\n\
                 <Event><![CDATA[{event}]]></Event>\n{sample}</xml>"
            );
            let message = pushed(&mut world(Mode::Safe, Format::Xml), kind, Decision::Reject);
            assert_eq!(shape(&message), shape(&sample));
            assert!(message.contains(&format!("<Event><![CDATA[{event}]]></Event>")), "{message}");
            let reason = if kind == Kind::CreateMapPoi { "sh_remark" } else { "reason" };
            assert!(message.contains(&format!("<{reason}><![CDATA[模糊]]></{reason}>")));
        }
    }

    #[test]
    fn status_number_depends_on_event() {
        use Decision::{Approve, Decline, Reject};
        for (kind, decision, status) in [
            (Kind::ApplyMerchant, Reject, 3),
            (Kind::ApplyMerchant, Decline, 4),
            (Kind::CreateMapPoi, Approve, 0),
            (Kind::CreateMapPoi, Reject, 1),
            (Kind::AddStore, Approve, 1),
            (Kind::AddStore, Reject, 3),
            (Kind::ModifyStore, Approve, 1),
            (Kind::ModifyStore, Reject, 3),
            (Kind::AddNearbyPoi, Approve, 3),
            (Kind::AddNearbyPoi, Reject, 2),
        ] {
            let message = pushed(&mut world(Mode::Plain, Format::Json), kind, decision);
            let message: Value = serde_json::from_str(&message).expect("JSON");
            assert_eq!(message["status"], status, "{kind:?} {decision:?}");
        }
    }

    #[test]
    fn json_numbers_are_numbers() {
        let mut world = world(Mode::Plain, Format::Json);
        let message = pushed(&mut world, Kind::AddStore, Decision::Approve);
        let tenant = &world.accounts[OFFICIAL_APP_ID];
        let expected = format!(
            r#"{{"ToUserName":"{}","FromUserName":"{}","CreateTime":{},"MsgType":"event","Event":"add_store_audit_info","audit_id":414569001,"status":1,"reason":"模糊","is_upgrade":0,"poiid":472600001}}"#,
            tenant.original_id,
            tenant.open_id,
            world.clock.unix(),
        );
        assert_eq!(message, expected);
        assert_eq!((tenant.original_id.len(), tenant.open_id.len()), (15, 28));
    }

    #[test]
    fn place_event_uses_documented_field_names() {
        let mut world = world(Mode::Plain, Format::Json);
        let message = pushed(&mut world, Kind::CreateMapPoi, Decision::Approve);
        let message: Value = serde_json::from_str(&message).expect("JSON");
        assert_eq!(
            (&message["latitude"], &message["longitude"]),
            (&json!("23.09"), &json!("113.32"))
        );
        assert_eq!(message["map_poi_id"].as_str().map(str::len), Some(19));
    }

    #[test]
    fn text_cannot_end_its_cdata() {
        let fields =
            [("a".to_owned(), json!("x]]>y")), ("b".to_owned(), json!({ "c": [1, null] }))];
        let expected =
            "<xml>\n<a><![CDATA[x]]]]><![CDATA[>y]]></a>\n<b><c>1</c>\n<c></c>\n</b>\n</xml>";
        assert_eq!(write(&fields, Format::Xml), expected);
    }

    /// Returns the push about a decided store: the message, the query, and the body.
    fn sent(mode: Mode, format: Format) -> (String, Vec<(String, String)>, String) {
        let mut world = world(mode, format);
        let message = pushed(&mut world, Kind::AddStore, Decision::Approve);
        let letter = take(&mut world).pop().expect("a letter");
        let (query, body) = envelope(&letter, &callback(mode, format)).expect("a key");
        (message, form_urlencoded::parse(query.as_bytes()).into_owned().collect(), body)
    }

    fn opened(query: &[(String, String)], sealed: &str) -> String {
        let callback = callback(Mode::Safe, Format::Xml);
        let value = |name: &str| {
            query.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str()).expect(name)
        };
        let (timestamp, nonce) = (value("timestamp"), value("nonce"));
        assert_eq!(value("signature"), callback.sign(&[timestamp, nonce]));
        assert_eq!(value("msg_signature"), callback.sign(&[timestamp, nonce, sealed]));
        assert_eq!(value("encrypt_type"), "aes");
        decrypt(&callback.key().expect("a key"), sealed, OFFICIAL_APP_ID)
    }

    #[test]
    fn plain_push_is_the_message() {
        for format in [Format::Json, Format::Xml] {
            let (message, query, body) = sent(Mode::Plain, format);
            let names: Vec<_> = query.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["signature", "timestamp", "nonce", "openid"]);
            assert_eq!(body, message);
        }
    }

    #[test]
    fn safe_push_shows_only_the_recipient() {
        let (message, query, body) = sent(Mode::Safe, Format::Xml);
        assert_eq!(shape(&body), [("ToUserName", true), ("Encrypt", true)]);
        let sealed = body.split("CDATA[").nth(2).and_then(|rest| rest.split(']').next());
        assert_eq!(opened(&query, sealed.expect("sealed")), message);

        let (message, query, body) = sent(Mode::Safe, Format::Json);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(2));
        assert!(body["ToUserName"].as_str().expect("a name").starts_with("gh_"));
        assert_eq!(opened(&query, body["Encrypt"].as_str().expect("sealed")), message);
    }

    #[test]
    fn compatible_push_has_both_forms() {
        let (message, query, body) = sent(Mode::Compatible, Format::Xml);
        assert_eq!(shape(&body)[..shape(&message).len()], shape(&message));
        let sealed =
            body.split("<Encrypt><![CDATA[").nth(1).and_then(|rest| rest.split(']').next());
        assert_eq!(opened(&query, sealed.expect("sealed")), message);

        let (message, query, body) = sent(Mode::Compatible, Format::Json);
        let mut body: Value = serde_json::from_str(&body).expect("JSON");
        let sealed = body.as_object_mut().and_then(|body| body.remove("Encrypt")).expect("sealed");
        assert_eq!(opened(&query, sealed.as_str().expect("text")), message);
        assert_eq!(body, serde_json::from_str::<Value>(&message).expect("JSON"));
    }
}
