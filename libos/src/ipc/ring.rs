//! Rings: one producer, one consumer, in memory that both write and neither trusts.
//!
//! A ring is a header of two cache lines, one for each side to write, and data behind it:
//!
//! ```text
//! word  0   head: units written so far      the producer's    bit 63 of an index: this side has closed
//!       1   waits: wake me when tail is so
//!       8   tail: units read so far         the consumer's
//!       9   waits: wake me when head is so
//!      16   data
//! ```
//!
//! Indices only grow; 63 bits never wrap. Each side keeps its own index in memory of its own and publishes it once a batch. What the other
//! side writes is a claim: each word is read once, an index must not go back nor beyond what can be there, or the ring is
//! [`Error::Broken`] from then on. Positions are computed from the own index alone, so no claim becomes an address.
//! `waits` is no index that anything depends on: a wrong one costs a notification too many, or the other side its own.
//! Zeros are an empty ring, so new frames need no preparation.
//!
//! # Sleeping without losing a wake-up
//!
//! Who finds the ring empty (or full; then with `head` and `tail` exchanged) says which index it waits for, and looks once more before it sleeps.
//! Who publishes notifies exactly if its index passes the one waited for.
//!
//! ```text
//! consumer                               producer
//!   waits = tail + 1                       head = n           (release: the data comes first)
//!   fence                                  fence
//!   head still tail? then sleep            waits in (before, n]? then notify
//! ```
//!
//! Both sides store one word and then load the other's. Without the fences a core may let its load overtake its store, which still sits in a
//! store buffer: the consumer sees the old head, the producer the old `waits`, nobody notifies, and the consumer sleeps beside a
//! message. Acquire and release do not forbid that, for they do not order a store before a later load (Arm ARM B2.3: an STLR and a
//! later LDR of another place may be observed in either order); `DMB ISH` between them does. With both
//! fences one of the two loads sees the other side's store: the producer notifies, or the consumer does not sleep. A notification that
//! comes before the sleep stays pending, and ends it. After a sleep the same three steps begin anew, so that the fence also stands
//! between what the kernel read on this core and the next look at the index.
//! The tests model this very code with loom, and see that it fails without the fences.
//!
//! A peer that does not answer costs time until the deadline; one that is gone is noticed when it is next notified, which who waits does every
//! [`PROBE`] to find out.

use crate::time::Instant;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};
use core::time::Duration;
use exo_abi::Refusal;

/// Words of a ring before its data.
pub const HEADER_WORDS: usize = 16;
/// How often who waits looks whether the other side still lives.
pub const PROBE: Duration = Duration::from_millis(100);

/// In an index: its side has closed, and the index is its last.
pub(super) const CLOSED: u64 = 1 << 63;

/// Why nothing can be sent or received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// What the other side wrote cannot be: a wrong index. For good.
    Broken,
    /// The other side has closed, and everything it sent was received. For good.
    Closed,
    /// The other side is gone without having closed: its event cannot be raised any more. For good, once the rest was received.
    Died,
    /// The deadline passed. What was sent or received until then stays so.
    DeadlineMissed,
}

impl core::fmt::Display for Error {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str(match self {
            Error::Broken => "the other side wrote what cannot be",
            Error::Closed => "the other side has closed",
            Error::Died => "the other side died",
            Error::DeadlineMissed => "the deadline passed",
        })
    }
}

impl core::error::Error for Error {}

/// A word of memory that somebody else may change at any time.
pub trait Word {
    /// Reads it, once.
    fn load(&self, order: Ordering) -> u64;
    /// Writes it.
    fn store(&self, value: u64, order: Ordering);
    /// A barrier between accesses of such words.
    fn fence(order: Ordering);
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    #[inline(always)]
    fn fence(order: Ordering) {
        core::sync::atomic::fence(order);
    }
}

/// The memory of a ring, zeroed when it is new.
pub trait Memory {
    /// What it is made of.
    type Word: Word;
    /// Its first words.
    fn header(&self) -> &[Self::Word; HEADER_WORDS];
    /// The others.
    fn data(&self) -> &[Self::Word];
}

/// How one side wakes the other, and sleeps itself.
pub trait Bell {
    /// Wakes the other side; refused when it is gone.
    fn notify(&self) -> Result<(), Refusal>;
    /// Sleeps until the other side notifies, or `until`; returning early does no harm.
    fn wait(&self, until: Instant);
    /// This moment.
    fn now(&self) -> Instant;
}

