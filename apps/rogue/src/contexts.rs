//! Hostile contexts: what a control page says when the kernel reads it back, and upcalls that fault themselves.

use crate::book::{Book, End};
use core::mem::offset_of;
use core::time::Duration;
use exo_abi::Refusal;
use exo_abi::control_page::{ControlPage, Frame};
use libos::sys::{Report, StopReason};
use libos::time;
use workshop::{CODE_VA, Child, Common, DATA_VA, EXTRA_VA, Ground, svc};

/// Long: a busy host makes the guest wait, and no test may depend on that.
const PATIENCE: Duration = Duration::from_secs(20);
/// Sleeps until a child has begun.
const MOST_SLEEPS: u32 = 10_000;
/// What the harmless end halts with.
const HARMLESS: u64 = 0x33;

workshop::snippets! {
    /// Ends and means.
    enum Step in "velvet_step" {
        /// `resume` without a batch.
        Resume: ["mov x16, #0", svc!(resume), "mov x0, x16", svc!(halt)],
        /// `resume` with 64 entries of whatever the batch buffer holds.
        ResumeBatch: ["mov x16, #64", svc!(resume), "mov x0, x16", svc!(halt)],
        /// EL0 still: halts with 0x33.
        Harmless: ["mov x0, #0x33", svc!(halt)],
        /// A fault.
        Fault: ["udf #0"],
        /// A call that is preempted again and again.
        Spin: ["1:", "b 1b"],
        /// Waits for ever.
        Wait: ["mov x0, #1", "mov x1, #0", svc!(wait), "mov x0, #0x33", svc!(halt)],
    }
}

impl Step {
    fn va(self) -> u64 {
        EXTRA_VA + self.offset()
    }
}

/// Saved flags that ask for more than EL0 with everything open.
const FLAGS: &[(&str, u64)] = &[
    ("EL1 with SP0", 0b0100),
    ("EL1 with SP1", 0b0101),
    ("EL2", 0b1001),
    ("EL3", 0b1101),
    ("a reserved mode", 0b0001),
    ("AArch32 user", 1 << 4),
    ("AArch32 supervisor", 0x13),
    ("AArch32 Thumb", 0x30),
    ("masked interrupts", 0b1111 << 6),
    ("illegal state", 1 << 20),
    ("single step", 1 << 21),
    ("PAN", 1 << 22),
    ("UAO", 1 << 23),
    ("everything", u64::MAX),
    ("EL1 masked", 0x3c5),
];

/// Where a context cannot go on.
const WILD: [u64; 8] =
    [0, CODE_VA + 2, DATA_VA, 1 << 39, 0xffff_ff80_0000_0000, 0xffff_ff80_4008_0000, 0x7fff_ffff_ffff_fffc, u64::MAX];

/// All of them.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let mut child = Child::build(ground, 2)?.with(Step::blob())?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    resumed(&child, book)?;
    upcalls(&child, book)?;
    let position = child.claim(ground, 0, 1000)?;
    preempted(&child, position, book)?;
    stays_preemptible(&child, position, book)?;
    waiting(&child, book)?;
    child.destroy(ground)
}

const fn upcall(field: usize) -> u64 {
    (offset_of!(ControlPage, upcall) + field) as u64
}

const fn suspended(field: usize) -> u64 {
    (offset_of!(ControlPage, preempted) + field) as u64
}

fn harmless(book: &mut Book, name: core::fmt::Arguments, report: &Report) {
    let end = match report.reason {
        StopReason::Halted(HARMLESS) => End::Refused,
        StopReason::Faulted => End::Fatal,
        _ => End::Harm,
    };
    book.attack(name, end);
}

/// By `resume`, from `upcall`.
fn resumed(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    for (name, flags) in FLAGS {
        let mut control = child.control(0)?;
        control.write_u64(upcall(offset_of!(Frame, pc)), Step::Harmless.va());
        control.write_u64(upcall(offset_of!(Frame, flags)), *flags);
        drop(control);
        let report = child.run_at(0, Step::Resume.va(), 0, 0)?;
        harmless(book, format_args!("resume into {name}"), &report);
    }
    for pc in WILD {
        let mut control = child.control(0)?;
        control.write_u64(upcall(offset_of!(Frame, pc)), pc);
        control.write_u64(upcall(offset_of!(Frame, flags)), 0);
        drop(control);
        let report = child.run_at(0, Step::Resume.va(), 0, 0)?;
        crate::memory::judge(book, format_args!("resume to {pc:#x}"), &report);
    }
    for (index, word) in [u64::MAX, 0, 0x5555_5555_5555_5555, 1 << 63].into_iter().enumerate() {
        let mut control = child.control(0)?;
        control.write_u64(upcall(offset_of!(Frame, pc)), Step::Harmless.va());
        for entry in 0..128 {
            control.write_u64(offset_of!(ControlPage, batch) as u64 + entry * 8, word);
        }
        drop(control);
        let report = child.run_at(0, Step::ResumeBatch.va(), 0, 0)?;
        let refused = matches!(report.reason, StopReason::Halted(code) if code != 0 && code != HARMLESS);
        let end = if refused { End::Refused } else { End::Harm };
        book.attack(format_args!("resume with nonsense {index} as a batch"), end);
    }
    Ok(())
}

