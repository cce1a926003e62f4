//! Loads the services and types of a running service by `grpc.reflection.v1`.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream;
use prost::Message;
use prost_reflect::{DescriptorPool, prost_types::FileDescriptorProto};
use tonic::Status;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest as Query,
    server_reflection_response::MessageResponse as Reply,
};

use crate::cli::{
    Failure,
    target::{Connection, Target},
};

/// The reasons of our errors.
const ERROR_REASON: &str = "wechat.store.v1.ErrorReason";

/// Returns the names of all services and all types that they use.
pub(super) async fn load(
    connection: Connection,
    target: &Target,
) -> Result<(Vec<String>, DescriptorPool), Failure> {
    let client = ServerReflectionClient::new(connection).max_decoding_message_size(usize::MAX);
    let mut services = Vec::new();
    for reply in query(&client, target, vec![Query::ListServices(String::new())]).await? {
        if let Reply::ListServicesResponse(list) = reply {
            services.extend(list.service.into_iter().map(|service| service.name));
        }
    }
    // No request or response uses this enum, because errors contain its values as texts. Another
    // service does not have it.
    let reason = Query::FileContainingSymbol(ERROR_REASON.to_owned());
    let reasons = query(&client, target, vec![reason]).await;
    let mut files = BTreeMap::new();
    add_files(&mut files, reasons.unwrap_or_default())?;
    let mut requested = BTreeSet::new();
    let mut queries: Vec<_> = services.iter().cloned().map(Query::FileContainingSymbol).collect();
    while !queries.is_empty() {
        add_files(&mut files, query(&client, target, queries).await?)?;
        // A service can return a file with or without the files that it imports.
        let missing = files.values().flat_map(|file| &file.dependency);
        let missing: BTreeSet<_> =
            missing.filter(|name| !files.contains_key(*name)).cloned().collect();
        let new = missing.into_iter().filter(|name| requested.insert(name.clone()));
        queries = new.map(Query::FileByFilename).collect();
    }
    let mut types = DescriptorPool::new();
    types.add_file_descriptor_protos(files.into_values()).map_err(Failure::new)?;
    Ok((services, types))
}

/// Adds the files of the replies by name.
fn add_files(
    files: &mut BTreeMap<String, FileDescriptorProto>,
    replies: Vec<Reply>,
) -> Result<(), Failure> {
    for reply in replies {
        let Reply::FileDescriptorResponse(list) = reply else { continue };
        for bytes in list.file_descriptor_proto {
            let file = FileDescriptorProto::decode(&bytes[..]).map_err(Failure::new)?;
            files.insert(file.name().to_owned(), file);
        }
    }
    Ok(())
}

/// Sends several queries in one stream and returns all replies.
async fn query(
    client: &ServerReflectionClient<Connection>,
    target: &Target,
    queries: Vec<Query>,
) -> Result<Vec<Reply>, Failure> {
    let requests = queries
        .into_iter()
        .map(|query| ServerReflectionRequest { host: String::new(), message_request: Some(query) });
    let requests = stream::iter(requests.collect::<Vec<_>>());
    let read = async {
        let mut stream = client.clone().server_reflection_info(requests).await?.into_inner();
        let mut replies = Vec::new();
        while let Some(response) = stream.message().await? {
            replies.extend(response.message_response);
        }
        Ok::<_, Status>(replies)
    };
    let replies = read.await.map_err(|status| target.failure(&status))?;
    match replies.iter().find(|reply| matches!(reply, Reply::ErrorResponse(_))) {
        Some(Reply::ErrorResponse(error)) => {
            Err(Failure::new(format_args!("reflection: {}", error.error_message)))
        }
        _ => Ok(replies),
    }
}
