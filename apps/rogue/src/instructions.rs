//! Instructions that are not EL0's: privileged registers, maintenance, exceptions to higher levels, undefined ones.

use crate::book::{Book, End};
use crate::memory::judge;
use exo_abi::Refusal;
use libos::sys::StopReason;
use workshop::{Child, Common, DATA_VA, EXTRA_VA, Ground, class_of, svc};

/// What a snippet halts with when nothing stopped it.
const SURVIVED: u64 = 81;

macro_rules! sins {
    ($name:ident in $symbol:literal: $($variant:ident $text:literal)*) => {
        workshop::snippets! {
            /// One instruction each, then halt with 81.
            enum $name in $symbol {
                $(
                    /// The instruction.
                    $variant: [".arch armv8-a", $text, "mov x0, #81", svc!(halt)],
                )*
            }
        }
        impl $name {
            const fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

sins! { Sin in "velvet_sin":
    // System registers of EL1 and above: read.
    ReadSctlr "mrs x0, sctlr_el1"
    ReadTtbr0 "mrs x0, ttbr0_el1"
    ReadTtbr1 "mrs x0, ttbr1_el1"
    ReadVbar "mrs x0, vbar_el1"
    ReadElr "mrs x0, elr_el1"
    ReadSpsr "mrs x0, spsr_el1"
    ReadEsr "mrs x0, esr_el1"
    ReadFar "mrs x0, far_el1"
    ReadSp "mrs x0, sp_el0"
    ReadTpidr1 "mrs x0, tpidr_el1"
    ReadCurrentEl "mrs x0, currentel"
    ReadDaif "mrs x0, daif"
    ReadMidr "mrs x0, actlr_el1"
    ReadHcr "mrs x0, hcr_el2"
    ReadScr "mrs x0, scr_el3"
    ReadPar "mrs x0, par_el1"
    ReadCpacr "mrs x0, cpacr_el1"
    ReadMdscr "mrs x0, mdscr_el1"
    ReadCntkctl "mrs x0, cntkctl_el1"
    ReadIar "mrs x0, s3_0_c12_c12_0"
    // Written.
    WriteSctlr "msr sctlr_el1, x0"
    WriteTtbr0 "msr ttbr0_el1, x0"
    WriteTtbr1 "msr ttbr1_el1, x0"
    WriteTcr "msr tcr_el1, x0"
    WriteMair "msr mair_el1, x0"
    WriteVbar "msr vbar_el1, x0"
    WriteElr "msr elr_el1, x0"
    WriteSpsr "msr spsr_el1, x0"
    WriteCpacr "msr cpacr_el1, x0"
    WriteTpidrro "msr tpidrro_el0, x0"
    WriteTpidr1 "msr tpidr_el1, x0"
    WriteSp "msr sp_el0, x0"
    WriteDaif "msr daif, x0"
    MaskAll "msr daifset, #15"
    UnmaskAll "msr daifclr, #15"
    SelectSp "msr spsel, #1"
    WriteMdscr "msr mdscr_el1, x0"
    WriteOslar "msr oslar_el1, x0"
    WriteEoir "msr s3_0_c12_c12_1, x0"
    WriteSgi "msr s3_0_c12_c11_5, x0"
    WritePmr "msr s3_0_c4_c6_0, x0"
    WriteIgrpen "msr s3_0_c12_c12_7, x0"
    // The timer is the kernel's.
    WriteTimerControl "msr cntv_ctl_el0, x0"
    WriteTimerValue "msr cntv_tval_el0, x0"
    WriteTimerCompare "msr cntv_cval_el0, x0"
    WritePhysicalTimer "msr cntp_ctl_el0, x0"
    WriteKernelTimer "msr cntkctl_el1, x0"
    // Performance counters and debug.
    ReadCounters "mrs x0, pmccntr_el0"
    WriteCounters "msr pmcr_el0, x0"
    EnableCounters "msr pmuserenr_el0, x0"
    // Maintenance.
    TlbiAll "tlbi vmalle1"
    TlbiAllShared "tlbi vmalle1is"
    TlbiAsid "tlbi aside1is, x0"
    TlbiPage "tlbi vae1is, x0"
    TranslateRead "at s1e1r, x0"
    TranslateWrite "at s1e1w, x0"
    TranslateUser "at s1e0r, x0"
    CleanSetWay "dc csw, x0"
    InvalidateSetWay "dc isw, x0"
    CleanInvalidateSetWay "dc cisw, x0"
    InvalidateData "dc ivac, x0"
    InvalidateCode "ic iallu"
    InvalidateCodeShared "ic ialluis"
    // Other levels.
    Eret "eret"
    Hvc "hvc #0"
    HvcPsciOff "hvc #1"
    Smc "smc #0"
    Drps "drps"
    DebugSwitch1 "dcps1"
    DebugSwitch2 "dcps2"
    DebugSwitch3 "dcps3"
    // The emulator's back door.
    Semihosting "hlt #0xf000"
    Halting "hlt #0"
    // What no architecture defines, or only some do.
    Udf "udf #0"
    UdfMost "udf #0xffff"
    Break "brk #0"
    BreakMost "brk #0xffff"
    Reserved ".inst 0x00000001"
    ReservedLoad ".inst 0xffffffff"
    Sve ".inst 0x2518e3e0"
    SveWrite ".inst 0x25b8c000"
    SmeStart ".inst 0xd503477f"
    SmeTile ".inst 0xc00800ff"
}

/// All of them, and those that may do nothing.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let mut child = Child::build(ground, 2)?.with(Sin::blob())?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    for sin in Sin::ALL {
        // PSCI's number for switching the machine off, for those that ask a higher level.
        for x0 in [0x8400_0008, 0, u64::MAX, 0x18] {
            let report = child.run_at(0, EXTRA_VA + sin.offset(), DATA_VA + 0x800, x0)?;
            if report.reason != StopReason::Faulted || x0 == 0 {
                judge(book, format_args!("`{}`", sin.text()), &report);
            }
        }
    }
    foreign_system_call(&child, book)?;
    child.destroy(ground)?;
    waiting(ground, book)
}

/// `svc #0` is an upcall, and fatal to who takes none; so is no other number.
fn foreign_system_call(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    use workshop::{Order, Script};
    let progress = Script::run(child, &[Order::new(0xffff, &[])])?;
    let end = if progress.finished { End::Harm } else { End::Fatal };
    book.attack(format_args!("`svc #0` without an upcall entry"), end);
    Ok(())
}

workshop::snippets! {
    /// Waiting instructions: they may trap, or last until the next interrupt; the core is not theirs to stop.
    enum Wait in "velvet_wait" {
        /// For an interrupt.
        Interrupt: ["wfi", "mov x0, #81", svc!(halt)],
        /// For an event.
        Event: ["sevl", "wfe", "wfe", "mov x0, #81", svc!(halt)],
        /// Over and over.
        Forever: ["1:", "wfi", "b 1b"],
    }
}

fn waiting(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    const PATIENCE: core::time::Duration = core::time::Duration::from_millis(20);
    let mut child = Child::build(ground, 1)?.with(Wait::blob())?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    child.claim(ground, 0, 1000)?;
    for wait in Wait::ALL {
        child.start_at(0, EXTRA_VA + wait.offset(), 0, 0)?;
        // That this goes on at all is what is tested.
        let report = match child.await_stop(0, PATIENCE) {
            Err(Refusal::DeadlineMissed) => child.stop(0)?,
            report => report?,
        };
        let end = match report.reason {
            StopReason::Faulted => End::Fatal,
            StopReason::Halted(SURVIVED) | StopReason::Stopped => End::Refused,
            _ => End::Harm,
        };
        book.attack(format_args!("stop the core by {wait:?} (class {:#x})", class_of(&report.frame)), end);
    }
    child.destroy(ground)
}
