//! Pictures.

use wechat_store_gateway::pb;

use crate::support::{App, png};

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_picture_says_when_it_ends() {
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
async fn a_picture_for_a_page_becomes_an_address() {
    let app = App::start().await;
    let request = pb::UploadImageRequest { content: png().into(), ..Default::default() };
    let answer = app.media().upload_image(request).await.expect("taken").into_inner();
    assert!(answer.url.starts_with("http://mmbiz.qpic.cn/"), "{}", answer.url);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_of_ten_megabytes_passes() {
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
