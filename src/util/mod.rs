//! Small building blocks for every layer. They do not depend on WeChat.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The one source of time. The simulator shares it.
pub(crate) use ::wechat_clock as clock;

pub(crate) mod budget;
pub(crate) mod build_info;
pub(crate) mod codec;
pub(crate) mod http;
pub(crate) mod id;
pub(crate) mod invisible;
pub(crate) mod keyed_mutex;
pub mod lenient;
pub(crate) mod raw_codec;
pub(crate) mod scope;
pub(crate) mod shared_run;
pub(crate) mod single_flight;

// Not parking_lot: this function is the only part of it that the gateway would use.
/// Locks a mutex, even if a thread panicked while it held the lock. Use it only where every change
/// under the lock is complete before anything can panic.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
