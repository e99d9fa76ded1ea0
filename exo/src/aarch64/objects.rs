//! The machine as the decisions see it: kernel objects in frames, reached by the linear map.

use super::layout::{LINEAR, MAX_SPAN};
use super::registers::{self, execute, mrs};
use super::{cores, gic, power, uart};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use exo::environment::Environment;
use exo::machine::{Found, Line, Machine, Power, Tables, Words};
use exo::slice::Core;
use exo::vcore::{Vcore, VcoreRef};
use exo_abi::Pfn;
use exo_abi::control_page::ControlPage;
use exo_abi::exposed::MachineInfo;

/// Written once, by the first core, before anything reads it.
#[repr(transparent)]
pub struct Once<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: as the type says: it never changes while it is shared, but for atomics in it.
unsafe impl<T> Sync for Once<T> {}

/// What was found out.
pub static FOUND: Once<Found<'static>> = Once(UnsafeCell::new(MaybeUninit::zeroed()));
/// The kernel's tables.
pub static TABLES: Tables = Tables::at_boot();

/// Fixes what was found out.
pub fn set_up(found: Found<'static>) {
    // SAFETY: the first core, once, before `Arm` is used.
    unsafe { (*FOUND.0.get()).write(found) };
}

/// The machine.
pub struct Arm;

/// Kernel address of a frame of RAM.
pub fn address(pfn: Pfn) -> u64 {
    shifted::<12>(pfn.0)
}

/// Kernel address of a byte of RAM.
pub fn linear(physical: u64) -> u64 {
    shifted::<0>(physical)
}

/// Kernel address of a byte whose physical address is `number` << `SHIFT`. In assembly, so that the compiler takes it for any address:
/// it would compose that of each field anew, since it sees that an OR would do.
#[inline(always)]
fn shifted<const SHIFT: u32>(number: u64) -> u64 {
    const BITS: u32 = MAX_SPAN.trailing_zeros();
    let address;
    // SAFETY: two operations on numbers.
    unsafe {
        asm!("ubfiz {0}, {1}, #{2}, #{3}", "orr {0}, {0}, #{4}", out(reg) address, in(reg) number, const SHIFT, const BITS - SHIFT,
            const LINEAR, options(pure, nomem, nostack, preserves_flags))
    };
    address
}

/// Zeroes pages of boot memory.
pub fn zero(physical: u64, bytes: u64) {
    // SAFETY: boot memory: mapped by the linear map, used for nothing else, for ever.
    unsafe { registers::zero(linear(physical), bytes) };
}

/// Words of boot memory at a physical address.
pub fn boot_words(physical: u64, count: u64) -> &'static [AtomicU64] {
    // SAFETY: as for `zero`, which came before.
    unsafe { core::slice::from_raw_parts(linear(physical) as *const AtomicU64, count as usize) }
}

/// Writes the machine information page.
pub fn write_info(pfn: Pfn, info: MachineInfo) {
    // SAFETY: boot memory that nothing else writes; readers come later.
    unsafe { (address(pfn) as *mut MachineInfo).write(info) };
}

