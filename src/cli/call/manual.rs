//! `--list` and `--describe`: print the comments of the contract, which the service returns by
//! reflection.

use std::{collections::BTreeSet, fmt::Write};

use prost_reflect::{
    Cardinality, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor,
};

use super::client::{Client, resolve_name};
use crate::cli::Failure;

/// Returns all services and methods, each with the first sentence of its comment.
pub(super) fn list(client: &Client) -> String {
    let services = client.services.iter().filter_map(|name| client.types.get_service_by_name(name));
    services.map(|service| service_text(&service, false)).collect::<Vec<_>>().join("\n\n")
}

/// Returns the comments of a service, a method, a message, an enum or a value of an enum.
pub(super) fn describe(client: &Client, name: &str) -> Result<String, Failure> {
    if name.contains('/') {
        return client.method(name).map(|method| method_text(&method));
    }
    let types = &client.types;
    let (services, messages, enums): (Vec<_>, Vec<_>, Vec<_>) =
        (types.services().collect(), types.all_messages().collect(), types.all_enums().collect());
    let all = services.iter().map(ServiceDescriptor::full_name);
    let all = all.chain(messages.iter().map(MessageDescriptor::full_name));
    let all = all.chain(enums.iter().map(EnumDescriptor::full_name));
    let Some(name) = resolve_name(name, all)? else {
        return enum_value_text(&enums, name)
            .ok_or_else(|| client.unknown(name, "service, message, enum or value"));
    };
    let service = types.get_service_by_name(name).map(|service| service_text(&service, true));
    let message = || types.get_message_by_name(name).map(|message| message_text(&message));
    let text = service.or_else(message);
    Ok(text
        .or_else(|| types.get_enum_by_name(name).map(|kind| enum_text(&kind)))
        .unwrap_or_default())
}

fn service_text(service: &ServiceDescriptor, whole: bool) -> String {
    let about = comment(&service.parent_file(), service.path());
    let mut text = service.full_name().to_owned();
    if whole {
        text.push_str(&paragraphs(&about));
        text.push('\n');
    } else if !about.is_empty() {
        let _ = write!(text, " — {}", sentence(&about));
    }
    let width = service.methods().map(|method| method.name().len()).max().unwrap_or(0);
    for method in service.methods() {
        let about = sentence(&comment(&service.parent_file(), method.path()));
        let _ = write!(text, "\n  {:width$}  {about}", method.name());
        text.truncate(text.trim_end().len());
    }
    text
}

fn method_text(method: &MethodDescriptor) -> String {
    let service = method.parent_service();
    let about = comment(&service.parent_file(), method.path());
    let stream = |is: bool| if is { "stream of " } else { "" };
    let (input, output) = (method.input(), method.output());
    format!(
        "{}/{}{}\n\nRequest: {}{}\n\nResponse: {}{}{}",
        service.full_name(),
        method.name(),
        paragraphs(&about),
        stream(method.is_client_streaming()),
        fields_text(&input),
        stream(method.is_server_streaming()),
        fields_text(&output),
        more([input, output]),
    )
}

fn message_text(message: &MessageDescriptor) -> String {
    let about = comment(&message.parent_file(), message.path());
    let fields = fields_text(message);
    // The text of the fields begins with the name. The comment comes after the name.
    let rest = fields.strip_prefix(message.name()).unwrap_or(&fields);
    let more = more([message.clone()]);
    format!("{}{}{rest}{more}", message.full_name(), paragraphs(&about))
}

fn enum_text(kind: &EnumDescriptor) -> String {
    let file = kind.parent_file();
    let mut text = kind.full_name().to_owned() + &paragraphs(&comment(&file, kind.path()));
    for value in kind.values() {
        let _ = write!(text, "\n\n  {} = {}", value.name(), value.number());
        text.push_str(&lines(&comment(&file, value.path()), "    "));
    }
    text
}

/// Returns the comment of a value of an enum. The prefix of the name can be omitted, as in the
/// reasons of errors.
fn enum_value_text(enums: &[EnumDescriptor], name: &str) -> Option<String> {
    let end = format!("_{name}");
    let matches = |full_name: &str| full_name == name || full_name.ends_with(&end);
    // The shortest name is the closest: NOT_FOUND is not STORE_NOT_FOUND.
    let value = enums
        .iter()
        .flat_map(EnumDescriptor::values)
        .filter(|value| matches(value.name()))
        .min_by_key(|value| value.name().len())?;
    let parent = value.parent_enum();
    let about = comment(&parent.parent_file(), value.path());
    Some(format!("{}.{}{}", parent.full_name(), value.name(), paragraphs(&about)))
}

/// Returns the name of a message and its fields with their comments.
fn fields_text(message: &MessageDescriptor) -> String {
    let mut text = message.name().to_owned();
    for field in message.fields() {
        let _ = write!(text, "\n\n  {}: {}", field.name(), kind_text(&field));
        text.push_str(&lines(&comment(&message.parent_file(), field.path()), "    "));
    }
    text
}

fn kind_text(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(kind) => kind.name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    if field.is_map() {
        return format!("map of {kind}");
    }
    match field.cardinality() {
        Cardinality::Repeated => format!("repeated {kind}"),
        Cardinality::Optional if field.field_descriptor_proto().proto3_optional() => {
            format!("optional {kind}")
        }
        Cardinality::Optional | Cardinality::Required => kind,
    }
}

/// Returns the names of the fields' types, for further reading.
fn more<const N: usize>(messages: [MessageDescriptor; N]) -> String {
    let fields = messages.iter().flat_map(MessageDescriptor::fields);
    let names: BTreeSet<_> = fields
        .filter_map(|field| match field.kind() {
            Kind::Message(message) => Some(message.name().to_owned()),
            Kind::Enum(kind) => Some(kind.name().to_owned()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!("\n\nSee also: {}", names.into_iter().collect::<Vec<_>>().join(", "))
}

/// Returns the comment above the element at this path of a file, without the blank that begins each
/// line. Further blanks stay, because they indent the items of a list.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let place = info.and_then(|info| info.location.iter().find(|place| place.path == path));
    let text = place.map_or("", |place| place.leading_comments());
    let lines = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Returns the first sentence of a comment, on one line.
fn sentence(comment: &str) -> String {
    let paragraph = comment.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    match paragraph.find(". ") {
        Some(end) => paragraph[..=end].to_owned(),
        None => paragraph,
    }
}

/// Returns the comment after an empty line.
fn paragraphs(comment: &str) -> String {
    if comment.is_empty() { String::new() } else { format!("\n{}", lines(comment, "")) }
}

/// Returns the comment, indented, beginning on the next line.
fn lines(comment: &str, indent: &str) -> String {
    if comment.is_empty() {
        return String::new();
    }
    let lines =
        comment.lines().map(|line| format!("\n{indent}{line}").trim_end_matches(' ').to_owned());
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_ends_at_full_stop_or_paragraph() {
        assert_eq!(
            sentence("Adds a store,\nat v1.2 of it. More.\n\nMost."),
            "Adds a store, at v1.2 of it."
        );
        assert_eq!(sentence("Adds a store.\n\nMore. Most."), "Adds a store.");
        assert_eq!(sentence(""), "");
    }
}