/// Which words of the header a side writes: its index, and what it waits for.
#[derive(Clone, Copy)]
struct Line {
    index: usize,
    waits: usize,
}

const PRODUCER: Line = Line { index: 0, waits: 1 };
const CONSUMER: Line = Line { index: 8, waits: 9 };

/// One side's view of a ring whose units are whatever the capacity counts. Dropping it closes the ring.
///
/// It is the same for both: `own` grows up to `end` as this side goes on, and `end` follows what the other side publishes.
pub struct Side<M: Memory, B: Bell, const WRITES: bool> {
    memory: M,
    bell: B,
    /// Units that this side is done with.
    own: u64,
    /// Of these, what was published.
    published: u64,
    /// First unit that this side may not touch yet, by the last look at the other's index.
    end: u64,
    capacity: u64,
    patience: Patience,
    ended: Option<Error>,
}

impl<M: Memory, B: Bell, const WRITES: bool> Side<M, B, WRITES> {
    const MINE: Line = if WRITES { PRODUCER } else { CONSUMER };
    const THEIRS: Line = if WRITES { CONSUMER } else { PRODUCER };

    /// This side of a new ring of `capacity` units.
    ///
    /// # Panics
    /// When `capacity` is not a power of two.
    pub fn new(memory: M, bell: B, capacity: u64) -> Side<M, B, WRITES> {
        assert!(capacity.is_power_of_two(), "a ring of {capacity} units");
        let (end, patience) = (if WRITES { capacity } else { 0 }, Patience::new(&bell));
        Side { memory, bell, own: 0, published: 0, end, capacity, patience, ended: None }
    }

    /// How far `end` is ahead of the other's index: what is not read yet may not be written again.
    #[inline(always)]
    fn lead(&self) -> u64 {
        if WRITES { self.capacity } else { 0 }
    }

    /// Units that may be touched without another look.
    #[inline(always)]
    fn known(&self) -> u64 {
        self.end - self.own
    }

    /// The place of the next unit.
    #[inline(always)]
    pub fn place(&self) -> u64 {
        self.own & (self.capacity - 1)
    }

    /// Units from that place to the end of the data.
    #[inline(always)]
    pub fn straight(&self) -> u64 {
        self.capacity - self.place()
    }

    /// The data.
    #[inline(always)]
    pub fn data(&self) -> &[M::Word] {
        self.memory.data()
    }

    /// So many units were written, or read.
    ///
    /// # Panics
    /// When there was no room for them, or there were fewer.
    #[inline(always)]
    pub fn advance(&mut self, units: u64) {
        assert!(!WRITES || units <= self.known(), "more was written than there is room for");
        assert!(WRITES || units <= self.known(), "more was read than there is");
        self.own += units;
    }

    /// Reads the other side's index and says whether there is something to do.
    #[inline(always)]
    fn look(&mut self) -> Result<bool, Error> {
        if self.ended.is_none() {
            let word = self.memory.header()[Self::THEIRS.index].load(Acquire);
            let end = word.wrapping_add(self.lead());
            // It does not go back, and not beyond what this side has published. Who has closed is far beyond.
            let ahead = end.wrapping_sub(self.end);
            if ahead <= self.published + self.capacity - self.end {
                self.end = end;
                return Ok(end != self.own);
            }
            self.end_with(word);
        }
        match self.ended {
            Some(error) if self.known() == 0 => Err(error),
            _ => Ok(true),
        }
    }

    /// The other side has closed, or its index cannot be.
    #[cold]
    fn end_with(&mut self, word: u64) {
        let end = (word & !CLOSED).wrapping_add(self.lead());
        let possible = end.wrapping_sub(self.end) <= self.published + self.capacity - self.end;
        if word & CLOSED == 0 || !possible {
            self.break_off(Error::Broken);
        } else {
            // What is left may be received; but nobody receives any more.
            self.end = if WRITES { self.own } else { end };
            self.ended = Some(Error::Closed);
        }
    }

    /// From now on there is nothing but this error.
    #[cold]
    fn break_off(&mut self, error: Error) -> Error {
        self.end = self.own;
        *self.ended.get_or_insert(error)
    }

