//! Physical frames: one word each, the truth about who has it and what for.
//!
//! ```text
//! 63      48 47  44 43   40 39                                     0
//! |  pool   | kind | flags |  count (for a table: level, environment; free: a ticket) |
//! ```
//! One compare-and-swap checks and changes pool, kind and count together. A change that takes longer goes through
//! [`Kind::Busy`], which everything else refuses. The free bitmap is only a hint for applications in search of a frame.

use crate::machine::{MAX_SPAN, Machine, numbers};
use crate::{pool, remote};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::calls::alloc_flag;
use exo_abi::{PAGE_BYTES, Pfn, Refusal};

numbers! {
    /// What a frame is used for.
    Kind {
        /// Nobody has it; its pool is the one that had it last, whose contents it may still hold.
        Free = 0,
        /// Readable and writable memory.
        Data = 1,
        /// Readable and executable memory.
        Code = 2,
        /// A page table, installed in exactly one place (or an environment's root).
        Table = 3,
        /// An environment.
        Environment = 4,
        /// A part of a binding table.
        Bindings = 5,
        /// A vcore's control page.
        Control = 6,
        /// The kernel's own; with [`EXPOSED`] everybody may map it read-only.
        Kernel = 7,
        /// Inside the span of RAM, but not RAM: a hole, or reserved by the firmware.
        Device = 8,
        /// In the middle of a change.
        Busy = 9,
    }
}

/// Flag of a kernel frame that everybody may map read-only.
pub const EXPOSED: u64 = 1 << 40;
const COUNT_MASK: u64 = (1 << 40) - 1;
const KIND_SHIFT: u32 = 44;

/// The value of a frame's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word(pub u64);

impl Word {
    /// Pool, kind and count.
    pub const fn new(pool: u64, kind: Kind, count: u64) -> Word {
        Word(pool << 48 | (kind as u64) << KIND_SHIFT | count)
    }
    /// A page table of `level` (1: root) that belongs to environment number `environment`.
    pub const fn table(pool: u64, level: u64, environment: u64) -> Word {
        Word::new(pool, Kind::Table, environment << 8 | level)
    }
    /// The pool that has the frame, or had it last.
    pub const fn pool(self) -> u64 {
        self.0 >> 48
    }
    /// Its use.
    pub const fn kind(self) -> Kind {
        Kind::from_bits(self.0 >> KIND_SHIFT & 0xf)
    }
    /// All but the count: what decides who may do what with it.
    pub const fn head(self) -> u64 {
        self.0 & !COUNT_MASK
    }
    /// Mappings of it that exist.
    pub const fn count(self) -> u64 {
        self.0 & COUNT_MASK
    }
    /// Of a table: 1, 2 or 3.
    pub const fn level(self) -> u64 {
        self.0 & 0xff
    }
    /// It is a table of this level.
    pub const fn is_table(self, level: u64) -> bool {
        self.0 & (0xf << KIND_SHIFT | 0xff) == (Kind::Table as u64) << KIND_SHIFT | level
    }
    /// Of a table: the number of the environment it belongs to.
    pub const fn environment(self) -> u64 {
        self.0 >> 8 & 0xff
    }
    /// Everybody may map it read-only.
    pub const fn exposed(self) -> bool {
        self.0 & EXPOSED != 0
    }
}

/// The words of all frames, and the free bitmap.
#[derive(Clone, Copy)]
pub struct Frames<'a> {
    /// The first frame with a word.
    pub first: u64,
    /// One word a frame.
    pub words: &'a [AtomicU64],
    /// One bit a frame: set while it is free.
    pub bitmap: &'a [AtomicU64],
}

impl Frames<'_> {
    /// The word of a frame; `None` outside the span of RAM.
    #[inline(always)]
    pub fn word(&self, pfn: Pfn) -> Option<&AtomicU64> {
        self.words.get(pfn.0.wrapping_sub(self.first) as usize)
    }

    /// The frame of RAM that has this number modulo the span of the linear map.
    pub fn near(&self, pfn: Pfn) -> Pfn {
        Pfn(self.first + (pfn.0.wrapping_sub(self.first) & (MAX_SPAN / PAGE_BYTES - 1)))
    }

    /// The current value of a frame's word.
    #[inline(never)]
    pub fn read(&self, pfn: Pfn) -> Option<Word> {
        self.word(pfn).map(|word| Word(word.load(Acquire)))
    }

    /// Replaces a frame's word, if it still is what the caller saw.
    #[inline(never)]
    pub fn change(&self, pfn: Pfn, old: Word, new: Word) -> Result<(), Refusal> {
        let word = self.word(pfn).ok_or(Refusal::BadArgument)?;
        word.compare_exchange(old.0, new.0, AcqRel, Relaxed).map(|_| ()).map_err(|_| Refusal::InUse)
    }

    /// Stores a frame's word: only for who has made it [`Kind::Busy`], or owns it otherwise.
    #[inline(never)]
    pub fn set(&self, pfn: Pfn, new: Word) {
        if let Some(word) = self.word(pfn) {
            word.store(new.0, Release);
        }
    }

    /// Sets or clears the hint that a frame is free.
    fn hint(&self, pfn: Pfn, kind: Kind) {
        let index = pfn.0.wrapping_sub(self.first);
        if let Some(word) = self.bitmap.get((index / 64) as usize) {
            let bit = 1 << (index % 64);
            let _ = if kind == Kind::Free { word.fetch_or(bit, AcqRel) } else { word.fetch_and(!bit, AcqRel) };
        }
    }
}

