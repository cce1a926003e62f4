//! Small parts that know nothing of WeChat and that every layer can use.

pub mod clock;
pub mod codec;
pub mod id;
pub(crate) mod invisible;
pub(crate) mod keyed_mutex;
pub mod lenient;
pub(crate) mod single_flight;
