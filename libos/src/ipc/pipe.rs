//! Pipes: streams of bytes on a [ring](super::ring), with backpressure and an end.
//!
//! A writer that is ahead by the whole ring sleeps; a reader that has caught up sleeps. Dropping the writer is the end of the file: the reader
//! gets what is left, then 0 bytes. A writer that died without having closed is [`Error::Died`] instead, so a cut stream is not taken for a whole one.

use super::ring::{Bell, Consumer, Error, Memory, Producer};
use super::shared::{load_bytes, store_bytes};
use crate::time::Instant;

/// Bytes of the largest power of two that fits.
fn capacity(memory: &impl Memory) -> u64 {
    const WORD: u64 = size_of::<u64>() as u64;
    match memory.data().len().checked_ilog2() {
        Some(bits) => WORD << bits,
        None => 0,
    }
}

/// The writing end. Dropping it is the end of the file.
pub struct Writer<M: Memory, B: Bell> {
    ring: Producer<M, B>,
}

impl<M: Memory, B: Bell> Writer<M, B> {
    /// On new memory. The other side makes a [`Reader`].
    ///
    /// # Panics
    /// When there is no data behind the header.
    pub fn new(memory: M, bell: B) -> Writer<M, B> {
        let capacity = capacity(&memory);
        Writer { ring: Producer::new(memory, bell, capacity) }
    }

    /// Writes bytes while there is room for them in one piece; answers with how many, perhaps none.
    #[inline(always)]
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let room = self.ring.room()?.min(self.ring.straight());
        let count = bytes.len().min(room as usize);
        if count > 0 {
            store_bytes(self.ring.data(), self.ring.place() as usize, &bytes[..count]);
            self.ring.advance(count as u64);
            self.ring.publish()?;
        }
        Ok(count)
    }

    /// Writes all bytes; sleeps while the pipe is full.
    #[inline(always)]
    pub fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Error> {
        loop {
            bytes = &bytes[self.try_write(bytes)?..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.ring.wait(deadline)?;
        }
    }
}

/// The reading end. Dropping it lets the writer know that nobody reads any more.
pub struct Reader<M: Memory, B: Bell> {
    ring: Consumer<M, B>,
}

impl<M: Memory, B: Bell> Reader<M, B> {
    /// On new memory. The other side makes a [`Writer`].
    ///
    /// # Panics
    /// When there is no data behind the header.
    pub fn new(memory: M, bell: B) -> Reader<M, B> {
        let capacity = capacity(&memory);
        Reader { ring: Consumer::new(memory, bell, capacity) }
    }

