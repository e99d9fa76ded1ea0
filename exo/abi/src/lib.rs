//! The contract between the exo kernel and everything above it.
//!
//! Every number and layout that crosses the boundary stands here once: the table of [`calls`], the
//! [`binding`] kinds and rights, the [`control_page`] a vcore shares with the kernel, the page-table entries an
//! application can read through the window ([`page`]), the pages the kernel exposes ([`exposed`]) and what
//! the image-builder writes in front of the kernel ([`boot`]). The kernel says no in one vocabulary: [`Refusal`].
//!
//! Changing anything here changes [`ABI_VERSION`].
#![no_std]
#![forbid(unsafe_code)]

pub mod binding;
pub mod boot;
pub mod calls;
pub mod control_page;
pub mod exposed;
pub mod page;
pub mod refusal;

pub use binding::{BindingKind, Handle};
pub use calls::Call;
pub use page::Pfn;
pub use refusal::Refusal;

/// The version of this contract. The image-builder and `init` refuse a program built for another one.
pub const ABI_VERSION: u32 = 1;
/// Bytes of a frame and of a page: the 4 KiB granule (Arm ARM D8.2).
pub const PAGE_BYTES: u64 = 4096;
/// Environments a machine can hold; an environment's number is its ASID, and 8 bits of ASID exist everywhere.
pub const MAX_ENVIRONMENTS: u64 = 256;
/// Pools a machine can hold.
pub const MAX_POOLS: u64 = 256;
/// Revocation cells a machine has.
pub const MAX_CELLS: u64 = 768;
/// Vcores of an environment.
pub const MAX_VCORES: u64 = 56;
/// Frames of a binding table.
pub const MAX_BINDING_FRAMES: u64 = 8;
/// Bindings in one frame of a binding table.
pub const BINDINGS_PER_FRAME: u64 = 128;
/// Calls in a chain.
pub const MAX_CHAIN_CALLS: u64 = 8;
/// Levels of the quota tree.
pub const MAX_POOL_DEPTH: u64 = 8;
/// Positions of a core's slice vector.
pub const SLICES_PER_CORE: u64 = 64;
/// Entries of the batch buffer in a control page.
pub const BATCH_ENTRIES: u64 = 64;
/// Pages that one `map` call changes at most, whatever its ranges say.
pub const MAP_PAGES_PER_CALL: u64 = 64;
/// Frames that one call zeroes at most.
pub const ZEROED_PER_CALL: u64 = 24;
/// Numbers that one `names_give` hands over at most.
pub const NAMES_PER_CALL: u64 = 64;
/// Events of a vcore.
pub const EVENTS: u64 = 48;
/// Shortest slice, and shortest borrow, in microseconds.
pub const MIN_SLICE_US: u64 = 20;
/// Longest slice in microseconds.
pub const MAX_SLICE_US: u64 = 1_000_000;
/// What a slice lasts unless its claim says otherwise, in microseconds.
pub const DEFAULT_SLICE_US: u64 = 1000;

/// The events the kernel itself raises; an application uses the bits below [`event::FIRST_OF_KERNEL`].
pub mod event {
    /// Bits from here on are raised by the kernel only.
    pub const FIRST_OF_KERNEL: u64 = 40;
    /// An alarm passed while its vcore was not waiting for it.
    pub const ALARM: u64 = 40;
    /// A slice of this vcore began.
    pub const SLICE: u64 = 41;
    /// The call being served ended before its reply: its caller died, or its deadline passed.
    pub const CUT: u64 = 42;
    /// The quota of a pool was lowered below its use.
    pub const RECLAIM: u64 = 43;
    /// A vcore of a supervised environment stopped: by a fault while masked, by `halt`, or because its supervisor stopped it.
    pub const CHILD: u64 = 44;
}
