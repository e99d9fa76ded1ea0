//! What is said of a program that died, and what is remembered.

use crate::places::Places;
use alloc::collections::VecDeque;
use core::fmt::{self, Write};
use exo_abi::calls::stop_reason;
use exo_abi::control_page::Frame;
use libos::cause::Cause;
use libos::protocol::supervisor::{Failure, Region};

/// Failures remembered.
pub const MOST_FAILURES: usize = 16;

/// The registers of a dead program with what init knows of it.
pub struct PostMortem<'a> {
    /// Its name.
    pub program: &'a str,
    /// Its environment's number.
    pub environment: u64,
    /// Which of its vcores stopped.
    pub vcore: u64,
    /// [`stop_reason`].
    pub reason: u64,
    /// The code it halted with.
    pub code: u64,
    /// Its registers.
    pub frame: &'a Frame,
    /// What lay where.
    pub places: &'a Places,
}

impl PostMortem<'_> {
    fn cause(&self) -> Cause {
        Cause(self.frame.cause)
    }

    /// Where the address of the fault lies, or else its pc.
    pub fn region(&self) -> Region {
        let address = if self.cause().has_address() { self.frame.address } else { self.frame.pc };
        self.places.region(address)
    }
}

impl fmt::Display for PostMortem<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PostMortem { program, environment, vcore, frame, .. } = self;
        write!(out, "{program} (environment {environment}, vcore {vcore}) ")?;
        match self.reason {
            stop_reason::FAULTED => writeln!(out, "died: it {}", self.cause())?,
            stop_reason::HALTED => return writeln!(out, "ended with code {}", self.code),
            stop_reason::STOPPED => writeln!(out, "was stopped")?,
            _ => return writeln!(out, "stopped for reason {}", self.reason),
        }
        let faulted = self.reason == stop_reason::FAULTED;
        if faulted && self.cause().has_address() {
            let region = self.places.region(frame.address).text();
            writeln!(out, "  address {:#018x} in {region}", frame.address)?;
        }
        for (name, address) in [("pc", frame.pc), ("sp", frame.sp)] {
            writeln!(out, "  {name:<7} {address:#018x} in {}", self.places.region(address).text())?;
        }
        // What stopped without a fault has the cause of some earlier exception there.
        if faulted {
            writeln!(out, "  cause   {:#018x}", frame.cause)?;
        }
        writeln!(out, "  flags   {:#018x}", frame.flags)?;
        registers(frame, out)
    }
}

fn registers(frame: &Frame, out: &mut impl Write) -> fmt::Result {
    for (row, values) in frame.x.chunks(4).enumerate() {
        for (column, value) in values.iter().enumerate() {
            write!(out, "  x{:<2} {value:016x}", row * 4 + column)?;
        }
        out.write_char('\n')?;
    }
    Ok(())
}

/// The last failures, the newest first.
#[derive(Debug, Default)]
pub struct Failures {
    last: VecDeque<Failure>,
    total: u64,
}

impl Failures {
    /// None yet.
    pub const fn new() -> Failures {
        Failures { last: VecDeque::new(), total: 0 }
    }

    /// One more; the oldest is forgotten when there are too many.
    pub fn record(&mut self, failure: Failure) {
        self.last.truncate(MOST_FAILURES - 1);
        self.last.push_front(failure);
        self.total += 1;
    }

    /// The one `back` places back, 0 being the last.
    pub fn get(&self, back: usize) -> Option<Failure> {
        self.last.get(back).map(|failure| Failure { total: self.total, ..*failure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::manifest;
    use alloc::string::{String, ToString};

    fn frame() -> Frame {
        let mut x = [0; 31];
        x[30] = 0xabc;
        Frame {
            cause: 0x9200_0047,
            address: 8,
            pc: 0x20_1010,
            flags: 0,
            events: 0,
            spare: 0,
            x,
            sp: 0x20_3ff0,
            thread: 0,
        }
    }

    fn told(reason: u64, frame: &Frame) -> String {
        let manifest = manifest();
        let places = Places::of(&manifest, &manifest.programs[2]);
        PostMortem { program: "shell", environment: 5, vcore: 0, reason, code: 3, frame, places: &places }.to_string()
    }

    #[test]
    fn a_fault_is_told_with_cause_address_region_and_registers() {
        let text = told(stop_reason::FAULTED, &frame());
        for part in [
            "shell (environment 5, vcore 0) died: it wrote where nothing is mapped (translation fault, level 3)\n",
            "  address 0x0000000000000008 in the first page: a null pointer\n",
            "  pc      0x0000000000201010 in text\n",
            "  sp      0x0000000000203ff0 in data\n",
            "x30 0000000000000abc",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn an_end_is_one_line() {
        assert_eq!(told(stop_reason::HALTED, &frame()), "shell (environment 5, vcore 0) ended with code 3\n");
    }

    #[test]
    fn a_fault_without_address_names_none() {
        let mut frame = frame();
        frame.cause = 0xf200_0001;
        assert!(!told(stop_reason::FAULTED, &frame).contains("address 0x"));
    }

    #[test]
    fn only_the_last_failures_are_remembered() {
        let mut failures = Failures::new();
        for at_ms in 0..40 {
            failures.record(Failure {
                program: 1,
                reason: 2,
                region: Region::None,
                at_ms,
                cause: 0,
                address: 0,
                pc: 0,
                code: 0,
                total: 0,
            });
        }
        assert_eq!(failures.get(0).map(|f| (f.at_ms, f.total)), Some((39, 40)));
        assert_eq!(failures.get(MOST_FAILURES - 1).map(|f| f.at_ms), Some(24));
        assert_eq!(failures.get(MOST_FAILURES), None);
    }
}
