//! Faults on purpose: single instructions that fault, and the handler that sees them.

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use exo_abi::page::MapEntry;
use exo_abi::{Handle, PAGE_BYTES};
use libos::sys;
use libos::upcall::{self, Frame, Resume};

/// What the handler does with the next fault.
mod plan {
    /// It is nobody's.
    pub const NONE: u64 = 0;
    /// The instruction is skipped.
    pub const SKIP: u64 = 1;
    /// The page is marked as `MARK` says.
    pub const MARK: u64 = 2;
    /// `MAPPING` is applied on the way back.
    pub const MAP: u64 = 3;
}

static PLAN: AtomicU64 = AtomicU64::new(plan::NONE);
static CAUSE: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);
static ENTRY: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Exception class of `svc` (Arm ARM D24.2.37).
pub const CLASS_SVC: u64 = 0x15;
/// Of an instruction that is undefined.
pub const CLASS_UNKNOWN: u64 = 0;
/// Of a data abort from EL0.
pub const CLASS_DATA_ABORT: u64 = 0x24;

/// A fault that was seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Faults since the plan was made.
    pub count: u64,
    /// ESR_EL1 of the last.
    pub cause: u64,
    /// FAR_EL1 of the last.
    pub address: u64,
}

impl Seen {
    /// The exception class.
    pub fn class(&self) -> u64 {
        self.cause >> 26 & 0x3f
    }

    /// The fault status of an abort.
    pub fn status(&self) -> u64 {
        self.cause & 0x3f
    }
}

/// From here on faults that no region answers come here.
pub fn begin() {
    upcall::on_fault(handler);
}

fn handler(frame: &mut Frame) -> Resume {
    CAUSE.store(frame.cause, Relaxed);
    ADDRESS.store(frame.address, Relaxed);
    COUNT.fetch_add(1, Relaxed);
    let entry = MapEntry { first: ENTRY[0].load(Relaxed), second: ENTRY[1].load(Relaxed) };
    match PLAN.load(Relaxed) {
        plan::SKIP => {
            // A system call goes on behind itself as it is.
            if frame.cause >> 26 & 0x3f != CLASS_SVC {
                frame.pc += 4;
            }
            Resume::Continue
        }
        plan::MARK if COUNT.load(Relaxed) < 4 => {
            // SAFETY: accessed and dirty of a page that is mapped; what it holds does not change.
            match unsafe { sys::map(Handle::SELF, &[entry]) } {
                Ok(_) => Resume::Continue,
                Err(_) => Resume::NotMine,
            }
        }
        plan::MAP => Resume::Mapping(entry),
        _ => Resume::NotMine,
    }
}

fn with(what: u64, entry: MapEntry, act: impl FnOnce()) -> Seen {
    COUNT.store(0, Relaxed);
    CAUSE.store(0, Relaxed);
    ADDRESS.store(0, Relaxed);
    ENTRY[0].store(entry.first, Relaxed);
    ENTRY[1].store(entry.second, Relaxed);
    PLAN.store(what, Relaxed);
    act();
    PLAN.store(plan::NONE, Relaxed);
    Seen { count: COUNT.load(Relaxed), cause: CAUSE.load(Relaxed), address: ADDRESS.load(Relaxed) }
}

/// Faults in `act` are skipped.
pub fn skipping(act: impl FnOnce()) -> Seen {
    with(plan::SKIP, MapEntry { first: 0, second: 0 }, act)
}

/// Faults in `act` mark a page as this entry says, until it goes through.
pub fn marking(entry: MapEntry, act: impl FnOnce()) -> Seen {
    with(plan::MARK, entry, act)
}

/// A fault in `act` is answered by a mapping, applied by `resume`.
pub fn mapping(entry: MapEntry, act: impl FnOnce()) -> Seen {
    with(plan::MAP, entry, act)
}

/// Changes this program's own tables where the library has nothing.
pub fn map_own(entries: &[MapEntry]) -> Result<u64, sys::Stopped> {
    debug_assert!(entries.iter().all(|entry| entry.first >= FREE_VA && entry.first < FREE_VA + (1 << 30)));
    // SAFETY: the library's layout ends far below; nothing of Rust's lies there.
    unsafe { sys::map(Handle::SELF, entries) }
}

/// Address space that the library leaves alone: above its mappings and the files.
pub const FREE_VA: u64 = 0x60_0000_0000;
/// A page of it that the tests use.
pub const FREE_PAGE: u64 = FREE_VA + PAGE_BYTES;

/// Loads a word from an address, which may fault; answers what is in the register then.
pub fn load(address: u64) -> u64 {
    let value;
    // SAFETY: a load changes nothing; when it is skipped the register keeps what it held.
    unsafe {
        asm!("ldr {value}, [{address}]", address = in(reg) address, value = inout(reg) 0u64 => value, options(nostack))
    }
    value
}

