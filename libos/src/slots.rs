//! Empty places in the binding table, revocation cells, pool numbers: which of ours nobody uses yet.

use crate::start;
use core::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};
use exo_abi::Handle;

/// Numbers that are tracked; a binding table has 1024 places at most.
const WORDS: usize = 16;

static SLOTS: Numbers = Numbers::new();
static CELLS: Numbers = Numbers::new();
static POOLS: Numbers = Numbers::new();

/// Which of a range of numbers are used: one bit a number.
struct Numbers([AtomicU64; WORDS]);

impl Numbers {
    const fn new() -> Numbers {
        Numbers([const { AtomicU64::new(0) }; WORDS])
    }

    /// Takes the lowest of `count` numbers that is not used.
    fn take(&self, count: u64) -> Option<u64> {
        for (index, word) in self.0.iter().enumerate() {
            let first = index as u64 * 64;
            let there = count.saturating_sub(first).min(64);
            let mask = if there == 64 { !0 } else { (1 << there) - 1 };
            let mut used = word.load(Acquire);
            // Each round either takes a bit or sees one that somebody else took: at most 64.
            while !used & mask != 0 {
                let bit = (!used & mask).trailing_zeros();
                match word.compare_exchange(used, used | 1 << bit, AcqRel, Acquire) {
                    Ok(_) => return Some(first + u64::from(bit)),
                    Err(now) => used = now,
                }
            }
        }
        None
    }

    fn give_back(&self, number: u64) {
        if let Some(word) = self.0.get((number / 64) as usize) {
            word.fetch_and(!(1 << (number % 64)), AcqRel);
        }
    }
}

/// Sets an empty slot of the binding table aside.
pub fn take() -> Option<Handle> {
    let (first, count) = start::info_if_known()?.slots;
    SLOTS.take(u64::from(count)).map(|index| Handle(first + index as u16))
}

/// Gives a slot back, after it was emptied ([`empty`] does both).
pub fn give_back(slot: Handle) {
    if let Some(info) = start::info_if_known()
        && let Some(index) = slot.0.checked_sub(info.slots.0)
    {
        SLOTS.give_back(u64::from(index));
    }
}

/// Empties a slot and gives it back.
pub fn empty(slot: Handle) {
    let _ = crate::sys::restrict(slot, exo_abi::binding::Rights::empty());
    give_back(slot);
}

/// Sets a revocation cell aside.
pub fn take_cell() -> Option<u64> {
    let (first, count) = start::info_if_known()?.cells;
    CELLS.take(u64::from(count)).map(|index| u64::from(first) + index)
}

/// Gives a cell back, after what carried it was taken back.
pub fn give_back_cell(cell: u64) {
    if let Some(info) = start::info_if_known()
        && let Some(index) = cell.checked_sub(u64::from(info.cells.0))
    {
        CELLS.give_back(index);
    }
}

/// Sets a pool's number aside.
pub fn take_pool() -> Option<u64> {
    let (first, count) = start::info_if_known()?.pools;
    POOLS.take(u64::from(count)).map(|index| u64::from(first) + index)
}

/// Gives a pool's number back, after the pool was destroyed.
pub fn give_back_pool(number: u64) {
    if let Some(info) = start::info_if_known()
        && let Some(index) = number.checked_sub(u64::from(info.pools.0))
    {
        POOLS.give_back(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_taken_once_and_comes_back() {
        let numbers = Numbers::new();
        for number in 0..70 {
            assert_eq!(numbers.take(70), Some(number));
        }
        assert_eq!(numbers.take(70), None);
        numbers.give_back(66);
        numbers.give_back(3);
        assert_eq!(numbers.take(70), Some(3));
        assert_eq!(numbers.take(70), Some(66));
        assert_eq!(numbers.take(70), None);
    }

    #[test]
    fn a_program_without_numbers_has_none() {
        assert_eq!(take(), None);
        assert_eq!(take_cell(), None);
        assert_eq!(Numbers::new().take(0), None);
    }
}
