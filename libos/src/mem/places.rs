//! Places for mappings: stretches of address space that nobody uses yet.
//!
//! Small ones come from the 64 pages next to the stack, which share its page table: one bit a page. Large ones come from
//! the far end; what is given back is kept in a short list and used again.

use core::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use exo_abi::PAGE_BYTES;
use spin::Mutex;

/// Longest small mapping, in pages.
const SMALL_PAGES: u64 = 16;
/// Large places given back that are remembered; more are forgotten, which costs address space and nothing else.
const REMEMBERED: usize = 16;

static PLACES: Places = Places::new();

/// The places of an address space.
pub struct Places {
    small_base: AtomicU64,
    small_used: AtomicU64,
    far: Mutex<Far>,
}

struct Far {
    next: u64,
    end: u64,
    given_back: [(u64, u64); REMEMBERED],
}

impl Places {
    pub(crate) const fn new() -> Places {
        Places {
            small_base: AtomicU64::new(0),
            // Nothing can be taken before the layout is known.
            small_used: AtomicU64::new(!0),
            far: Mutex::new(Far { next: 0, end: 0, given_back: [(0, 0); REMEMBERED] }),
        }
    }

    pub(crate) fn begin(&self, maps: u64, far: u64, far_end: u64) {
        self.small_base.store(maps, Relaxed);
        let mut place = self.far.lock();
        (place.next, place.end) = (far, far_end);
        self.small_used.store(0, Relaxed);
    }

    pub(crate) fn take(&self, pages: u64) -> Option<u64> {
        if pages == 0 {
            return None;
        }
        if pages <= SMALL_PAGES
            && let Some(page) = self.take_small(pages)
        {
            return Some(self.small_base.load(Relaxed) + page * PAGE_BYTES);
        }
        self.far.lock().take(pages)
    }

    fn take_small(&self, pages: u64) -> Option<u64> {
        let mut page = None;
        let _ = self.small_used.fetch_update(AcqRel, Acquire, |used| {
            page = free_run(used, pages);
            page.map(|page| used | run(page, pages))
        });
        page
    }

    pub(crate) fn give_back(&self, va: u64, pages: u64) {
        let page = va.wrapping_sub(self.small_base.load(Relaxed)) / PAGE_BYTES;
        if page < 64 {
            self.small_used.fetch_and(!run(page, pages), AcqRel);
        } else {
            self.far.lock().give_back(va, pages);
        }
    }
}

impl Far {
    fn take(&mut self, pages: u64) -> Option<u64> {
        for place in &mut self.given_back {
            if place.1 >= pages {
                let va = place.0;
                *place = (va + pages * PAGE_BYTES, place.1 - pages);
                return Some(va);
            }
        }
        let va = self.next;
        let end = va.checked_add(pages.checked_mul(PAGE_BYTES)?)?;
        if end > self.end {
            return None;
        }
        self.next = end;
        Some(va)
    }

    fn give_back(&mut self, va: u64, pages: u64) {
        if va + pages * PAGE_BYTES == self.next {
            self.next = va;
        } else if let Some(place) = self.given_back.iter_mut().min_by_key(|place| place.1)
            && place.1 < pages
        {
            *place = (va, pages);
        }
    }
}

/// First page of the lowest run of `pages` zeros in `used`.
fn free_run(used: u64, pages: u64) -> Option<u64> {
    (0..=64 - pages).find(|page| used & run(*page, pages) == 0)
}

fn run(page: u64, pages: u64) -> u64 {
    (!0 >> (64 - pages)) << page
}

/// Tells where places are; the entry does this once.
pub(crate) fn begin(maps: u64, far: u64, far_end: u64) {
    PLACES.begin(maps, far, far_end);
}

/// Sets `pages` pages of address space aside.
pub fn take(pages: u64) -> Option<u64> {
    PLACES.take(pages)
}

/// Gives a place back, after everything in it was unmapped.
pub fn give_back(va: u64, pages: u64) {
    PLACES.give_back(va, pages);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let places = Places::new();
        places.begin(0x40_0000, 0x4000_0000, 0x4000_0000 + 100 * PAGE_BYTES);
        places
    }

    #[test]
    fn small_places_lie_side_by_side_and_return() {
        let places = places();
        assert_eq!(places.take(3), Some(0x40_0000));
        assert_eq!(places.take(2), Some(0x40_3000));
        places.give_back(0x40_0000, 3);
        assert_eq!(places.take(2), Some(0x40_0000));
        assert_eq!(places.take(2), Some(0x40_5000));
        assert_eq!(places.take(1), Some(0x40_2000));
    }

    #[test]
    fn no_two_places_overlap_when_the_small_ones_run_out() {
        let places = places();
        let mut taken = std::vec::Vec::new();
        while let Some(va) = places.take(5) {
            taken.push(va);
        }
        taken.sort();
        assert!(taken.windows(2).all(|pair| pair[0] + 5 * PAGE_BYTES <= pair[1]));
        assert_eq!(taken.len(), 64 / 5 + 100 / 5);
    }

    #[test]
    fn far_places_that_were_given_back_are_used_again() {
        let places = places();
        let first = places.take(40).unwrap();
        let second = places.take(40).unwrap();
        assert_eq!(places.take(40), None);
        places.give_back(first, 40);
        assert_eq!(places.take(30), Some(first));
        places.give_back(second, 40);
        assert_eq!(places.take(60), Some(second));
    }

    #[test]
    fn nothing_is_taken_before_the_layout_is_known() {
        assert_eq!(Places::new().take(1), None);
        assert_eq!(places().take(0), None);
        assert_eq!(places().take(u64::MAX), None);
    }
}
