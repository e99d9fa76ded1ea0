//! The control page: one user-writable frame that a vcore shares with the kernel.
//!
//! The kernel reaches it by its linear map, reads each word once, and believes none of it: a wrong word hurts only the
//! environment that wrote it. `TPIDRRO_EL0` holds its user address.

use crate::BATCH_ENTRIES;

/// General registers of a suspended program, with what stopped it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// `ESR_EL1`: why (0 for events and preemption).
    pub cause: u64,
    /// `FAR_EL1`: the address of an abort.
    pub address: u64,
    /// Where the program goes on.
    pub pc: u64,
    /// Its flags; the kernel takes NZCV, DIT, SSBS and BTYPE of it and nothing else.
    pub flags: u64,
    /// The events that an upcall delivers (taken from the pending ones); means something when `cause` is 0.
    pub events: u64,
    /// Free for the library.
    pub spare: u64,
    /// x0 to x30. For an upcall the kernel saves and restores x16 and x17 only; the rest is in the registers.
    pub x: [u64; 31],
    /// The stack pointer; not touched by upcalls.
    pub sp: u64,
    /// `TPIDR_EL0`; not touched by upcalls.
    pub thread: u64,
}

/// FP/SIMD registers of a chain that is not running.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FloatingPoint {
    /// q0 to q31, 16 bytes each.
    pub q: [u64; 64],
    /// `FPSR`.
    pub fpsr: u64,
    /// `FPCR`.
    pub fpcr: u64,
}

/// The whole page.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ControlPage {
    /// Where upcalls enter; 0: every fault stops the vcore.
    pub upcall_entry: u64,
    /// Not 0: upcalls are masked. Set by the kernel at each upcall, cleared by `resume`. A fault while it is set stops the vcore.
    pub masked: u64,
    /// Events that interrupt the running vcore by an upcall when they come.
    pub upcall_events: u64,
    /// A hint for schedulers of other environments; the kernel does not read it.
    pub hint: u64,
    /// Where a vcore that gave up the core in a call goes on.
    pub pc: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// x0 to x8 it finds then.
    pub result: [u64; 9],
    /// Keeps what follows on a 16-byte boundary.
    pub reserved: [u64; 3],
    /// The program an upcall interrupted.
    pub upcall: Frame,
    /// The program a slice end or an interrupt suspended.
    pub preempted: Frame,
    /// Keeps what follows on a 16-byte boundary.
    pub reserved_2: [u64; 2],
    /// FP/SIMD registers of the chain that this vcore began.
    pub fp: FloatingPoint,
    /// Arguments and results of batched calls.
    pub batch: [[u64; 2]; BATCH_ENTRIES as usize],
    /// Frames to take first when this environment loses some by force.
    pub sacrifice: [u64; 32],
    /// Frames lost by force, in all.
    pub lost: u64,
    /// The last frames lost by force: the frame lost as number `n` stands at `n % 64`.
    pub losses: [u64; 64],
    /// The library's own; the kernel never touches it.
    pub library: [u64; 112],
}

const _: () = assert!(core::mem::size_of::<ControlPage>() <= crate::PAGE_BYTES as usize);
const _: () = assert!(core::mem::offset_of!(ControlPage, upcall).is_multiple_of(16));
const _: () = assert!(core::mem::offset_of!(ControlPage, preempted).is_multiple_of(8));
const _: () = assert!(core::mem::offset_of!(ControlPage, fp).is_multiple_of(16));

/// Flag bits of `SPSR_EL1` that a program may have: NZCV, DIT, SSBS, BTYPE (Arm ARM C5.2.19). Everything else is 0: EL0t, nothing masked.
pub const FLAGS_ALLOWED: u64 = 0xF000_0000 | 1 << 24 | 1 << 12 | 0b11 << 10;
