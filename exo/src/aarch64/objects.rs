//! The machine as the decisions see it: kernel objects in frames, reached by the linear map.

use super::layout::LINEAR;
use super::registers::{self, Allow};
use super::{gic, power, uart};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::{List, Range};
use exo::environment::Environment;
use exo::frame::Frames;
use exo::machine::{Machine, Power, Tables, Trigger, Words};
use exo::slice::Core;
use exo::vcore::{Vcore, VcoreRef};
use exo_abi::Pfn;
use exo_abi::control_page::ControlPage;
use exo_abi::exposed::{Features, MachineInfo};

/// What is found out once, while booting.
pub struct Globals {
    /// The frames' words and the bitmap.
    pub frames: Frames<'static>,
    /// The interrupt lines' words.
    pub lines: &'static [AtomicU64],
    /// Kernel address of physical address 0, if it were RAM.
    pub offset: u64,
    /// Timer ticks a second.
    pub hz: u64,
    /// The debug UART.
    pub uart: Option<Pfn>,
    /// The kernel's own devices.
    pub devices: List<Range, 16>,
    /// What every core has.
    pub features: Features,
}

struct Once(UnsafeCell<Globals>);

// SAFETY: written on the first core before anything reads it, and never again.
unsafe impl Sync for Once {}

static GLOBALS: Once = Once(UnsafeCell::new(Globals {
    frames: Frames { first: 0, words: &[], bitmap: &[] },
    lines: &[],
    offset: 0,
    hz: 1,
    uart: None,
    devices: List::empty(Range { start: 0, bytes: 0 }),
    features: Features::empty(),
}));
static TABLES: Tables = Tables::new();
static UART_OWNER: AtomicU64 = AtomicU64::new(0);

/// The first core's structure.
#[repr(transparent)]
struct FirstCore(UnsafeCell<core::mem::MaybeUninit<Core>>);

// SAFETY: written once by `set_up` before it is read; its fields are atomics.
unsafe impl Sync for FirstCore {}

#[unsafe(link_section = ".percore")]
static FIRST_CORE: FirstCore = FirstCore(UnsafeCell::new(core::mem::MaybeUninit::uninit()));

/// Fixes what was found out, and the first core's structure, whose address it answers.
pub fn set_up(globals: Globals, core: Core) -> u64 {
    // SAFETY: the first core, once, before `Arm` is used.
    unsafe {
        GLOBALS.0.get().write(globals);
        (*FIRST_CORE.0.get()).write(core);
    }
    FIRST_CORE.0.get() as u64
}

fn globals() -> &'static Globals {
    // SAFETY: written before the first use, never after.
    unsafe { &*GLOBALS.0.get() }
}

/// The machine.
pub struct Arm;

/// Kernel address of a frame of RAM.
pub fn address(pfn: Pfn) -> u64 {
    pfn.address().wrapping_add(globals().offset)
}

/// `count` zeroed words of boot memory at a physical address.
pub fn boot_words(physical: u64, count: u64, base: u64) -> &'static [AtomicU64] {
    let at = physical.wrapping_sub(base).wrapping_add(LINEAR);
    // SAFETY: boot memory: mapped by the linear map, used for nothing else, for ever.
    unsafe {
        registers::zero(at, (count * 8).next_multiple_of(4096));
        core::slice::from_raw_parts(at as *const AtomicU64, count as usize)
    }
}

/// `count` words of boot memory behind others, zeroed with them.
pub fn more_boot_words(physical: u64, count: u64, base: u64) -> &'static [AtomicU64] {
    let at = physical.wrapping_sub(base).wrapping_add(LINEAR);
    // SAFETY: as for `boot_words`; the last page of those before was zeroed with them, the rest is zeroed here.
    unsafe {
        let page = at.next_multiple_of(4096);
        registers::zero(page, (at + count * 8).next_multiple_of(4096) - page);
        core::slice::from_raw_parts(at as *const AtomicU64, count as usize)
    }
}

/// A control page's words; the page is pinned while its vcore lives.
pub fn control_words(pfn: Pfn) -> &'static Words {
    // SAFETY: as for `words` of [`Arm`]; the linear map is for ever.
    unsafe { &*(address(pfn) as *const Words) }
}

