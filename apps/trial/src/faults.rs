//! Faults on purpose: single instructions that fault, and the handler that sees them.

use core::arch::asm;
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

/// Registers with marks in them across an undefined instruction: what changed. 0: nothing.
pub fn changed_across_a_fault() -> u64 {
    let changed;
    // SAFETY: what is written is named; the instruction is skipped.
    unsafe {
        asm!(
            "mov x1, #11", "mov x2, #12", "mov x15, #25", "mov x16, #26", "mov x17, #27", "mov x20, #30", "mov x28, #38",
            "mov x0, #99", "fmov d3, x0", "fmov d20, x0", "mov x30, #40",
            "cmp xzr, xzr",
            "udf #1",
            "cset x0, ne",
            "sub x1, x1, #11", "sub x2, x2, #12", "sub x15, x15, #25", "sub x16, x16, #26", "sub x17, x17, #27",
            "sub x20, x20, #30", "sub x28, x28, #38", "sub x30, x30, #40",
            "orr x0, x0, x1", "orr x0, x0, x2", "orr x0, x0, x15", "orr x0, x0, x16", "orr x0, x0, x17", "orr x0, x0, x20", "orr x0, x0, x28",
            "orr x0, x0, x30",
            "fmov x1, d3", "sub x1, x1, #99", "orr x0, x0, x1", "fmov x1, d20", "sub x1, x1, #99", "orr x0, x0, x1",
            out("x0") changed, out("x1") _, out("x2") _, out("x15") _, out("x16") _, out("x17") _, out("x20") _, out("x28") _, out("x30") _,
            out("d3") _, out("d20") _, options(nostack),
        );
    }
    changed
}

/// A call with any registers, of those that the library's stubs would not make.
pub fn raw(call: exo_abi::Call, arguments: &[u64]) -> u64 {
    let mut x = [0; 11];
    x[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: made only where the kernel refuses.
    unsafe { sys::raw(call as u64 as u16, x)[0] }
}
