//! `MediaService`: pictures.

use tonic::{Request, Response, Status};

use crate::{
    context::Context,
    pb::{self, media_service_server::MediaService},
    translate::media::uploaded,
    wechat::media::{UploadImg, UploadTemporary},
    writes::Writes,
};

/// The longest request: the largest picture, and room for one that is slightly too large, so that its error
/// can state the size.
pub(super) const LONGEST_REQUEST: usize = 11 << 20;

/// Serves the upload of pictures for other calls.
#[derive(Clone, Debug)]
pub(super) struct Media {
    pub(super) writes: Writes,
}

#[tonic::async_trait]
impl MediaService for Media {
    async fn upload_temporary_image(
        &self,
        request: Request<pb::UploadTemporaryImageRequest>,
    ) -> Result<Response<pb::UploadTemporaryImageResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = UploadTemporary::try_from(request)?;
        let clock = self.writes.clock().clone();
        let answer = move |reply| uploaded(reply, clock.wall());
        Ok(Response::new(self.writes.write(&ctx, call, answer).await?))
    }

    async fn upload_image(
        &self,
        request: Request<pb::UploadImageRequest>,
    ) -> Result<Response<pb::UploadImageResponse>, Status> {
        let (ctx, request) = Context::split(request)?;
        let call = UploadImg::try_from(request)?;
        Ok(Response::new(self.writes.write(&ctx, call, Into::into).await?))
    }
}
