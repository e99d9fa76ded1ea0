//! System registers, barriers, TLB and cache maintenance: what more than one file needs, with the manual's reason.

use aarch64_cpu::registers::*;
use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use exo_abi::exposed::Features;

/// Reads a system register.
macro_rules! mrs {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reading the registers that the kernel names has no effect.
        unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) }
        value
    }};
}

/// Executes instructions with one number, or none: register writes that take effect at the next exception return or change no mapping
/// of the kernel's, barriers, and maintenance of TLBs and caches.
macro_rules! execute {
    ($instructions:expr $(, $value:expr)?) => {
        // SAFETY: as above: none of these touches memory or registers of Rust's.
        unsafe { asm!($instructions, $(in(reg) $value,)? options(nostack, preserves_flags)) }
    };
}

/// Executes a cache instruction for each `step` bytes (a power of two, at most [`MAX_STEP`]) of whole pages.
macro_rules! for_lines {
    ($instruction:literal, $address:expr, $bytes:expr, $step:expr) => {
        asm!(
            "2:",
            ".rept 4",
            concat!($instruction, ", {at}"),
            "add {at}, {at}, {step}",
            ".endr",
            "cmp {at}, {end}",
            "b.lo 2b",
            at = inout(reg) $address => _, end = in(reg) $address + $bytes, step = in(reg) $step, options(nostack)
        )
    };
}
pub(super) use {execute, mrs};

const PAGE: u64 = 4096;
/// Four of these are a page.
const MAX_STEP: u64 = PAGE / 4;

/// A field of an identification register (Arm ARM, AArch64 System Register Descriptions): four bits.
fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}

/// Generic timer ticks. The ISB keeps the read from being done early (Arm ARM, "The Generic Timer").
pub fn now() -> u64 {
    execute!("isb");
    CNTVCT_EL0.get()
}

/// Timer ticks a second.
pub fn timer_hz() -> u64 {
    CNTFRQ_EL0.get()
}

/// This core's affinity, in the form of a redistributor's and IROUTER's fields.
pub fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// What the outlined atomics of compiler-builtins look at before each operation: not 0: FEAT_LSE is there.
#[unsafe(no_mangle)]
pub static __aarch64_have_lse_atomics: AtomicU8 = AtomicU8::new(0);

/// What this core can.
pub fn features() -> Features {
    let (mmfr1, pfr1) = (mrs!("id_aa64mmfr1_el1"), mrs!("id_aa64pfr1_el1"));
    let mut features = Features::empty();
    features.set(Features::LSE, field(mrs!("id_aa64isar0_el1"), 20) >= 2);
    features.set(Features::PAN, field(mmfr1, 20) >= 1);
    features.set(Features::HARDWARE_ACCESSED, field(mmfr1, 0) >= 1);
    features.set(Features::HARDWARE_DIRTY, field(mmfr1, 0) >= 2);
    features.set(Features::BTI, field(pfr1, 0) >= 1);
    features.set(Features::PAC, mrs!("id_aa64isar1_el1") >> 4 & 0xff != 0);
    features
}

/// Sets this core up for EL0: what traps, what may be read, and what every core can; `seed` is the same on all of them.
pub fn prepare(features: Features, seed: u64) {
    trap_fp();
    // EL0 reads the virtual counter, and nothing else of the timer (Arm ARM, CNTKCTL_EL1).
    CNTKCTL_EL1.write(CNTKCTL_EL1::EL0VCTEN::SET);
    // No debug exceptions, and the debug channel (TDCC), the performance and the activity monitors are not EL0's. Reset says nothing about any of these.
    execute!("msr mdscr_el1, {}", 1u64 << 12);
    if !matches!(field(mrs!("id_aa64dfr0_el1"), 8), 0 | 0xf) {
        execute!("msr pmuserenr_el0, xzr");
    }
    if field(mrs!("id_aa64pfr0_el1"), 44) != 0 {
        execute!("msr S3_3_C13_C2_3, xzr"); // AMUSERENR_EL0
    }
    __aarch64_have_lse_atomics.store(features.contains(Features::LSE).into(), Relaxed);
    if features.contains(Features::PAN) {
        execute!(".inst 0xd500419f"); // msr pan, #1: the kernel uses no address of EL0's
    }
    // HA and HD: a page that one core marks all must treat alike.
    let has = |feature| u64::from(features.contains(feature));
    TCR_EL1.set(TCR_EL1.get() | has(Features::HARDWARE_ACCESSED) << 39 | has(Features::HARDWARE_DIRTY) << 40);
    if features.contains(Features::PAC) {
        enable_pac(seed);
    }
    execute!("isb");
}

/// This core's timer interrupts it from now on, when it is set.
pub fn begin_timer() {
    set_timer(u64::MAX);
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
}