    /// Reads bytes that are there in one piece; answers with how many, perhaps none. [`Error::Closed`] is the end of the file.
    #[inline(always)]
    pub fn try_read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let there = self.ring.available()?.min(self.ring.straight());
        let count = out.len().min(there as usize);
        if count > 0 {
            load_bytes(self.ring.data(), self.ring.place() as usize, &mut out[..count]);
            self.ring.advance(count as u64);
            self.ring.release();
        }
        Ok(count)
    }

    /// Reads one byte at least, unless `out` has no room for one; sleeps while there is none. 0: the end of the file.
    #[inline(always)]
    pub fn read(&mut self, out: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        loop {
            match self.try_read(out) {
                Ok(0) if !out.is_empty() => {}
                Err(Error::Closed) => return Ok(0),
                done => return done,
            }
            match self.ring.wait(deadline) {
                Ok(()) | Err(Error::Closed) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::ring::{HEADER_WORDS, PROBE};
    use crate::ipc::testing::{FAR, Heap, Patient};
    use core::sync::atomic::Ordering::Relaxed;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    type Pair = (Writer<Heap, Patient>, Reader<Heap, Patient>, Heap, Patient);

    fn pipe(words: usize) -> Pair {
        let (heap, bell) = (Heap::new(HEADER_WORDS + words), Patient::new());
        (Writer::new(heap.clone(), bell.clone()), Reader::new(heap.clone(), bell.clone()), heap, bell)
    }

    fn rest(reader: &mut Reader<Heap, Patient>) -> Vec<u8> {
        let (mut all, mut part) = (Vec::new(), [0; 7]);
        while let Ok(count @ 1..) = reader.read(&mut part, FAR) {
            all.extend(&part[..count]);
        }
        all
    }

    #[test]
    fn the_end_comes_after_the_last_byte_and_again() {
        let (mut writer, mut reader, ..) = pipe(4);
        writer.write_all(b"all of it", FAR).unwrap();
        drop(writer);
        assert_eq!(rest(&mut reader), b"all of it");
        assert_eq!(reader.read(&mut [0], FAR), Ok(0));
    }

    #[test]
    fn a_full_pipe_takes_a_part_and_then_waits() {
        let (mut writer, mut reader, _, bell) = pipe(1);
        assert_eq!(writer.try_write(b"ten bytes."), Ok(8));
        assert_eq!(writer.try_write(b"s."), Ok(0));
        assert_eq!(writer.write_all(b"s.", bell.now() + PROBE), Err(Error::DeadlineMissed));
        let mut out = [0; 3];
        assert_eq!(reader.read(&mut out, FAR), Ok(3));
        assert_eq!(&out, b"ten");
        assert_eq!(writer.write_all(b"s.", FAR), Ok(()));
        drop(writer);
        assert_eq!(rest(&mut reader), b" bytes.");
    }

    #[test]
    fn a_writer_that_dies_half_way_is_no_end_of_file() {
        let (mut writer, mut reader, _, bell) = pipe(4);
        writer.write_all(b"half", FAR).unwrap();
        bell.die();
        let mut out = [0; 8];
        assert_eq!(reader.read(&mut out, FAR), Ok(4));
        assert_eq!(reader.read(&mut out, FAR), Err(Error::Died));
        drop(writer);
    }

    #[test]
    fn nobody_writes_to_a_pipe_that_nobody_reads() {
        let (mut writer, reader, ..) = pipe(1);
        drop(reader);
        assert_eq!(writer.write_all(&[0; 9], FAR), Err(Error::Closed));
    }

    #[test]
    fn reading_into_nothing_is_no_end() {
        let (_writer, mut reader, ..) = pipe(1);
        assert_eq!(reader.read(&mut [], FAR), Ok(0));
        assert_eq!(reader.try_read(&mut [0]), Ok(0));
    }

    #[test]
    fn a_wrong_index_breaks_the_pipe_for_good() {
        let (mut writer, mut reader, heap, bell) = pipe(2);
        heap.header()[0].store(17, Relaxed);
        assert_eq!(reader.read(&mut [0], FAR), Err(Error::Broken));
        heap.header()[0].store(1, Relaxed);
        assert_eq!(reader.read(&mut [0], FAR), Err(Error::Broken));
        heap.header()[8].store(17, Relaxed);
        assert_eq!(writer.write_all(&[0; 17], bell.now() + PROBE), Err(Error::Broken));
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40),
            sizes in prop::collection::vec(1usize..40, 1..40),
            bits in 0u32..4,
        ) {
            let (mut writer, mut reader, ..) = pipe(1 << bits);
            let (mut queue, mut sizes) = (VecDeque::new(), sizes.iter().cycle());
            for bytes in writes {
                let count = writer.try_write(&bytes).unwrap();
                queue.extend(&bytes[..count]);
                let mut out = std::vec![0; *sizes.next().unwrap()];
                let count = reader.try_read(&mut out).unwrap();
                let wanted: Vec<u8> = queue.drain(..count).collect();
                prop_assert_eq!(&out[..count], &wanted[..]);
            }
            drop(writer);
            prop_assert_eq!(rest(&mut reader), Vec::from(queue));
        }
    }
}
