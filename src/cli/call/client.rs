//! A gRPC client for any service that supports reflection.

use bytes::Bytes;
use futures_util::stream;
use http::uri::PathAndQuery;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::{Request, Status, Streaming, client::Grpc};

use super::{json::parse_request, reflection};
use crate::{
    cli::{
        Failure,
        target::{Connection, Target},
    },
    util::raw_codec::Raw,
};

/// Calls methods by their names.
#[derive(Debug)]
pub(in crate::cli) struct Client {
    connection: Connection,
    /// The start of a `call` command for this service, for messages.
    command: String,
    /// All types that the service describes.
    pub(super) types: DescriptorPool,
    /// The full names of its services.
    pub(super) services: Vec<String>,
}

impl Client {
    /// Connects and loads the types of the service.
    pub(in crate::cli) async fn connect(target: &Target) -> Result<Self, Failure> {
        let connection = target.connect().await?;
        let (services, types) = reflection::load(connection.clone(), target).await?;
        Ok(Self { connection, command: target.command(), types, services })
    }

    /// Connects to the same service as another caller, which may not be allowed to load its types.
    #[cfg(feature = "sandbox")]
    pub(in crate::cli) async fn connect_as(&self, target: &Target) -> Result<Self, Failure> {
        Ok(Self {
            connection: target.connect().await?,
            command: target.command(),
            types: self.types.clone(),
            services: self.services.clone(),
        })
    }

    /// Returns a method by `Service/Method`. The package of the service can be omitted.
    ///
    /// Returns an error if there is no such method.
    pub(in crate::cli) fn method(&self, name: &str) -> Result<MethodDescriptor, Failure> {
        let unknown = || self.unknown(name, "method");
        let (service, method) = name.trim_matches('/').split_once('/').ok_or_else(unknown)?;
        let service =
            resolve_name(service, self.services.iter().map(String::as_str))?.ok_or_else(unknown)?;
        let service = self.types.get_service_by_name(service).ok_or_else(unknown)?;
        service.methods().find(|candidate| candidate.name() == method).ok_or_else(unknown)
    }

    /// Returns the error about an unknown name. It names a method that differs only in its service or in
    /// capital letters.
    pub(super) fn unknown(&self, name: &str, kind: &str) -> Failure {
        let wanted = name.rsplit('/').next().unwrap_or_default();
        let services = self.services.iter().filter_map(|name| self.types.get_service_by_name(name));
        let similar = services.into_iter().flat_map(|service| {
            let methods = service.methods().collect::<Vec<_>>().into_iter();
            methods.map(move |method| (service.name().to_owned(), method.name().to_owned()))
        });
        let similar = similar.into_iter().find(|(_, method)| method.eq_ignore_ascii_case(wanted));
        let hint = similar.map(|(service, method)| format!("; did you mean {service}/{method}?"));
        Failure::usage(format_args!(
            "{name}: no such {kind}{}; `{} --list` prints all methods",
            hint.unwrap_or_default(),
            self.command
        ))
    }

    /// Returns a request parsed from JSON, or an error that names the command that prints its fields.
    pub(super) fn request(
        &self,
        method: &MethodDescriptor,
        text: &str,
    ) -> Result<DynamicMessage, Failure> {
        let kind = method.input();
        let name = kind.name().to_owned();
        parse_request(kind, text).map_err(|problem| {
            let command = &self.command;
            Failure::usage(format_args!(
                "the request is {problem}; `{command} --describe {name}` prints its fields"
            ))
        })
    }

    /// Calls a method with one message and returns the stream of responses. A unary method returns a
    /// stream of one response.
    pub(in crate::cli) async fn start(
        &self,
        method: &MethodDescriptor,
        request: Request<DynamicMessage>,
    ) -> Result<Responses, Status> {
        let service = method.parent_service().full_name().to_owned();
        let path = PathAndQuery::try_from(format!("/{service}/{}", method.name()))
            .map_err(|error| Status::from_error(error.into()))?;
        let mut grpc = Grpc::new(self.connection.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let request = request.map(|message| stream::iter([Bytes::from(message.encode_to_vec())]));
        let stream = grpc.streaming(request, path, Raw).await?.into_inner();
        Ok(Responses { stream, kind: method.output() })
    }
}

/// The responses to one request.
#[derive(Debug)]
pub(in crate::cli) struct Responses {
    stream: Streaming<Bytes>,
    kind: MessageDescriptor,
}

impl Responses {
    /// Returns the next response, or `None` after the last one.
    pub(in crate::cli) async fn message(&mut self) -> Result<Option<DynamicMessage>, Status> {
        let Some(bytes) = self.stream.message().await? else { return Ok(None) };
        let message = DynamicMessage::decode(self.kind.clone(), bytes);
        message.map(Some).map_err(|error| Status::from_error(error.into()))
    }
}

/// Returns the full name that equals a name or ends with `.` and the name.
///
/// Returns an error if several full names end with it.
pub(super) fn resolve_name<'a>(
    name: &str,
    full_names: impl Iterator<Item = &'a str>,
) -> Result<Option<&'a str>, Failure> {
    let end = format!(".{name}");
    let mut matches = Vec::new();
    for full_name in full_names {
        if full_name == name {
            return Ok(Some(full_name));
        }
        if full_name.ends_with(&end) {
            matches.push(full_name);
        }
    }
    match matches[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => Err(Failure::usage(format_args!("{name} is ambiguous; use {}", matches.join(" or ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_without_package_resolves_if_unique() {
        let names = ["a.v1.Store", "b.v1.Store", "b.v1.Card", "Store.Card"];
        let find = |name: &str| resolve_name(name, names.into_iter()).ok().flatten();
        assert_eq!(find("a.v1.Store"), Some("a.v1.Store"));
        assert_eq!(find("v1.Card"), Some("b.v1.Card"));
        assert_eq!(find("ard"), None);
        assert!(resolve_name("Store", names.into_iter()).is_err());
        assert!(resolve_name("Card", names.into_iter()).is_err());
    }
}
