//! The pages that the kernel shows to everybody, read-only: any environment may map them without holding a pool.

use crate::SLICES_PER_CORE;
use bitflags::bitflags;

bitflags! {
    /// What every core of the machine has.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u64 {
        /// FEAT_LSE: single-instruction atomics.
        const LSE = 1;
        /// FEAT_HAFDBS: hardware sets accessed and dirty.
        const HARDWARE_DIRTY = 1 << 1;
        /// FEAT_PAN: the kernel cannot touch user mappings by accident.
        const PAN = 1 << 2;
        /// FEAT_BTI.
        const BTI = 1 << 3;
        /// FEAT_PAuth, enabled for EL0.
        const PAC = 1 << 4;
        /// Only the hardware access flag of FEAT_HAFDBS.
        const HARDWARE_ACCESSED = 1 << 5;
        /// The image says that QEMU runs it.
        const QEMU = 1 << 6;
    }
}

/// Version of the layouts in this module.
pub const LAYOUT_VERSION: u64 = 1;

/// The machine, in one page.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MachineInfo {
    /// [`LAYOUT_VERSION`].
    pub layout_version: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u64,
    /// Which build of the kernel and archive this is.
    pub build_id: [u8; 16],
    /// [`Features`].
    pub features: u64,
    /// Generic timer ticks a second.
    pub timer_hz: u64,
    /// Cores the kernel runs on; their ids are 0 to `cores`-1.
    pub cores: u64,
    /// 2 or 3.
    pub gic_version: u64,
    /// First interrupt line that does not exist.
    pub interrupt_lines: u64,
    /// First frame of the RAM span.
    pub first_frame: u64,
    /// Frames from the first to the last of RAM, holes included.
    pub frames: u64,
    /// Frames of RAM.
    pub frames_of_ram: u64,
    /// Frames that were free when the first environment started.
    pub frames_free_at_start: u64,
    /// Frames of RAM beyond the span that the kernel manages.
    pub frames_ignored: u64,
    /// First frame of the free bitmap: bit `i % 64` of word `i / 64` is set while frame `first_frame + i` is free. A hint.
    pub bitmap_frame: u64,
    /// Frames of the free bitmap.
    pub bitmap_frames: u64,
    /// First of the frames that each hold a core's [`SliceVector`].
    pub slices_frame: u64,
    /// First frame of the device tree.
    pub device_tree_frame: u64,
    /// Offset of the device tree in it.
    pub device_tree_offset: u64,
    /// Bytes of the device tree.
    pub device_tree_bytes: u64,
    /// First frame of the archive.
    pub archive_frame: u64,
    /// Frames of the archive.
    pub archive_frames: u64,
    /// The frame of the debug UART's registers; 0 if there is none.
    pub uart_frame: u64,
    /// Frames of the kernel's image, its tables, stacks and per-frame memory.
    pub kernel_frames: u64,
    /// Timer at the kernel's first instruction.
    pub entry_ticks: u64,
    /// Timer just before the first user instruction.
    pub first_user_ticks: u64,
    /// Bytes of kernel text and read-only data.
    pub kernel_text_bytes: u64,
    /// Bytes of kernel data and zero-initialised data.
    pub kernel_data_bytes: u64,
}

/// A position of a core's slice vector.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// Environment number in bits 15:8, vcore index in 7:0, bit 63: claimed, bit 62: exact.
    pub owner: u64,
    /// Ticks a round.
    pub length: u64,
    /// Ticks used so far, borrowed ones included.
    pub used: u64,
    /// Times it began.
    pub starts: u64,
}

/// Bit of [`Slice::owner`]: somebody claimed this position.
pub const SLICE_CLAIMED: u64 = 1 << 63;
/// Bit of [`Slice::owner`]: it lends nothing and borrows nothing.
pub const SLICE_EXACT: u64 = 1 << 62;

/// A core's slice vector, in one page.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SliceVector {
    /// The positions.
    pub slices: [Slice; SLICES_PER_CORE as usize],
    /// Ticks that the core slept.
    pub idle: u64,
    /// Rounds begun.
    pub rounds: u64,
    /// The position that runs, or 64.
    pub position: u64,
    /// Longest stretch with interrupts masked so far, in ticks; measured by kernels built to do so, else 0.
    pub longest_masked: u64,
}

const _: () = assert!(core::mem::size_of::<MachineInfo>() <= crate::PAGE_BYTES as usize);
const _: () = assert!(core::mem::size_of::<SliceVector>() <= crate::PAGE_BYTES as usize);

/// What `audit` answers in `x1` about one frame: bit 63 set: an invariant is broken (the number of the broken rule in bits 39:32);
/// bit 62: it is a table, and bits 31:0 count its valid leaf entries that point into RAM and are counted there; else bits 31:0 are the frame's own count of mappings.
/// Summed over all frames, the leaves of tables equal the counts of the others.
pub mod audit {
    /// An invariant is broken.
    pub const BROKEN: u64 = 1 << 63;
    /// The frame is a page table.
    pub const TABLE: u64 = 1 << 62;
    /// There is another frame after this one.
    pub const MORE: u64 = 1 << 61;
}
