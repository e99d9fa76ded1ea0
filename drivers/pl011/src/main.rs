//! The console driver: claim the UART, serve for ever.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(target_os = "none")]
libos::main!(pl011::serve::main);

/// On a host only the library is of interest.
#[cfg(not(target_os = "none"))]
fn main() {}
