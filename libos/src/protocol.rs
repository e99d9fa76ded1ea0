//! The words of the two protocols every program speaks: the console's and the supervisor's.
//!
//! A call carries seven words each way. The first says what is asked for (or how it ended), how many bytes follow,
//! and flags; up to [`MAX_BYTES`] bytes fill the other six. Nothing here allocates, and everything can be checked on a host.

pub mod supervisor;

/// The seven words of a message.
pub type Words = [u64; 7];

/// Bytes that fit behind the first word.
pub const MAX_BYTES: usize = 48;
/// Longest name of a program or service.
pub const NAME_BYTES: usize = 24;

/// A message taken apart: what it is, its bytes, its flags.
// Aligned as the registers are that carry it: the target's compiler makes single loads of aligned bytes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Message {
    /// What is asked for; in a reply how it ended.
    pub code: u8,
    /// How many of `bytes` count.
    pub len: u8,
    /// Bits whose meaning depends on the code.
    pub flags: u16,
    /// A number beside the bytes.
    pub number: u32,
    /// The bytes.
    pub bytes: [u8; MAX_BYTES],
}

impl Message {
    /// A message without bytes.
    pub const fn new(code: u8) -> Message {
        Message { code, len: 0, flags: 0, number: 0, bytes: [0; MAX_BYTES] }
    }

    /// The same with flags.
    pub const fn with_flags(mut self, flags: u16) -> Message {
        self.flags = flags;
        self
    }

    /// The same with a number.
    pub const fn with_number(mut self, number: u32) -> Message {
        self.number = number;
        self
    }

    /// The same with as many of `bytes` as fit.
    pub fn with_bytes(mut self, bytes: &[u8]) -> Message {
        let len = bytes.len().min(MAX_BYTES);
        self.bytes[..len].copy_from_slice(&bytes[..len]);
        self.len = len as u8;
        self
    }

    /// The bytes that count.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..(self.len as usize).min(MAX_BYTES)]
    }

    /// The registers that carry it.
    #[inline(always)]
    pub fn to_words(&self) -> Words {
        let mut words = [0; 7];
        words[0] = self.code as u64 | (self.len as u64) << 8 | (self.flags as u64) << 16 | (self.number as u64) << 32;
        for (word, bytes) in words[1..].iter_mut().zip(self.bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8]));
        }
        words
    }

    /// What registers carry. A length beyond [`MAX_BYTES`] counts as that.
    #[inline(always)]
    pub fn from_words(words: &Words) -> Message {
        let mut bytes = [0; MAX_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(&words[1..]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Message {
            code: words[0] as u8,
            len: ((words[0] >> 8) as u8).min(MAX_BYTES as u8),
            flags: (words[0] >> 16) as u16,
            number: (words[0] >> 32) as u32,
            bytes,
        }
    }
}

/// A name in three words, cut at [`NAME_BYTES`].
pub fn name_to_words(name: &str) -> [u64; 3] {
    let mut bytes = [0u8; NAME_BYTES];
    let len = name.len().min(NAME_BYTES);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    let mut words = [0; 3];
    for (word, part) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(part.try_into().unwrap_or([0; 8]));
    }
    words
}

/// A name received in three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name([u8; NAME_BYTES]);

impl Name {
    /// From the words of a message.
    pub fn from_words(words: &[u64]) -> Name {
        let mut bytes = [0u8; NAME_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Name(bytes)
    }

    /// The name; what is not UTF-8 is nobody's name and reads as empty.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(NAME_BYTES);
        core::str::from_utf8(&self.0[..len]).unwrap_or("")
    }
}

