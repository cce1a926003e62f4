//! Reflection v1 and v1alpha, with the comments of `proto/` and with google.rpc, so that tools show
//! error details by name.

use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

use crate::pb;

/// Adds both versions.
pub(super) fn add_to(routes: Routes) -> Result<Routes, Error> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}
