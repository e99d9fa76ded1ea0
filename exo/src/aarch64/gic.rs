//! The interrupt controller: GICv2 (Arm IHI 0048B) and GICv3 (Arm IHI 0069), as far as the kernel needs them.

use super::cores::{self, PerCore};
use super::mmu::{self, read, wait_clear, write};
use super::registers::{self, execute, mrs};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::{Controller, Range};
use exo::fault::{self, Fault};
use exo::machine::{Line, Trigger};
use spin::mutex::SpinMutex;

/// The virtual timer's private interrupt.
pub const TIMER: u64 = 27;
/// From here on an acknowledged number means that there was nothing.
pub const SPECIAL: u64 = 1020;

/// Kernel address of the distributor.
static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
/// Kernel address of the CPU interface (v2), or 0 (v3).
static CPU_INTERFACE: AtomicU64 = AtomicU64::new(0);
/// Kernel addresses of the redistributors' regions (v3): from, to.
static REDISTRIBUTORS: [[AtomicU64; 2]; 8] = [const { [const { AtomicU64::new(0) }; 2] }; 8];
/// Lines of one register change together.
static CONFIGURATION: SpinMutex<()> = SpinMutex::new(());

/// Cores that a GICv2 reaches.
pub const MOST_V2: u64 = 8;
/// The interrupt that cores send each other.
const ASKED: u64 = 0;

// Registers of the distributor, and of the frame of a redistributor that has the private interrupts.
const CTLR: u64 = 0x000;
const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ICPENDR: u64 = 0x280;
const ICACTIVER: u64 = 0x380;
const ITARGETSR: u64 = 0x800;

fn distributor(offset: u64) -> u64 {
    DISTRIBUTOR.load(Relaxed) + offset
}

/// Writes a line's bit of a register that has one for each line.
fn write_bit(register: u64, line: u64) {
    write(distributor(register + line / 32 * 4), 1u32 << (line % 32));
}

/// Waits until the distributor has taken a write to CTLR or an enable register: v3's RWP; v2 has zero there.
fn write_complete() {
    wait_clear(distributor(CTLR), 1 << 31);
}

/// Sets distributor and this core's interface up; answers how many lines there are.
/// Behind the distributor's range come the CPU interface's of a v2 (and what is for virtual machines), or the redistributors' of a v3.
pub fn set_up(controller: Option<Controller>, ranges: &[Range]) -> Result<u64, Fault> {
    let version_2 = controller == Some(Controller::V2);
    let [base, others @ ..] = ranges else { return Err(Fault::NO_CONTROLLER) };
    let base = mmu::device(*base).ok_or(Fault::DEVICES)?;
    DISTRIBUTOR.store(base, Relaxed);
    // v2: everything in group 0, which is interrupts, not fast ones. v3: affinity routing first, then group 1 (IHI 0069 12.9.4).
    let (routing, group, group_on) = if version_2 { (0, 0, 1) } else { (1 << 4, !0, 1 << 1) };
    write(base + CTLR, 0u32);
    write_complete();
    write(base + CTLR, routing);
    let lines = (32 * ((read(base + 0x004) & 0x1f) as u64 + 1)).min(SPECIAL); // GICD_TYPER
    (32..lines).step_by(32).for_each(|first| quiet(base, first, group));
    write(base + CTLR, routing | group_on);
    write_complete();
    if version_2 {
        let interface = others.first().and_then(|range| mmu::device(*range)).ok_or(Fault::DEVICES)?;
        CPU_INTERFACE.store(interface, Relaxed);
    } else {
        fault::when(others.len() > REDISTRIBUTORS.len(), Fault::DEVICES)?;
        for (range, [from, to]) in others.iter().zip(&REDISTRIBUTORS) {
            let address = mmu::device(*range).ok_or(Fault::DEVICES)?;
            from.store(address, Relaxed);
            to.store(address + range.bytes(), Relaxed);
        }
    }
    begin_core().map(|()| lines)
}

/// Sets this core's interface up: everything private is masked but its timer and what other cores send.
pub fn begin_core() -> Result<(), Fault> {
    // Every priority, the group on; completion also deactivates (IHI 0069 12.2).
    let interface = CPU_INTERFACE.load(Relaxed);
    let (private, group) = if interface != 0 {
        write(interface + 0x4, 0xffu32); // GICC_PMR
        write(interface, 1u32); // GICC_CTLR
        (distributor(0), 0)
    } else {
        let redistributor = find_redistributor()?;
        let waker = redistributor + 0x14; // GICR_WAKER: ProcessorSleep, ChildrenAsleep
        write(waker, read(waker) & !2);
        wait_clear(waker, 4);
        execute!("msr S3_0_C12_C12_5, {}; isb", 7u64); // ICC_SRE_EL1.SRE
        execute!("msr S3_0_C4_C6_0, {}", 0xffu64); // ICC_PMR_EL1
        execute!("msr S3_0_C12_C12_4, xzr"); // ICC_CTLR_EL1
        execute!("msr S3_0_C12_C12_7, {}; isb", 1u64); // ICC_IGRPEN1_EL1
        (redistributor + 0x1_0000, !0)
    };
    quiet(private, 0, group);
    write(private + ISENABLER, 1u32 << TIMER | 1 << ASKED);
    Ok(())
}

