//! Builds Velvet images from manifests, and runs them in QEMU.
//!
//! From top to bottom: a person writes an image file ([`policy`]); it is checked against a [`machine`] ([`check`]); [`cargo`] builds
//! kernel and programs; these are read ([`kernel`], [`elf`]), laid out ([`archive`]) and put together ([`image`]); an
//! [`emulator`] runs the result. [`build`] does all of it but the last. The [`commands`] are what a person types.
#![deny(unsafe_code)]

pub mod archive;
pub mod build;
pub mod cargo;
pub mod cases;
pub mod check;
pub mod commands;
pub mod elf;
pub mod emulator;
pub mod error;
pub mod folders;
pub mod image;
pub mod kernel;
pub mod machine;
pub mod policy;
pub mod progress;
pub mod source_lines;
pub mod tools;

pub use error::{Error, Result};
