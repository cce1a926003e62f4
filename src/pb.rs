//! The code that `proto/` generates: the messages, clients and servers of the contract.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

tonic::include_proto!("wechat.store.v1");
include!(concat!(env!("OUT_DIR"), "/servers/wechat.store.v1.rs"));

/// Hides the token.
impl std::fmt::Debug for GetAccessTokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { access_token: _, expire_time, generation } = self;
        f.debug_struct("GetAccessTokenResponse")
            .field("expire_time", expire_time)
            .field("generation", generation)
            .finish_non_exhaustive()
    }
}

/// The compiled `proto/` with its comments and options, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// gRPC's health protocol, with the `List` method that tonic-health does not have.
pub mod health {
    tonic::include_proto!("grpc.health.v1");

    /// The compiled file, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/health.bin"));
}

/// The record of an authorizer that the state stores. No caller sees it.
pub mod platform {
    tonic::include_proto!("internal.platform.v1");

    /// Hides the code of the authorization.
    impl std::fmt::Debug for AuthorizerRecord {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let Self { permission_sets, described, kind, describe_time, .. } = self;
            f.debug_struct("AuthorizerRecord")
                .field("permission_sets", permission_sets)
                .field("described", described)
                .field("kind", kind)
                .field("describe_time", describe_time)
                .finish_non_exhaustive()
        }
    }
}

/// A request of an RPC, with the fields that surround its content.
pub trait Addressed: prost::Message {
    /// The RPC, as in `StoreService/AddStore`.
    const METHOD: &'static str;
    /// The access that the RPC needs.
    const ACCESS: Access;

    /// Takes the account's ID out of the request. Empty means the default account.
    fn take_app_id(&mut self) -> String;

    /// Takes the write's ID out of the request. Empty if the request has none.
    fn take_request_id(&mut self) -> String {
        String::new()
    }

    /// Takes the caller's own ID for the shop out of the request. Empty if the request has none.
    fn take_client_reference(&mut self) -> String {
        String::new()
    }

    /// Returns true if the request is only checked.
    fn validates_only(&self) -> bool {
        false
    }
}

/// The response to a write.
pub trait Recovered: prost::Message + Default {
    /// Marks the response of a write that recovery confirmed after WeChat's reply was lost, and sets what was
    /// submitted if WeChat reviews it.
    fn recover(&mut self, submission: Option<Submission>);
}

impl Recovered for AddNearbyPoiResponse {
    fn recover(&mut self, submission: Option<Submission>) {
        if let Some(submission) = &submission {
            self.nearby_poi_id.clone_from(&submission.nearby_poi_id);
        }
        self.submission = submission;
        self.recovered = true;
    }
}

/// Returns the encoded response to a write of this method, made by [`Recovered::recover`] from an encoded one
/// that may be empty. Returns `None` if the method does not write.
///
/// Fails if `response` is not a response of the method.
pub fn recovered(
    method: &str,
    response: &[u8],
    submission: Option<Submission>,
) -> Result<Option<Vec<u8>>, prost::DecodeError> {
    recovery(method).map(|recover| recover(response, submission)).transpose()
}

type Recover = fn(&[u8], Option<Submission>) -> Result<Vec<u8>, prost::DecodeError>;

fn recover<R: Recovered>(
    response: &[u8],
    submission: Option<Submission>,
) -> Result<Vec<u8>, prost::DecodeError> {
    let mut response = R::decode(response)?;
    response.recover(submission);
    Ok(response.encode_to_vec())
}

/// Implements the traits for all RPCs, which `build.rs` lists: [`Addressed`] for each request, and
/// [`Recovered`] for each response to a write. A field that is renamed in `proto/` is a compile error
/// here.
macro_rules! rpcs {
    ($($kind:ident $access:ident $path:literal $method:literal $request:ident $response:ident;)*) => {
        $(addressed!($kind $access $method $request);)*
        $(recovered!($kind $response);)*

        /// Returns the access that the RPC at a path needs, such as `/wechat.store.v1.StoreService/AddStore`.
        /// Returns `None` if there is no such RPC.
        pub fn access(path: &str) -> Option<Access> {
            match path {
                $($path => Some(Access::$access),)*
                _ => None,
            }
        }

        /// Returns the full name of the RPC at a path, such as `wechat.store.v1.StoreService/AddStore`.
        /// Returns `None` if there is no such RPC.
        pub fn full_name(path: &str) -> Option<&'static str> {
            match path {
                $($path => Some(&const { $path.split_at(1).1 }),)*
                _ => None,
            }
        }

        /// Returns what makes a recovered response of this method, or `None` if it does not write.
        fn recovery(method: &str) -> Option<Recover> {
            match method {
                $($method => recovery!($kind $response),)*
                _ => None,
            }
        }
    };
}

macro_rules! addressed {
    (read $access:ident $method:literal $request:ident) => {
        addressed!($access $method $request, take_app_id: app_id;);
    };
    (write $access:ident $method:literal $request:ident) => {
        addressed!($access $method $request, take_app_id: app_id, take_request_id: request_id;);
    };
    (reviewed $access:ident $method:literal $request:ident) => {
        addressed!(
            $access $method $request,
            take_app_id: app_id,
            take_request_id: request_id,
            take_client_reference: client_reference;
            fn validates_only(&self) -> bool {
                self.validate_only
            }
        );
    };
    (
        $access:ident $method:literal $request:ident, $($take:ident: $field:ident),*; $($more:item)*
    ) => {
        impl Addressed for $request {
            const METHOD: &'static str = $method;
            const ACCESS: Access = Access::$access;
            $(fn $take(&mut self) -> String {
                std::mem::take(&mut self.$field)
            })*
            $($more)*
        }
    };
}

macro_rules! recovered {
    (read $response:ident) => {};
    // This one repeats an ID of its submission, so it is written out above.
    (reviewed AddNearbyPoiResponse) => {};
    (write $response:ident) => {
        impl Recovered for $response {
            fn recover(&mut self, _: Option<Submission>) {
                self.recovered = true;
            }
        }
    };
    (reviewed $response:ident) => {
        impl Recovered for $response {
            fn recover(&mut self, submission: Option<Submission>) {
                self.submission = submission;
                self.recovered = true;
            }
        }
    };
}

macro_rules! recovery {
    (read $response:ident) => {
        None
    };
    ($writes:ident $response:ident) => {
        Some(recover::<$response>)
    };
}

include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));
