//! Small parts that know nothing of WeChat and that every layer can use.

pub mod codec;
pub mod id;
pub(crate) mod invisible;
pub(crate) mod keyed_mutex;
pub mod lenient;
pub(crate) mod single_flight;

/// The one source of time. The simulator shares it.
pub use ::wechat_clock as clock;
