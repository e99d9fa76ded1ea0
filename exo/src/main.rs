//! The kernel binary: the machine below, the decisions of the library above. It begins in [`aarch64::start`].
#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod aarch64;
