//! Large data without copying: frames of a shared pool that leave one address space and come into another.
//!
//! A [`Parcel`] is frames mapped here. [`Parcel::give`] unmaps it and answers with [`Frames`], four words for any message; the other side makes a
//! parcel of them by [`Parcel::accept`]. At any time one side has it, by its type, and a late access is a fault instead of damage.
//!
//! This is order among those who keep it, not protection: both sides have a binding to the pool, and a hostile giver maps the frames again. The
//! receiver therefore reads them as memory that changes at any time, in words or copies. Frames under way belong to nobody: when a
//! message is lost, its sender can accept them itself, or give them to [`SharedPool::free`]; the end of the pool frees them in any case.

use super::shared::{Access, Frames, SharedPool, SharedWords};
use core::sync::atomic::AtomicU64;
use exo_abi::Refusal;

/// Frames of a shared pool that this side has. Dropping it frees them, if the binding to the pool permits that.
#[derive(Debug)]
pub struct Parcel<'p> {
    pool: &'p SharedPool,
    /// Always there, until it is given away.
    shared: Option<SharedWords>,
}

impl<'p> Parcel<'p> {
    /// Takes `pages` (at most [`super::shared::MAX_PAGES`]) zeroed frames into the pool and maps them.
    pub fn new(pool: &'p SharedPool, pages: u64) -> Result<Parcel<'p>, Refusal> {
        let frames = pool.take(pages)?;
        Parcel::accept(pool, frames).inspect_err(|_| pool.free(frames))
    }

    /// Maps frames that the other side gave. Refused when they are not the pool's.
    #[inline(always)]
    pub fn accept(pool: &'p SharedPool, frames: Frames) -> Result<Parcel<'p>, Refusal> {
        Ok(Parcel { pool, shared: Some(SharedWords::map(pool, frames, Access::Write)?) })
    }

    /// Unmaps them; whoever gets the answer can accept them. `NotMapped`: they were taken away with their pool.
    #[inline(always)]
    pub fn give(mut self) -> Result<Frames, Refusal> {
        match self.shared.take() {
            Some(shared) => shared.unmap(),
            None => Err(Refusal::NotMapped),
        }
    }

    /// Their words.
    #[inline(always)]
    pub fn words(&self) -> &[AtomicU64] {
        self.shared.as_ref().map_or(&[], SharedWords::words)
    }

    /// Copies bytes from `offset` on.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        super::shared::load_bytes(self.words(), offset, out);
    }

    /// Copies bytes to `offset` and on.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        super::shared::store_bytes(self.words(), offset, bytes);
    }
}

impl Drop for Parcel<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            let frames = shared.frames();
            drop(shared);
            if let Ok(frames) = frames {
                self.pool.free(frames);
            }
        }
    }
}
