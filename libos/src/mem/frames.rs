//! Free frames: where to look for one, and how to take it.
//!
//! The bitmap is a hint that others change at any time; [`crate::sys::frame_alloc`] decides. A frame that turns out to be
//! taken is skipped. The search goes on where the last one ended.

use super::access;
use crate::sys::{self, Fill, Stopped};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use exo_abi::{Handle, Pfn, Refusal};

/// Frames one search looks for at most.
const MOST: usize = 64;
/// Refused candidates after which an allocation gives up: everybody is faster, or the bitmap is wrong.
const MAX_RACES: usize = 4096;
/// How often the kernel may answer that zeroing goes on later.
const MAX_AGAIN: usize = 64;

static CURSOR: AtomicU64 = AtomicU64::new(0);
static LOST_RACES: AtomicU64 = AtomicU64::new(0);

/// A view of the free bitmap, or of a stretch of it.
#[derive(Clone, Copy)]
pub struct FreeBitmap<'a> {
    words: &'a [AtomicU64],
    first_frame: u64,
    frames: u64,
}

impl<'a> FreeBitmap<'a> {
    /// Bit `i % 64` of word `i / 64` stands for frame `first_frame + i`, for `frames` frames.
    pub fn new(words: &'a [AtomicU64], first_frame: u64, frames: u64) -> FreeBitmap<'a> {
        FreeBitmap { words, first_frame, frames: frames.min(words.len() as u64 * 64) }
    }

    /// Whether `frame` was free a moment ago.
    pub fn is_free(&self, frame: Pfn) -> bool {
        match frame.0.checked_sub(self.first_frame) {
            Some(index) if index < self.frames => {
                self.words[(index / 64) as usize].load(Relaxed) & (1 << (index % 64)) != 0
            }
            _ => false,
        }
    }

    /// The index of a frame, for the cursor.
    fn index_of(&self, frame: Pfn) -> u64 {
        frame.0.saturating_sub(self.first_frame)
    }

    /// Frames that were free a moment ago.
    pub fn count(&self) -> u64 {
        (0..self.words.len()).map(|word| u64::from(self.word(word).count_ones())).sum()
    }

    /// Fills `out` with frames that were free a moment ago, from index `cursor` on and once around; answers with how many
    /// there are and the index behind the last.
    pub fn find(&self, cursor: u64, out: &mut [Pfn]) -> (usize, u64) {
        if self.frames == 0 || out.is_empty() {
            return (0, 0);
        }
        let cursor = if cursor < self.frames { cursor } else { 0 };
        let words = self.frames.div_ceil(64);
        let mut found = 0;
        // The first word is looked at twice: from the cursor on, and at the end up to it.
        for step in 0..=words {
            let index = (cursor / 64 + step) % words;
            let mut bits = self.word(index as usize);
            let below_cursor = (1u64 << (cursor % 64)) - 1;
            if step == 0 {
                bits &= !below_cursor;
            } else if step == words {
                bits &= below_cursor;
            }
            while bits != 0 {
                let bit = u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                out[found] = Pfn(self.first_frame + index * 64 + bit);
                found += 1;
                if found == out.len() {
                    return (found, index * 64 + bit + 1);
                }
            }
        }
        (found, cursor)
    }

    /// A word, without the bits behind the last frame.
    fn word(&self, index: usize) -> u64 {
        let there = self.frames.saturating_sub(index as u64 * 64).min(64);
        let mask = if there == 64 { !0 } else { (1 << there) - 1 };
        self.words[index].load(Relaxed) & mask
    }
}

/// Frames that the bitmap promised and somebody else had.
pub fn lost_races() -> u64 {
    LOST_RACES.load(Relaxed)
}

/// Lets the search begin at a frame.
pub(crate) fn begin_at(frame: Pfn) {
    access::with_bitmap(|bitmap| CURSOR.store(bitmap.index_of(frame), Relaxed));
}

/// Takes as many zeroed frames into `pool` as `out` has places; all or none.
pub fn alloc_frames(pool: Handle, out: &mut [Pfn]) -> Result<(), Refusal> {
    let (taken, refusal) = alloc_some(pool, out);
    match refusal {
        None => Ok(()),
        Some(refusal) => {
            free_frames(pool, &out[..taken]);
            Err(refusal)
        }
    }
}

/// Takes zeroed frames into `pool` until `out` is full or the kernel refuses; answers with how many, and why no more.
pub fn alloc_some(pool: Handle, out: &mut [Pfn]) -> (usize, Option<Refusal>) {
    let (mut taken, mut races, mut again, mut empty) = (0, 0, 0, 0);
    while taken < out.len() {
        let room = (out.len() - taken).min(MOST);
        let wanted = &mut out[taken..taken + room];
        let (found, next) = access::with_bitmap(|bitmap| bitmap.find(CURSOR.load(Relaxed), wanted));
        if found == 0 {
            // Nothing here: perhaps further on, if the machine has more memory than one look shows.
            empty += 1;
            if empty >= crate::machine::stretches() || !crate::machine::look_further() {
                return (taken, Some(Refusal::NotFree));
            }
            continue;
        }
        CURSOR.store(next, Relaxed);
        match sys::frame_alloc(pool, &wanted[..found], Fill::Zeroed) {
            Ok(_) => taken += found,
            Err(Stopped { done, refusal, .. }) => {
                let done = done as usize;
                taken += done;
                // The candidates behind the refused one are looked at again.
                let refused = out[taken.min(out.len() - 1)];
                let taken_by_others = u64::from(refusal == Refusal::NotFree);
                access::with_bitmap(|bitmap| CURSOR.store(bitmap.index_of(refused) + taken_by_others, Relaxed));
                match refusal {
                    Refusal::NotFree if races < MAX_RACES => {
                        races += 1;
                        LOST_RACES.fetch_add(1, Relaxed);
                    }
                    Refusal::Again if again < MAX_AGAIN || done > 0 => again += 1,
                    _ => return (taken, Some(refusal)),
                }
            }
        }
    }
    (taken, None)
}

/// Gives frames back. What the kernel refuses stays in the pool.
pub fn free_frames(pool: Handle, frames: &[Pfn]) {
    for part in frames.chunks(MOST) {
        let mut rest = part;
        while !rest.is_empty() {
            match sys::frame_free(pool, rest) {
                Ok(_) => break,
                // A frame that is mapped or not ours: it is left out.
                Err(stopped) => rest = rest.get(stopped.done as usize + 1..).unwrap_or(&[]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    fn words(bits: &[u64]) -> Vec<AtomicU64> {
        bits.iter().map(|bits| AtomicU64::new(*bits)).collect()
    }

    fn found(bitmap: &FreeBitmap, cursor: u64, most: usize) -> (Vec<u64>, u64) {
        let mut out = [Pfn(0); 16];
        let (count, next) = bitmap.find(cursor, &mut out[..most]);
        (out[..count].iter().map(|frame| frame.0).collect(), next)
    }

    #[test]
    fn free_frames_are_found_in_order_from_the_cursor() {
        let words = words(&[0b1011_0000, 1 << 63, 0b1]);
        let bitmap = FreeBitmap::new(&words, 1000, 192);
        assert_eq!(found(&bitmap, 0, 2), (vec![1004, 1005], 6));
        assert_eq!(found(&bitmap, 6, 3), (vec![1007, 1127, 1128], 129));
    }

    #[test]
    fn the_search_goes_once_around_and_names_no_frame_twice() {
        let words = words(&[0b1011_0000, 0, 0b1]);
        let bitmap = FreeBitmap::new(&words, 0, 192);
        assert_eq!(found(&bitmap, 5, 16).0, [5, 7, 128, 4]);
        assert_eq!(found(&bitmap, 191, 16).0, [4, 5, 7, 128]);
        // A cursor that is out of range begins anew.
        assert_eq!(found(&bitmap, 5000, 16).0, [4, 5, 7, 128]);
    }

    #[test]
    fn bits_behind_the_last_frame_are_never_found() {
        let words = words(&[!0, !0]);
        let bitmap = FreeBitmap::new(&words, 0, 66);
        assert_eq!(found(&bitmap, 62, 4).0, [62, 63, 64, 65]);
        assert_eq!(bitmap.count(), 66);
        assert!(bitmap.is_free(Pfn(65)));
        assert!(!bitmap.is_free(Pfn(66)));
    }

    #[test]
    fn nothing_is_found_where_nothing_is_free() {
        let words = words(&[0, 0]);
        assert_eq!(found(&FreeBitmap::new(&words, 0, 128), 17, 4).0, []);
        assert_eq!(found(&FreeBitmap::new(&[], 0, 128), 17, 4).0, []);
    }

    #[test]
    fn frames_outside_the_bitmap_are_not_free() {
        let words = words(&[!0]);
        let bitmap = FreeBitmap::new(&words, 100, 64);
        assert!(!bitmap.is_free(Pfn(99)));
        assert!(bitmap.is_free(Pfn(100)));
        assert!(!bitmap.is_free(Pfn(164)));
    }

    #[test]
    fn every_start_finds_the_same_frames() {
        let words = words(&[0x8421_0000_0000_1248, 0x1, 0, 0x8000_0000_0000_0000]);
        let bitmap = FreeBitmap::new(&words, 7, 256);
        let mut all = found(&bitmap, 0, 16).0;
        all.sort();
        for cursor in 0..256 {
            let mut these = found(&bitmap, cursor, 16).0;
            these.sort();
            assert_eq!(these, all, "from {cursor}");
        }
    }
}
