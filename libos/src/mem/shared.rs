//! Memory shared with an environment that is not trusted: it may write there at any time, and take the frames away.

use super::{guard, places, tables};
use exo_abi::page::{Descriptor, Prot};
use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal};

/// Most frames of one [`Shared`].
pub const MAX_SHARED_PAGES: usize = 16;

/// Frames of a shared pool, readable and writable, side by side until this is dropped.
///
/// Bytes are copied, never lent: what was checked must not change afterwards. Where the frames are gone, since whoever owns the
/// pool destroyed it or died, a copy answers [`Refusal::NotMapped`], also when that happens in the middle of it.
#[derive(Debug)]
pub struct Shared {
    va: u64,
    pages: u64,
}

impl Shared {
    /// Maps `frames` (1 to [`MAX_SHARED_PAGES`]) of `pool`, which needs READ and WRITE on it. `WrongKind`: it is a device, whose registers do not bear
    /// being copied.
    pub fn map(pool: Handle, frames: &[Pfn]) -> Result<Shared, Refusal> {
        Refusal::BadArgument.when(frames.is_empty() || frames.len() > MAX_SHARED_PAGES)?;
        let va = places::take(frames.len() as u64).ok_or(Refusal::BadArgument)?;
        // Dropped on the way out, it gives back what was mapped so far.
        let shared = Shared { va, pages: frames.len() as u64 };
        // Marked from the start: nobody asks, and where hardware does not set the marks each would be a fault.
        let prot = Prot::READ | Prot::WRITE | Prot::ACCESSED | Prot::DIRTY;
        for (page, frame) in shared.page_addresses().zip(frames) {
            tables::map_at(page, pool, *frame, 1, prot)?;
            let device = tables::leaf(page).is_some_and(|leaf| leaf.contains(Descriptor::DEVICE));
            Refusal::WrongKind.when(device)?;
        }
        Ok(shared)
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        (self.pages * PAGE_BYTES) as usize
    }

    /// Never: it has a page at least.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Its first address, for who reads and writes words there; an access faults once the frames are gone.
    pub fn va(&self) -> u64 {
        self.va
    }

    /// Copies bytes from `offset` on. `BadArgument`: they lie beyond the end. `NotMapped`: the frames are gone, and `out` holds anything.
    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Refusal> {
        let from = self.at(offset, out.len())?;
        Refusal::NotMapped.when(!guard::copy_out(from, out))
    }

    /// Copies bytes to `offset` and on. Refused as [`Shared::read`].
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Refusal> {
        let to = self.at(offset, bytes.len())?;
        Refusal::NotMapped.when(!guard::copy_in(to, bytes))
    }

    /// Whether all frames were there a moment ago.
    pub fn is_there(&self) -> bool {
        self.page_addresses().all(|page| tables::leaf(page).is_some())
    }

    /// Ordinary memory, as if the kernel had mapped it there.
    #[cfg(test)]
    pub(crate) fn over(memory: &'static mut [u64]) -> Shared {
        let va = memory.as_mut_ptr().expose_provenance() as u64;
        Shared { va, pages: memory.len() as u64 * 8 / PAGE_BYTES }
    }

    fn page_addresses(&self) -> impl Iterator<Item = u64> + use<> {
        (self.va..self.va + self.pages * PAGE_BYTES).step_by(PAGE_BYTES as usize)
    }

    #[inline]
    fn at(&self, offset: usize, bytes: usize) -> Result<u64, Refusal> {
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.len());
        Refusal::BadArgument.when(!fits)?;
        Ok(self.va + offset as u64)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A page that is gone, or goes just now, needs no unmapping; what cannot be unmapped costs its place.
        let gone = |page| tables::unmap_at(page, 1) || tables::leaf(page).is_none();
        // Every page, not only those before the first that stays.
        if cfg!(not(test)) && self.page_addresses().filter(|page| !gone(*page)).count() == 0 {
            places::give_back(self.va, self.pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_beyond_the_end() {
        let shared = Shared::over(std::vec![0u64; 1024].leak());
        assert_eq!(shared.write(8189, &[1, 2, 3]), Ok(()));
        let mut out = [0; 3];
        assert_eq!(shared.read(8189, &mut out), Ok(()));
        assert_eq!(out, [1, 2, 3]);
        for (offset, bytes) in [(8190, 3), (8192, 1), (usize::MAX, 2), (0, 8193)] {
            assert_eq!(shared.read(offset, &mut std::vec![0; bytes]), Err(Refusal::BadArgument), "{offset} {bytes}");
            assert_eq!(shared.write(offset, &std::vec![0; bytes]), Err(Refusal::BadArgument), "{offset} {bytes}");
        }
        assert_eq!(shared.read(8192, &mut []), Ok(()));
    }

    #[test]
    fn a_wish_for_no_frames_or_too_many_is_refused() {
        assert_eq!(Shared::map(Handle(9), &[]).unwrap_err(), Refusal::BadArgument);
        assert_eq!(Shared::map(Handle(9), &[Pfn(1); MAX_SHARED_PAGES + 1]).unwrap_err(), Refusal::BadArgument);
    }
}