    /// Publishes the own index, and says whether the other side waits for it and is to be notified.
    #[inline(always)]
    #[must_use]
    fn publish_index(&mut self) -> bool {
        let before = self.published;
        if self.own == before {
            return false;
        }
        let header = self.memory.header();
        header[Self::MINE.index].store(self.own, Release);
        self.published = self.own;
        M::Word::fence(SeqCst);
        let waits = header[Self::THEIRS.waits].load(Relaxed);
        // In (before, own].
        waits.wrapping_sub(before + 1) < self.own - before
    }

    /// Sleeps until there is something to do.
    #[inline(always)]
    fn sleep(&mut self, deadline: Instant) -> Result<(), Error> {
        let mut slept = Slept::No;
        loop {
            // One unit more than the other side's index is now.
            let waits = self.end.wrapping_sub(self.lead()).wrapping_add(1);
            self.memory.header()[Self::MINE.waits].store(waits, Relaxed);
            M::Word::fence(SeqCst);
            if self.look()? {
                return Ok(());
            }
            if let Err(error) = self.patience.sleep(&self.bell, deadline, &mut slept) {
                return self.give_up(error);
            }
        }
    }

    /// Enough was waited.
    #[cold]
    fn give_up(&mut self, error: Error) -> Result<(), Error> {
        match error {
            // It may have published its last before it went.
            Error::Died if self.look()? => Ok(()),
            Error::Died => Err(self.break_off(error)),
            error => Err(error),
        }
    }
}

impl<M: Memory, B: Bell, const WRITES: bool> Drop for Side<M, B, WRITES> {
    fn drop(&mut self) {
        self.memory.header()[Self::MINE.index].store(self.own | CLOSED, Release);
        // Before the event, whatever the kernel's part in raising it orders.
        M::Word::fence(SeqCst);
        let _ = self.bell.notify();
    }
}

/// When who waits next asks whether the other side lives. It outlasts the single wait, so that most need not look at the clock.
pub(super) struct Patience {
    probe: Instant,
}

/// What one wait has done so far.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Slept {
    /// Nothing.
    No,
    /// It has slept, perhaps not long.
    Yes,
    /// It has slept since the moment from which [`PROBE`] counts.
    SinceProbe,
}

impl Patience {
    pub(super) fn new(bell: &impl Bell) -> Patience {
        Patience { probe: bell.now() + PROBE }
    }

    /// Sleeps once. [`Error::Died`] or [`Error::DeadlineMissed`]: enough of it.
    #[inline(always)]
    pub(super) fn sleep(&mut self, bell: &impl Bell, deadline: Instant, slept: &mut Slept) -> Result<(), Error> {
        if *slept == Slept::No {
            *slept = Slept::Yes;
        } else {
            self.in_vain(bell, deadline, slept)?;
        }
        bell.wait(self.probe.min(deadline));
        Ok(())
    }

    /// It slept and found nothing.
    #[cold]
    fn in_vain(&mut self, bell: &impl Bell, deadline: Instant, slept: &mut Slept) -> Result<(), Error> {
        let now = bell.now();
        if now >= deadline {
            return Err(Error::DeadlineMissed);
        }
        if now >= self.probe {
            if *slept == Slept::SinceProbe {
                bell.notify().map_err(|_| Error::Died)?;
            }
            *slept = Slept::SinceProbe;
            self.probe = now + PROBE;
        }
        Ok(())
    }
}

/// The writing side of a ring, in units of the caller's: [`Sender`] counts slots, [`super::pipe::Writer`] bytes.
pub type Producer<M, B> = Side<M, B, true>;

impl<M: Memory, B: Bell> Producer<M, B> {
    /// Units that can be written now. When it knows of none it publishes what was written, and looks.
    #[inline(always)]
    pub fn room(&mut self) -> Result<u64, Error> {
        if self.known() == 0 {
            self.publish()?;
            self.look()?;
        }
        Ok(self.known())
    }

    /// Publishes what was written, and wakes the other side if it waits for that.
    #[inline(always)]
    pub fn publish(&mut self) -> Result<(), Error> {
        if self.publish_index() && self.bell.notify().is_err() {
            return Err(self.break_off(Error::Died));
        }
        Ok(())
    }

    /// Publishes what was written and sleeps until there is room.
    #[cold]
    pub fn wait(&mut self, deadline: Instant) -> Result<(), Error> {
        self.publish()?;
        self.sleep(deadline)
    }
}

