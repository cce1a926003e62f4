//! A gRPC client for any service that supports reflection.

use futures_util::stream;
use http::uri::PathAndQuery;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde::de::DeserializeSeed;
use tonic::{Request, Status, Streaming, client::Grpc, transport::Channel};

use super::{codec::Dynamic, reflection};
use crate::cli::{Failure, target::Target};

/// Calls methods by their names.
#[derive(Debug)]
pub(in crate::cli) struct Client {
    channel: Channel,
    /// All types that the service describes.
    pub(super) types: DescriptorPool,
    /// The full names of its services.
    pub(super) services: Vec<String>,
}

impl Client {
    /// Connects and loads the types of the service.
    pub(in crate::cli) async fn connect(target: &Target) -> Result<Self, Failure> {
        let channel = target.connect().await?;
        let (services, types) = reflection::load(channel.clone()).await?;
        Ok(Self { channel, types, services })
    }

    /// Returns a method by `Service/Method`. The package of the service can be omitted.
    ///
    /// Returns an error if there is no such method.
    pub(in crate::cli) fn method(&self, name: &str) -> Result<MethodDescriptor, Failure> {
        let unknown = || {
            Failure::usage(format_args!("{name}: no such method; `call --list` prints all methods"))
        };
        let (service, method) = name.trim_matches('/').split_once('/').ok_or_else(unknown)?;
        let service =
            resolve_name(service, self.services.iter().map(String::as_str))?.ok_or_else(unknown)?;
        let service = self.types.get_service_by_name(service).ok_or_else(unknown)?;
        service.methods().find(|candidate| candidate.name() == method).ok_or_else(unknown)
    }

    /// Calls a method with one message and returns the stream of responses. A unary method returns a
    /// stream of one response.
    pub(in crate::cli) async fn start(
        &self,
        method: &MethodDescriptor,
        request: Request<DynamicMessage>,
    ) -> Result<Streaming<DynamicMessage>, Status> {
        let service = method.parent_service().full_name().to_owned();
        let path = PathAndQuery::try_from(format!("/{service}/{}", method.name()))
            .map_err(|error| Status::from_error(error.into()))?;
        let codec = Dynamic { response: method.output() };
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let request = request.map(|message| stream::iter([message]));
        Ok(grpc.streaming(request, path, codec).await?.into_inner())
    }
}

/// Returns a message parsed from JSON. An empty text is an empty message.
pub(in crate::cli) fn parse_request(
    kind: MessageDescriptor,
    text: &str,
) -> Result<DynamicMessage, Failure> {
    let name = kind.name().to_owned();
    parse_json(kind, if text.is_empty() { "{}" } else { text })
        .map_err(|error| Failure::usage(format_args!("the request is not a {name} in JSON: {error}; `call --describe {name}` prints its fields")))
}

/// Returns a message parsed from JSON, with the plain error of the parser.
pub(super) fn parse_json(
    kind: MessageDescriptor,
    text: &str,
) -> serde_json::Result<DynamicMessage> {
    let mut json = serde_json::Deserializer::from_str(text);
    let message = kind.deserialize(&mut json)?;
    json.end()?;
    Ok(message)
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