/// Stores a word to an address of [`FREE_VA`]'s pages, which may fault.
pub fn store(address: u64, value: u64) {
    debug_assert!(address >= FREE_VA);
    // SAFETY: nothing of Rust's lies there.
    unsafe { asm!("str {value}, [{address}]", address = in(reg) address, value = in(reg) value, options(nostack)) }
}

/// Stores to a page that cannot be written: it must fault.
pub fn store_readonly(address: u64) {
    // SAFETY: the callers name a page that is mapped read-only, and of no Rust object.
    unsafe { asm!("str xzr, [{address}]", address = in(reg) address, options(nostack)) }
}

/// `svc #0` with marks in registers; answers with what is in them afterwards.
pub fn svc_0(x0: u64, x8: u64) -> (u64, u64) {
    let (mut a, mut b) = (x0, x8);
    // SAFETY: it is an upcall, which keeps every register.
    unsafe { asm!("svc #0", inout("x0") a, inout("x8") b, options(nostack)) }
    (a, b)
}

/// An undefined instruction.
pub fn undefined() {
    // SAFETY: it is skipped.
    unsafe { asm!("udf #7", options(nostack)) }
}

/// A load-exclusive that is not aligned, of this very stack.
pub fn misaligned() {
    let words = [0u64; 4];
    let address = words.as_ptr() as u64 + 1;
    // SAFETY: a load; it is skipped.
    unsafe {
        asm!("ldxr {value}, [{address}]", "clrex", address = in(reg) address, value = out(reg) _, options(nostack))
    }
}

/// Every register of a program.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// x0 to x30.
    pub x: [u64; 31],
    /// N, Z, C, V.
    pub flags: u64,
    /// FPCR.
    pub fpcr: u64,
    /// FPSR.
    pub fpsr: u64,
    /// sp before and after, for who compares.
    sp: [u64; 2],
    /// q0 to q31, 16 bytes each.
    pub q: [u64; 64],
}

/// The register that holds the address that [`load_with_marks`] loads from.
pub const ADDRESS_REGISTER: usize = 5;

global_asm!(
    // x0: the registers to begin with, x1: where to put those at the end.
    ".pushsection .text.trial_marks, \"ax\", %progbits",
    ".macro trial_x op",
    ".irp pair, \"0, 1\", \"2, 3\", \"4, 5\", \"6, 7\", \"8, 9\", \"10, 11\", \"12, 13\", \"14, 15\", \"16, 17\", \"18, 19\", \"20, 21\", \"22, 23\", \"24, 25\", \"26, 27\", \"28, 29\"",
    "trial_x_pair \\op, \\pair",
    ".endr",
    ".endm",
    ".macro trial_x_pair op, first, second",
    "\\op x\\first, x\\second, [x30, #(8 * \\first)]",
    ".endm",
    ".macro trial_q op",
    ".irp pair, \"0, 1\", \"2, 3\", \"4, 5\", \"6, 7\", \"8, 9\", \"10, 11\", \"12, 13\", \"14, 15\", \"16, 17\", \"18, 19\", \"20, 21\", \"22, 23\", \"24, 25\", \"26, 27\", \"28, 29\", \"30, 31\"",
    "trial_q_pair \\op, \\pair",
    ".endr",
    ".endm",
    ".macro trial_q_pair op, first, second",
    "\\op q\\first, q\\second, [x30, #({q} + 16 * \\first)]",
    ".endm",
    "trial_marks:",
    "stp x29, x30, [sp, #-192]!",
    "stp x19, x20, [sp, #16]",
    "stp x21, x22, [sp, #32]",
    "stp x23, x24, [sp, #48]",
    "stp x25, x26, [sp, #64]",
    "stp x27, x28, [sp, #80]",
    "stp d8, d9, [sp, #96]",
    "stp d10, d11, [sp, #112]",
    "stp d12, d13, [sp, #128]",
    "stp d14, d15, [sp, #144]",
    "str x1, [sp, #160]",
    "mov x2, sp",
    "str x2, [x1, #{sp}]",
    "mov x30, x0",
    "trial_q ldp",
    "ldr x2, [x30, #{fpcr}]",
    "msr fpcr, x2",
    "ldr x2, [x30, #{fpsr}]",
    "msr fpsr, x2",
    "ldr x2, [x30, #{flags}]",
    "msr nzcv, x2",
    "trial_x ldp",
    "ldr x30, [x30, #240]",
    "ldr xzr, [x{address}]",
    "str x30, [sp, #168]",
    "ldr x30, [sp, #160]",
    "trial_x stp",
    "trial_q stp",
    "ldr x0, [sp, #168]",
    "str x0, [x30, #240]",
    "mrs x0, nzcv",
    "str x0, [x30, #{flags}]",
    "mrs x0, fpsr",
    "str x0, [x30, #{fpsr}]",
    "mrs x0, fpcr",
    "str x0, [x30, #{fpcr}]",
    "mov x0, sp",
    "str x0, [x30, #{sp} + 8]",
    "msr fpcr, xzr",
    "ldp d14, d15, [sp, #144]",
    "ldp d12, d13, [sp, #128]",
    "ldp d10, d11, [sp, #112]",
    "ldp d8, d9, [sp, #96]",
    "ldp x27, x28, [sp, #80]",
    "ldp x25, x26, [sp, #64]",
    "ldp x23, x24, [sp, #48]",
    "ldp x21, x22, [sp, #32]",
    "ldp x19, x20, [sp, #16]",
    "ldp x29, x30, [sp], #192",
    "ret",
    ".popsection",
    flags = const offset_of!(Registers, flags),
    fpcr = const offset_of!(Registers, fpcr),
    fpsr = const offset_of!(Registers, fpsr),
    sp = const offset_of!(Registers, sp),
    q = const offset_of!(Registers, q),
    address = const ADDRESS_REGISTER,
);