/// This core's bit in the targets of a GICv2: a core reads its own in those of a private line (IHI 0048B 4.3.12).
pub fn own_target() -> u64 {
    if CPU_INTERFACE.load(Relaxed) == 0 { 0 } else { read(distributor(ITARGETSR)) as u8 as u64 }
}

/// Interrupts a core, which sees then what was stored before.
pub fn send(core: &PerCore) {
    // What was stored before is complete before the interrupt is generated (IHI 0069 4.4): nothing else orders the write of a system register behind
    // stores to memory (Arm ARM, "Data Synchronization Barrier"). Version 2's register is Device memory, for which less would do.
    execute!("dsb ishst");
    if CPU_INTERFACE.load(Relaxed) != 0 {
        write(distributor(0xf00), (core.target.load(Relaxed) as u32) << 16 | ASKED as u32); // GICD_SGIR
    } else {
        // ICC_SGI1R_EL1: Aff3 in 55:48, RS in 47:44, Aff2 in 39:32, Aff1 in 23:16, one bit of sixteen for Aff0.
        let affinity = core.affinity.load(Relaxed);
        let above = (affinity >> 32 & 0xff) << 48 | (affinity >> 16 & 0xff) << 32 | (affinity >> 8 & 0xff) << 16;
        let value = above | (affinity >> 4 & 0xf) << 44 | ASKED << 24 | 1 << (affinity & 0xf);
        execute!("msr S3_0_C12_C11_5, {}; isb", value);
    }
}

/// Thirty-two lines: masked, neither pending nor active, all of one priority, in one group.
fn quiet(frame: u64, first: u64, group: u32) {
    for (register, value) in [(ICENABLER, !0), (ICPENDR, !0), (ICACTIVER, !0), (IGROUPR, group)] {
        write(frame + register + first / 8, value);
    }
    (0..32).step_by(4).for_each(|line| write(frame + 0x400 + first + line, 0xa0a0_a0a0u32)); // GICD_IPRIORITYR
}

/// The redistributor whose affinity is this core's.
fn find_redistributor() -> Result<u64, Fault> {
    let affinity = registers::affinity();
    let wanted = (affinity >> 32 << 24 | affinity & 0xff_ffff) as u32;
    for [from, to] in &REDISTRIBUTORS {
        let (mut at, end) = (from.load(Relaxed), to.load(Relaxed));
        while at + 0x2_0000 <= end {
            let typer = read(at + 8);
            if read(at + 12) == wanted {
                return Ok(at);
            }
            // Two frames of 64 KiB, four with virtual LPIs. Bit 4: the last of the region.
            at = if typer & 1 << 4 != 0 { end } else { at + 0x2_0000 + (typer as u64 & 2) * 0x1_0000 };
        }
    }
    Err(Fault::NO_INTERFACE)
}

/// What the highest pending interrupt is, now active; for one of a GICv2's cores with the number of that in 12:10.
pub fn acknowledge() -> Option<u64> {
    let number = match CPU_INTERFACE.load(Relaxed) {
        0 => mrs!("S3_0_C12_C12_0") & 0xff_ffff, // ICC_IAR1_EL1
        interface => (read(interface + 0xc) & 0x1fff) as u64,
    };
    // The acknowledgement precedes what is done about it (IHI 0069 4.1.1).
    execute!("dsb sy");
    (number & 0x3ff < SPECIAL).then_some(number)
}

/// An interrupt has been dealt with.
pub fn complete(number: u64) {
    match CPU_INTERFACE.load(Relaxed) {
        0 => execute!("msr S3_0_C12_C12_1, {}; isb", number), // ICC_EOIR1_EL1
        interface => write(interface + 0x10, number as u32),  // GICC_EOIR
    }
}

/// Changes how a shared line is treated. When this returns after masking it is masked: completing a level-sensitive line earlier would let it fire once more.
#[inline(always)]
pub fn set_line(line: u64, to: Line) {
    if to != Line::Unmasked {
        write_bit(ICENABLER, line);
        write_complete();
    }
    if matches!(to, Line::Retired | Line::Routed(..)) {
        write_bit(ICPENDR, line);
        write_bit(ICACTIVER, line);
    }
    if let Line::Routed(core, trigger) = to
        && let Some(core) = cores::by_id(core)
    {
        let edge = 2 << (line % 16 * 2);
        let config = distributor(0xc00 + line / 16 * 4); // GICD_ICFGR
        {
            let _guard = CONFIGURATION.lock();
            write(config, if trigger == Trigger::Edge { read(config) | edge } else { read(config) & !edge });
        }
        if CPU_INTERFACE.load(Relaxed) == 0 {
            write(distributor(0x6000 + line * 8), core.affinity.load(Relaxed)); // GICD_IROUTER
        } else {
            write(distributor(ITARGETSR + line), core.target.load(Relaxed) as u8); // one byte
        }
    }
    if matches!(to, Line::Unmasked | Line::Routed(..)) {
        write_bit(ISENABLER, line);
    }
}
