//! The first environment: `init::run` at its entry point.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(target_os = "none")]
libos::main!(init::run::main, First);

/// On a host only the library is of interest.
#[cfg(not(target_os = "none"))]
fn main() {}
