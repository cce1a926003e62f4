//! Checks the rules of the contract. `buf lint` checks most of them too, but this needs no buf.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, Value,
};
use wechat_store_gateway::pb;

fn files() -> Vec<FileDescriptor> {
    files_of(pb::DESCRIPTORS)
}

fn files_of(descriptors: &[u8]) -> Vec<FileDescriptor> {
    let pool = DescriptorPool::decode(descriptors).expect("descriptors");
    pool.files().filter(|file| file.package_name() == "wechat.store.v1").collect()
}

/// Returns every RPC, such as `StoreService/GetStore`.
pub(crate) fn rpcs() -> Vec<String> {
    rpcs_of(&files())
}

fn rpcs_of(files: &[FileDescriptor]) -> Vec<String> {
    let mut rpcs = Vec::new();
    for service in files.iter().flat_map(FileDescriptor::services) {
        let methods = service.methods();
        rpcs.extend(methods.map(|method| format!("{}/{}", service.name(), method.name())));
    }
    rpcs
}

/// Returns everything that can have a comment, with its comment. A field is `Message.field`.
fn comments(file: &FileDescriptor) -> Vec<(String, String)> {
    let proto = file.file_descriptor_proto();
    let mut paths: Vec<(Vec<i32>, String)> = Vec::new();
    let index = |index: usize| i32::try_from(index).expect("few elements");
    for (m, message) in proto.message_type.iter().enumerate() {
        paths.push((vec![4, index(m)], message.name().to_owned()));
        for (f, field) in message.field.iter().enumerate() {
            let name = format!("{}.{}", message.name(), field.name());
            paths.push((vec![4, index(m), 2, index(f)], name));
        }
        // An optional field is a oneof, too.
        for (o, oneof) in message.oneof_decl.iter().enumerate() {
            if !oneof.name().starts_with('_') {
                let name = format!("{} oneof {}", message.name(), oneof.name());
                paths.push((vec![4, index(m), 8, index(o)], name));
            }
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
    let locations = || proto.source_code_info.iter().flat_map(|info| &info.location);
    let comment = |path: &[i32]| {
        let location = locations().find(|location| location.path == path);
        location.map(|location| location.leading_comments().trim().to_owned()).unwrap_or_default()
    };
    paths.into_iter().map(|(path, name)| (name, comment(&path))).collect()
}

/// Returns the values of `google.api.field_behavior` of a field.
fn behaviors(field: &FieldDescriptor) -> Vec<i32> {
    let pool = field.parent_pool();
    let behavior = pool.get_extension_by_name("google.api.field_behavior").expect("vendored");
    let options = field.options();
    let values = options.get_extension(&behavior);
    values.as_list().expect("repeated").iter().filter_map(Value::as_enum_number).collect()
}

#[test]
fn every_element_has_a_comment() {
    for file in files() {
        for (name, comment) in comments(&file) {
            assert_ne!(comment, "", "{name} of {}", file.name());
        }
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
            // These write neither for an account nor into the journal. A repeat has no further effect.
            let of_platforms = ["CreateAuthorizationLink", "StartTicketPush"];
            let reads = reads.iter().any(|verb| method.name().starts_with(verb))
                || of_platforms.contains(&method.name());
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

/// Numbers of `google.api.FieldBehavior`.
const REQUIRED: i32 = 2;
const OUTPUT_ONLY: i32 = 3;

/// AIP-203: every field that a request can carry has a behavior, and `REQUIRED` is the same as a comment that
/// begins with "Required.".
#[test]
fn request_field_behavior_matches_comment() {
    let files = files();
    let comments: BTreeMap<_, _> = files.iter().flat_map(comments).collect();
    let requests = files
        .iter()
        .flat_map(FileDescriptor::services)
        .flat_map(|service| service.methods().map(|method| method.input()).collect::<Vec<_>>());
    let (mut open, mut seen) = (requests.collect::<Vec<_>>(), BTreeSet::new());
    while let Some(message) = open.pop() {
        for field in message.fields() {
            let name = format!("{}.{}", message.name(), field.name());
            if !seen.insert(name.clone()) {
                continue;
            }
            let behaviors = behaviors(&field);
            assert!(!behaviors.is_empty(), "{name} has no behavior");
            let says_required = comments[&name].starts_with("Required.");
            assert_eq!(behaviors.contains(&REQUIRED), says_required, "{name}");
            if let Kind::Message(inner) = field.kind()
                && inner.package_name() == "wechat.store.v1"
            {
                open.push(inner);
            }
        }
    }
    assert!(seen.contains("LatLng.latitude") && seen.contains("ServiceLabel.path"), "{seen:?}");
}

#[test]
fn resource_fields_are_output_only() {
    for message in files().iter().flat_map(FileDescriptor::messages) {
        let resources = [
            "Account",
            "AccountBacklog",
            "AccountToken",
            "AuditEvent",
            "Authorizer",
            "LegacyStore",
            "NearbyPoi",
            "Platform",
            "SpentQuota",
            "Store",
            "Submission",
            "TokenFailure",
            "Write",
        ];
        if resources.contains(&message.name()) {
            for field in message.fields() {
                assert_eq!(behaviors(&field), [OUTPUT_ONLY], "{}", field.full_name());
            }
        }
    }
}

/// One name for a thing: `poi_id` is a store's, and WeChat's raw numbers begin with `wechat_`.
#[test]
fn names_of_the_contract_have_one_meaning() {
    let gone = [
        "amends",
        "created_before",
        "credential",
        "is_upgrade",
        "mender",
        "settle_time",
        "settled",
        "special",
        "unreadable",
    ];
    for message in files().iter().flat_map(FileDescriptor::messages) {
        for field in message.fields() {
            let name = field.name();
            assert!(!gone.contains(&name), "{}", field.full_name());
            // Java has `getXBytes` for a text `x`, too.
            let text = name.strip_suffix("_bytes").and_then(|text| message.get_field_by_name(text));
            assert!(text.is_none(), "{}", field.full_name());
            let (of, is) = (message.name(), |word: &str| message.name().contains(word));
            if is("Nearby") || is("Legacy") || of == "UpgradeBlocker" {
                assert_ne!(name, "poi_id", "{of}");
            }
        }
    }
}

/// Returns the number of each `ErrorReason`, by its name without the prefix.
fn reasons() -> BTreeMap<String, i32> {
    let files = files();
    let enums = files.iter().flat_map(FileDescriptor::enums);
    let reasons = enums.filter(|one| one.name() == "ErrorReason").flat_map(|one| {
        let values = one.values();
        values
            .map(|value| (value.name().replace("ERROR_REASON_", ""), value.number()))
            .collect::<Vec<_>>()
    });
    reasons.collect()
}

/// Returns the reasons that the comment of each RPC lists, by `Service/Method`. They include those of
/// another method to which the comment refers.
fn listed_reasons() -> BTreeMap<String, BTreeSet<String>> {
    let rpcs: BTreeMap<_, _> =
        files().iter().flat_map(comments).filter(|(name, _)| name.contains('/')).collect();
    let list = |rpc: &str| {
        let (_, list) =
            rpcs[rpc].split_once("Errors: ").unwrap_or_else(|| panic!("{rpc}: no errors"));
        list.split("\n\n").next().unwrap_or_default().to_owned()
    };
    let words = |list: &str| {
        let words = list.split(|one: char| !one.is_ascii_uppercase() && one != '_');
        words.filter(|word| word.len() > 1).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let listed = rpcs.keys().map(|rpc| {
        let list_of_rpc = list(rpc);
        let mut listed = words(&list_of_rpc);
        if let Some((_, other)) = list_of_rpc.split_once("those of `") {
            let (service, _) = rpc.split_once('/').expect("Service/Method");
            let (other, _) = other.split_once('`').expect("a method");
            listed.extend(words(&list(&format!("{service}/{other}"))));
        }
        (rpc.clone(), listed)
    });
    listed.collect()
}

#[test]
fn errors_of_rpcs_are_reasons() {
    let reasons = reasons();
    for (rpc, listed) in listed_reasons() {
        for word in listed {
            assert!(reasons.contains_key(&word), "{rpc}: {word}");
        }
    }
}

/// Returns the reasons that a method can return if its request has this field.
fn reasons_of_field(field: &str) -> &'static [&'static str] {
    match field {
        "card_id" => &["CARD_ID_INVALID", "CARD_NOT_ALLOWED", "CARD_NOT_USABLE"],
        "content" => &["MEDIA_TOO_LARGE", "MEDIA_TYPE_INVALID"],
        "cursor" => &["CURSOR_EXPIRED"],
        "license_number" => &["LICENSE_NUMBER_TAKEN"],
        "names" | "parent_id" => &["DISTRICT_NOT_FOUND"],
        "nearby_poi_id" => &["NEARBY_POI_NOT_FOUND"],
        "page_token" => &["PAGE_TOKEN_INVALID"],
        "poi_id" => &["STORE_NOT_FOUND"],
        "request_id" => &["OUTCOME_UNKNOWN"],
        "write_id" => &["WRITE_NOT_FOUND"],
        _ if field.ends_with("media_id") || field.ends_with("media_ids") => &["MEDIA_ID_INVALID"],
        _ if field.ends_with("_url") || field.ends_with("_urls") => &["PICTURE_URL_INVALID"],
        _ => &[],
    }
}

/// Returns the names of all fields of a request, also those of the messages in it.
fn fields_below(message: &MessageDescriptor) -> BTreeSet<String> {
    let (mut fields, mut open) = (BTreeSet::new(), vec![message.clone()]);
    while let Some(message) = open.pop() {
        for field in message.fields() {
            fields.insert(field.name().to_owned());
            open.extend(field.kind().as_message().cloned());
        }
    }
    fields
}

#[test]
fn rpc_lists_reasons_of_its_fields() {
    let listed = listed_reasons();
    for service in files().iter().flat_map(FileDescriptor::services) {
        for method in service.methods() {
            let rpc = format!("{}/{}", service.name(), method.name());
            for field in fields_below(&method.input()) {
                for reason in reasons_of_field(&field) {
                    assert!(
                        listed[&rpc].contains(*reason),
                        "{rpc} has {field} and lists no {reason}"
                    );
                }
            }
        }
    }
}

/// The first reason that is not general, so that comments of RPCs must list it.
const FIRST_PARTICULAR: i32 = 140;

/// Reasons name calls of WeChat: after the codes that only these calls return, and in their examples.
#[test]
fn rpc_lists_reasons_of_its_calls() {
    let (files, listed) = (files(), listed_reasons());
    let comments: BTreeMap<_, _> = files.iter().flat_map(comments).collect();
    let mut checked = 0;
    for (reason, number) in reasons() {
        let comment = &comments[&format!("ERROR_REASON_{reason}")];
        let words = comment.split_whitespace().map(|word| word.trim_end_matches([',', '.']));
        let words: Vec<_> = words.collect();
        let only_on = words.windows(2).filter(|pair| pair[0] == "on").map(|pair| pair[1]);
        let example = comment.split("\"path\": \"").nth(1).and_then(|rest| rest.split('"').next());
        let example = example.filter(|_| number >= FIRST_PARTICULAR);
        for path in only_on.chain(example).filter(|path| path.starts_with('/')) {
            for (rpc, reasons) in &listed {
                let calls =
                    comments[rpc].split_whitespace().map(|word| word.trim_end_matches([',', '.']));
                if calls.into_iter().any(|call| call == path) {
                    assert!(reasons.contains(&reason), "{rpc} calls {path} and lists no {reason}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn every_particular_reason_is_listed() {
    let listed: BTreeSet<_> = listed_reasons().into_values().flatten().collect();
    for (reason, _) in reasons().into_iter().filter(|(_, number)| *number >= FIRST_PARTICULAR) {
        assert!(listed.contains(&reason), "no RPC lists {reason}");
    }
}

/// The list of write responses in build.rs must match the contract.
#[test]
fn every_write_can_be_recovered() {
    for service in files().iter().flat_map(FileDescriptor::services) {
        for method in service.methods() {
            let name = format!("{}/{}", service.name(), method.name());
            let response = pb::recovered(&name, &[], None).expect("an empty response");
            let writes = method.input().get_field_by_name("request_id").is_some();
            assert_eq!(response.is_some(), writes, "{name}");
            if let Some(response) = response {
                let response =
                    DynamicMessage::decode(method.output(), &*response).expect("encoded");
                let recovered = response.get_field_by_name("recovered").expect("a field");
                assert_eq!(recovered.as_bool(), Some(true), "{name}");
            }
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

/// The baseline is the contract of the last release.
#[test]
fn new_rpcs_are_in_the_changelog() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let baseline = std::fs::read(root.join("proto/baseline.binpb")).expect("a baseline");
    let changelog = std::fs::read_to_string(root.join("CHANGELOG.md")).expect("a changelog");
    let released = rpcs_of(&files_of(&baseline));
    for rpc in rpcs().into_iter().filter(|rpc| !released.contains(rpc)) {
        let (_, method) = rpc.split_once('/').expect("Service/Method");
        assert!(changelog.contains(&format!("`{method}`")), "CHANGELOG.md does not name {rpc}");
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
