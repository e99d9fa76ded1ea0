//! System registers, barriers, TLB and cache maintenance: one function each, with the manual's reason.

use aarch64_cpu::registers::*;
use core::arch::asm;
use exo_abi::exposed::Features;

macro_rules! write_register {
    ($(#[$doc:meta])* $name:ident, $register:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(value: u64) {
            // SAFETY: it is the interrupted program's register, or takes effect at the next exception return only.
            unsafe { asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) }
        }
    };
}
macro_rules! read_register {
    ($(#[$doc:meta])* $name:ident, $register:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u64 {
            let value;
            // SAFETY: reading it has no effect.
            unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) }
            value
        }
    };
}

read_register!(
    #[doc = "Where the interrupted program goes on."]
    user_pc,
    "elr_el1"
);
read_register!(
    #[doc = "The interrupted program's stack pointer."]
    user_sp,
    "sp_el0"
);
read_register!(
    #[doc = "The running address space."]
    space,
    "ttbr0_el1"
);
write_register!(
    #[doc = "Where the next program goes on."]
    set_user_pc,
    "elr_el1"
);
write_register!(
    #[doc = "The next program's flags."]
    set_user_flags,
    "spsr_el1"
);
write_register!(
    #[doc = "The next program's stack pointer."]
    set_user_sp,
    "sp_el0"
);
write_register!(
    #[doc = "The next program's `TPIDR_EL0`."]
    set_user_thread,
    "tpidr_el0"
);
write_register!(
    #[doc = "What the next program finds itself by."]
    set_user_control,
    "tpidrro_el0"
);
write_register!(
    #[doc = "The next program's address space: ASID in 63:48. EL1 accesses nothing by TTBR0, so the exception return is the only synchronisation needed (Arm ARM D8.2.12, D1.4.4)."]
    set_space,
    "ttbr0_el1"
);
write_register!(
    #[doc = "When the virtual timer fires."]
    set_timer_value,
    "cntv_cval_el0"
);

/// Generic timer ticks. The ISB keeps the read from being done early (Arm ARM D12.2.1).
pub fn now() -> u64 {
    // SAFETY: a barrier has no effect but order.
    unsafe { asm!("isb", options(nomem, nostack, preserves_flags)) };
    CNTVCT_EL0.get()
}

/// Timer ticks a second.
pub fn timer_hz() -> u64 {
    CNTFRQ_EL0.get()
}

/// The address of this core's [`exo::slice::Core`].
#[inline(always)]
pub fn core_address() -> u64 {
    TPIDR_EL1.get()
}

/// This core's affinity, in the form of a redistributor's and IROUTER's fields.
pub fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// What this core has.
pub fn features() -> Features {
    let mut features = Features::empty();
    let (isar0, isar1, mmfr1, pfr1) = (id_isar0(), id_isar1(), id_mmfr1(), id_pfr1());
    let field = |register: u64, shift: u32| register >> shift & 0xf;
    features.set(Features::LSE, field(isar0, 20) >= 2);
    features.set(Features::PAN, field(mmfr1, 20) >= 1);
    features.set(Features::HARDWARE_ACCESSED, field(mmfr1, 0) >= 1);
    features.set(Features::HARDWARE_DIRTY, field(mmfr1, 0) >= 2);
    features.set(Features::BTI, field(pfr1, 0) >= 1);
    features.set(Features::PAC, isar1 >> 4 & 0xff != 0);
    features
}

read_register!(zva_identity, "dczid_el0");
read_register!(cache_type, "ctr_el0");
read_register!(id_isar0, "id_aa64isar0_el1");
read_register!(id_isar1, "id_aa64isar1_el1");
read_register!(id_mmfr1, "id_aa64mmfr1_el1");
read_register!(id_pfr1, "id_aa64pfr1_el1");