/// The timer interrupts this core when it passes `at`.
pub fn set_timer(at: u64) {
    CNTV_CVAL_EL0.set(at);
}

/// What differs between boots.
pub fn seed() -> u64 {
    CNTVCT_EL0.get() ^ CNTPCT_EL0.get().rotate_left(32)
}

/// Keys for EL0's pointer authentication: one set a boot, from what differs between boots. They keep an accident from going far; they are no secret between environments.
fn enable_pac(mut seed: u64) {
    let mut next = || {
        seed = (seed ^ seed >> 29 ^ 1 << 63).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        seed
    };
    macro_rules! keys {
        ($($half:literal)*) => { $(execute!(concat!("msr S3_0_C2_", $half, ", {}"), next());)* };
    }
    // APIA, APIB, APDA, APDB, APGA: low and high halves. The kernel itself signs nothing.
    keys!("C1_0" "C1_1" "C1_2" "C1_3" "C2_0" "C2_1" "C2_2" "C2_3" "C3_0" "C3_1");
    SCTLR_EL1.set(SCTLR_EL1.get() | 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13);
}

/// Drops all translations of EL1 and EL0, on every core.
pub fn invalidate_all() {
    execute!("dsb ishst; tlbi vmalle1is; dsb ish; isb");
}

/// Zeroes memory.
///
/// # Safety
/// The kernel owns `bytes` at `address`; both are multiples of 4096, and there are some.
#[inline(never)]
pub unsafe fn zero(address: u64, bytes: u64) {
    let identity = mrs!("dczid_el0");
    let step = 4 << (identity & 0xf);
    // SAFETY: inside the caller's memory; a block of DC ZVA divides a page.
    unsafe {
        if identity & 1 << 4 != 0 || step > MAX_STEP {
            core::ptr::write_bytes(address as *mut u8, 0, bytes as usize);
        } else {
            for_lines!("dc zva", address, bytes, step);
        }
    }
}

/// Cleans a page's data cache lines to the point of unification (Arm ARM, "Synchronization and coherency issues between data and instruction accesses": DC CVAU, DSB, IC, DSB, ISB before new code is executed).
/// CTR_EL0.IDC says that this is not needed.
pub fn clean_code(address: u64) {
    let identity = mrs!("ctr_el0");
    let step = (4 << field(identity, 16)).min(MAX_STEP);
    if identity & 1 << 28 == 0 {
        // SAFETY: cleaning a line is always sound.
        unsafe { for_lines!("dc cvau", address, PAGE, step) };
    }
}

/// Sleeps until an interrupt is pending, masked or not. The DSB makes what was stored before visible to who wakes this core.
pub fn sleep() {
    execute!("dsb sy; wfi");
}

/// EL0's next use of FP/SIMD traps.
pub fn trap_fp() {
    CPACR_EL1.write(CPACR_EL1::FPEN::TrapEl0);
}

/// Moves q0 to q31, then FPSR and FPCR, between the registers and a control page's `fp`. CPACR_EL1.FPEN lets EL1 use the registers at any time;
/// the kernel itself has nothing of its own in them.
macro_rules! move_fp {
    ($address:expr, $pair:literal, $($word:literal),*) => {
        asm!(
            ".arch_extension fp",
            concat!(".irp pair, \"0, q1\", \"2, q3\", \"4, q5\", \"6, q7\", \"8, q9\", \"10, q11\", \"12, q13\", \"14, q15\"",
            ", \"16, q17\", \"18, q19\", \"20, q21\", \"22, q23\", \"24, q25\", \"26, q27\", \"28, q29\", \"30, q31\""),
            concat!($pair, " q\\pair, [{0}], #32"),
            ".endr",
            $($word),*,
            inout(reg) $address => _, out(reg) _, options(nostack, preserves_flags)
        )
    };
}

/// Loads FP/SIMD registers, which EL0 may use then.
///
/// # Safety
/// `address` is that of a [`exo_abi::control_page::FloatingPoint`].
pub unsafe fn load_fp(address: u64) {
    CPACR_EL1.write(CPACR_EL1::FPEN::TrapNothing);
    // SAFETY: the caller's promise.
    unsafe { move_fp!(address, "ldp", "ldr {1}, [{0}]", "msr fpsr, {1}", "ldr {1}, [{0}, #8]", "msr fpcr, {1}") }
}

/// Stores FP/SIMD registers.
///
/// # Safety
/// `address` is that of a [`exo_abi::control_page::FloatingPoint`].
pub unsafe fn save_fp(address: u64) {
    // SAFETY: the caller's promise.
    unsafe { move_fp!(address, "stp", "mrs {1}, fpsr", "str {1}, [{0}]", "mrs {1}, fpcr", "str {1}, [{0}, #8]") }
}
