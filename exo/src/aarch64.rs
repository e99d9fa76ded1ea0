//! What the machine does: the only place with `unsafe`, and the list of the files that have it.

#[expect(unsafe_code, reason = "entry from the boot protocol")]
mod boot;
#[expect(unsafe_code, reason = "the structures of other cores")]
mod cores;
#[expect(unsafe_code, reason = "exception vectors, and the registers of the interrupted program")]
mod entry;
#[expect(unsafe_code, reason = "system registers of the interrupt controller")]
mod gic;
#[expect(unsafe_code, reason = "translation tables of the kernel, and the devices mapped by them")]
mod mmu;
#[expect(unsafe_code, reason = "kernel objects in frames, by the linear map")]
mod objects;
mod panic;
#[expect(unsafe_code, reason = "calls to firmware and emulator")]
mod power;
#[expect(unsafe_code, reason = "system registers, barriers, TLB and cache maintenance")]
mod registers;
pub mod start;
mod uart;

/// Addresses and attributes that the boot code, the translation tables and the objects agree on.
mod layout {
    pub use exo::machine::{LINEAR, MAX_SPAN};
    /// Bytes that an entry of a root stands for.
    pub const GIB: u64 = 1 << 30;
    /// Where the image is seen (exo.ld).
    pub const IMAGE: u64 = 0xffff_ffff_c000_0000;
    /// Pages of a core: its stack, then its structure.
    pub const CORE_PAGES: u64 = STACK_BYTES as u64 / 4096 + 1;
    /// Bytes of a core's kernel stack: boot needs 5 KiB while it reads the device tree, a call 4.
    pub const STACK_BYTES: usize = 8192;
    /// Normal memory, write-back, inner shareable, accessed; attribute index 0.
    const NORMAL: u64 = 1 << 10 | 0b11 << 8;
    /// Nobody executes it.
    const NEVER_EXECUTE: u64 = 1 << 54 | 1 << 53;
    const UNPRIVILEGED_NEVER: u64 = 1 << 54;
    const READ_ONLY: u64 = 1 << 7;
    pub const PAGE_TEXT: u64 = NORMAL | UNPRIVILEGED_NEVER | READ_ONLY | 3;
    pub const PAGE_RODATA: u64 = NORMAL | NEVER_EXECUTE | READ_ONLY | 3;
    pub const PAGE_DATA: u64 = NORMAL | NEVER_EXECUTE | 3;
    pub const BLOCK_DATA: u64 = NORMAL | NEVER_EXECUTE | 1;
    /// 2 MiB that the boot code executes in, before it jumps.
    pub const BLOCK_BOOT: u64 = NORMAL | UNPRIVILEGED_NEVER | 1;
    /// Device-nGnRE, attribute index 1.
    pub const BLOCK_DEVICE: u64 = 1 << 10 | 1 << 2 | NEVER_EXECUTE | 1;
    /// A table descriptor.
    pub const TABLE: u64 = 3;
    /// Attribute 0: Normal write-back read- and write-allocate; 1: Device-nGnRE (Arm ARM, MAIR_EL1).
    pub const MAIR: u64 = 0x04ff;
    /// 39 bits on both sides, 4 KiB granules, walks write-back inner shareable; the ASID is TTBR0's, 8 bits; the top byte of kernel addresses
    /// is ignored (`exo::vcore::Link`; Arm ARM, TCR_EL1).
    pub const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 25 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30 | 1 << 38;
    /// RES1 bits of SCTLR_EL1 without anything switched on.
    pub const SCTLR_OFF: u64 = 1 << 11 | 1 << 20 | 1 << 22 | 1 << 28 | 1 << 29;
    /// MMU, caches, stack alignment checks for EL1 and EL0; EL0 may use DC ZVA and read CTR. WFI and WFE of EL0 trap. SPAN is 0: PAN is set at every exception.
    pub const SCTLR_ON: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 12 | 1 << 14 | 1 << 15;
}
