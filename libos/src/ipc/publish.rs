//! Publish and subscribe: one publisher, any number of subscribers that it never waits for.
//!
//! Only the publisher writes this memory, and the subscribers map it for reading, so none of them can harm another. The newest messages stand in a
//! circle of slots; who is slower than that skips forward and is told how many messages it missed. A slot is a sequence lock: its first word is
//! odd while the slot is being written, then twice the message's number plus 2. A subscriber reads it before and after the words, and
//! takes them only if both say that they are the message it wants.
//!
//! ```text
//! publisher                              subscriber
//!   sequence = 2n + 1, release             sequence, acquire: 2n + 2?
//!   fence, release                         words
//!   words                                  fence, acquire
//!   sequence = 2n + 2, release             sequence: still 2n + 2?
//!   count = n + 1, release
//! ```
//!
//! The fences keep the words between the two accesses of the sequence on either side (H.-J. Boehm, Can seqlocks get along with programming
//! language memory models?, MSPC 2012). Subscribers cannot write, so they cannot say that they sleep: the publisher
//! notifies all of them once a batch, and forgets who is gone.

use super::ring::{Bell, CLOSED, Error, Memory, Patience, Slept, Word};
use crate::time::Instant;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// The word of the header that counts messages.
const COUNT: usize = 0;
/// Looks at a slot in one call before a subscriber that is overtaken each time gives up for now.
const MOST_LOOKS: u32 = 8;

/// Slots of `N` words and a sequence that fit, as a power of two.
fn slots<const N: usize>(memory: &impl Memory) -> u64 {
    match (memory.data().len() / (N + 1)).checked_ilog2() {
        Some(bits @ 1..) => 1 << bits,
        _ => panic!("a publisher needs memory for two messages at least"),
    }
}

/// The words of slot `number`, its sequence first.
#[inline(always)]
fn slot<const N: usize, M: Memory>(memory: &M, slots: u64, number: u64) -> (&M::Word, &[M::Word]) {
    let first = (number & (slots - 1)) as usize * (N + 1);
    let slot = &memory.data()[first..first + N + 1];
    (&slot[0], &slot[1..])
}

/// Writes messages of `N` words. Dropping it tells the subscribers that it was the last.
pub struct Publisher<const N: usize, M: Memory, B: Bell> {
    memory: M,
    slots: u64,
    /// Messages written so far.
    count: u64,
    subscribers: Vec<B>,
}

impl<const N: usize, M: Memory, B: Bell> Publisher<N, M, B> {
    /// On new memory, with nobody subscribed.
    ///
    /// # Panics
    /// When two messages do not fit.
    pub fn new(memory: M) -> Publisher<N, M, B> {
        let slots = slots::<N>(&memory);
        Publisher { memory, slots, count: 0, subscribers: Vec::new() }
    }

    /// From now on this one is notified.
    pub fn subscribe(&mut self, subscriber: B) {
        self.subscribers.push(subscriber);
    }

    /// Those who are notified, as far as is known.
    pub fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    /// Writes a message. Who looks sees it; who sleeps hears of it by [`Publisher::notify`].
    #[inline(always)]
    pub fn publish(&mut self, message: &[u64; N]) {
        let (sequence, words) = slot::<N, M>(&self.memory, self.slots, self.count);
        // Release: who sees this number must also see the count before it.
        sequence.store(2 * self.count + 1, Release);
        M::Word::fence(Release);
        for (word, value) in words.iter().zip(message) {
            word.store(*value, Relaxed);
        }
        sequence.store(2 * self.count + 2, Release);
        self.count += 1;
        self.memory.header()[COUNT].store(self.count, Release);
    }

    /// Wakes the subscribers; forgets those who are gone.
    pub fn notify(&mut self) {
        // The messages come before the event, whatever the kernel's part in raising it orders.
        M::Word::fence(SeqCst);
        self.subscribers.retain(|subscriber| subscriber.notify().is_ok());
    }
}

impl<const N: usize, M: Memory, B: Bell> Drop for Publisher<N, M, B> {
    fn drop(&mut self) {
        self.memory.header()[COUNT].store(self.count | CLOSED, Release);
        self.notify();
    }
}

/// What a subscriber received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received<const N: usize> {
    /// The message.
    pub message: [u64; N],
    /// Messages before it that this subscriber was too slow for, since the one it received last.
    pub missed: u64,
}

