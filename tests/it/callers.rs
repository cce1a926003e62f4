//! Invalid input from callers: the answer names the field and the rule, and WeChat is not called.

use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID};
use wechat_store_gateway::pb;

use crate::support::{App, is, nearby_profile, new_store, reason, with_deadline};

/// Returns the fields that a refusal names.
fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let request = status.get_details_bad_request().expect("violations");
    assert!(request.field_violations.iter().all(|violation| !violation.description.is_empty()));
    request.field_violations.into_iter().map(|violation| violation.field).collect()
}

/// Fails if any of this reached WeChat.
fn never_called(app: &App) {
    let journal = app.wechat.control("GET", "journal", &serde_json::json!({})).expect("a journal");
    assert_eq!(journal["calls"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_invalid_field_is_named() {
    let app = App::start().await;
    let status = app.stores().add_store(pb::AddStoreRequest::default()).await.expect_err("empty");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(
        fields(&status),
        ["map_poi_id", "picture_urls", "contact_phone", "hours", "license_number"]
    );

    let mut store = new_store("2708071440732747189", "1");
    store.hours = Some(pb::OpeningHours {
        open: "9:00".to_owned(),
        close: "25:00".to_owned(),
        text: String::new(),
    });
    store.picture_urls = vec!["http://mmbiz.qpic.cn/a".to_owned(), "file.png".to_owned()];
    store.contact_phone = "020\u{1}".to_owned();
    store.qualification_media_ids = vec!["m".to_owned(); 6];
    store.request_id = "no-uuid".to_owned();
    store.client_reference = "店".repeat(65);
    let status = app.stores().add_store(store.clone()).await.expect_err("wrong");
    assert_eq!(fields(&status), ["request_id", "client_reference"]);
    (store.request_id, store.client_reference) = (String::new(), "店".repeat(64));
    let status = app.stores().add_store(store).await.expect_err("wrong");
    let named = fields(&status);
    for field in
        ["picture_urls[1]", "contact_phone", "hours.open", "hours.close", "qualification_media_ids"]
    {
        assert!(named.iter().any(|name| name == field), "{field} in {named:?}");
    }
    never_called(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn name_length_follows_wechats_rule() {
    let app = App::start().await;
    for (name, good) in [
        ("店", false),
        ("小店", true),
        ("abc", false),
        ("abcd", true),
        (&*"店".repeat(15), true),
        (&*"店".repeat(16), false),
        (&*"a".repeat(31), false),
    ] {
        let request = pb::ApplyMerchantRequest {
            first_category_id: "x".to_owned(),
            second_category_id: "280".to_owned(),
            avatar_media_id: "m".to_owned(),
            name: name.to_owned(),
            introduction: "i".to_owned(),
            ..Default::default()
        };
        let status = app.merchants().apply_merchant(request).await.expect_err("no number");
        let named = fields(&status);
        assert!(named.contains(&"first_category_id".to_owned()), "{named:?}");
        assert_eq!(!named.contains(&"name".to_owned()), good, "{name}");
    }
    never_called(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_pictures_or_labels_are_refused() {
    let app = App::start().await;
    let mut profile = nearby_profile("2708071440732747189");
    profile.picture_urls = vec!["http://mmbiz.qpic.cn/a".to_owned(); 10];
    profile.service_labels = vec![
        pb::ServiceLabel {
            kind: pb::NearbyServiceKind::Custom.into(),
            custom_name: "一二三四五六七八九十一".to_owned(),
            app_id: MINI_PROGRAM_APP_ID.to_owned(),
            path: "pages/index".to_owned(),
            description: String::new(),
        };
        5
    ];
    let request = pb::AddNearbyPoiRequest { profile: Some(profile), ..Default::default() };
    let status = app.nearby().add_nearby_poi(request).await.expect_err("too many");
    let named = fields(&status);
    for field in
        ["profile.picture_urls", "profile.service_labels", "profile.service_labels[0].custom_name"]
    {
        assert!(named.iter().any(|name| name == field), "{field} in {named:?}");
    }
    never_called(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_page_fields_are_refused() {
    let app = App::start().await;
    let list = pb::ListStoresRequest { page_size: -1, ..Default::default() };
    let status = app.stores().list_stores(list).await.expect_err("negative");
    assert_eq!(fields(&status), ["page_size"]);
    for token in ["nonsense", "eyJzIjoiZm9yZWlnbiJ9"] {
        let list = pb::ListStoresRequest { page_token: token.to_owned(), ..Default::default() };
        let status = app.stores().list_stores(list).await.expect_err("foreign");
        assert_eq!(reason(&status), is(Code::InvalidArgument, "PAGE_TOKEN_INVALID"));
        assert_eq!(fields(&status), ["page_token"]);
    }
    never_called(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_or_wrong_account_is_refused() {
    let app = App::start().await;
    let card = |app_id: &str| pb::GetStoreCardRequest {
        app_id: app_id.to_owned(),
        poi_id: "1".to_owned(),
    };
    for (app_id, expected) in
        [("wx00000000000000ff", "ACCOUNT_UNKNOWN"), (MINI_PROGRAM_APP_ID, "ACCOUNT_KIND_MISMATCH")]
    {
        let status = app.cards().get_store_card(card(app_id)).await.expect_err("no such account");
        assert_eq!(reason(&status), is(Code::InvalidArgument, expected));
        assert_eq!(fields(&status), ["app_id"]);
    }
    let list =
        pb::ListNearbyPoisRequest { app_id: OFFICIAL_APP_ID.to_owned(), ..Default::default() };
    let status = app.nearby().list_nearby_pois(list).await.expect_err("the wrong kind");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_KIND_MISMATCH"));

    let mut store = new_store("2708071440732747189", "1");
    (store.app_id, store.validate_only) = (MINI_PROGRAM_APP_ID.to_owned(), true);
    let status = app.stores().add_store(store).await.expect_err("the wrong kind");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_KIND_MISMATCH"));
    never_called(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_default_account_requires_app_id() {
    let app = App::with("# no defaults").await;
    let status = app.read().await.expect_err("no default");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "DEFAULT_ACCOUNT_MISSING"));
    assert_eq!(fields(&status), ["app_id"]);
    never_called(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn non_picture_is_refused_by_content() {
    let app = App::start().await;
    let upload =
        |content: Vec<u8>| pb::UploadImageRequest { content: content.into(), ..Default::default() };
    let mut media = app.media();
    for (content, expected) in [
        (b"<svg/>".to_vec(), "MEDIA_TYPE_INVALID"),
        (b"GIF89a\x01\0\x01\0\0\0\0;".to_vec(), "MEDIA_TYPE_INVALID"),
    ] {
        let status = media.upload_image(upload(content)).await.expect_err("no picture");
        assert_eq!(reason(&status).1, expected);
        assert_eq!(fields(&status), ["content"]);
    }
    let status = media.upload_image(upload(Vec::new())).await.expect_err("empty");
    assert_eq!(fields(&status), ["content"]);
    let mut large = crate::support::png();
    let end = large.split_off(large.len() - 12);
    large.resize(1 << 20, 0);
    large.extend(end);
    let status = media.upload_image(upload(large)).await.expect_err("too large");
    assert_eq!(reason(&status).1, "MEDIA_TOO_LARGE");
    never_called(&app);
}

/// Java's client accepts at most 8 KiB of trailers and otherwise resets the stream.
fn fits_into_trailers(status: &Status) -> bool {
    status.details().len() * 4 / 3 + status.message().len() * 3 < 7 << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_is_small_for_any_request() {
    let app = App::start().await;
    let store = pb::AddStoreRequest {
        picture_urls: vec!["file.png".to_owned(); 10_000],
        ..new_store("2708071440732747189", "1")
    };
    let status = app.stores().add_store(store).await.expect_err("no URLs");
    assert_eq!(fields(&status).len(), 20);
    assert!(status.message().ends_with("and 9997 more"), "{}", status.message());
    assert!(fits_into_trailers(&status));

    for app_id in ["x".repeat(1 << 20), "店".repeat(1 << 18)] {
        let card = pb::GetStoreCardRequest { app_id, poi_id: "1".to_owned() };
        let status = app.cards().get_store_card(card).await.expect_err("no such account");
        assert_eq!(reason(&status), is(Code::InvalidArgument, "ACCOUNT_UNKNOWN"));
        assert!(fits_into_trailers(&status));
    }
    never_called(&app);
}

#[tokio::test(flavor = "multi_thread")]
async fn tonic_statuses_have_error_info() {
    let app = App::start().await;
    // This message is too long for any service except MediaService.
    let request = pb::GetStoreCardRequest { poi_id: "1".repeat(5 << 20), ..Default::default() };
    let patience = std::time::Duration::from_secs(20);
    let status =
        app.cards().get_store_card(with_deadline(request, patience)).await.expect_err("too long");
    assert_eq!(reason(&status), is(Code::OutOfRange, "MESSAGE_TOO_LARGE"));

    let content = vec![0; 11 << 20].into();
    let request = pb::UploadTemporaryImageRequest { content, ..Default::default() };
    let request = with_deadline(request, patience);
    let status = app.media().upload_temporary_image(request).await.expect_err("too long");
    assert_eq!(reason(&status), is(Code::OutOfRange, "MESSAGE_TOO_LARGE"));

    let status = app.unary("/wechat.store.v1.CardService/Nothing", &[]).await.expect_err("unknown");
    assert_eq!(reason(&status), is(Code::Unimplemented, "METHOD_UNKNOWN"));
    let status = app.unary("/no.such.Service/Nothing", &[]).await.expect_err("unknown");
    assert_eq!(reason(&status), is(Code::Unimplemented, "METHOD_UNKNOWN"));
    for nonsense in [&b"\xff\xff\xff"[..], b"\x0a\x7f"] {
        let path = "/wechat.store.v1.CardService/GetStoreCard";
        let status = app.unary(path, nonsense).await.expect_err("no protobuf");
        assert_eq!(reason(&status), is(Code::InvalidArgument, "MALFORMED_REQUEST"));
    }
    let status = app.without_message().await.expect_err("no message");
    assert_eq!(reason(&status), is(Code::InvalidArgument, "MALFORMED_REQUEST"));
    assert!(status.get_details_request_info().is_some_and(|info| info.request_id.len() == 32));
    never_called(&app);
}
