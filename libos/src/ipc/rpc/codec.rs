//! Values as bytes and back: postcard, into registers or into shared frames.

use super::message::WORD_BYTES;
use crate::mem::Shared;
use exo_abi::Refusal;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

/// Bytes that are no value of the type that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// The bytes of a message, beside its head.
pub type Payload = [u8; WORD_BYTES];

/// Reads a value that all of `bytes` makes.
#[inline(always)]
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Malformed),
    }
}

/// Reads a value that the first `len` bytes of a payload make. The decoder is shown all of it, so that the compiler knows how long it is.
#[inline(always)]
pub fn decode_payload<'a, T: Deserialize<'a>>(payload: &'a Payload, len: usize) -> Result<T, Malformed> {
    match postcard::take_from_bytes::<T>(payload) {
        Ok((value, rest)) if WORD_BYTES - rest.len() == len => Ok(value),
        _ => Err(Malformed),
    }
}

/// Writes a value to the front of a payload of zeros; answers with how many bytes it has. `None`: it does not fit.
#[inline(always)]
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Option<(Payload, usize)> {
    postcard::serialize_with_flavor(value, Front { bytes: [0; WORD_BYTES], at: 0 }).ok()
}

/// A payload in the making. Aligned, so that it is copied in large pieces.
#[repr(C, align(8))]
struct Front {
    bytes: Payload,
    at: usize,
}

impl Flavor for Front {
    type Output = (Payload, usize);

    #[inline(always)]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        *self.bytes.get_mut(self.at).ok_or(postcard::Error::SerializeBufferFull)? = byte;
        self.at += 1;
        Ok(())
    }

    #[inline(always)]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        let end = self.at + bytes.len();
        let place = self.bytes.get_mut(self.at..end).ok_or(postcard::Error::SerializeBufferFull)?;
        place.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    #[inline(always)]
    fn finalize(self) -> postcard::Result<(Payload, usize)> {
        Ok((self.bytes, self.at))
    }
}

/// Writes a value into shared frames; answers with how many bytes. `None`: it does not fit, or the frames are gone.
pub fn encode_shared<T: Serialize + ?Sized>(value: &T, shared: &Shared) -> Option<usize> {
    let writer = Writer { shared, at: 0, stage: [0; STAGE], staged: 0 };
    postcard::serialize_with_flavor(value, writer).ok()
}

/// Bytes put together before they are copied.
const STAGE: usize = 64;

/// Small pieces are put together, large ones copied at once.
struct Writer<'a> {
    shared: &'a Shared,
    at: usize,
    stage: [u8; STAGE],
    staged: usize,
}

impl Writer<'_> {
    fn flush(&mut self) -> postcard::Result<()> {
        let staged = core::mem::take(&mut self.staged);
        let written = self.shared.write(self.at, &self.stage[..staged]);
        self.at += staged;
        full(written)
    }
}

fn full(written: Result<(), Refusal>) -> postcard::Result<()> {
    written.map_err(|_| postcard::Error::SerializeBufferFull)
}

impl Flavor for Writer<'_> {
    type Output = usize;

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.staged == STAGE {
            self.flush()?;
        }
        self.stage[self.staged] = byte;
        self.staged += 1;
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() < STAGE / 2 {
            return bytes.iter().try_for_each(|byte| self.try_push(*byte));
        }
        self.flush()?;
        full(self.shared.write(self.at, bytes))?;
        self.at += bytes.len();
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<usize> {
        self.flush()?;
        Ok(self.at)
    }
}
