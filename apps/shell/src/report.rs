//! Doing what a command says: questions to init, and their answers as text.

use crate::command::{COMMANDS, Command};
use core::fmt::{self, Write};
use exo_abi::binding::Rights;
use exo_abi::calls::{power, stop_reason};
use exo_abi::exposed::{SLICE_CLAIMED, SLICE_EXACT, Slice};
use exo_abi::{BindingKind, PAGE_BYTES};
use libos::cause::Cause;
use libos::protocol::supervisor::{
    BINDINGS, FAULTS, Failure, Given, KILL, LIST, MEMORY, Memory, POWER, Program, Region, START, head, request,
    request_named,
};
use libos::protocol::{Words, status};

/// Programs, bindings or failures asked for at most.
const MOST_QUESTIONS: u32 = 256;

/// What the shell stands on.
pub trait Machine {
    /// Asks init. `None`: it cannot be reached.
    fn ask(&mut self, words: Words) -> Option<Words>;
    /// Cores of the machine.
    fn cores(&self) -> u64;
    /// A position of a core's slice vector.
    fn slice(&self, core: u64, position: u64) -> Option<Slice>;
    /// Microseconds that a number of timer ticks takes.
    fn micros(&self, ticks: u64) -> u64;
    /// Microseconds a core slept.
    fn idle_micros(&self, core: u64) -> u64;
    /// Nanoseconds from the kernel's first instruction to the first of a user.
    fn boot_nanos(&self) -> u64;
}

/// Does what a line says; the text goes to `out`.
pub fn run(line: &str, machine: &mut impl Machine, out: &mut impl Write) -> fmt::Result {
    match Command::parse(line) {
        Command::Nothing => Ok(()),
        Command::Help => help(out),
        Command::Programs => programs(machine, out),
        Command::Memory => memory(machine, out),
        Command::Bindings(name) => bindings(name, machine, out),
        Command::Slices => slices(machine, out),
        Command::Faults => faults(machine, out),
        Command::Start(name) => change(machine, request_named(START, name), "start", name, out),
        Command::Kill(name) => change(machine, request_named(KILL, name), "kill", name, out),
        Command::Echo(text) => writeln!(out, "{text}"),
        Command::Reboot => change(machine, request(POWER, power::RESET as u32), "reboot", "", out),
        Command::Off => change(machine, request(POWER, power::OFF as u32), "off", "", out),
        Command::Unknown(word) => {
            write!(out, "{word}: there is no such command; there are:")?;
            for (known, ..) in COMMANDS {
                write!(out, " {known}")?;
            }
            writeln!(out)
        }
        Command::Misused(word) => {
            let operands = COMMANDS.iter().find(|(known, ..)| *known == word).map_or("", |(_, operands, _)| operands);
            writeln!(out, "usage: {word} {operands}")
        }
    }
}

/// Switches the machine off: what the end of the input means.
pub fn switch_off(machine: &mut impl Machine) {
    let _ = machine.ask(request(POWER, power::OFF as u32));
}

fn help(out: &mut impl Write) -> fmt::Result {
    for (word, operands, text) in COMMANDS {
        writeln!(out, "{word:>9} {operands:<7} {text}")?;
    }
    writeln!(out, "The end of the input (Ctrl-D) switches the machine off.")
}

fn programs(machine: &mut impl Machine, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "environment program      state      restarts failures  cpu ms  last code")?;
    each(machine, LIST, 0, out, |words, out| {
        let program = Program::from_words(words);
        match program.environment {
            0 => write!(out, "{:>11}", "-")?,
            number => write!(out, "{number:>11}")?,
        }
        let (whole, rest) = (program.cpu_us / 1000, program.cpu_us % 1000 / 100);
        writeln!(
            out,
            " {:<12} {:<10} {:>8} {:>8} {whole:>6}.{rest} {:>10}",
            program.name.as_str(),
            program.state.text(),
            program.restarts,
            program.failures,
            program.code
        )
    })
}

