//! Between the two vocabularies: pure functions, no I/O, no waiting.
//!
//! What a caller says is taken apart completely, so that a new field is a compile error and not a
//! silent loss. What can be known to be wrong is refused here: what translating needs, what WeChat
//! documents as a fixed form (`form`), and what cannot be seen. WeChat's business rules are its own,
//! and its refusals are typed.

pub(crate) mod audit;
mod card;
pub(crate) mod change;
mod check;
mod evidence;
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
pub(crate) mod store;
mod submission;
pub(crate) mod write;

pub(crate) use check::Check;
pub use check::{Invalid, Violation};
pub(crate) use evidence::{Evidence, Evident, Looks, Sought, Values};
pub(crate) use form::Form;
pub use picture::BadPicture;
pub(crate) use submission::{CONFIRM_WITHIN, Remembered, Review, Reviewed, damaged, for_caller};
