//! Reflection v1 and v1alpha, with the comments of `proto/`. It includes google.rpc, so that tools show
//! error details by name.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures_util::{FutureExt, StreamExt, future::Either};
use http::{Request, Response};
use http_body_util::{BodyStream, StreamBody};
use tonic::{
    Status,
    body::Body,
    codec::CompressionEncoding::Gzip,
    server::NamedService,
    service::{LayerExt, Routes},
};
use tonic_reflection::server::{Builder, Error};
use tower::{Service, util::MapRequestLayer};

use crate::{context::Ending, errors::status, pb};

/// The longest request, in bytes.
const LONGEST: usize = 64 * 1024;

/// Adds both versions. Their streams end with their connection's [`Ending`], because a tool that keeps a
/// stream open would keep its connection open too.
pub(crate) fn add_to(routes: Routes) -> Routes {
    let until_end = MapRequestLayer::new(move |request: Request<Body>| {
        let ending = request.extensions().get::<Ending>().cloned().unwrap_or_default();
        let end = ending.token().cancelled_owned();
        request.map(|body| Body::new(StreamBody::new(BodyStream::new(body).take_until(end))))
    });
    let v1 = || {
        let service = builder().build_v1()?;
        Ok(service.accept_compressed(Gzip).max_decoding_message_size(LONGEST))
    };
    let v1alpha = || {
        let service = builder().build_v1alpha()?;
        Ok(service.accept_compressed(Gzip).max_decoding_message_size(LONGEST))
    };
    routes
        .add_service(until_end.named_layer(Late::new(v1)))
        .add_service(until_end.named_layer(Late::new(v1alpha)))
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(pb::health::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// A service that is made at its first call. Few clients use reflection, and its descriptors take time and
/// memory.
#[derive(Debug)]
struct Late<S> {
    make: fn() -> Result<S, Error>,
    made: Arc<OnceLock<Result<S, Status>>>,
}

impl<S> Late<S> {
    fn new(make: fn() -> Result<S, Error>) -> Self {
        Self { make, made: Arc::default() }
    }
}

impl<S> Clone for Late<S> {
    fn clone(&self) -> Self {
        Self { make: self.make, made: self.made.clone() }
    }
}

impl<S: NamedService> NamedService for Late<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Late<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    /// Returns ready: these services are always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let make = || (self.make)().map_err(|error| status::internal(&error.to_string()));
        match self.made.get_or_init(make) {
            Ok(service) => service.clone().call(request).left_future(),
            Err(status) => Either::Right(ready(Ok(status.clone().into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_build() {
        assert!(builder().build_v1().is_ok() && builder().build_v1alpha().is_ok());
    }
}