fn memory(machine: &mut impl Machine, out: &mut impl Write) -> fmt::Result {
    let Some(words) = answered(machine.ask(request(MEMORY, 0)), out)? else {
        return Ok(());
    };
    let memory = Memory::from_words(&words);
    let mut row =
        |name, frames: u64| writeln!(out, "{name:<9} {frames:>8} frames {:>9} KiB", frames * PAGE_BYTES / 1024);
    row("ram", memory.ram)?;
    row("kernel", memory.kernel)?;
    row("archive", memory.archive)?;
    row("promised", memory.promised)?;
    row("free", memory.free)?;
    writeln!(out, "boot {} ns", machine.boot_nanos())
}

fn bindings(name: Option<&str>, machine: &mut impl Machine, out: &mut impl Write) -> fmt::Result {
    let mut found = false;
    for number in 0..MOST_QUESTIONS {
        let Some(words) = machine.ask(request(LIST, number)) else {
            return unreachable(out);
        };
        match head(&words).0 {
            status::OK => {}
            status::NOT_FOUND => break,
            refused => return writeln!(out, "{}", status::text(refused)),
        }
        let program = Program::from_words(&words);
        if name.is_some_and(|name| name != program.name.as_str()) {
            continue;
        }
        found = true;
        writeln!(out, "{}", program.name.as_str())?;
        for index in 0..MOST_QUESTIONS {
            let mut question = request(BINDINGS, number);
            question[1] = u64::from(index);
            match machine.ask(question) {
                None => return unreachable(out),
                Some(words) if head(&words).0 == status::OK => given(&Given::from_words(&words), out)?,
                Some(_) => break,
            }
        }
    }
    match name {
        Some(name) if !found => writeln!(out, "{name}: {}", status::text(status::NOT_FOUND)),
        _ => Ok(()),
    }
}

fn given(given: &Given, out: &mut impl Write) -> fmt::Result {
    let Some(kind) = BindingKind::from_number(u64::from(given.kind)) else {
        return Ok(());
    };
    write!(out, "  {:>3} {:<6} {:<24}", given.handle, alloc::format!("{kind:?}"), given.name.as_str())?;
    let rights = Rights::from_bits_retain(given.rights);
    for (bit, text) in rights_of(kind) {
        if rights.contains(*bit) {
            write!(out, " {text}")?;
        }
    }
    if rights.contains(Rights::GRANT) {
        write!(out, " grant")?;
    }
    match given.count {
        0 => writeln!(out),
        1 => writeln!(out, ", {:#x}", given.first),
        count => writeln!(out, ", {:#x} and {} more", given.first, count - 1),
    }
}

const fn rights_of(kind: BindingKind) -> &'static [(Rights, &'static str)] {
    match kind {
        BindingKind::Pool => {
            &[(Rights::POOL_READ, "read"), (Rights::POOL_WRITE, "write"), (Rights::POOL_ALLOC, "alloc")]
        }
        BindingKind::Env => &[(Rights::ENV_MAP, "map"), (Rights::ENV_RUN, "run"), (Rights::ENV_DESTROY, "destroy")],
        BindingKind::Gate => &[(Rights::GATE_CALL, "call")],
        BindingKind::Event => &[(Rights::EVENT_NOTIFY, "notify")],
        BindingKind::Core => &[(Rights::CORE_CLAIM, "claim")],
        BindingKind::Irq => &[(Rights::IRQ_BIND, "bind")],
        BindingKind::Device => {
            &[(Rights::DEVICE_READ, "read"), (Rights::DEVICE_WRITE, "write"), (Rights::DEVICE_DEBUG, "debug")]
        }
        BindingKind::Power => &[(Rights::POWER_OFF, "off"), (Rights::POWER_AUDIT, "audit")],
        BindingKind::Dma => &[],
    }
}

