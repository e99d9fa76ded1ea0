//! Memory: free frames, mappings, regions that fill themselves, the heap.
//!
//! The library finds free frames in the kernel's bitmap ([`frames`]), reads its own page tables through the window and
//! changes them by batches ([`tables`]), keeps small and large mappings apart ([`places`]), and answers faults in a [`Region`].
//! Nothing on the way of a fault takes a lock: an upcall may interrupt whoever holds it.

pub mod frames;
mod mapping;
pub mod places;
mod region;
pub mod shared;
pub mod tables;

#[expect(unsafe_code, reason = "addresses become memory here: the window, the bitmap, mappings")]
mod access;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "memcpy is assembly")]
mod copy;
#[expect(unsafe_code, reason = "the copy that survives the loss of a page, and its way out")]
mod guard;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
mod heap;

pub use crate::control::{lost, set_sacrifice};
pub(crate) use access::{bitmap_is_read, bytes_mapped_for_good, publish_bitmap, value_mapped_for_good, with_bitmap};
pub use frames::{alloc_frames, free_frames};
#[cfg(target_os = "none")]
pub(crate) use guard::way_out;
#[cfg(target_os = "none")]
pub(crate) use heap::begin as begin_heap;
pub use mapping::Mapping;
pub(crate) use mapping::map_for_good;
#[cfg(target_os = "none")]
pub(crate) use region::{Answer, answer_fault, light_answer, take_back};
pub use region::{MAX_REGIONS, Region, add_region, regions};
pub use shared::Shared;

/// Bytes of the heap that are handed out, and bytes that are left.
pub fn heap_usage() -> (u64, u64) {
    #[cfg(target_os = "none")]
    return heap::usage();
    #[cfg(not(target_os = "none"))]
    (0, 0)
}

/// What the running vcore's faults and the free-frame search cost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Demand-zero faults answered.
    pub demand_faults: u64,
    /// Upcalls that took the long way.
    pub full_upcalls: u64,
    /// Frames that the bitmap promised and somebody else had.
    pub lost_races: u64,
}

/// Counts of this vcore.
pub fn statistics() -> Statistics {
    let (demand_faults, full_upcalls) = crate::control::counted();
    Statistics { demand_faults, full_upcalls, lost_races: frames::lost_races() }
}
