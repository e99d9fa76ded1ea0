//! From the boot protocol to [`super::start`]: the assembly, and the tables it fills.

use super::layout::*;
use core::cell::UnsafeCell;
use exo_abi::boot::BootHeader;

/// A translation table in the image.
#[repr(C, align(4096))]
pub struct Table(pub UnsafeCell<[u64; 512]>);

// SAFETY: written by the boot code and by `mmu` on the first core only; other cores' walkers read whole descriptors.
unsafe impl Sync for Table {}

/// The kernel's own tables.
#[unsafe(link_section = ".tables")]
pub static TABLES: [Table; 5] = [const { Table(UnsafeCell::new([0; 512])) }; 5];
/// TTBR0's root while booting; emptied, it is what an idle core's TTBR0 points at.
pub const IDENTITY_1: usize = 0;
/// The identity map's 2 MiB blocks while booting.
const IDENTITY_2: usize = 1;
/// TTBR1's root.
pub const ROOT: usize = 2;
/// The top GiB: image, boot windows, devices.
pub const HIGH_2: usize = 3;
/// The image's pages.
pub const IMAGE_3: usize = 4;

core::arch::global_asm!(
    include_str!("boot.s"),
    HEADER_BYTES = const size_of::<BootHeader>(),
    STACK_BYTES = const STACK_BYTES,
    CORE_BYTES = const size_of::<super::cores::PerCore>().next_multiple_of(64),
    SCTLR_OFF = const SCTLR_OFF,
    SCTLR_ON = const SCTLR_ON,
    MAIR = const MAIR,
    TCR = const TCR,
    BLOCK = const BLOCK_BOOT,
    PAGE_TEXT = const PAGE_TEXT,
    PAGE_RODATA = const PAGE_RODATA,
    PAGE_DATA = const PAGE_DATA,
    TABLES = sym TABLES,
    TABLES_BYTES = const size_of_val(&TABLES),
    IDENTITY_2 = const IDENTITY_2 * size_of::<Table>(),
    ROOT = const ROOT * size_of::<Table>(),
    HIGH_2 = const HIGH_2 * size_of::<Table>(),
    IMAGE_3 = const IMAGE_3 * size_of::<Table>(),
    MAIN = sym super::start::start,
    CORE_MAIN = sym super::cores::main,
);

unsafe extern "C" {
    /// The boot header in the image: the image-builder wrote it, and every bit pattern is a valid one.
    pub safe static boot_header: BootHeader;
    safe static rodata_end: u8;
    safe static bss_end: u8;
    safe static image_end: u8;
    safe static stack_guard: u8;
    /// Where other cores begin.
    pub safe static core_start: u8;
}

/// The header's bytes that its checksum covers.
pub fn header_bytes() -> &'static [u8] {
    let header = &raw const boot_header;
    // SAFETY: the same bytes, read as bytes; the structure has no padding before `checksum`.
    unsafe { core::slice::from_raw_parts(header.cast(), core::mem::offset_of!(BootHeader, checksum)) }
}

/// Bytes from the image's first one to the end of text and read-only data, to that of data, to its own, and to the page below the stack, which must not be mapped.
pub fn extent() -> [u64; 4] {
    let ends = [&raw const rodata_end, &raw const bss_end, &raw const image_end, &raw const stack_guard];
    ends.map(|end| end as u64 - IMAGE)
}
