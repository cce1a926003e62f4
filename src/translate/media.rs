//! Pictures that other calls refer to.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    BadPicture, WriteCall,
    picture::{self, Kind, Rule},
};
use crate::{
    pb,
    wechat::{
        Text,
        media::{UploadImg, UploadImgReply, UploadTemporary, UploadTemporaryReply},
    },
};

/// WeChat deletes temporary media after three days (临时素材有效期3天).
const LIFE: Duration = Duration::from_secs(3 * 24 * 3600);
/// A later time cannot be right and may be in milliseconds. (2100-01-01, in seconds since 1970.)
const LATEST: i64 = 4_102_444_800;

const TEMPORARY: Rule = Rule {
    kinds: &[Kind::Gif, Kind::Jpeg, Kind::Png],
    kinds_text: "must be a PNG, JPEG or GIF picture",
    most: 10 << 20,
    most_text: "must have at most 10 MiB",
};

const IMAGE: Rule = Rule {
    kinds: &[Kind::Jpeg, Kind::Png],
    kinds_text: "must be a PNG or JPEG picture",
    most: (1 << 20) - 1,
    most_text: "must have less than 1 MiB",
};

impl WriteCall for UploadTemporary {}

impl WriteCall for UploadImg {}

impl TryFrom<pb::UploadTemporaryImageRequest> for UploadTemporary {
    type Error = BadPicture;

    fn try_from(request: pb::UploadTemporaryImageRequest) -> Result<Self, BadPicture> {
        let pb::UploadTemporaryImageRequest { app_id: _, request_id: _, content } = request;
        Ok(Self { file: picture::to_file(content, &TEMPORARY)? })
    }
}

/// Returns the response for a picture that WeChat accepted, at the time that WeChat returns or else `now`.
pub(crate) fn uploaded(
    UploadTemporaryReply { media_id, created_at }: UploadTemporaryReply,
    now: SystemTime,
) -> pb::UploadTemporaryImageResponse {
    let created = created_at.0.filter(|seconds| (1..LATEST).contains(seconds));
    let created = created.and_then(|seconds| u64::try_from(seconds).ok());
    let created = created.map_or(now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    pb::UploadTemporaryImageResponse {
        media_id: media_id.into(),
        create_time: Some(created.into()),
        expire_time: Some((created + LIFE).into()),
        recovered: false,
    }
}

impl TryFrom<pb::UploadImageRequest> for UploadImg {
    type Error = BadPicture;

    fn try_from(
        pb::UploadImageRequest { app_id: _, request_id: _, content }: pb::UploadImageRequest,
    ) -> Result<Self, BadPicture> {
        Ok(Self { file: picture::to_file(content, &IMAGE)? })
    }
}

impl From<UploadImgReply> for pb::UploadImageResponse {
    fn from(UploadImgReply { url: Text(url) }: UploadImgReply) -> Self {
        Self { url, recovered: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_picture_expires_after_three_days() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        for (json, created) in [
            (r#"{"type":"image","media_id":"M","created_at":1380000000}"#, 1_380_000_000),
            (r#"{"type":"image","media_id":"M","created_at":"1380000000"}"#, 1_380_000_000),
            (r#"{"type":"image","media_id":"M"}"#, 1_000),
            (r#"{"type":"image","media_id":"M","created_at":0}"#, 1_000),
            (r#"{"type":"image","media_id":"M","created_at":-1}"#, 1_000),
            (r#"{"type":"image","media_id":"M","created_at":1380000000000}"#, 1_000),
            (r#"{"type":"image","media_id":"M","created_at":9223372036854775807}"#, 1_000),
        ] {
            let reply = serde_json::from_str(json).expect(json);
            let picture = uploaded(reply, now);
            assert_eq!(picture.media_id, "M");
            assert_eq!(picture.create_time.map(|time| time.seconds), Some(created));
            assert_eq!(picture.expire_time.map(|time| time.seconds), Some(created + 259_200));
        }
    }
}
