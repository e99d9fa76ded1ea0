//! Typed calls, as the macro makes them: client, postcard, gate, server, and back.

use crate::meter::{Failed, Measured, Stretches};
use core::time::Duration;
use libos::ipc::rpc::{Bytes, CallError, Caller, Error, NoError, serde_bytes};
use serde::{Deserialize, Serialize};
use workshop::Ground;

/// Longer than a measurement.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the long call carries each way.
const LONG_BYTES: usize = 4096;

/// 32 bytes, such as a key or a digest, which postcard copies at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Digest(#[serde(with = "serde_bytes")] [u8; 32]);

/// 32 bytes of numbers, which postcard writes in as many bytes as each needs: here 18 in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    account: u64,
    at_ns: u64,
    amount: u64,
    balance: u64,
}

const DIGEST: Digest = Digest([0xd1; 32]);
const RECORD: Record = Record { account: 40_123, at_ns: 1_795_384_800_123_456_789, amount: 25_000, balance: 1_000_000 };

libos::interface! {
    /// What is measured.
    pub mod mirror {
        const VERSION: u16 = 1;
        /// Answers with what it is told.
        fn digest(digest: Digest) -> Result<Digest, NoError>;
        /// Answers with what it is told.
        fn record(record: Record) -> Result<Record, NoError>;
    }
}

libos::interface! {
    /// What is measured with long messages.
    pub mod blocks {
        const VERSION: u16 = 1;
        const PAGES: usize = 2;
        /// Takes a block and answers with one.
        fn exchange(block: &Bytes) -> Result<&Bytes, NoError>;
    }
}

struct Mirror;

impl mirror::Service for Mirror {
    fn digest(&mut self, _: Caller, digest: Digest) -> Result<Digest, NoError> {
        Ok(digest)
    }

    fn record(&mut self, _: Caller, record: Record) -> Result<Record, NoError> {
        Ok(record)
    }
}

/// Has a block, and answers with it: what is measured is the way there and back, and not what a service does with a block.
struct Blocks([u8; LONG_BYTES]);

impl blocks::Service for Blocks {
    fn exchange(&mut self, _: Caller, block: &Bytes) -> Result<&Bytes, NoError> {
        // The last byte says that all of them came.
        self.0[0] = block.last().copied().unwrap_or(0);
        Ok(Bytes::new(&self.0))
    }
}

/// The other side of the short calls.
pub fn serve() -> ! {
    mirror::serve(Mirror)
}

/// The other side of the long one.
pub fn serve_4k() -> ! {
    blocks::serve(Blocks([0; LONG_BYTES]))
}

impl<E> From<Error<E>> for Failed {
    fn from(error: Error<E>) -> Failed {
        match error {
            Error::Call(error) => error.into(),
            Error::Service(_) => Failed::Lacks("the service failed"),
        }
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Failed {
        match error {
            CallError::Refused(refusal) | CallError::NoPages(refusal) => Failed::Refused(refusal),
            CallError::NotPermitted => Failed::Lacks("the manifest names no such service"),
            CallError::Timeout => Failed::Lacks("the service does not answer"),
            _ => Failed::Lacks("the call failed"),
        }
    }
}

/// A struct of 32 bytes there and back, in registers, between two programs that trust each other.
pub fn rpc_round_trip(_: &Ground) -> Measured {
    digests(mirror::Client::named("rpc")?.trusting())
}

/// The same with the deadline that a call has unless its client trusts the server.
pub fn rpc_round_trip_deadline(_: &Ground) -> Measured {
    digests(mirror::Client::named("rpc")?.with_patience(PATIENCE))
}

fn digests(mut client: mirror::Client) -> Measured {
    let mut digest = client.digest(DIGEST)?;
    let figure = Stretches::ONE.measure_switching(|_| client.digest(digest).map(|heard| digest = heard))?;
    if digest != DIGEST {
        return Err(Failed::Lacks("the digest that came back is another"));
    }
    Ok(figure)
}

/// The same with four `u64`, which postcard takes apart by seven bits.
pub fn rpc_round_trip_u64(_: &Ground) -> Measured {
    let mut client = mirror::Client::named("rpc")?.trusting();
    let mut record = client.record(RECORD)?;
    let figure = Stretches::ONE.measure_switching(|_| client.record(record).map(|heard| record = heard))?;
    if record != RECORD {
        return Err(Failed::Lacks("the record that came back is another"));
    }
    Ok(figure)
}

/// A block of 4 KiB there and another one back, through shared frames.
pub fn rpc_round_trip_4k(_: &Ground) -> Measured {
    let mut client = blocks::Client::named("rpc-4k")?.trusting();
    let mut block = alloc::vec![7; LONG_BYTES];
    client.exchange(Bytes::new(&block))?;
    let mut right = true;
    let figure = Stretches::ONE.measure_switching(|index| {
        block[LONG_BYTES - 1] = index as u8;
        client.exchange(Bytes::new(&block)).map(|heard| right &= heard.len() == LONG_BYTES && heard[0] == index as u8)
    })?;
    if !right {
        return Err(Failed::Lacks("the block that came back is another"));
    }
    Ok(figure)
}
