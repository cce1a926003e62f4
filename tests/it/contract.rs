//! Checks the rules of the contract. `buf lint` checks most of them too, but this needs no buf.

use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};
use wechat_store_gateway::pb;

fn files() -> Vec<FileDescriptor> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("our own descriptors");
    pool.files().filter(|file| file.package_name() == "wechat.store.v1").collect()
}

/// Returns every RPC, such as `StoreService/GetStore`.
pub(crate) fn rpcs() -> Vec<String> {
    let mut rpcs = Vec::new();
    for service in files().iter().flat_map(FileDescriptor::services) {
        let methods = service.methods();
        rpcs.extend(methods.map(|method| format!("{}/{}", service.name(), method.name())));
    }
    rpcs
}

/// Returns every element without a comment, by its path in the descriptors.
fn uncommented(file: &FileDescriptor) -> Vec<String> {
    let proto = file.file_descriptor_proto();
    let comments: Vec<&[i32]> = proto
        .source_code_info
        .iter()
        .flat_map(|info| &info.location)
        .filter(|location| !location.leading_comments().trim().is_empty())
        .map(|location| location.path.as_slice())
        .collect();
    let mut paths: Vec<(Vec<i32>, String)> = Vec::new();
    let index = |index: usize| i32::try_from(index).expect("few elements");
    for (m, message) in proto.message_type.iter().enumerate() {
        paths.push((vec![4, index(m)], message.name().to_owned()));
        for (f, field) in message.field.iter().enumerate() {
            let name = format!("{}.{}", message.name(), field.name());
            paths.push((vec![4, index(m), 2, index(f)], name));
        }
    }
    for (e, enumeration) in proto.enum_type.iter().enumerate() {
        paths.push((vec![5, index(e)], enumeration.name().to_owned()));
        for (v, value) in enumeration.value.iter().enumerate() {
            paths.push((vec![5, index(e), 2, index(v)], value.name().to_owned()));
        }
    }
    for (s, service) in proto.service.iter().enumerate() {
        paths.push((vec![6, index(s)], service.name().to_owned()));
        for (m, method) in service.method.iter().enumerate() {
            let name = format!("{}/{}", service.name(), method.name());
            paths.push((vec![6, index(s), 2, index(m)], name));
        }
    }
    let has = |path: &[i32]| comments.contains(&path);
    paths.into_iter().filter(|(path, _)| !has(path)).map(|(_, name)| name).collect()
}

#[test]
fn every_element_has_a_comment() {
    for file in files() {
        assert_eq!(uncommented(&file), Vec::<String>::new(), "{}", file.name());
    }
}

#[test]
fn every_rpc_has_own_request_and_response() {
    for service in files().iter().flat_map(FileDescriptor::services) {
        for method in service.methods() {
            assert_eq!(method.input().name(), format!("{}Request", method.name()));
            assert_eq!(method.output().name(), format!("{}Response", method.name()));
        }
    }
}

#[test]
fn requests_have_app_id_and_writes_request_id() {
    for service in files().iter().flat_map(FileDescriptor::services) {
        for method in service.methods() {
            let reads = ["Get", "List", "Search", "Resolve", "Watch"];
            let reads = reads.iter().any(|verb| method.name().starts_with(verb));
            let number = |message: &MessageDescriptor, name: &str| {
                message.get_field_by_name(name).map(|field| field.number())
            };
            let (request, response) = (method.input(), method.output());
            assert_eq!(number(&request, "app_id"), Some(1), "{}", method.full_name());
            let own = number(&request, "request_id");
            assert_eq!(own, (!reads).then_some(2), "{}", method.full_name());
            assert_eq!(number(&response, "recovered").is_some(), !reads, "{}", method.full_name());
        }
    }
}

#[test]
fn enums_begin_with_unspecified_and_are_prefixed() {
    for enumeration in files().iter().flat_map(FileDescriptor::enums) {
        let mut prefix = String::new();
        for (index, letter) in enumeration.name().char_indices() {
            if letter.is_uppercase() && index > 0 {
                prefix.push('_');
            }
            prefix.extend(letter.to_uppercase());
        }
        for value in enumeration.values() {
            assert!(value.name().starts_with(&prefix), "{}", value.full_name());
        }
        let zero = enumeration.get_value(0).expect("a value for 0");
        assert_eq!(zero.name(), format!("{prefix}_UNSPECIFIED"));
    }
}

#[test]
fn every_rpc_has_a_row_in_the_docs() {
    let calls = include_str!("../../docs/calls.md");
    for rpc in rpcs() {
        let (_, method) = rpc.split_once('/').expect("Service/Method");
        assert!(calls.contains(&format!("\n| {method} | ")), "docs/calls.md has no row for {rpc}");
    }
}
