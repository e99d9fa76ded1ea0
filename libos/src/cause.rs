//! What stopped a program, in words: `ESR_EL1` read for people (Arm ARM D19.2.37).

use core::fmt;

/// The syndrome of an exception taken from EL0. Displays as a sentence without subject: "wrote where nothing is mapped".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause(pub u64);

impl Cause {
    /// The exception class: bits 31:26.
    pub const fn class(self) -> u64 {
        self.0 >> 26 & 0x3f
    }

    /// The fault status of an abort: bits 5:0.
    pub const fn status(self) -> u64 {
        self.0 & 0x3f
    }

    /// It is an instruction or data abort.
    pub const fn is_abort(self) -> bool {
        matches!(self.class(), 0x20 | 0x24)
    }

    /// `FAR_EL1` says which address: for aborts (unless FnV) and a misaligned pc.
    pub const fn has_address(self) -> bool {
        (self.is_abort() && !(self.status() == 0x10 && self.0 >> 10 & 1 == 1)) || matches!(self.class(), 0x22 | 0x34)
    }

    const fn verb(self) -> &'static str {
        match (self.class(), self.0 >> 6 & 1) {
            (0x20, _) => "executed",
            (_, 1) => "wrote",
            _ => "read",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_abort() {
            return abort(*self, out);
        }
        let low = self.0 & 0xffff;
        match self.class() {
            0x00 => out.write_str("executed an undefined instruction"),
            0x01 => out.write_str("executed WFI or WFE, which is trapped"),
            0x07 => out.write_str("used FP/SIMD registers, which are trapped"),
            0x09 | 0x1c => out.write_str("failed a pointer authentication"),
            0x0d => out.write_str("branched to what is no landing pad"),
            0x0e => out.write_str("was in an illegal execution state"),
            0x15 => write!(out, "executed svc #{low} and handles no such call"),
            0x18 => out.write_str("touched a system register it may not"),
            0x19 | 0x1d => out.write_str("used SVE or SME, which are trapped"),
            0x22 => out.write_str("branched to a misaligned address"),
            0x26 => out.write_str("used a misaligned stack pointer"),
            0x2c => out.write_str("raised a floating-point exception"),
            0x2f => out.write_str("got an asynchronous error from memory or a device"),
            0x30 => out.write_str("hit a hardware breakpoint"),
            0x32 => out.write_str("was single-stepped"),
            0x34 => out.write_str("hit a watchpoint"),
            0x3c => write!(out, "executed brk #{low}"),
            class => write!(out, "got an exception of class {class:#x}"),
        }
    }
}

fn abort(cause: Cause, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let verb = cause.verb();
    let status = cause.status();
    match status {
        0x00..=0x03 => write!(out, "{verb} an address beyond physical memory"),
        0x04..=0x07 => {
            write!(out, "{verb} where nothing is mapped (translation fault, level {})", status & 3)
        }
        0x08..=0x0b => write!(out, "{verb} a page not marked accessed (access flag fault, level {})", status & 3),
        0x0c..=0x0f => write!(out, "{verb} where it may not (permission fault, level {})", status & 3),
        0x10 => write!(out, "{verb} an address that nothing answers (external abort)"),
        0x21 => write!(out, "{verb} a misaligned address"),
        0x30 => write!(out, "{verb} through a TLB conflict"),
        0x34 | 0x35 => write!(out, "{verb} with an exclusive or atomic access the memory does not support"),
        _ => write!(out, "{verb} and got fault status {status:#x}"),
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn aborts_say_what_was_done_and_what_was_missing() {
        assert_eq!(Cause(0x9200_0047).to_string(), "wrote where nothing is mapped (translation fault, level 3)");
        assert_eq!(Cause(0x9200_0006).to_string(), "read where nothing is mapped (translation fault, level 2)");
        assert_eq!(Cause(0x8200_000f).to_string(), "executed where it may not (permission fault, level 3)");
        assert_eq!(Cause(0x9200_0021).to_string(), "read a misaligned address");
        assert!(Cause(0x9200_0047).has_address() && !Cause(0x9200_0410).has_address());
    }

    #[test]
    fn other_classes_have_their_own_words() {
        assert_eq!(Cause(0x0200_0000).to_string(), "executed an undefined instruction");
        assert_eq!(Cause(0xf200_0001).to_string(), "executed brk #1");
        assert_eq!(Cause(0x5600_0000).to_string(), "executed svc #0 and handles no such call");
        assert_eq!(Cause(0x9a00_0000).to_string(), "used a misaligned stack pointer");
        assert_eq!(Cause(0x6200_0000).to_string(), "touched a system register it may not");
    }

    #[test]
    fn every_syndrome_has_words() {
        for class in 0..64u64 {
            for status in 0..64u64 {
                assert!(!Cause(class << 26 | status).to_string().is_empty());
            }
        }
    }
}