/// What the outlined atomics of compiler-builtins look at before each operation: not 0: FEAT_LSE is there.
#[unsafe(no_mangle)]
static __aarch64_have_lse_atomics: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// Sets this core up for EL0: what traps, what may be read, what `features` allow.
pub fn prepare(features: Features, core: u64) {
    TPIDR_EL1.set(core);
    CPACR_EL1.write(CPACR_EL1::FPEN::TrapEl0);
    // EL0 reads the virtual counter, and nothing else of the timer (Arm ARM D12.2.4).
    CNTKCTL_EL1.write(CNTKCTL_EL1::EL0VCTEN::SET);
    CNTV_CVAL_EL0.set(u64::MAX);
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
    // SAFETY: no debug or performance register is EL0's.
    unsafe {
        asm!("msr mdscr_el1, xzr", options(nomem, nostack, preserves_flags));
    }
    if features.contains(Features::LSE) {
        __aarch64_have_lse_atomics.store(1, core::sync::atomic::Ordering::Relaxed);
    }
    if features.contains(Features::PAN) {
        // SAFETY: FEAT_PAN: `msr pan, #1`. The kernel uses no address of EL0's.
        unsafe { asm!(".inst 0xd500419f", options(nomem, nostack, preserves_flags)) };
    }
    let mut tcr = TCR_EL1.get();
    tcr |= (features.contains(Features::HARDWARE_ACCESSED) as u64) << 39;
    tcr |= (features.contains(Features::HARDWARE_DIRTY) as u64) << 40;
    TCR_EL1.set(tcr);
    if features.contains(Features::PAC) {
        enable_pac();
    }
    synchronise();
}

/// Keys for EL0's pointer authentication: one set a boot, from what differs between boots. They keep an accident from going far; they are no secret between environments.
fn enable_pac() {
    let mut seed = CNTVCT_EL0.get() ^ CNTPCT_EL0.get().rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    macro_rules! key { ($($name:literal)*) => { $(
        // SAFETY: FEAT_PAuth is there; the kernel signs nothing.
        unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) next(), options(nomem, nostack, preserves_flags)) };
    )* } }
    // APIA, APIB, APDA, APDB, APGA: low and high halves.
    key!("S3_0_C2_C1_0" "S3_0_C2_C1_1" "S3_0_C2_C1_2" "S3_0_C2_C1_3" "S3_0_C2_C2_0" "S3_0_C2_C2_1" "S3_0_C2_C2_2" "S3_0_C2_C2_3" "S3_0_C2_C3_0" "S3_0_C2_C3_1");
    SCTLR_EL1.set(SCTLR_EL1.get() | 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13);
}

