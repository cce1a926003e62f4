//! A client of whatever service there is.

use futures_util::stream;
use http::uri::PathAndQuery;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde::de::DeserializeSeed;
use tonic::{Request, Status, Streaming, client::Grpc, transport::Channel};

use super::{codec::Dynamic, reflection};
use crate::cli::{Failure, target::Target};

/// Calls methods by name.
#[derive(Debug)]
pub(in crate::cli) struct Client {
    channel: Channel,
    /// Everything that the service describes.
    pub(super) types: DescriptorPool,
    /// The full names of its services.
    pub(super) services: Vec<String>,
}

impl Client {
    /// Connects and asks what there is.
    pub(in crate::cli) async fn connect(target: &Target) -> Result<Self, Failure> {
        let channel = target.connect().await?;
        let (services, types) = reflection::load(channel.clone()).await?;
        Ok(Self { channel, types, services })
    }

    /// Finds a method by `Service/Method`, where the service's package can be left out.
    pub(in crate::cli) fn method(&self, name: &str) -> Result<MethodDescriptor, Failure> {
        let unknown = || {
            Failure::usage(format_args!(
                "{name}: there is no such method; `call --list` shows what there is"
            ))
        };
        let (service, method) = name.trim_matches('/').split_once('/').ok_or_else(unknown)?;
        let service =
            one(service, self.services.iter().map(String::as_str))?.ok_or_else(unknown)?;
        let service = self.types.get_service_by_name(service).ok_or_else(unknown)?;
        service.methods().find(|candidate| candidate.name() == method).ok_or_else(unknown)
    }

    /// Calls a method with one message. A method that is no stream answers with a stream of one.
    pub(in crate::cli) async fn start(
        &self,
        method: &MethodDescriptor,
        request: Request<DynamicMessage>,
    ) -> Result<Streaming<DynamicMessage>, Status> {
        let service = method.parent_service().full_name().to_owned();
        let path = PathAndQuery::try_from(format!("/{service}/{}", method.name()))
            .map_err(|error| Status::from_error(error.into()))?;
        let codec = Dynamic { answer: method.output() };
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let request = request.map(|message| stream::iter([message]));
        Ok(grpc.streaming(request, path, codec).await?.into_inner())
    }
}

/// Reads a message from JSON.
pub(in crate::cli) fn read(kind: MessageDescriptor, text: &str) -> Result<DynamicMessage, Failure> {
    let name = kind.name().to_owned();
    parse(kind, if text.is_empty() { "{}" } else { text })
        .map_err(|error| Failure::usage(format_args!("the request is no {name} in JSON: {error}")))
}

/// The same, for whoever says in words of his own what is wrong.
pub(super) fn parse(kind: MessageDescriptor, text: &str) -> serde_json::Result<DynamicMessage> {
    let mut json = serde_json::Deserializer::from_str(text);
    let message = kind.deserialize(&mut json)?;
    json.end()?;
    Ok(message)
}

/// The one full name that is meant by a full name, or by its end.
pub(super) fn one<'a>(
    name: &str,
    full_names: impl Iterator<Item = &'a str>,
) -> Result<Option<&'a str>, Failure> {
    let end = format!(".{name}");
    let mut meant = Vec::new();
    for full_name in full_names {
        if full_name == name {
            return Ok(Some(full_name));
        }
        if full_name.ends_with(&end) {
            meant.push(full_name);
        }
    }
    match meant[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => Err(Failure::usage(format_args!("{name} can be {}", meant.join(" or ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_lack_its_package_but_not_be_half() {
        let names = ["a.v1.Store", "b.v1.Store", "b.v1.Card", "Store.Card"];
        let find = |name: &str| one(name, names.into_iter()).ok().flatten();
        assert_eq!(find("a.v1.Store"), Some("a.v1.Store"));
        assert_eq!(find("v1.Card"), Some("b.v1.Card"));
        assert_eq!(find("ard"), None);
        assert!(one("Store", names.into_iter()).is_err());
        assert!(one("Card", names.into_iter()).is_err());
    }
}
