//! Refusals in WeChat's form: an errcode, and a text that ends in a trace id.

use serde_json::{Value, json};

/// A refusal before it becomes a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errcode: i64,
    /// A text that replaces the usual one of this code.
    pub(super) errmsg: Option<String>,
}

impl Refusal {
    /// Returns a refusal with the usual text.
    pub(super) const fn new(errcode: i64) -> Self {
        Self { errcode, errmsg: None }
    }

    /// Returns the body of the reply. WeChat appends its trace id to the text, so no two texts are
    /// equal and a client cannot compare them.
    pub(super) fn body(&self, rid: &str) -> Value {
        let text = self.errmsg.as_deref().unwrap_or_else(|| usual_text(self.errcode));
        json!({ "errcode": self.errcode, "errmsg": format!("{text} rid: {rid}") })
    }
}

/// Returns the usual text of an errcode.
fn usual_text(errcode: i64) -> &'static str {
    TEXTS.iter().find(|(code, _)| *code == errcode).map_or("system error", |(_, text)| text)
}

/// Errcodes and their texts, ordered by code. The text of 92005 is Chinese, as at WeChat.
#[rustfmt::skip]
const TEXTS: &[(i64, &str)] = &[
    (-1, "system error"),
    (20002, "invalid argument"),
    (40001, "invalid credential, access_token is invalid or not latest"),
    (40002, "invalid grant_type"),
    (40004, "invalid media type"),
    (40005, "invalid file type"),
    (40006, "invalid media size"),
    (40007, "invalid media_id"),
    (40009, "invalid image size"),
    (40013, "invalid appid"),
    (40014, "invalid access_token"),
    (40033, "invalid charset. please check your request, if include \\uxxxx will create fail!"),
    (40035, "invalid parameter"),
    (40066, "invalid url"),
    (40097, "invalid args"),
    (40125, "invalid appsecret"),
    (40164, "invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist"),
    (40170, "args count exceed count limit"),
    (40243, "appsecret is frozen"),
    (41001, "access_token missing"),
    (41002, "appid missing"),
    (41004, "appsecret missing"),
    (41005, "media data missing"),
    (42001, "access_token expired"),
    (43001, "require GET method"),
    (43002, "require POST method"),
    (43104, "no permission"),
    (44001, "empty media data"),
    (44002, "empty post data"),
    (45001, "media size out of limit"),
    (45009, "reach max api daily quota limit"),
    (45011, "api minute-quota reach limit, must slower, retry next minute"),
    (45035, "access clientip is not registered, not in ip-white-list"),
    (47001, "data format error"),
    (48001, "api unauthorized"),
    (48006, "forbid to clear quota because of reaching the limit"),
    (50002, "user limited"),
    (50004, "forbidden to use token interface"),
    (50007, "account has been frozen"),
    (61003, "component is not authorized by this account"),
    (61004, "access clientip is not registered"),
    (61005, "component ticket is expired"),
    (61006, "component ticket is invalid"),
    (61007, "api is unauthorized to component"),
    (61009, "code is invalid"),
    (61010, "code is expired"),
    (61011, "invalid component"),
    (61014, "must use component token for component api"),
    (61015, "must use biz account token for not component api"),
    (61023, "refresh_token is invalid"),
    (65106, "poi has not passed the audit"),
    (65107, "poi is in audit or its state does not allow this"),
    (65115, "store does not exist"),
    (65116, "poi has been deleted"),
    (65117, "poi can not be deleted"),
    (65118, "store state does not allow update"),
    (76003, "cgi_path is invalid"),
    (76021, "cgi_path not found, please check"),
    (76022, "could not use this cgi_path, no permission"),
    (85024, "nickname needs proof"),
    (85025, "phone of the administrator has reached the limit"),
    (85026, "this wechat user administers 5 accounts already"),
    (85027, "id card of the administrator has been used 5 times"),
    (85028, "subject has reached the limit"),
    (85029, "nickname is used"),
    (85030, "invalid nickname"),
    (85031, "nickname is not allowed"),
    (85032, "nickname is in its protection period"),
    (85033, "nickname is illegal"),
    (85034, "nickname is in its 15 day protection period"),
    (85035, "need the same subject"),
    (85036, "intro is illegal"),
    (85038, "store has added"),
    (85039, "store has added by others"),
    (85040, "store has added by yourself"),
    (85041, "credential has used"),
    (85042, "nearby reach limit"),
    (85049, "modify times reach limit this month"),
    (85050, "in auditing, do not submit again"),
    (85053, "please create merchant first"),
    (85054, "poi_id is null"),
    (85055, "map_poi_id is invalid"),
    (85056, "mediaid is invalid"),
    (89501, "ip needs the confirmation of the administrator"),
    (89503, "ip is waiting for the confirmation of the administrator"),
    (92000, "credential has been added"),
    (92002, "poi reach limit"),
    (92003, "poi is used by another account"),
    (92004, "poi is banned"),
    (92005, "该地点正在审核中"),
    (92006, "poi is being shown"),
    (92007, "poi failed the audit"),
    (92008, "poi can not be shown"),
    (93009, "mini program is not online"),
    (93010, "poi_id does not exist"),
    (93011, "personal mini program"),
    (93012, "not an ordinary mini program"),
    (93013, "map poi detail can not be read"),
    (93014, "same credential submitted twice"),
    (93015, "category is in auditing"),
    (93016, "too many services"),
    (93017, "invalid service name or kf name"),
    (93018, "appid of the service has another subject"),
    (93019, "category has to be applied for"),
    (93020, "qualification_list is invalid"),
    (93021, "company_name is empty"),
    (93022, "credential is empty"),
    (93023, "address is empty"),
    (93024, "qualification_list is empty"),
    (93025, "path of the service does not exist"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_has_code_and_trace_id() {
        let body = Refusal::new(85038).body("61-2-3");
        assert_eq!(body, json!({ "errcode": 85038, "errmsg": "store has added rid: 61-2-3" }));
    }

    #[test]
    fn every_code_has_exactly_one_text() {
        assert!(TEXTS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
