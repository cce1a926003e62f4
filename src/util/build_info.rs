//! The facts about this build: version, commit, target, compiler and features.

/// The version of the program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that was built, or `unknown`.
pub(crate) const COMMIT: &str = env!("BUILD_COMMIT");
/// The target triple.
pub(crate) const TARGET: &str = env!("BUILD_TARGET");
/// The version of the compiler.
pub(crate) const RUSTC: &str = env!("BUILD_RUSTC");

/// Every feature, with whether this build has it.
const FEATURES: [(&str, bool); 4] = [
    ("mimalloc", cfg!(feature = "mimalloc")),
    ("otlp", cfg!(feature = "otlp")),
    ("redis", cfg!(feature = "redis")),
    ("sandbox", cfg!(feature = "sandbox")),
];

/// Returns the names of the features that this build has, in alphabetical order.
pub(crate) fn features() -> Vec<&'static str> {
    FEATURES.iter().filter_map(|(name, is_on)| is_on.then_some(*name)).collect()
}
