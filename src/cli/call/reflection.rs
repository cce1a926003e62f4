//! Asks a service what it has, by `grpc.reflection.v1`.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream;
use prost::Message;
use prost_reflect::{DescriptorPool, prost_types::FileDescriptorProto};
use tonic::{Status, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest as Question,
    server_reflection_response::MessageResponse as Answer,
};

use crate::cli::Failure;

/// The names of all services, and all that they are made of.
pub(super) async fn load(channel: Channel) -> Result<(Vec<String>, DescriptorPool), Failure> {
    let client = ServerReflectionClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut services = Vec::new();
    for answer in ask(&client, vec![Question::ListServices(String::new())]).await? {
        if let Answer::ListServicesResponse(list) = answer {
            services.extend(list.service.into_iter().map(|service| service.name));
        }
    }
    let mut files = BTreeMap::new();
    let mut asked = BTreeSet::new();
    let mut questions: Vec<_> =
        services.iter().cloned().map(Question::FileContainingSymbol).collect();
    while !questions.is_empty() {
        for answer in ask(&client, questions).await? {
            let Answer::FileDescriptorResponse(list) = answer else { continue };
            for bytes in list.file_descriptor_proto {
                let file = FileDescriptorProto::decode(&bytes[..]).map_err(Failure::new)?;
                files.insert(file.name().to_owned(), file);
            }
        }
        // A service may send a file with or without those that it imports.
        let missing = files.values().flat_map(|file| &file.dependency);
        let missing: BTreeSet<_> =
            missing.filter(|name| !files.contains_key(*name)).cloned().collect();
        let new = missing.into_iter().filter(|name| asked.insert(name.clone()));
        questions = new.map(Question::FileByFilename).collect();
    }
    let mut types = DescriptorPool::new();
    types.add_file_descriptor_protos(files.into_values()).map_err(Failure::new)?;
    Ok((services, types))
}

/// Asks several questions at once.
async fn ask(
    client: &ServerReflectionClient<Channel>,
    questions: Vec<Question>,
) -> Result<Vec<Answer>, Failure> {
    let questions = questions.into_iter().map(|question| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    });
    let questions = stream::iter(questions.collect::<Vec<_>>());
    let read = async {
        let mut stream = client.clone().server_reflection_info(questions).await?.into_inner();
        let mut answers = Vec::new();
        while let Some(answer) = stream.message().await? {
            answers.extend(answer.message_response);
        }
        Ok::<_, Status>(answers)
    };
    let answers = read.await?;
    match answers.iter().find(|answer| matches!(answer, Answer::ErrorResponse(_))) {
        Some(Answer::ErrorResponse(error)) => {
            Err(Failure::new(format_args!("reflection: {}", error.error_message)))
        }
        _ => Ok(answers),
    }
}