unsafe extern "C" {
    safe fn trial_marks(before: &Registers, after: &mut Registers);
}

impl Registers {
    /// What [`Registers::marked`] puts in x2.
    pub const MARK_OF_X2: u64 = 3 * 0x0101_0101_0101_0101;

    /// A mark in each, another in each; rounding towards zero if `rounds`.
    pub fn marked(rounds: bool) -> Registers {
        let mark = |n: usize| (n as u64 + 1) * 0x0101_0101_0101_0101;
        Registers {
            x: core::array::from_fn(mark),
            flags: 0b1010 << 28,
            fpcr: if rounds { 0b11 << 22 } else { 0 },
            fpsr: 0b01010,
            sp: [0; 2],
            q: core::array::from_fn(|n| !mark(n)),
        }
    }

    /// The same but for sp, which a program has only one of.
    pub fn same_as(&self, other: &Registers) -> bool {
        Registers { sp: [0; 2], ..*self } == Registers { sp: [0; 2], ..*other }
    }
}

/// Loads from the address in x5, which may fault, with these values in every register; answers with the values there are then.
/// `None`: sp is another.
pub fn load_with_marks(before: &Registers) -> Option<Registers> {
    let mut after = Registers::marked(false);
    trial_marks(before, &mut after);
    (after.sp[0] == after.sp[1]).then_some(after)
}

/// Inverts flags and registers of an interrupted program, each for itself: the compiler would take two at once in a vector.
#[inline(always)]
pub fn invert<const N: usize>(frame: &mut Frame, registers: [usize; N]) {
    frame.flags ^= 0xf << 28;
    for n in registers {
        let at = &raw mut frame.x[n];
        // SAFETY: a field of the frame.
        unsafe { at.write_volatile(!at.read_volatile()) };
    }
}

/// Writes registers that a function may write: general ones that no light handler has, x18 among them, vectors, FPSR.
pub fn spoil_registers() {
    // SAFETY: what is written is named; FPSR counts as lost in a function.
    unsafe {
        asm!(
            "mov x2, #0", "mov x7, #0", "mov x12, #0", "mov x15, #0", "mov x16, #0", "mov x17, #0", "mov x18, #0",
            "movi v0.2d, #0", "movi v1.2d, #0", "movi v7.2d, #0", "movi v16.2d, #0", "movi v23.2d, #0", "movi v31.2d, #0",
            "mvni v8.4s, #0", "mvni v15.4s, #0", "mov x3, #0x1f", "msr fpsr, x3",
            out("x2") _, out("x3") _, out("x7") _, out("x12") _, out("x15") _, out("x16") _, out("x17") _, out("x18") _,
            out("v0") _, out("v1") _, out("v7") _, out("v8") _, out("v15") _, out("v16") _, out("v23") _, out("v31") _,
            options(nostack),
        )
    }
}

/// Gives the kernel a batch of five entries, of which the last lies at [`FREE_PAGE`], which is not mapped: the library's copy faults in its middle.
pub fn map_from_free_page() -> Result<u64, sys::Stopped> {
    // SAFETY: the caller has mapped zeros before it, and whoever answers the fault maps zeros there; the kernel applies no such entry.
    unsafe {
        let entries = core::slice::from_raw_parts((FREE_PAGE as *const MapEntry).sub(4), 5);
        sys::map(Handle::SELF, entries)
    }
}

/// A call with any registers, of those that the library's stubs would not make.
pub fn raw(call: exo_abi::Call, arguments: &[u64]) -> u64 {
    let mut x = [0; 11];
    x[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: made only where the kernel refuses.
    unsafe { sys::raw(call as u64 as u16, x)[0] }
}
