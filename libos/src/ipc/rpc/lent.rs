//! The client's side of shared frames: a pool of its own, lent to one server.

use super::pages::MAX_PAGES;
use crate::mem::{self, Shared};
use crate::sys::{self, Progress};
use crate::{slots, start};
use alloc::vec;
use alloc::vec::Vec;
use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal};

/// Steps of a destruction before it is given up.
const MOST_STEPS: u32 = 10_000;

/// Frames for one server, in a pool that ends with this.
pub struct Lent {
    pool: OwnPool,
    frames: [Pfn; MAX_PAGES],
    /// `None`: being dropped.
    shared: Option<Shared>,
    /// Where answers are copied to before they are decoded.
    buffer: Vec<u8>,
}

impl Lent {
    /// A pool of `pages` (1 to [`MAX_PAGES`]) frames, carved from the program's own.
    pub fn new(pages: usize) -> Result<Lent, Refusal> {
        let pool = OwnPool::new(pages as u64)?;
        let mut frames = [Pfn(0); MAX_PAGES];
        mem::alloc_frames(pool.handle, &mut frames[..pages])?;
        let shared = Shared::map(pool.handle, &frames[..pages])?;
        Ok(Lent { pool, frames, shared: Some(shared), buffer: vec![0; pages * PAGE_BYTES as usize] })
    }

    /// The pool's binding.
    pub fn pool(&self) -> Handle {
        self.pool.handle
    }

    /// The numbers of the frames; 0 behind the last.
    pub fn frames(&self) -> &[Pfn; MAX_PAGES] {
        &self.frames
    }

    /// The frames.
    pub fn shared(&self) -> Option<&Shared> {
        self.shared.as_ref()
    }

    /// Copies out the first `bytes` bytes; `None`: there are not so many.
    pub fn copy_out(&mut self, bytes: usize) -> Option<&[u8]> {
        let out = self.buffer.get_mut(..bytes)?;
        self.shared.as_ref()?.read(0, out).ok()?;
        Some(out)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Before the pool ends, so that its place is given back without a look at what is left.
        self.shared = None;
    }
}

/// A pool of this program's making, with its names.
struct OwnPool {
    handle: Handle,
    number: u64,
    cell: u64,
}

impl OwnPool {
    fn new(quota: u64) -> Result<OwnPool, Refusal> {
        // Numbers that the program uses without the library's knowing are left to it.
        let most = start::info_if_known().map_or(0, |info| info.pools.1);
        for _ in 0..most {
            let number = slots::take_pool().ok_or(Refusal::NotYours)?;
            match OwnPool::numbered(number, quota) {
                Err(Refusal::InUse) => {}
                Err(refusal) => {
                    slots::give_back_pool(number);
                    return Err(refusal);
                }
                made => return made,
            }
        }
        Err(Refusal::NotYours)
    }

    fn numbered(number: u64, quota: u64) -> Result<OwnPool, Refusal> {
        let cell = slots::take_cell().ok_or(Refusal::NotYours)?;
        let Some(handle) = slots::take() else {
            slots::give_back_cell(cell);
            return Err(Refusal::SlotTaken);
        };
        let made = sys::pool_create(Handle::POOL, number, cell, quota, 0, handle);
        if made.is_err() {
            slots::give_back(handle);
            slots::give_back_cell(cell);
        }
        made.map(|()| OwnPool { handle, number, cell })
    }
}

impl Drop for OwnPool {
    fn drop(&mut self) {
        let mut cursor = 0;
        for _ in 0..MOST_STEPS {
            match sys::pool_destroy(self.handle, cursor) {
                Ok(Progress::Again(next)) => cursor = next,
                Ok(Progress::Done) => {
                    slots::empty(self.handle);
                    slots::give_back_cell(self.cell);
                    slots::give_back_pool(self.number);
                    return;
                }
                // It stays, with its names: nothing is given out twice.
                Err(_) => return,
            }
        }
    }
}
