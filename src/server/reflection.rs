//! Reflection v1 and v1alpha, with the comments of `proto/` and with google.rpc, so that tools show
//! error details by name.

use futures_util::StreamExt;
use http::Request;
use http_body_util::{BodyStream, StreamBody};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    service::{LayerExt, Routes},
};
use tonic_reflection::server::{Builder, Error};
use tower::util::MapRequestLayer;

use crate::pb;

/// Adds both versions. Their streams end with `stop`: a tool that keeps one open would otherwise hold
/// its connection open too.
pub(super) fn add_to(routes: Routes, stop: &CancellationToken) -> Result<Routes, Error> {
    let stop = stop.clone();
    let until_stop = MapRequestLayer::new(move |request: Request<Body>| {
        let stop = stop.clone().cancelled_owned();
        request.map(|body| Body::new(StreamBody::new(BodyStream::new(body).take_until(stop))))
    });
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(routes
        .add_service(until_stop.named_layer(builder().build_v1()?))
        .add_service(until_stop.named_layer(builder().build_v1alpha()?)))
}
