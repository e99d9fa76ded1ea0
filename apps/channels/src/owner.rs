//! A client that shares a pool of its own, says a few words, and dies, with it the pool.

use crate::{PATIENCE, Pair, pool};
use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use libos::ipc::link::Link;
use libos::ipc::shared::{Access, SharedWords};
use libos::start;
use libos::time::Instant;

/// What it opens its link for.
pub const PURPOSE: u64 = 99;
/// What it says.
pub const WORDS: &[u8] = b"mine";

pub fn main() -> u64 {
    match speak() {
        Some(()) => 0,
        None => 1,
    }
}

fn speak() -> Option<()> {
    let deadline = Instant::after(PATIENCE);
    // Neither the pool nor the pipe ends by anything but its death.
    let pool = ManuallyDrop::new(pool(4).ok()?);
    let memory = Arc::new(SharedWords::map(&pool, pool.take(2).ok()?, Access::Write).ok()?);
    // The other side serves only when it is its turn.
    let link = Link::open(start::service("channels")?, &pool, &memory, Access::Write, PURPOSE, deadline).ok()?;
    let pair = Pair { link, reads: 1 };
    let mut writer = ManuallyDrop::new(pair.writer()?);
    writer.write_all(WORDS, deadline).ok()?;
    // It dies when the other side has heard that much.
    let _ = pair.reader()?.read(&mut [0; 8], deadline);
    Some(())
}