/// Reads messages of `N` words.
pub struct Subscriber<const N: usize, M: Memory, B: Bell> {
    memory: M,
    bell: B,
    slots: u64,
    /// The message it wants.
    next: u64,
    missed: u64,
    /// Messages there were at the last look.
    count: u64,
    patience: Patience,
    ended: Option<Error>,
}

impl<const N: usize, M: Memory, B: Bell> Subscriber<N, M, B> {
    /// On the publisher's memory; it begins with the oldest message that is still there.
    ///
    /// # Panics
    /// When two messages do not fit.
    pub fn new(memory: M, bell: B) -> Subscriber<N, M, B> {
        let slots = slots::<N>(&memory);
        let patience = Patience::new(&bell);
        Subscriber { memory, bell, slots, next: 0, missed: 0, count: 0, patience, ended: None }
    }

    /// Takes the next message, if there is one. `None` also if the publisher was faster than this each time it looked.
    #[inline(always)]
    pub fn pop(&mut self) -> Result<Option<Received<N>>, Error> {
        for _ in 0..MOST_LOOKS {
            if self.next == self.count && !self.look()? {
                return Ok(None);
            }
            let (sequence, words) = slot::<N, M>(&self.memory, self.slots, self.next);
            let wanted = 2 * self.next + 2;
            let before = sequence.load(Acquire);
            let message = core::array::from_fn(|index| words[index].load(Relaxed));
            M::Word::fence(Acquire);
            let after = sequence.load(Relaxed);
            if before == wanted && after == wanted {
                self.next += 1;
                return Ok(Some(Received { message, missed: core::mem::take(&mut self.missed) }));
            }
            // The count said that it is there: a sequence before it cannot be.
            if before < wanted || after < before {
                return Err(self.break_off(Error::Broken));
            }
            self.skip()?;
        }
        Ok(None)
    }

    /// Takes the next message; sleeps while there is none.
    pub fn receive(&mut self, deadline: Instant) -> Result<Received<N>, Error> {
        let mut slept = Slept::No;
        loop {
            if let Some(received) = self.pop()? {
                return Ok(received);
            }
            match self.patience.sleep(&self.bell, deadline, &mut slept) {
                Ok(()) => {}
                // It may have published its last before it went.
                Err(Error::Died) => return self.pop()?.ok_or_else(|| self.break_off(Error::Died)),
                Err(error) => return Err(error),
            }
            // Between what the kernel read on this core and the next look, as in a ring.
            M::Word::fence(SeqCst);
        }
    }

    /// Reads the count; whether the wanted message is there.
    fn look(&mut self) -> Result<bool, Error> {
        if let Some(error) = self.ended {
            return if self.next < self.count { Ok(true) } else { Err(error) };
        }
        let word = self.memory.header()[COUNT].load(Acquire);
        let count = word & !CLOSED;
        // Twice a number must fit in a word; and messages do not vanish.
        if count < self.count || count >= CLOSED >> 1 {
            return Err(self.break_off(Error::Broken));
        }
        self.count = count;
        if word & CLOSED != 0 {
            self.ended = Some(Error::Closed);
        }
        if self.next == self.count {
            return match self.ended {
                Some(error) => Err(error),
                None => Ok(false),
            };
        }
        if self.count - self.next > self.slots {
            self.skip_to(self.count - self.slots);
        }
        Ok(true)
    }

    /// The wanted message was overwritten: goes on with one in the middle of the circle, which will stand for a while.
    #[cold]
    fn skip(&mut self) -> Result<(), Error> {
        // With the release of the sequence that was seen: what overwrote the message was begun after the count that is read now, or an earlier one.
        M::Word::fence(Acquire);
        self.look()?;
        // The slot before the oldest may be in the middle of being written.
        let oldest = (self.count + 1).saturating_sub(self.slots);
        if oldest <= self.next {
            // The slot held a later message than the count knows of.
            return Err(self.break_off(Error::Broken));
        }
        self.skip_to(self.count - self.slots / 2);
        Ok(())
    }

    fn skip_to(&mut self, number: u64) {
        self.missed += number - self.next;
        self.next = number;
    }

    #[cold]
    fn break_off(&mut self, error: Error) -> Error {
        self.count = self.next;
        *self.ended.insert(error)
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
