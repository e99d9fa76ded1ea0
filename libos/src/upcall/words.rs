//! A handler's answer in two registers.

use super::Resume;
use core::mem::MaybeUninit;
use exo_abi::page::MapEntry;

/// [`Resume`] in two registers: the words of an entry; or 0 to continue, or `NOT_MINE`, and nothing in the other one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Words(u64, MaybeUninit<u64>);

/// In place of an entry's first word: its operation is 0, which is none.
const NOT_MINE: u64 = 1 << 4;

impl From<Resume> for Words {
    #[inline(always)]
    fn from(resume: Resume) -> Words {
        match resume {
            Resume::Continue => Words(0, MaybeUninit::uninit()),
            Resume::NotMine => Words(NOT_MINE, MaybeUninit::uninit()),
            // No operation: nobody could apply it.
            Resume::Mapping(MapEntry { first, .. }) if first & 0xf == 0 => Words(NOT_MINE, MaybeUninit::uninit()),
            Resume::Mapping(MapEntry { first, second }) => Words(first, MaybeUninit::new(second)),
        }
    }
}

impl From<Words> for Resume {
    #[inline(always)]
    fn from(words: Words) -> Resume {
        match words {
            Words(0, _) => Resume::Continue,
            Words(NOT_MINE, _) => Resume::NotMine,
            // SAFETY: words are made above only, and with a first word that is neither, the second is there.
            Words(first, second) => Resume::Mapping(MapEntry { first, second: unsafe { second.assume_init() } }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exo_abi::page::Prot;
    use exo_abi::{Handle, Pfn};

    #[test]
    fn two_registers_hold_every_answer() {
        let entry = MapEntry::map(0, Pfn(0), 1, Prot::READ, Handle::POOL);
        for resume in [Resume::Continue, Resume::NotMine, Resume::Mapping(entry)] {
            assert_eq!(Resume::from(Words::from(resume)), resume);
        }
    }

    #[test]
    fn an_entry_without_an_operation_is_no_answer() {
        for first in [0, 16, 1 << 40] {
            let entry = MapEntry { first, second: 7 };
            assert_eq!(Resume::from(Words::from(Resume::Mapping(entry))), Resume::NotMine);
        }
    }
}
