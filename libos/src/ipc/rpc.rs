//! Typed calls: an interface is declared once, and gives a trait for who serves it and a client for who calls it.
//!
//! ```text
//! libos::interface! {
//!     /// Adds numbers up.
//!     pub mod adder {
//!         const VERSION: u16 = 1;
//!         /// Adds a number; answers with the sum.
//!         fn add(number: u64) -> Result<u64, Overflow>;
//!         /// The sum so far.
//!         #[idempotent]
//!         fn sum() -> Result<u64, NoError>;
//!     }
//! }
//! ```
//!
//! makes `adder::Service`, a trait whose methods are told the [`Caller`] first; `adder::Served`, which serves one; and `adder::Client`, whose methods
//! answer `Result<u64, Error<Overflow>>`. Types are spelled in full or as the module around the declaration sees them.
//!
//! **On the wire.** Arguments (a tuple) and results are serde types, encoded by postcard. What fits into [`WORD_BYTES`](message::WORD_BYTES) bytes
//! travels in the message's registers, and nothing is allocated for it on either side. What is longer travels through `const PAGES: usize` (1 to
//! [`MAX_PAGES`]) frames that the client lends to the server, from a pool of its own that is made at its first call (the manifest gives it `pools = 1`). Long strings of
//! bytes should be [`Bytes`] and [`ByteBuf`]: serde takes a `Vec<u8>` element by element. Four `u64` are cheaper than a `[u8; 32]` for the same reason.
//!
//! **Versions.** Each message of either side carries the interface's version and a fingerprint of its declaration; each side compares it first. The
//! fingerprint knows how types are spelled, not what is in them: who changes a type of the arguments counts the version up.
//!
//! **A peer that is not trusted** costs an error. All of a message is checked, bytes are copied out of shared frames before they are decoded, each call has a deadline, and
//! a peer that dies or takes shared frames away is [`CallError::Died`], or an answer that goes nowhere. What the author of an interface has to see to: no recursive types, and
//! no sequences of things that take no bytes, since the other side chooses how many.

mod client;
mod codec;
mod error;
mod interface;
mod lent;
pub mod message;
mod pages;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, PATIENCE, Repeat};
pub use codec::{Malformed, decode};
pub use error::{CallError, Error, NoError};
pub use message::Version;
pub use pages::{MAX_PAGES, MOST_CONNECTIONS};
pub use serde_bytes;
pub use serde_bytes::{ByteBuf, Bytes};
pub use server::{Caller, Dispatch, Refused, Reply, Server};
