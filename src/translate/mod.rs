//! Translates between the contract and WeChat: pure functions, no I/O, no waiting.
//!
//! Each request is destructured completely, so a new field is a compile error and never a silent loss. This
//! room rejects a request if a value cannot be translated, if it violates a form that WeChat documents
//! (`form`), or if it has invisible characters. WeChat checks its business rules itself, and its refusals
//! have types.

pub(crate) mod account;
pub(crate) mod audit;
mod card;
pub(crate) mod change;
mod check;
pub(crate) mod fingerprint;
mod form;
mod hours;
pub(crate) mod legacy;
mod location;
pub(crate) mod map_poi;
pub(crate) mod media;
pub(crate) mod merchant;
pub(crate) mod nearby;
pub(crate) mod page;
mod picture;
pub(crate) mod platform;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod write;
mod write_call;

pub(crate) use form::Form;
pub(crate) use picture::BadPicture;
pub(crate) use write_call::{ReviewedCall, WriteCall};

/// Returns whether WeChat's reply had all of these fields in a form that could be read. `unreadable` names
/// those that it had not, as in `photo_list.photo_url`.
pub(crate) fn were_read(unreadable: &[String], fields: &[&str]) -> bool {
    let is_in = |name: &str, field: &str| {
        name.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    !unreadable.iter().any(|name| fields.iter().any(|field| is_in(name, field)))
}
