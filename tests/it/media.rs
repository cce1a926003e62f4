//! Pictures.

use serde_json::json;
use tonic::Code;
use wechat_simulator::faults::Kind;
use wechat_store_gateway::pb;

use crate::support::{App, is, png, reason};

#[tokio::test(flavor = "multi_thread")]
async fn temporary_picture_has_expiry_time() {
    let app = App::start().await;
    let content = png().into();
    let request = pb::UploadTemporaryImageRequest { content, ..Default::default() };
    let answer = app.media().upload_temporary_image(request).await.expect("taken").into_inner();
    let created = answer.create_time.expect("a time").seconds;
    assert_eq!(answer.expire_time.expect("a time").seconds, created + 3 * 24 * 3600);
    let call = &app.wechat.calls("/cgi-bin/media/upload")[0];
    assert_eq!(call.query["type"], "image");
    for (key, value) in [("name", "media"), ("content_type", "image/png")] {
        assert!(call.body.to_string().contains(value), "{key} in {}", call.body);
    }
    assert!(call.body.to_string().contains(".png"), "{}", call.body);
    assert!(call.body.to_string().contains(&png().len().to_string()), "{}", call.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_picture_returns_url() {
    let app = App::start().await;
    let request = pb::UploadImageRequest { content: png().into(), ..Default::default() };
    let answer = app.media().upload_image(request).await.expect("taken").into_inner();
    assert!(answer.url.starts_with("http://mmbiz.qpic.cn/"), "{}", answer.url);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabyte_picture_is_accepted() {
    let app = App::start().await;
    let mut content = png();
    let end = content.split_off(content.len() - 12);
    content.resize((10 << 20) - 12, 7);
    content.extend(end);
    let request = pb::UploadTemporaryImageRequest {
        content: content.into(),
        app_id: "wx0000000000000002".to_owned(),
        ..Default::default()
    };
    app.media().upload_temporary_image(request).await.expect("taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn picture_with_trailing_bytes_is_accepted() {
    let app = App::start().await;
    let gif = b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    let jpeg = b"\xff\xd8\xff\xe0....\xff\xd9";
    for picture in [&gif[..], &png(), jpeg] {
        let content = [picture, b"notes of a tool"].concat();
        let content = content.into();
        let request = pb::UploadTemporaryImageRequest { content, ..Default::default() };
        app.media().upload_temporary_image(request).await.expect("taken");
        let content = picture[..picture.len() - 2].to_vec().into();
        let request = pb::UploadTemporaryImageRequest { content, ..Default::default() };
        let status = app.media().upload_temporary_image(request).await;
        // For a PNG, only the name of the last chunk is checked.
        if !picture.starts_with(b"\x89PNG") {
            let status = status.expect_err("cut off");
            assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"));
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_without_id_is_an_error() {
    let app = App::start().await;
    for path in ["/cgi-bin/media/upload", "/cgi-bin/media/uploadimg"] {
        app.fault(path, Kind::Replace { body: json!({"errcode": 0, "errmsg": "ok"}) });
    }
    let request = pb::UploadTemporaryImageRequest { content: png().into(), ..Default::default() };
    let status = app.media().upload_temporary_image(request).await.expect_err("no id");
    assert_eq!(reason(&status), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    let request = pb::UploadImageRequest { content: png().into(), ..Default::default() };
    let status = app.media().upload_image(request).await.expect_err("no address");
    assert_eq!(reason(&status), is(Code::Unknown, "OUTCOME_UNKNOWN"));
}
