//! Wild addresses: loads, stores and jumps to where nothing is the attacker's.

use crate::book::{Book, End};
use exo_abi::Refusal;
use exo_abi::page::USER_END;
use libos::machine;
use libos::sys::{Report, StopReason};
use workshop::{CODE_VA, CONTROL_VA, Child, Common, DATA_VA, EXTRA_VA, Ground, svc};

workshop::snippets! {
    /// Uses of the stack pointer.
    enum Stack in "velvet_stack" {
        /// Reads what it points at.
        Load: ["ldr x0, [sp]", "mov x0, #81", svc!(halt)],
        /// Writes below it.
        Push: ["stp x0, x1, [sp, #-16]!", "mov x0, #81", svc!(halt)],
    }
}

/// Where the kernel could be: the lowest address of the upper half for each size of it.
const UPPER_HALVES: [u64; 4] =
    [0xffff_ff80_0000_0000, 0xffff_fc00_0000_0000, 0xffff_8000_0000_0000, 0xffff_0000_0000_0000];

/// All of them.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let mut child = Child::build(ground, 1)?.with(Stack::blob())?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    let ram = machine::info().first_frame << 12;
    let wild = [
        0,
        8,
        0x1000,
        CODE_VA - 8,
        ram,
        ram + 0x8_0000,
        USER_END,
        USER_END + ram,
        1 << 47,
        1 << 48,
        1 << 55,
        0x00ff_ffff_ffff_fff8,
        0x7fff_ffff_ffff_fff8,
        0x8000_0000_0000_0000,
        0xff00_0000_0000_0000,
        u64::MAX - 7,
    ];
    for address in wild.into_iter().chain(UPPER_HALVES).chain(UPPER_HALVES.map(|half| half | ram)) {
        for (name, code) in [("load", Common::Load), ("store", Common::Store), ("jump", Common::Jump)] {
            let report = child.run_at(0, code.va(), 0, address)?;
            judge(book, format_args!("{name} at {address:#x}"), &report);
        }
    }
    // The whole upper half, a gibibyte at a time and the end of each.
    let mut got_through = 0;
    for gibibyte in 0..512 {
        let at = UPPER_HALVES[0] + (gibibyte << 30);
        for address in [at, at + ram % (1 << 30), at + (1 << 30) - 8] {
            let report = child.run_at(0, Common::Load.va(), 0, address)?;
            got_through += u64::from(report.reason != StopReason::Faulted);
        }
    }
    let end = if got_through == 0 { End::Fatal } else { End::Harm };
    book.attack(format_args!("load from every gibibyte of the kernel"), end);
    misaligned(&child, book)?;
    child.destroy(ground)
}

/// Stack pointers and pc that are no multiple of what they must be of.
fn misaligned(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    for offset in [1, 2, 3] {
        let report = child.run_at(0, CODE_VA + offset, 0, 0)?;
        judge(book, format_args!("begin at pc + {offset}"), &report);
        let report = child.run_at(0, Common::Jump.va(), 0, CODE_VA + offset)?;
        judge(book, format_args!("jump to pc + {offset}"), &report);
    }
    for (name, step) in [("load", Stack::Load), ("push", Stack::Push)] {
        for sp in [DATA_VA + 8, DATA_VA + 1, DATA_VA + 0x804] {
            let report = child.run_at(0, EXTRA_VA + step.offset(), sp, 0)?;
            // Whether EL0's stack is checked (SCTLR_EL1.SA0) is between the kernel and the program; the program alone is hurt.
            let end = match report.reason {
                StopReason::Faulted => End::Fatal,
                StopReason::Halted(81) => End::Refused,
                _ => End::Harm,
            };
            book.attack(format_args!("{name} with sp {sp:#x}"), end);
        }
    }
    for sp in [DATA_VA + 8, DATA_VA + 1, u64::MAX, 1, CONTROL_VA + 4] {
        // Calls work with any sp; what stands there is the program's own matter.
        let report = child.run_at(0, Common::Halt.va(), sp, 77)?;
        let end = if report.reason == StopReason::Halted(77) { End::Refused } else { End::Harm };
        book.attack(format_args!("halt with sp {sp:#x}"), end);
    }
    Ok(())
}

/// An attack that must have stopped its child by a fault.
pub fn judge(book: &mut Book, name: core::fmt::Arguments, report: &Report) {
    let end = if report.reason == StopReason::Faulted { End::Fatal } else { End::Harm };
    book.attack(name, end);
}

/// [`judge`] for plain names.
pub fn ended(book: &mut Book, name: &str, report: &Report) {
    judge(book, format_args!("{name}"), report);
}
