//! The names of OpenTelemetry's semantic conventions, 1.45.0, for spans and metrics.

/// The version of the conventions, for receivers that translate between versions.
pub(crate) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.45.0";

/// The class of a failure. A success has none.
pub(crate) const ERROR_TYPE: &str = "error.type";
/// The method of an HTTP request.
pub(crate) const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// The number of earlier attempts of the same request.
pub(crate) const HTTP_REQUEST_RESEND_COUNT: &str = "http.request.resend_count";
/// The status of an HTTP response, as a number.
pub(crate) const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// The path that a server has for a request, without the values in it.
pub(crate) const HTTP_ROUTE: &str = "http.route";
/// The version of HTTP: `1.1` or `2`.
pub(crate) const NETWORK_PROTOCOL_VERSION: &str = "network.protocol.version";
/// The RPC, such as `wechat.store.v1.CardService/GetStoreCard`, or [`OTHER_METHOD`].
pub(crate) const RPC_METHOD: &str = "rpc.method";
/// The RPC that a client named, if the contract has no such RPC.
pub(crate) const RPC_METHOD_ORIGINAL: &str = "rpc.method_original";
/// The gRPC code, by its name.
pub(crate) const RPC_STATUS_CODE: &str = "rpc.status_code";
/// The kind of RPC: `grpc`.
pub(crate) const RPC_SYSTEM_NAME: &str = "rpc.system.name";
/// The host to which a request goes.
pub(crate) const SERVER_ADDRESS: &str = "server.address";
/// The port to which a request goes.
pub(crate) const SERVER_PORT: &str = "server.port";
/// The URL of a request, without secrets.
pub(crate) const URL_FULL: &str = "url.full";
/// The path of a request that arrives.
pub(crate) const URL_PATH: &str = "url.path";
/// The protocol of a request that arrives: `http` or `https`.
pub(crate) const URL_SCHEME: &str = "url.scheme";
/// The path of a request, without values of the caller.
pub(crate) const URL_TEMPLATE: &str = "url.template";

/// Stands for every method that the contract does not have, because a client can invent any number of names.
pub(crate) const OTHER_METHOD: &str = "_OTHER";