/// Register writes before this are seen by what follows.
pub fn synchronise() {
    // SAFETY: a barrier has no effect but order.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// Stores to descriptors before this are seen by all walkers (Arm ARM D8.2.6: a DSB between the store and a walk that must see it; ISHST covers stores only).
/// The exception return gives the context synchronisation.
#[inline(always)]
pub fn publish_descriptors() {
    // SAFETY: a barrier has no effect but order.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}

/// `TLBI VAE1IS`: all levels, this ASID, all cores of the inner shareable domain (Arm ARM D8.17). 44 bits of page number; 8-bit ASIDs.
#[inline(always)]
pub fn invalidate_page(asid: u64, va: u64) {
    let operand = asid << 48 | (va >> 12 & 0xfff_ffff_ffff);
    // SAFETY: dropping translations is always sound.
    unsafe { asm!("tlbi vae1is, {}", in(reg) operand, options(nostack, preserves_flags)) };
}

/// `TLBI ASIDE1IS`: everything non-global of an ASID, table entries included.
#[inline(always)]
pub fn invalidate_space(asid: u64) {
    // SAFETY: dropping translations is always sound.
    unsafe { asm!("tlbi aside1is, {}", in(reg) asid << 48, options(nostack, preserves_flags)) };
}

/// Waits until the invalidations are complete on all cores (Arm ARM D8.17.5: DSB ISH after TLBI), and this core has forgotten what it fetched by them.
#[inline(always)]
pub fn finish_invalidation() {
    // SAFETY: barriers have no effect but order.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Drops all translations of EL1 and EL0, on this core.
pub fn invalidate_all() {
    // SAFETY: dropping translations is always sound.
    unsafe { asm!("dsb nshst", "tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}

/// Bytes that one `DC ZVA` clears, 0 if it must not be used.
fn zva_bytes() -> u64 {
    let dczid = zva_identity();
    if dczid & 1 << 4 != 0 { 0 } else { 4 << (dczid & 0xf) }
}

/// Zeroes memory.
///
/// # Safety
/// The kernel owns `bytes` at `address`; both are multiples of 4096.
pub unsafe fn zero(address: u64, bytes: u64) {
    let step = zva_bytes();
    let end = address + bytes;
    let mut at = address;
    if step == 0 || step > 4096 {
        while at < end {
            // SAFETY: inside the caller's memory.
            unsafe {
                asm!("stp xzr, xzr, [{0}]", "stp xzr, xzr, [{0}, #16]", in(reg) at, options(nostack, preserves_flags))
            };
            at += 32;
        }
    } else {
        while at < end {
            // SAFETY: inside the caller's memory: a ZVA block divides a page.
            unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) };
            at += step;
        }
    }
}

/// Cleans a page's data cache lines to the point of unification (Arm ARM B2.4.4: DC CVAU, DSB, IC, DSB, ISB before new code is executed).
/// CTR_EL0.IDC says that this is not needed.
pub fn clean_code(address: u64) {
    let ctr = cache_type();
    if ctr & 1 << 28 != 0 {
        return;
    }
    let line = 4u64 << (ctr >> 16 & 0xf);
    let mut at = address;
    while at < address + 4096 {
        // SAFETY: cleaning a line is always sound.
        unsafe { asm!("dc cvau, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
}

/// All cores' instruction caches forget what they held: `IC IALLUIS` between DSBs.
pub fn invalidate_instructions() {
    // SAFETY: dropping cached instructions is always sound.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Sleeps until an interrupt is pending, masked or not. The DSB makes what was stored before visible to who wakes this core.
pub fn sleep() {
    // SAFETY: it only waits.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Whether EL0 may use FP/SIMD.
pub fn allow_fp(allow: Allow) {
    match allow {
        Allow::Yes => CPACR_EL1.write(CPACR_EL1::FPEN::TrapNothing),
        Allow::No => CPACR_EL1.write(CPACR_EL1::FPEN::TrapEl0),
    }
}

/// See [`allow_fp`].
pub enum Allow {
    /// Use does not trap.
    Yes,
    /// The next use traps.
    No,
}

/// Loads q0 to q31, FPSR and FPCR from a control page's `fp`.
///
/// # Safety
/// `address` is that of a [`exo_abi::control_page::FloatingPoint`].
pub unsafe fn load_fp(address: u64) {
    // SAFETY: the caller's promise. CPACR_EL1.FPEN = 0b01 lets EL1 use the registers; the kernel itself has none of its own in them.
    unsafe {
        asm!(
            ".arch_extension fp",
            "ldp q0, q1, [{0}]", "ldp q2, q3, [{0}, #32]", "ldp q4, q5, [{0}, #64]", "ldp q6, q7, [{0}, #96]",
            "ldp q8, q9, [{0}, #128]", "ldp q10, q11, [{0}, #160]", "ldp q12, q13, [{0}, #192]", "ldp q14, q15, [{0}, #224]",
            "ldp q16, q17, [{0}, #256]", "ldp q18, q19, [{0}, #288]", "ldp q20, q21, [{0}, #320]", "ldp q22, q23, [{0}, #352]",
            "ldp q24, q25, [{0}, #384]", "ldp q26, q27, [{0}, #416]", "ldp q28, q29, [{0}, #448]", "ldp q30, q31, [{0}, #480]",
            "ldr {1}, [{0}, #512]", "msr fpsr, {1}", "ldr {1}, [{0}, #520]", "msr fpcr, {1}",
            in(reg) address, out(reg) _, options(nostack, preserves_flags)
        );
    }
}

/// Stores q0 to q31, FPSR and FPCR to a control page's `fp`.
///
/// # Safety
/// `address` is that of a [`exo_abi::control_page::FloatingPoint`].
pub unsafe fn save_fp(address: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            ".arch_extension fp",
            "stp q0, q1, [{0}]", "stp q2, q3, [{0}, #32]", "stp q4, q5, [{0}, #64]", "stp q6, q7, [{0}, #96]",
            "stp q8, q9, [{0}, #128]", "stp q10, q11, [{0}, #160]", "stp q12, q13, [{0}, #192]", "stp q14, q15, [{0}, #224]",
            "stp q16, q17, [{0}, #256]", "stp q18, q19, [{0}, #288]", "stp q20, q21, [{0}, #320]", "stp q22, q23, [{0}, #352]",
            "stp q24, q25, [{0}, #384]", "stp q26, q27, [{0}, #416]", "stp q28, q29, [{0}, #448]", "stp q30, q31, [{0}, #480]",
            "mrs {1}, fpsr", "str {1}, [{0}, #512]", "mrs {1}, fpcr", "str {1}, [{0}, #520]",
            in(reg) address, out(reg) _, options(nostack, preserves_flags)
        );
    }
}
