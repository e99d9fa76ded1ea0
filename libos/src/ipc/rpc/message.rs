//! What the words of a typed call mean: a [`Message`] whose number is the interface's version, with up to 48 bytes.

use crate::protocol::{MAX_BYTES, Message};
use core::fmt;

/// Bytes that travel in registers.
pub const WORD_BYTES: usize = MAX_BYTES;

/// Requests; below them are the numbers of methods.
pub mod request {
    /// The client wants to lend frames: the server sets a slot aside for the pool's binding.
    pub const OPEN: u8 = 0xf0;
    /// Here are the frames (their numbers in the bytes) and, with the call, the binding of their pool.
    pub const LEND: u8 = 0xf1;
    /// First number that is no method's.
    pub const FIRST: u8 = OPEN;
}

/// How a call ended: the code of every reply.
pub mod answer {
    /// The method's result follows.
    pub const DONE: u8 = 0;
    /// The method's error follows.
    pub const FAILED: u8 = 1;
    /// [`super::request::OPEN`]: lend now. [`super::request::LEND`]: the connection's number stands in the flags.
    pub const READY: u8 = 2;
    /// Nothing was done: the connection is not known, or no binding came. The client lends anew.
    pub const NO_PAGES: u8 = 3;
    /// Nothing was done: the server speaks the version that this reply carries.
    pub const VERSION: u8 = 4;
    /// Nothing was done: the request makes no sense.
    pub const MALFORMED: u8 = 5;
    /// It was done, but the answer is longer than the frames.
    pub const TOO_LONG: u8 = 6;
    /// Nothing was done: the server has no place for another connection, or cannot map the frames.
    pub const NO_ROOM: u8 = 7;
}

/// Flags of a message.
pub mod flag {
    /// The bytes lie in the connection's frames; how many says a `u32` in the message.
    pub const LONG: u16 = 1 << 8;
    /// The connection's number; 0: none.
    pub const CONNECTION: u16 = 0xff;
}

/// Which declaration of which interface: what both sides compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// What its author counts.
    pub number: u16,
    /// Of the declaration's text: 20 bits.
    pub fingerprint: u32,
}

impl Version {
    /// Largest number of a version.
    pub const MAX_NUMBER: u16 = 0xfff;
    const FINGERPRINT_BITS: u32 = 20;

    /// The version of a declaration.
    ///
    /// # Panics
    /// For a number above [`Version::MAX_NUMBER`]; at compile time, where the macro asks.
    pub const fn new(number: u16, declaration: &str) -> Version {
        assert!(number <= Version::MAX_NUMBER, "an interface's version has 12 bits");
        // FNV-1a, folded.
        let (mut hash, mut index, bytes) = (0xcbf2_9ce4_8422_2325u64, 0, declaration.as_bytes());
        while index < bytes.len() {
            hash = (hash ^ bytes[index] as u64).wrapping_mul(0x100_0000_01b3);
            index += 1;
        }
        let folded = hash ^ hash >> 32 ^ hash >> Version::FINGERPRINT_BITS;
        Version { number, fingerprint: folded as u32 & ((1 << Version::FINGERPRINT_BITS) - 1) }
    }

    /// As a message carries it.
    pub const fn to_bits(self) -> u32 {
        (self.number as u32) << Version::FINGERPRINT_BITS | self.fingerprint
    }

    /// What a message carries.
    pub const fn from_bits(bits: u32) -> Version {
        let number = (bits >> Version::FINGERPRINT_BITS) as u16;
        Version { number, fingerprint: bits & ((1 << Version::FINGERPRINT_BITS) - 1) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{} ({:05x})", self.number, self.fingerprint)
    }
}

/// A message of this version without bytes.
#[inline(always)]
pub fn new(code: u8, version: Version) -> Message {
    Message::new(code).with_number(version.to_bits())
}

/// Says that the bytes, so many, lie in the connection's frames.
pub fn set_long(message: &mut Message, bytes: usize) {
    message.flags |= flag::LONG;
    message.len = 4;
    message.bytes[..4].copy_from_slice(&(bytes as u32).to_le_bytes());
}

/// How many bytes lie in the connection's frames, as the other side claims; `None`: the message holds them itself.
#[inline(always)]
pub fn long(message: &Message) -> Option<usize> {
    if message.flags & flag::LONG == 0 {
        return None;
    }
    let [a, b, c, d, ..] = message.bytes;
    Some(u32::from_le_bytes([a, b, c, d]) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_version_survives_the_words_and_differs_by_number_and_by_declaration() {
        let version = Version::new(Version::MAX_NUMBER, "fn add(u64)");
        let words = new(7, version).to_words();
        assert_eq!(Version::from_bits(Message::from_words(&words).number), version);
        assert_ne!(Version::new(1, "fn add(u64)").to_bits(), Version::new(2, "fn add(u64)").to_bits());
        assert_ne!(Version::new(1, "fn add(u64)").to_bits(), Version::new(1, "fn add(u32)").to_bits());
        assert_eq!(Version { number: 3, fingerprint: 0xab }.to_string(), "3 (000ab)");
    }

    #[test]
    fn a_long_message_says_how_long_and_a_short_one_nothing() {
        let mut message = new(0, Version::new(1, ""));
        assert_eq!(long(&message), None);
        set_long(&mut message, 4098);
        assert_eq!(long(&Message::from_words(&message.to_words())), Some(4098));
    }
}
