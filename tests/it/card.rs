//! Cards on the pages of stores.

use tonic::Code;
use tonic_types::StatusExt;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb;

use crate::support::{App, SET_CARD, is, reason};

async fn card(app: &App, poi_id: &str) -> String {
    let request = pb::GetStoreCardRequest { poi_id: poi_id.to_owned(), ..Default::default() };
    app.cards().get_store_card(request).await.expect("an answer").into_inner().card_id
}

#[tokio::test(flavor = "multi_thread")]
async fn set_card_replaces_previous_card() {
    let app = App::start().await;
    let poi_id = app.approved_store("1").await;
    assert_eq!(card(&app, &poi_id).await, "", "a new store has none");
    for card_id in ["first", "second"] {
        let (poi_id, card_id) = (poi_id.clone(), card_id.to_owned());
        let request = pb::SetStoreCardRequest { poi_id, card_id, ..Default::default() };
        app.cards().set_store_card(request).await.expect("set");
    }
    assert_eq!(card(&app, &poi_id).await, "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_store_has_no_card() {
    let app = App::start().await;
    let status = app.read().await.expect_err("there is no such store");
    assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"));
    let info = status.get_details_error_info().expect("checked above");
    let errmsg = &info.metadata["errmsg"];
    assert!(errmsg.ends_with(&format!("rid: {}", info.metadata["rid"])), "{errmsg}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_card_has_specific_reason() {
    let app = App::start().await;
    for (errcode, code, expected, fix_by) in [
        (40056, Code::InvalidArgument, "CARD_ID_INVALID", "caller"),
        (40073, Code::InvalidArgument, "CARD_ID_INVALID", "caller"),
        (40078, Code::FailedPrecondition, "CARD_NOT_USABLE", "merchant"),
        (41012, Code::InvalidArgument, "REQUIRED_FIELD_EMPTY", "caller"),
        (45030, Code::FailedPrecondition, "CARD_NOT_ALLOWED", "merchant"),
        (47003, Code::InvalidArgument, "PARAMETER_REFUSED", "caller"),
    ] {
        let refusal = Kind::Errcode { errcode, errmsg: None };
        app.wechat.fault(Fault::new(SET_CARD, refusal));
        let (poi_id, card_id) = ("1".to_owned(), "pabc".to_owned());
        let request = pb::SetStoreCardRequest { poi_id, card_id, ..Default::default() };
        let status = app.cards().set_store_card(request).await.expect_err("refused");
        assert_eq!(reason(&status), is(code, expected));
        let info = status.get_details_error_info().expect("checked above");
        assert_eq!(
            (&*info.metadata["fix_by"], &info.metadata["errcode"]),
            (fix_by, &errcode.to_string())
        );
        assert!(status.get_details_localized_message().is_some(), "{errcode}");
    }
}