/// Upcall entries that fault themselves, and words of the page that make no sense.
fn upcalls(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    let entries = WILD.into_iter().chain([Step::Fault.va()]);
    for entry in entries {
        let mut control = child.control(0)?;
        control.write_u64(offset_of!(ControlPage, upcall_entry) as u64, entry);
        control.write_u64(offset_of!(ControlPage, upcall_events) as u64, u64::MAX);
        drop(control);
        let report = child.run_at(0, Step::Fault.va(), u64::MAX, 0)?;
        crate::memory::judge(book, format_args!("fault into an upcall at {entry:#x}"), &report);
    }
    let mut control = child.control(0)?;
    control.write_u64(offset_of!(ControlPage, upcall_entry) as u64, Step::Harmless.va());
    drop(control);
    let report = child.run_at(0, Step::Fault.va(), 0, 0)?;
    harmless(book, format_args!("end an upcall by halting"), &report);
    child.control(0)?.write_u64(offset_of!(ControlPage, upcall_entry) as u64, 0);
    child.control(0)?.write_u64(offset_of!(ControlPage, upcall_events) as u64, 0);
    Ok(())
}

/// A program that was preempted finds another context than the one it left.
fn preempted(child: &Child, position: u64, book: &mut Book) -> Result<(), Refusal> {
    for (name, flags) in FLAGS {
        let report = after_preemption(child, position, Step::Harmless.va(), *flags)?;
        harmless(book, format_args!("be preempted and go on in {name}"), &report);
    }
    for pc in WILD {
        let report = after_preemption(child, position, pc, 0)?;
        crate::memory::judge(book, format_args!("be preempted and go on at {pc:#x}"), &report);
    }
    Ok(())
}

/// With interrupts masked it would never be preempted again, and this program never run.
fn stays_preemptible(child: &Child, position: u64, book: &mut Book) -> Result<(), Refusal> {
    child.start_at(0, Step::Spin.va(), 0, 0)?;
    for flags in [0b1111 << 6, 0x3c5, u64::MAX] {
        let before = begun(position);
        for _ in 0..MOST_SLEEPS {
            // Whenever this program runs, the other is in its control page.
            child.control(0)?.write_u64(suspended(offset_of!(Frame, flags)), flags);
            if begun(position) >= before + 3 {
                break;
            }
            time::sleep(Duration::from_millis(1));
        }
        book.attack(format_args!("mask interrupts by saved flags {flags:#x}"), End::Refused);
    }
    child.stop(0).map(|_| ())
}

/// How often a position began.
fn begun(position: u64) -> u64 {
    libos::machine::slice(0, position).map_or(0, |slice| slice.starts)
}

fn after_preemption(child: &Child, position: u64, pc: u64, flags: u64) -> Result<Report, Refusal> {
    let before = begun(position);
    child.start_at(0, Step::Spin.va(), 0, 0)?;
    for _ in 0..MOST_SLEEPS {
        if begun(position) > before {
            break;
        }
        time::sleep(Duration::from_millis(1));
    }
    // It ran, and this program runs: it was preempted.
    let mut control = child.control(0)?;
    control.write_u64(suspended(offset_of!(Frame, pc)), pc);
    control.write_u64(suspended(offset_of!(Frame, flags)), flags);
    control.write_u64(suspended(offset_of!(Frame, sp)), u64::MAX);
    control.write_u64(suspended(offset_of!(Frame, thread)), u64::MAX);
    drop(control);
    match child.await_stop(0, PATIENCE) {
        Err(Refusal::DeadlineMissed) => child.stop(0),
        report => report,
    }
}

/// A program that waits is told to go on elsewhere.
fn waiting(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    for pc in WILD {
        child.start_at(0, Step::Wait.va(), 0, 0)?;
        child.settle(0)?;
        let mut control = child.control(0)?;
        control.write_u64(offset_of!(ControlPage, pc) as u64, pc);
        control.write_u64(offset_of!(ControlPage, sp) as u64, u64::MAX);
        control.write_u64(offset_of!(ControlPage, masked) as u64, u64::MAX);
        drop(control);
        wake(child)?;
        let report = match child.await_stop(0, PATIENCE) {
            Err(Refusal::DeadlineMissed) => child.stop(0)?,
            report => report?,
        };
        crate::memory::judge(book, format_args!("wait and go on at {pc:#x}"), &report);
    }
    Ok(())
}

/// Event 0 of the child's vcore.
fn wake(child: &Child) -> Result<(), Refusal> {
    let ground = &crate::GROUND;
    let event = child.event(ground, 0, 0)?;
    libos::sys::notify(event)?;
    libos::slots::empty(event);
    Ok(())
}