/// How a request ended: the code of every reply.
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// There is no such request.
    pub const UNKNOWN: u8 = 1;
    /// An argument makes no sense.
    pub const BAD: u8 = 2;
    /// The caller may not ask for this.
    pub const FORBIDDEN: u8 = 3;
    /// There is nothing of that name or number.
    pub const NOT_FOUND: u8 = 4;
    /// It is not in a state that permits this.
    pub const STATE: u8 = 5;
    /// No place is left.
    pub const FULL: u8 = 6;

    /// What a status says, for people.
    pub const fn text(status: u8) -> &'static str {
        match status {
            OK => "done",
            UNKNOWN => "there is no such request",
            BAD => "an argument makes no sense",
            FORBIDDEN => "the manifest does not permit this",
            NOT_FOUND => "there is nothing of that name",
            STATE => "its state does not permit this",
            FULL => "no place is left",
            _ => "an unknown answer",
        }
    }
}

/// What a console serves. Every request and reply is a [`Message`].
pub mod console {
    /// Begin anew. An Event binding sent along is notified when what was asked for is there.
    pub const OPEN: u8 = 1;
    /// Write the bytes. The reply's `number` says how many were taken; the event comes when there is space for more.
    pub const WRITE: u8 = 2;
    /// Take the focus and read at most `number` raw bytes. None: the event comes.
    pub const READ: u8 = 3;
    /// Take the focus and read a line, echoed and edited by the driver, in pieces. Nothing and no [`flag::END`]: the event comes.
    pub const READ_LINE: u8 = 4;
    /// Put everything out; the reply's `number` says how many bytes are still on their way.
    pub const DRAIN: u8 = 5;

    /// Flags of requests and replies.
    pub mod flag {
        /// WRITE: put the unfinished line out now.
        pub const FLUSH: u16 = 1;
        /// Reply to READ_LINE: the line ends here.
        pub const END: u16 = 1;
        /// Reply to READ_LINE: the input ended (Ctrl-D on an empty line).
        pub const END_OF_INPUT: u16 = 2;
    }

    /// Ctrl-D: the end of input.
    pub const END_OF_INPUT: u8 = 0x04;
}

#[cfg(test)]
mod tests {
    use super::supervisor::{Failure, Given, Memory, Program, Region, State};
    use super::*;

    #[test]
    fn a_message_survives_the_registers() {
        let sent = Message::new(console::WRITE).with_flags(console::flag::FLUSH).with_number(7).with_bytes(b"velvet> ");
        let received = Message::from_words(&sent.to_words());
        assert_eq!(received, sent);
        assert_eq!(received.as_bytes(), b"velvet> ");
    }

    #[test]
    fn a_length_beyond_the_words_is_cut() {
        let hostile = Message::from_words(&[0xff << 8, 1, 2, 3, 4, 5, 6]);
        assert_eq!(hostile.as_bytes().len(), MAX_BYTES);
        assert_eq!(Message::new(1).with_bytes(&[7; 100]).as_bytes(), &[7; MAX_BYTES]);
    }

    #[test]
    fn names_are_cut_and_nonsense_is_nobody() {
        assert_eq!(Name::from_words(&name_to_words("pl011")).as_str(), "pl011");
        assert_eq!(
            Name::from_words(&name_to_words("a name far longer than four and twenty")).as_str().len(),
            NAME_BYTES
        );
        assert_eq!(Name::from_words(&[u64::MAX; 3]).as_str(), "");
    }

    #[test]
    fn the_supervisors_answers_survive_the_registers() {
        let name = Name::from_words(&name_to_words("shell"));
        let program = Program {
            name,
            state: State::Waiting,
            environment: 9,
            restarts: 65535,
            failures: 3,
            code: 101,
            cpu_us: 77,
        };
        assert_eq!(Program::from_words(&program.to_words()), program);
        let memory = Memory { ram: 1, free: 2, kernel: 3, archive: 4, promised: 5, machine_info: 6 };
        assert_eq!(Memory::from_words(&memory.to_words()), memory);
        let given = Given { name, handle: 300, kind: 7, rights: 3, first: 0x9000, count: 1 };
        assert_eq!(Given::from_words(&given.to_words()), given);
        let failure = Failure {
            program: 2,
            reason: 2,
            region: Region::Guard,
            at_ms: 5,
            cause: 6,
            address: 7,
            pc: 8,
            code: 9,
            total: 10,
        };
        assert_eq!(Failure::from_words(&failure.to_words()), failure);
    }
}