/// Writes the machine information page.
pub fn write_info(pfn: Pfn, info: &MachineInfo) {
    // SAFETY: boot memory that nothing else writes; readers come later.
    unsafe { (address(pfn) as *mut MachineInfo).write(*info) };
}

/// The archive's last word.
pub fn last_word(pfn: Pfn) -> u64 {
    Arm.words(pfn)[511].load(Relaxed)
}

impl Machine for Arm {
    fn tables(&self) -> &Tables {
        &TABLES
    }
    fn lines(&self) -> &[AtomicU64] {
        globals().lines
    }
    fn frames(&self) -> &Frames<'_> {
        &globals().frames
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
    fn vcore(&self, vcore: VcoreRef) -> &Vcore {
        // SAFETY: as for `environment`: the reference is the physical address / 64 of a vcore in one.
        unsafe { &*((vcore.0 << 6).wrapping_add(globals().offset) as *const Vcore) }
    }
    #[inline(always)]
    fn core(&self) -> &Core {
        // SAFETY: TPIDR_EL1 holds the address of this core's structure since it was set up.
        unsafe { &*(registers::core_address() as *const Core) }
    }
    fn core_at(&self, id: u64) -> Option<&Core> {
        (id == 0).then(|| self.core())
    }
    fn now(&self) -> u64 {
        registers::now()
    }
    fn ticks(&self, microseconds: u64) -> u64 {
        microseconds.saturating_mul(globals().hz) / 1_000_000
    }
    fn user_pc(&self) -> u64 {
        registers::user_pc()
    }
    fn user_sp(&self) -> u64 {
        registers::user_sp()
    }
    fn set_timer(&self, at: u64) {
        registers::set_timer_value(at);
    }
    fn zero(&self, pfn: Pfn) {
        // SAFETY: the caller has made the frame busy: nobody else has it.
        unsafe { registers::zero(address(pfn), 4096) };
    }
    fn hardware_accessed(&self) -> bool {
        globals().features.contains(Features::HARDWARE_ACCESSED)
    }
    #[inline(always)]
    fn publish_descriptors(&self) {
        registers::publish_descriptors();
    }
    #[inline(always)]
    fn invalidate_page(&self, asid: u64, va: u64) {
        registers::invalidate_page(asid, va);
    }
    fn invalidate_space(&self, asid: u64) {
        registers::invalidate_space(asid);
    }
    #[inline(always)]
    fn finish_invalidation(&self) {
        registers::finish_invalidation();
    }
    fn clean_code(&self, pfn: Pfn) {
        registers::clean_code(address(pfn));
    }
    fn invalidate_instructions(&self) {
        registers::invalidate_instructions();
    }
    fn kernel_device(&self, pfn: Pfn) -> bool {
        let at = pfn.address();
        globals().devices.as_slice().iter().any(|range| at + 4096 > range.start && at < range.end())
    }
    fn uart(&self) -> Option<Pfn> {
        globals().uart
    }
    fn uart_owner(&self) -> &AtomicU64 {
        &UART_OWNER
    }
    fn reset_uart(&self) {
        uart::reset();
    }
    fn write_uart(&self, bytes: &[u8]) {
        uart::put(bytes);
    }
    fn route_line(&self, line: u64, _core: u64, trigger: Trigger) {
        gic::route(line, trigger);
    }
    fn mask_line(&self, line: u64) {
        gic::mask(line);
    }
    fn retire_line(&self, line: u64) {
        gic::retire(line);
    }
    fn unmask_line(&self, line: u64) {
        gic::unmask(line);
    }
    fn interrupt_core(&self, _id: u64) {
        // One core runs: there is no other to interrupt.
    }
    fn quiesced(&self) -> bool {
        // One core runs, and it is here: nobody else holds a reference.
        true
    }
    fn load_fp(&self, control: Pfn) {
        registers::allow_fp(Allow::Yes);
        // SAFETY: the frame is a control page.
        unsafe { registers::load_fp(address(control) + FP) };
    }
    fn save_fp(&self, control: Pfn) {
        // SAFETY: the frame is a control page.
        unsafe { registers::save_fp(address(control) + FP) };
        registers::allow_fp(Allow::No);
    }
    fn drop_fp(&self) {
        registers::allow_fp(Allow::No);
    }
    fn power(&self, what: Power) {
        power::switch(what)
    }
}

const FP: u64 = core::mem::offset_of!(ControlPage, fp) as u64;
