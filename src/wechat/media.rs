//! Pictures that other calls refer to (素材).

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};

use super::{
    AccountKinds, Endpoint, Need, Payload, Safety, Seconds, Text, Verdict, client::multipart,
};
use crate::util::id::MediaId;

endpoints![UploadImg, UploadTemporary];

/// The name of the only part of an upload.
const PART: &str = "media";

/// A file to upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// The file name. WeChat evaluates its extension.
    pub name: &'static str,
    /// Its media type.
    pub media_type: &'static str,
    /// The content.
    pub content: Bytes,
}

/// `POST /cgi-bin/media/upload` — 新增临时素材
///
/// Uploads a picture that WeChat keeps for three days.
#[derive(Debug, Serialize)]
pub(crate) struct UploadTemporary {
    /// The picture: PNG, JPEG or GIF, at most 10 MB (the same page also has 2 MB).
    #[serde(skip)]
    pub file: File,
}

/// The reply to [`UploadTemporary`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UploadTemporaryReply {
    /// The picture's id.
    pub media_id: MediaId,
    /// When WeChat received it, in seconds since 1970.
    pub created_at: Seconds,
}

impl Endpoint for UploadTemporary {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/media/upload";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    const SAFETY: Safety = Safety::Repeatable;
    const PERMISSION_SETS: &'static [u8] = &[1, 3, 8, 9, 11, 19, 30, 31, 100];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] = &[Need::Id("media_id")];
    // Ten megabytes take a while on a slow line.
    const REPLY_LIMIT: Duration = Duration::from_secs(60);
    type Reply = UploadTemporaryReply;

    fn is_whole(reply: &UploadTemporaryReply) -> bool {
        !reply.media_id.is_empty()
    }

    fn payload(&self) -> Result<Payload, serde_json::Error> {
        let File { name, media_type, content } = &self.file;
        let payload = multipart(PART, name, media_type, content.clone());
        Ok(Payload { query: vec![("type", "image".to_owned())], ..payload })
    }
}

/// `POST /cgi-bin/media/uploadimg` — 上传图文消息内的图片获取URL
///
/// Uploads a picture that WeChat keeps permanently.
#[derive(Debug, Serialize)]
pub(crate) struct UploadImg {
    /// The picture: PNG or JPEG, less than 1 MB.
    #[serde(skip)]
    pub file: File,
}

/// The reply to [`UploadImg`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UploadImgReply {
    /// The URL of the picture. It uses plain http and must only be used within WeChat.
    pub url: Text,
}

impl Endpoint for UploadImg {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/cgi-bin/media/uploadimg";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    const SAFETY: Safety = Safety::Repeatable;
    const PERMISSION_SETS: &'static [u8] = &[1, 8, 9, 11, 18, 37, 100];
    const VERDICT: Verdict = Verdict::Content;
    const WHOLE: &'static [Need] = &[Need::Text("url")];
    const REPLY_LIMIT: Duration = Duration::from_secs(20);
    type Reply = UploadImgReply;

    fn is_whole(reply: &UploadImgReply) -> bool {
        !reply.url.0.trim().is_empty()
    }

    fn payload(&self) -> Result<Payload, serde_json::Error> {
        let File { name, media_type, content } = &self.file;
        Ok(multipart(PART, name, media_type, content.clone()))
    }
}
