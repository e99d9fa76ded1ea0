//! The interrupt controller: GICv2 (Arm IHI 0048B) and GICv3 (Arm IHI 0069), as far as the kernel needs them.

use super::registers;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::Controller;
use exo::machine::Trigger;

/// The virtual timer's private interrupt.
pub const TIMER: u64 = 27;
/// From here on an acknowledged number means that there was nothing.
const SPECIAL: u64 = 1020;

/// Kernel address of the distributor.
static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
/// Kernel address of the CPU interface (v2), or 0 (v3).
static CPU_INTERFACE: AtomicU64 = AtomicU64::new(0);

const CTLR: u64 = 0x000;
const TYPER: u64 = 0x004;
const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ICPENDR: u64 = 0x280;
const ICACTIVER: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;
const ITARGETSR: u64 = 0x800;
const ICFGR: u64 = 0xc00;
const IROUTER: u64 = 0x6000;
const PRIORITY: u32 = 0xa0a0_a0a0;
/// Looks at a register that must change before it is taken for broken.
const PATIENCE: u32 = 1_000_000;

fn read(address: u64) -> u32 {
    // SAFETY: a register of the controller, by the kernel's device mapping.
    unsafe { (address as *const u32).read_volatile() }
}

fn write(address: u64, value: u32) {
    // SAFETY: as for `read`.
    unsafe { (address as *mut u32).write_volatile(value) }
}

fn distributor(offset: u64) -> u64 {
    DISTRIBUTOR.load(Relaxed) + offset
}

fn version_2() -> bool {
    CPU_INTERFACE.load(Relaxed) != 0
}

/// Waits until `done`, boundedly.
fn wait(done: impl Fn() -> bool) {
    for _ in 0..PATIENCE {
        if done() {
            return;
        }
    }
}

/// Interrupt lines, private ones included.
pub fn lines() -> u64 {
    (32 * ((read(distributor(TYPER)) & 0x1f) as u64 + 1)).min(SPECIAL)
}

/// Sets distributor and this core's interface up: everything masked but the timer.
/// `second` is the CPU interface of a v2, or the redistributors (address and bytes of each region) of a v3. False: this core has no redistributor.
#[must_use]
pub fn set_up(controller: Controller, base: u64, second: &[(u64, u64)]) -> bool {
    DISTRIBUTOR.store(base, Relaxed);
    match controller {
        Controller::V2 => {
            let Some((interface, _)) = second.first() else { return false };
            CPU_INTERFACE.store(*interface, Relaxed);
            write(distributor(CTLR), 0);
            quiet(32);
            private(base);
            write(distributor(CTLR), 1);
            write(interface + 4, 0xff); // GICC_PMR: every priority
            write(*interface, 1); // GICC_CTLR
            true
        }
        Controller::V3 => {
            write(distributor(CTLR), 0);
            write_complete();
            // Affinity routing first, then the groups (IHI 0069 12.9.4).
            write(distributor(CTLR), 1 << 4);
            quiet(32);
            write(distributor(CTLR), 1 << 4 | 1 << 1);
            write_complete();
            let Some(redistributor) = find_redistributor(second) else { return false };
            const WAKER: u64 = 0x14;
            write(redistributor + WAKER, read(redistributor + WAKER) & !2);
            wait(|| read(redistributor + WAKER) & 4 == 0);
            let sgi = redistributor + 0x1_0000;
            write(sgi + IGROUPR, !0);
            private(sgi);
            // SAFETY: the CPU interface's system registers: every priority, group 1 on (IHI 0069 12.2).
            unsafe {
                asm!(
                    "msr S3_0_C12_C12_5, {one}", // ICC_SRE_EL1.SRE
                    "isb",
                    "msr S3_0_C4_C6_0, {all}",   // ICC_PMR_EL1
                    "msr S3_0_C12_C12_4, xzr",   // ICC_CTLR_EL1: completion also deactivates
                    "msr S3_0_C12_C12_7, {on}",  // ICC_IGRPEN1_EL1
                    "isb",
                    one = in(reg) 7u64, all = in(reg) 0xffu64, on = in(reg) 1u64, options(nostack, preserves_flags)
                );
            }
            true
        }
    }
}