/// The reading side of a ring.
pub type Consumer<M, B> = Side<M, B, false>;

impl<M: Memory, B: Bell> Consumer<M, B> {
    /// Units that can be read now. When it knows of none it gives back the room of what was read, and looks.
    #[inline(always)]
    pub fn available(&mut self) -> Result<u64, Error> {
        if self.known() == 0 {
            self.release();
            self.look()?;
        }
        Ok(self.known())
    }

    /// Gives back the room of what was read, and wakes the other side if it waits for that.
    #[inline(always)]
    pub fn release(&mut self) {
        if self.publish_index() {
            self.notify();
        }
    }

    /// A full ring has room again: rare enough to stand apart.
    #[cold]
    fn notify(&self) {
        // A producer that is gone may have left something to read; when there is nothing more, the wait tells.
        let _ = self.bell.notify();
    }

    /// Gives back the room of what was read and sleeps until there is something to read.
    #[inline(always)]
    pub fn wait(&mut self, deadline: Instant) -> Result<(), Error> {
        self.release();
        self.sleep(deadline)
    }
}

/// Slots of `N` words that fit behind a header.
fn slots<const N: usize>(memory: &impl Memory) -> u64 {
    const { assert!(N > 0, "a message has a word at least") };
    match (memory.data().len() / N).checked_ilog2() {
        Some(bits) => 1 << bits,
        None => 0,
    }
}

/// The sending side of a ring of messages of `N` words.
pub struct Sender<const N: usize, M: Memory, B: Bell>(Producer<M, B>);

impl<const N: usize, M: Memory, B: Bell> Sender<N, M, B> {
    /// On new memory. The other side makes a [`Receiver`] of the same `N`.
    ///
    /// # Panics
    /// When not one message fits.
    pub fn new(memory: M, bell: B) -> Sender<N, M, B> {
        let slots = slots::<N>(&memory);
        Sender(Producer::new(memory, bell, slots))
    }

    /// Writes a message; `false`: the ring is full. It is seen after [`Sender::publish`], or when the ring is full.
    #[inline(always)]
    pub fn push(&mut self, message: &[u64; N]) -> Result<bool, Error> {
        if self.0.room()? == 0 {
            return Ok(false);
        }
        let first = self.0.place() as usize * N;
        for (word, value) in self.0.data()[first..first + N].iter().zip(message) {
            word.store(*value, Relaxed);
        }
        self.0.advance(1);
        Ok(true)
    }

    /// Lets the other side see what was written.
    #[inline(always)]
    pub fn publish(&mut self) -> Result<(), Error> {
        self.0.publish()
    }

    /// Writes a message and publishes it; sleeps while the ring is full.
    pub fn send(&mut self, message: &[u64; N], deadline: Instant) -> Result<(), Error> {
        while !self.push(message)? {
            self.0.wait(deadline)?;
        }
        self.publish()
    }
}

/// The receiving side of a ring of messages of `N` words.
pub struct Receiver<const N: usize, M: Memory, B: Bell>(Consumer<M, B>);

impl<const N: usize, M: Memory, B: Bell> Receiver<N, M, B> {
    /// On new memory. The other side makes a [`Sender`] of the same `N`.
    ///
    /// # Panics
    /// When not one message fits.
    pub fn new(memory: M, bell: B) -> Receiver<N, M, B> {
        let slots = slots::<N>(&memory);
        Receiver(Consumer::new(memory, bell, slots))
    }

    /// Takes a message, if there is one. Room goes back to the sender a batch at a time: when all that was known to be there was taken.
    #[inline(always)]
    pub fn pop(&mut self) -> Result<Option<[u64; N]>, Error> {
        if self.0.available()? == 0 {
            return Ok(None);
        }
        let first = self.0.place() as usize * N;
        let slot = &self.0.data()[first..first + N];
        let message = core::array::from_fn(|index| slot[index].load(Relaxed));
        self.0.advance(1);
        Ok(Some(message))
    }

    /// Lets the sender have the room of what was taken.
    #[inline(always)]
    pub fn release(&mut self) {
        self.0.release();
    }

    /// Takes a message; sleeps while there is none.
    pub fn receive(&mut self, deadline: Instant) -> Result<[u64; N], Error> {
        loop {
            if let Some(message) = self.pop()? {
                return Ok(message);
            }
            self.0.wait(deadline)?;
        }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