/// Takes free frame `pfn` into `pool` as data; the pool has been charged for it. With [`alloc_flag::ZERO`], or if it was in another pool last, it is zeroed:
/// `left` says how often that may still be done.
pub fn allocate(m: &impl Machine, pool: u64, pfn: Pfn, flags: u64, left: &mut u64) -> Result<(), Refusal> {
    let frames = m.frames();
    let place = frames.word(pfn).ok_or(Refusal::BadArgument)?;
    let old = Word(place.load(Acquire));
    Refusal::NotFree.when(old.kind() != Kind::Free || (old.count() != 0 && !remote::all_left(m, old.count())))?;
    let new = old.pool() != pool;
    let zeroed = new || flags & alloc_flag::ZERO != 0;
    Refusal::Again.when(zeroed && *left == 0)?;
    let busy = Word::new(pool, Kind::Busy, 0);
    place.compare_exchange(old.0, busy.0, AcqRel, Relaxed).map_err(|_| Refusal::NotFree)?;
    if zeroed {
        *left -= 1;
        m.zero(pfn);
    }
    frames.hint(pfn, Kind::Data);
    if new {
        pool::pool(m, pool).note(pfn.0 - frames.first);
    }
    place.store(Word::new(pool, Kind::Data, 0).0, Release);
    Ok(())
}

/// Reads the word of a frame that must belong to `pool`, be data or code, and be mapped nowhere.
pub fn unmapped(m: &impl Machine, pool: u64, pfn: Pfn) -> Result<Word, Refusal> {
    let word = m.frames().read(pfn).ok_or(Refusal::BadArgument)?;
    match word.kind() {
        _ if word.pool() != pool => Err(Refusal::NotYours),
        Kind::Free => Err(Refusal::NotYours),
        Kind::Data | Kind::Code if word.count() == 0 => Ok(word),
        Kind::Data | Kind::Code => Err(Refusal::InUse),
        _ => Err(Refusal::WrongFrame),
    }
}

/// Turns an unmapped frame of a pool into data, code or a kernel object of that pool. An object is made of data, and zeroed, since its owner may have written anything into it.
pub fn turn_into(m: &impl Machine, pfn: Pfn, new: Word) -> Result<(), Refusal> {
    let old = unmapped(m, new.pool(), pfn)?;
    let object = !matches!(new.kind(), Kind::Data | Kind::Code);
    Refusal::WrongFrame.when(object && old.kind() != Kind::Data)?;
    m.frames().change(pfn, old, Word::new(new.pool(), Kind::Busy, 0))?;
    if object {
        m.zero(pfn);
    } else if new.kind() == Kind::Code {
        m.clean_code(pfn);
    }
    m.frames().set(pfn, new);
    Ok(())
}

/// Gives an unmapped frame of `pool` back; the caller then lowers the pool's use.
pub fn free(m: &impl Machine, pool: u64, pfn: Pfn) -> Result<(), Refusal> {
    give_back(m, pfn, unmapped(m, pool, pfn)?, pool)
}

/// Frees a frame that still has this word; it remembers `pool`.
pub fn give_back(m: &impl Machine, pfn: Pfn, old: Word, pool: u64) -> Result<(), Refusal> {
    m.frames().change(pfn, old, Word::new(old.pool(), Kind::Busy, 0))?;
    set_free(m, pfn, Word::new(pool, Kind::Free, 0));
    Ok(())
}

/// The hint comes first: who takes the frame at once clears it after that.
fn set_free(m: &impl Machine, pfn: Pfn, word: Word) {
    m.frames().hint(pfn, Kind::Free);
    m.frames().set(pfn, word);
}

/// Frees a frame for good, whatever it was: only for who owns it alone. Nothing remembers the pool, so that its next one zeroes it.
pub fn release(m: &impl Machine, pfn: Pfn) {
    retire(m, pfn, 0);
}

/// The same for a kernel object that other cores may still look at: it can be taken once they have left the kernel since `ticket`.
pub fn retire(m: &impl Machine, pfn: Pfn, ticket: u64) {
    set_free(m, pfn, Word::new(0, Kind::Free, ticket));
}