impl Machine for Arm {
    fn tables(&self) -> &Tables {
        &TABLES
    }
    fn found(&self) -> &Found<'_> {
        // SAFETY: written before the first use.
        unsafe { (*FOUND.0.get()).assume_init_ref() }
    }
    #[inline(always)]
    fn words(&self, pfn: Pfn) -> &Words {
        // SAFETY: the caller has seen that it is RAM, so the linear map has it; words are atomics, so that whoever else writes them is no data race.
        unsafe { &*(address(pfn) as *const Words) }
    }
    #[inline(always)]
    fn environment(&self, pfn: Pfn) -> &Environment {
        // SAFETY: as for `words`; a frame of kind environment holds nothing else, and is freed only when every core has left the kernel since it became unreachable.
        unsafe { &*(address(pfn) as *const Environment) }
    }
    #[inline(always)]
    fn environment_of(&self, vcore: VcoreRef) -> &Environment {
        // SAFETY: as for `environment`, in whose frame its vcores lie.
        unsafe { &*((vcore.0 & !0xfff) as *const Environment) }
    }
    #[inline(always)]
    fn vcore(&self, vcore: VcoreRef) -> &Vcore {
        // SAFETY: as for `environment`: the reference is the address of a vcore in one.
        unsafe { &*(vcore.0 as *const Vcore) }
    }
    #[inline(always)]
    fn control_page(&self, vcore: &Vcore) -> &Words {
        // SAFETY: the address of a frame of kind control, by the linear map.
        unsafe { &*(vcore.control.load(Relaxed) as *const Words) }
    }
    #[inline(always)]
    fn core(&self) -> &Core {
        let address: u64;
        // SAFETY: reads a register that never changes while the core runs.
        unsafe { asm!("mrs {}, tpidr_el1", out(reg) address, options(pure, nomem, nostack, preserves_flags)) };
        // SAFETY: TPIDR_EL1 holds the address of this core's structure since it was set up.
        unsafe { &*(address as *const Core) }
    }
    fn core_at(&self, id: u64) -> Option<&Core> {
        cores::by_id(id).map(|own| &own.core)
    }
    fn now(&self) -> u64 {
        registers::now()
    }
    fn user_pc(&self) -> u64 {
        mrs!("elr_el1")
    }
    fn user_sp(&self) -> u64 {
        mrs!("sp_el0")
    }
    fn set_timer(&self, at: u64) {
        execute!("msr cntv_cval_el0, {}", at);
    }
    #[inline(always)]
    fn exchange(&self, word: &AtomicU64, old: u64, new: u64) -> Result<(), u64> {
        let seen: u64;
        // SAFETY: a compare-and-swap of a word that is borrowed, by LSE where every core has it.
        unsafe {
            asm!(
                ".arch_extension lse",
                "adrp {flag}, {lse}",
                "ldrb {flag:w}, [{flag}, :lo12:{lse}]",
                "cbnz {flag:w}, 3f",
                "2: ldaxr {seen}, [{word}]",
                "cmp {seen}, {old}",
                "b.ne 4f",
                "stlxr {flag:w}, {new}, [{word}]",
                "cbnz {flag:w}, 2b",
                "b 4f",
                "3: mov {seen}, {old}",
                "casal {seen}, {new}, [{word}]",
                "4:",
                lse = sym registers::__aarch64_have_lse_atomics, word = in(reg) word, old = in(reg) old, new = in(reg) new,
                seen = out(reg) seen, flag = out(reg) _, options(nostack)
            )
        };
        if seen == old { Ok(()) } else { Err(seen) }
    }
    #[inline(always)]
    fn add(&self, word: &AtomicU64, value: u64) {
        // SAFETY: changes a word that is borrowed. Whom an exclusive fails had a neighbour that got through.
        unsafe {
            asm!("2: ldxr {0}, [{2}]", "add {0}, {0}, {3}", "stlxr {1:w}, {0}, [{2}]", "cbnz {1:w}, 2b", out(reg) _, out(reg) _,
                in(reg) word, in(reg) value, options(nostack, preserves_flags))
        };
    }
    fn zero(&self, pfn: Pfn) {
        // SAFETY: the caller has made the frame busy: nobody else has it.
        unsafe { registers::zero(address(pfn), 4096) };
    }
    #[inline(always)]
    fn publish_descriptors(&self) {
        // Stores to descriptors before this are seen by all walkers (Arm ARM, "TLB maintenance requirements": a DSB between the store and a walk that must see it;
        // ISHST covers stores only). For EL0 the exception return gives the context synchronisation.
        execute!("dsb ishst");
    }
    #[inline(always)]
    fn invalidate_page(&self, asid: u64, va: u64) {
        // All levels, this ASID, all cores of the inner shareable domain (Arm ARM D8.17). 44 bits of page number; 8-bit ASIDs.
        execute!("tlbi vae1is, {}", asid << 48 | (va >> 12 & 0xfff_ffff_ffff));
    }
    fn invalidate_space(&self, asid: u64) {
        // Everything non-global of an ASID, table entries included.
        execute!("tlbi aside1is, {}", asid << 48);
    }
    #[inline(always)]
    fn finish_invalidation(&self) {
        // DSB ISH after TLBI (Arm ARM D8.17.5); the ISB makes this core forget what it fetched by them.
        execute!("dsb ish; isb");
    }
    fn clean_code(&self, pfn: Pfn) {
        registers::clean_code(address(pfn));
    }
    fn invalidate_instructions(&self) {
        execute!("dsb ish; ic ialluis; dsb ish; isb");
    }
    fn reset_uart(&self) {
        uart::reset();
    }
    fn write_uart(&self, bytes: &[u8]) {
        uart::put(bytes);
    }
    #[inline(always)]
    fn set_line(&self, line: u64, to: Line) {
        gic::set_line(line, to);
    }
    fn interrupt_core(&self, id: u64) {
        if let Some(other) = cores::by_id(id) {
            gic::send(other);
        }
    }
    fn load_fp(&self, control: Pfn) {
        // SAFETY: the frame is a control page.
        unsafe { registers::load_fp(address(control) + FP) };
    }
    fn save_fp(&self, control: Pfn) {
        // SAFETY: the frame is a control page.
        unsafe { registers::save_fp(address(control) + FP) };
        registers::trap_fp();
    }
    fn drop_fp(&self) {
        registers::trap_fp();
    }
    fn power(&self, what: Power) {
        power::switch(what)
    }
}

const FP: u64 = core::mem::offset_of!(ControlPage, fp) as u64;