/// Shared lines: masked, neither pending nor active, all of one priority, in group 1 where groups matter.
fn quiet(first: u64) {
    let lines = lines();
    for line in (first..lines).step_by(32) {
        let word = line / 32 * 4;
        write(distributor(ICENABLER + word), !0);
        write(distributor(ICPENDR + word), !0);
        write(distributor(ICACTIVER + word), !0);
        if !version_2() {
            write(distributor(IGROUPR + word), !0);
        }
    }
    (first..lines).step_by(4).for_each(|line| write(distributor(IPRIORITYR + line), PRIORITY));
}

/// This core's private interrupts: only the timer.
fn private(frame: u64) {
    write(frame + ICENABLER, !0);
    write(frame + ICPENDR, !0);
    write(frame + ICACTIVER, !0);
    (0..32).step_by(4).for_each(|line| write(frame + IPRIORITYR + line, PRIORITY));
    write(frame + ISENABLER, 1 << TIMER);
}

/// The redistributor whose affinity is this core's.
fn find_redistributor(regions: &[(u64, u64)]) -> Option<u64> {
    let affinity = registers::affinity();
    let wanted = affinity >> 32 << 24 | affinity & 0xff_ffff;
    for (start, bytes) in regions {
        let mut at = *start;
        while at + 0x2_0000 <= start + bytes {
            let typer = read(at + 8) as u64 | (read(at + 12) as u64) << 32;
            if typer >> 32 == wanted {
                return Some(at);
            }
            // Two frames of 64 KiB, four with virtual LPIs.
            at += if typer & 2 != 0 { 0x4_0000 } else { 0x2_0000 };
            if typer & 1 << 4 != 0 {
                break;
            }
        }
    }
    None
}

/// Waits until the distributor has taken a write to CTLR or an enable register (v3's RWP).
fn write_complete() {
    wait(|| read(distributor(CTLR)) & 1 << 31 == 0);
}

/// What the highest pending interrupt is, now active.
pub fn acknowledge() -> Option<u64> {
    let number = if version_2() {
        // IAR: the source core of an SGI stands in bits 12:10.
        (read(CPU_INTERFACE.load(Relaxed) + 0xc) & 0x3ff) as u64
    } else {
        let number: u64;
        // SAFETY: ICC_IAR1_EL1; the DSB makes the acknowledgement precede what is done about it (IHI 0069 4.1.1).
        unsafe { asm!("mrs {}, S3_0_C12_C12_0", "dsb sy", out(reg) number, options(nostack, preserves_flags)) };
        number & 0xff_ffff
    };
    (number < SPECIAL).then_some(number)
}

/// An interrupt has been dealt with.
pub fn complete(number: u64) {
    if version_2() {
        write(CPU_INTERFACE.load(Relaxed) + 0x10, number as u32);
    } else {
        // SAFETY: ICC_EOIR1_EL1 with what ICC_IAR1_EL1 gave.
        unsafe { asm!("msr S3_0_C12_C12_1, {}", "isb", in(reg) number, options(nostack, preserves_flags)) };
    }
}

/// Masks a shared line.
pub fn mask(line: u64) {
    write(distributor(ICENABLER + line / 32 * 4), 1 << (line % 32));
}

/// Unmasks a shared line.
pub fn unmask(line: u64) {
    write(distributor(ISENABLER + line / 32 * 4), 1 << (line % 32));
}

/// Masks a line for good: neither pending nor active.
pub fn retire(line: u64) {
    mask(line);
    if !version_2() {
        write_complete();
    }
    write(distributor(ICPENDR + line / 32 * 4), 1 << (line % 32));
    write(distributor(ICACTIVER + line / 32 * 4), 1 << (line % 32));
}

/// Routes a line to the core with this affinity (the running one, while only one runs) and unmasks it.
pub fn route(line: u64, trigger: Trigger) {
    retire(line);
    let shift = line % 16 * 2 + 1;
    let config = distributor(ICFGR + line / 16 * 4);
    let edge = u32::from(trigger == Trigger::Edge);
    write(config, read(config) & !(1 << shift) | edge << shift);
    if version_2() {
        // A core reads its own number in the targets of a private line (IHI 0048B 4.3.12).
        let own = read(distributor(ITARGETSR)) & 0xff;
        let target = distributor(ITARGETSR + line / 4 * 4);
        let shift = line % 4 * 8;
        write(target, read(target) & !(0xff << shift) | own << shift);
    } else {
        let router = distributor(IROUTER + line * 8);
        write(router, registers::affinity() as u32);
        write(router + 4, (registers::affinity() >> 32) as u32);
    }
    unmask(line);
}
