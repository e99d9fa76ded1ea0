//! Calls from one environment to another: the client's side and the server's.
//!
//! A call carries seven words each way and, if wanted, one binding. Everything else in the registers of either side is
//! lost and may be seen by the other: the stubs save what Rust needs, and clear nothing.

mod gate;
pub mod handover;
pub mod link;
pub mod names;
pub mod pipe;
pub mod publish;
pub mod ring;
pub mod rpc;
mod server;
pub mod shared;

#[cfg(test)]
mod testing;

pub use gate::Gate;
pub use server::{Incoming, Outgoing, Server};

/// The words of a message.
pub type Words = [u64; 7];