fn slices(machine: &mut impl Machine, out: &mut impl Write) -> fmt::Result {
    for core in 0..machine.cores() {
        writeln!(out, "core {core}: idle {} ms", machine.idle_micros(core) / 1000)?;
        for position in 0..exo_abi::SLICES_PER_CORE {
            let Some(slice) = machine.slice(core, position).filter(|slice| slice.owner & SLICE_CLAIMED != 0) else {
                continue;
            };
            let (environment, vcore) = (slice.owner >> 8 & 0xff, slice.owner & 0xff);
            let length = machine.micros(slice.length);
            let used = machine.micros(slice.used);
            let exact = if slice.owner & SLICE_EXACT != 0 { ", exact" } else { "" };
            writeln!(
                out,
                "  {position:>2} environment {environment} vcore {vcore}: {length} us a round, used {}.{} ms in {} starts{exact}",
                used / 1000,
                used % 1000 / 100,
                slice.starts
            )?;
        }
    }
    Ok(())
}

fn faults(machine: &mut impl Machine, out: &mut impl Write) -> fmt::Result {
    let mut any = false;
    for back in 0..MOST_QUESTIONS {
        let Some(words) = machine.ask(request(FAULTS, back)) else {
            return unreachable(out);
        };
        match head(&words).0 {
            status::OK => {}
            status::NOT_FOUND => break,
            refused => return writeln!(out, "{}", status::text(refused)),
        }
        any = true;
        let failure = Failure::from_words(&words);
        let named = machine.ask(request(LIST, u32::from(failure.program)));
        let program = named.map(|words| Program::from_words(&words));
        let name = program.as_ref().map_or("?", |program| program.name.as_str());
        write!(out, "{:>7}.{:03} s {name}: ", failure.at_ms / 1000, failure.at_ms % 1000)?;
        one_failure(&failure, out)?;
    }
    if any { Ok(()) } else { writeln!(out, "nothing failed") }
}

fn one_failure(failure: &Failure, out: &mut impl Write) -> fmt::Result {
    match u64::from(failure.reason) {
        stop_reason::HALTED => writeln!(out, "ended with code {}", failure.code),
        stop_reason::FAULTED => {
            let cause = Cause(failure.cause);
            write!(out, "it {cause}")?;
            if cause.has_address() {
                write!(out, " at {:#x}", failure.address)?;
            }
            if failure.region != Region::None {
                write!(out, " in {}", failure.region.text())?;
            }
            writeln!(out, ", pc {:#x}", failure.pc)
        }
        _ => writeln!(out, "stopped by init, pc {:#x}", failure.pc),
    }
}

fn change(machine: &mut impl Machine, words: Words, what: &str, name: &str, out: &mut impl Write) -> fmt::Result {
    match machine.ask(words) {
        None => unreachable(out),
        Some(words) if head(&words).0 == status::OK => Ok(()),
        Some(words) => writeln!(out, "{what} {name}: {}", status::text(head(&words).0)),
    }
}

/// Every answer to `code` from `number` on.
fn each<W: Write>(
    machine: &mut impl Machine,
    code: u8,
    number: u32,
    out: &mut W,
    mut show: impl FnMut(&Words, &mut W) -> fmt::Result,
) -> fmt::Result {
    for number in number..MOST_QUESTIONS {
        let answer = machine.ask(request(code, number));
        if answer.is_some_and(|words| head(&words).0 == status::NOT_FOUND) {
            break;
        }
        let Some(words) = answered(answer, out)? else {
            break;
        };
        show(&words, out)?;
    }
    Ok(())
}

/// An answer that is not a refusal; a refusal is said.
fn answered(answer: Option<Words>, out: &mut impl Write) -> Result<Option<Words>, fmt::Error> {
    match answer {
        None => unreachable(out).map(|()| None),
        Some(words) if head(&words).0 == status::OK => Ok(Some(words)),
        Some(words) => writeln!(out, "{}", status::text(head(&words).0)).map(|()| None),
    }
}

fn unreachable(out: &mut impl Write) -> fmt::Result {
    writeln!(out, "init cannot be reached: the manifest must let the shell call it")
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
