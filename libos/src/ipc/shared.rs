//! Memory that two environments share: a pool for it, its frames as they travel in messages, their mapping here.
//!
//! A shared pool ends with the environment that made it, and with it every mapping of its frames, here too. So that a peer cannot end this
//! program by dying, shared memory is mapped in a region that fills itself: where the peer's frames were, zeros of this program's own
//! are read, which every protocol on top takes for an error. That costs at most a frame of the own pool for each page touched.

use super::ring::{Bell, HEADER_WORDS, Memory, Word};
use crate::event::{self, Event};
use crate::mem::places::Places;
use crate::mem::tables::{Tables, ensure, leaf, tables};
use crate::mem::{self, Region};
use crate::sys::{self, Progress};
use crate::time::Instant;
use crate::{slots, sys::Stopped};
use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use exo_abi::binding::Rights;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal};
use spin::Once;

/// Pages of address space for shared memory.
const SPACE_PAGES: u64 = 8192;
/// Of these, pages for small mappings: what [`Places`] has bits for.
const SMALL_PAGES: u64 = 64;
/// Pages that are mapped as one at most: what the kernel does in one call.
pub const MAX_PAGES: u64 = exo_abi::MAP_PAGES_PER_CALL;
/// Runs of consecutive frames in one message.
pub const MAX_RUNS: usize = 4;
/// Steps of a pool's destruction before it is given up: far above what its frames need.
const MOST_STEPS: u64 = 1 << 20;

/// A frame number that no machine has.
const NO_FRAME: Pfn = Pfn(u32::MAX as u64);

/// Bytes of a word.
const WORD: usize = size_of::<u64>();
/// Words of a page.
const PAGE_WORDS: usize = PAGE_BYTES as usize / WORD;

/// A pool whose frames are meant for others too. The one who made it ends it by dropping it, which takes the frames back wherever they are mapped.
#[derive(Debug)]
pub struct SharedPool {
    handle: Handle,
    /// Its revocation cell; `None`: somebody else made it.
    cell: Option<u64>,
}

impl SharedPool {
    /// Makes pool `number`, one of this program's that is not used ([`crate::start::StartInfo::pools`]), with a quota of `frames` from the own pool's.
    pub fn create(number: u64, frames: u64) -> Result<SharedPool, Refusal> {
        let cell = slots::take_cell().ok_or(Refusal::NotYours)?;
        let Some(handle) = slots::take() else {
            slots::give_back_cell(cell);
            return Err(Refusal::SlotTaken);
        };
        match sys::pool_create(Handle::POOL, number, cell, frames, 0, handle) {
            Ok(()) => Ok(SharedPool { handle, cell: Some(cell) }),
            Err(refusal) => {
                slots::give_back(handle);
                slots::give_back_cell(cell);
                Err(refusal)
            }
        }
    }

    /// The pool behind a binding that came with a message, in a slot that [`slots::take`] set aside for that. `WrongKind`: it is no pool but, say, a
    /// device, whose registers do not bear being read as memory. The slot is emptied when this is dropped, and when it is refused.
    pub fn received(binding: Handle) -> Result<SharedPool, Refusal> {
        let pool = SharedPool { handle: binding, cell: None };
        // No pool has that frame: what is refused tells what the binding is, and nothing changes.
        match sys::frame_free(binding, &[NO_FRAME]) {
            Err(Stopped { refusal: refusal @ (Refusal::WrongKind | Refusal::Stale | Refusal::BadHandle), .. }) => {
                Err(refusal)
            }
            _ => Ok(pool),
        }
    }

    /// Its binding, to send along with a call. Who is to fill it needs POOL_READ and POOL_WRITE, who is to take and free frames POOL_ALLOC too.
    pub const fn handle(&self) -> Handle {
        self.handle
    }

    /// Takes `pages` zeroed frames into it. `NotFree`: there are not so many in [`MAX_RUNS`] runs.
    pub fn take(&self, pages: u64) -> Result<Frames, Refusal> {
        let mut taken = [Pfn(0); MAX_PAGES as usize];
        let taken = taken.get_mut(..pages as usize).filter(|taken| !taken.is_empty()).ok_or(Refusal::BadArgument)?;
        mem::alloc_frames(self.handle, taken)?;
        taken.sort_unstable();
        Frames::of(taken).ok_or_else(|| {
            mem::free_frames(self.handle, taken);
            Refusal::NotFree
        })
    }

    /// Gives frames back that nobody has mapped any more. What is still mapped, or not this pool's, stays.
    pub fn free(&self, frames: Frames) {
        for run in frames.runs() {
            for frame in run {
                mem::free_frames(self.handle, &[frame]);
            }
        }
    }
}

impl Drop for SharedPool {
    fn drop(&mut self) {
        if let Some(cell) = self.cell {
            let mut cursor = 0;
            for _ in 0..MOST_STEPS {
                match sys::pool_destroy(self.handle, cursor) {
                    Ok(Progress::Again(next)) => cursor = next,
                    Ok(Progress::Done) | Err(_) => break,
                }
            }
            slots::give_back_cell(cell);
        }
        slots::empty(self.handle);
    }
}

/// One to [`MAX_PAGES`] frames in at most [`MAX_RUNS`] runs, as four words of a message hold them: the first frame in bits 31:0, how many in 47:32; 0: no run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frames([u64; MAX_RUNS]);

impl Frames {
    /// What four words of a message say, if it can be: one page at least, not too many, nothing else in the words. Whose frames they are the kernel checks when they are mapped.
    #[inline(always)]
    pub fn from_words(words: [u64; MAX_RUNS]) -> Option<Frames> {
        let mut pages = 0;
        for word in words {
            if word >> 48 != 0 || (word >> 32 == 0 && word != 0) {
                return None;
            }
            pages += word >> 32;
        }
        (pages > 0 && pages <= MAX_PAGES).then_some(Frames(words))
    }

    /// The words for a message.
    pub const fn words(&self) -> [u64; MAX_RUNS] {
        self.0
    }

    /// How many there are.
    #[inline(always)]
    pub fn pages(&self) -> u64 {
        self.0.iter().map(|word| word >> 32).sum()
    }

    /// These frames, in this order; `None`: they are too scattered.
    fn of(frames: &[Pfn]) -> Option<Frames> {
        let mut words = [0; MAX_RUNS];
        let mut run = 0;
        for (index, frame) in frames.iter().enumerate() {
            if index > 0 && frames[index - 1].0 + 1 != frame.0 {
                run += 1;
            }
            let word = words.get_mut(run)?;
            if *word == 0 {
                *word = frame.0;
            }
            *word += 1 << 32;
        }
        Some(Frames(words))
    }

    fn runs(&self) -> impl Iterator<Item = impl Iterator<Item = Pfn> + use<>> + use<> {
        self.0.into_iter().map(|word| (0..word >> 32).map(move |page| Pfn((word & 0xffff_ffff) + page)))
    }
}

/// What a mapping of shared memory permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// Frames of a shared pool, mapped here until it is dropped. They stay in their pool.
///
/// It lends words, never bytes: the other side may write at any time.
#[derive(Debug)]
pub struct SharedWords {
    va: u64,
    pages: u64,
}

impl SharedWords {
    /// Maps frames of a pool. Refused when they are not the pool's, or its binding lacks the rights.
    #[inline(always)]
    pub fn map(pool: &SharedPool, frames: Frames, access: Access) -> Result<SharedWords, Refusal> {
        let (va, pages) = (take_place(frames.pages())?, frames.pages());
        let prot = match access {
            Access::Read => Prot::READ | Prot::ACCESSED,
            Access::Write => Prot::READ | Prot::WRITE | Prot::ACCESSED | Prot::DIRTY,
        };
        let first = frames.0[0];
        let mapped = if first >> 32 == pages {
            change(&[MapEntry::map(va, Pfn(first & 0xffff_ffff), pages, prot, pool.handle)])
                .map_err(|stopped| stopped.refusal)
        } else {
            map_runs(va, pool.handle, frames, prot)
        };
        // What a refused batch did map goes with it.
        let shared = SharedWords { va, pages };
        match mapped {
            Ok(_) => Ok(shared),
            Err(refusal) => Err(refusal),
        }
    }

    /// Unmaps it and hands its frames on. `NotMapped`: they were taken away meanwhile.
    #[inline(always)]
    pub fn unmap(self) -> Result<Frames, Refusal> {
        let frames = self.frames()?;
        change(&[MapEntry::unmap(self.va, self.pages)])?;
        let shared = ManuallyDrop::new(self);
        give_back_place(shared.va, shared.pages);
        Ok(frames)
    }

    /// Its frames, as the page tables have them. `NotMapped`: they were taken away.
    #[inline(always)]
    pub fn frames(&self) -> Result<Frames, Refusal> {
        let frames = if self.pages == 1 {
            leaf(self.va).map(|leaf| Frames([leaf.pfn().0 | 1 << 32, 0, 0, 0]))
        } else {
            self.many_frames()
        };
        frames.ok_or(Refusal::NotMapped)
    }

    #[cold]
    fn many_frames(&self) -> Option<Frames> {
        let mut frames = [Pfn(0); MAX_PAGES as usize];
        let frames = &mut frames[..self.pages as usize];
        for (page, frame) in frames.iter_mut().enumerate() {
            *frame = leaf(self.va + page as u64 * PAGE_BYTES)?.pfn();
        }
        Frames::of(frames)
    }

    /// Its words.
    #[inline(always)]
    pub fn words(&self) -> &[AtomicU64] {
        words(self.va, self.pages as usize * PAGE_WORDS)
    }

    /// Copies bytes from `offset` on. What the other side writes meanwhile may be seen in part.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        load_bytes(self.words(), offset, out);
    }

    /// Copies bytes to `offset` and on.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        store_bytes(self.words(), offset, bytes);
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        for page in 0..self.pages {
            let va = self.va + page * PAGE_BYTES;
            if let Some(leaf) = leaf(va) {
                if change(&[MapEntry::unmap(va, 1)]).is_err() {
                    // The place is lost; it is never used twice.
                    return;
                }
                // Where the pool was taken away this is a frame of our own; any other the kernel refuses.
                let _ = sys::frame_free(Handle::POOL, &[leaf.pfn()]);
            }
        }
        give_back_place(self.va, self.pages);
    }
}

/// The places of shared memory. They lie in one region, so that each page of it fills itself when the peer's frame is taken away.
static PLACES: Places = Places::new();

/// The place of the page that was unmapped last, tables and all: frames that come and go by one look no further. 0: none.
static SPARE: AtomicU64 = AtomicU64::new(0);

/// Gives a place back in which nothing is mapped any more.
#[inline(always)]
fn give_back_place(va: u64, pages: u64) {
    let (other, pages) = if pages == 1 { (SPARE.swap(va, AcqRel), 1) } else { (va, pages) };
    if other != 0 {
        PLACES.give_back(other, pages);
    }
}

/// Sets a place aside whose tables are there.
#[inline(always)]
fn take_place(pages: u64) -> Result<u64, Refusal> {
    if pages == 1 {
        let spare = SPARE.swap(0, AcqRel);
        if spare != 0 {
            return Ok(spare);
        }
    }
    take_other_place(pages)
}

fn take_other_place(pages: u64) -> Result<u64, Refusal> {
    let va = match PLACES.take(pages) {
        Some(va) => va,
        None => open_space().and_then(|()| PLACES.take(pages)).ok_or(Refusal::BadArgument)?,
    };
    let last = va + (pages - 1) * PAGE_BYTES;
    if tables(va) != Tables::Complete || tables(last) != Tables::Complete {
        ensure(va, pages).inspect_err(|_| PLACES.give_back(va, pages))?;
    }
    Ok(va)
}

/// Declares the region, once.
#[cold]
fn open_space() -> Option<()> {
    static SPACE: Once<Option<Region>> = Once::new();
    SPACE
        .call_once(|| {
            let region = Region::demand_zero(SPACE_PAGES)?;
            PLACES.begin(region.start, region.start + SMALL_PAGES * PAGE_BYTES, region.end);
            Some(region)
        })
        .map(|_| ())
}

/// Maps several runs of frames side by side.
#[cold]
fn map_runs(va: u64, pool: Handle, frames: Frames, prot: Prot) -> Result<u64, Refusal> {
    let mut entries = [MapEntry { first: 0, second: 0 }; MAX_RUNS];
    let (mut at, mut count) = (va, 0);
    for word in frames.0 {
        let pages = word >> 32;
        if pages > 0 {
            entries[count] = MapEntry::map(at, Pfn(word & 0xffff_ffff), pages, prot, pool);
            at += pages * PAGE_BYTES;
            count += 1;
        }
    }
    Ok(change(&entries[..count])?)
}

/// Part of shared memory, as rings and what stands on them use it.
#[derive(Clone, Debug)]
pub struct Area {
    /// Keeps it mapped.
    _memory: Arc<SharedWords>,
    va: u64,
    words: usize,
}

impl Area {
    /// `pages` pages from page `first` on; `None`: they are not all there.
    pub fn new(memory: &Arc<SharedWords>, first: u64, pages: u64) -> Option<Area> {
        let inside = pages > 0 && first.checked_add(pages).is_some_and(|end| end <= memory.pages);
        inside.then(|| Area {
            _memory: memory.clone(),
            va: memory.va + first * PAGE_BYTES,
            words: pages as usize * PAGE_WORDS,
        })
    }
}

impl Memory for Area {
    type Word = AtomicU64;

    #[inline(always)]
    fn header(&self) -> &[AtomicU64; HEADER_WORDS] {
        header(self.va)
    }

    #[inline(always)]
    fn data(&self) -> &[AtomicU64] {
        words(self.va + (HEADER_WORDS * WORD) as u64, self.words - HEADER_WORDS)
    }
}

use raw::{change, header, words};

#[expect(unsafe_code, reason = "addresses of mappings become atomic words, and the own tables change")]
mod raw {
    use super::*;

    /// Words of a live mapping. The callers pass what lies in theirs, and lend it no longer than that lives.
    #[inline(always)]
    pub fn words<'a>(va: u64, words: usize) -> &'a [AtomicU64] {
        // SAFETY: the range lies in a live mapping that is page-aligned; where its frames were taken away the region fills itself. The memory is
        // accessed as atomic words only, here and, as far as it matters, by the other side.
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(va as usize), words) }
    }

    /// The header of a ring in a live mapping: as [`words`].
    #[inline(always)]
    pub fn header<'a>(va: u64) -> &'a [AtomicU64; HEADER_WORDS] {
        // SAFETY: as above; an area has a page at least.
        unsafe { &*core::ptr::with_exposed_provenance(va as usize) }
    }

    /// Changes the own tables at places of the shared space.
    #[inline(always)]
    pub fn change(entries: &[MapEntry]) -> Result<u64, Stopped> {
        // SAFETY: the places were taken by the `SharedWords` that maps or unmaps there; nothing else of Rust's lies in that region.
        unsafe { sys::map(Handle::SELF, entries) }
    }
}

/// Copies bytes out of words, from byte `at` on, little-endian. Each word is read once.
///
/// # Panics
/// Beyond the end.
#[inline(always)]
pub(super) fn load_bytes<W: Word>(words: &[W], at: usize, out: &mut [u8]) {
    let (mut at, mut out) = (at, out);
    while !out.is_empty() {
        let (skip, word) = (at % WORD, words[at / WORD].load(Relaxed));
        let (part, rest) = out.split_at_mut((WORD - skip).min(out.len()));
        at += part.len();
        if let Some(whole) = part.as_mut_array() {
            *whole = word.to_le_bytes();
        } else {
            let mut bytes = word >> (8 * skip);
            for byte in part {
                *byte = bytes as u8;
                bytes >>= 8;
            }
        }
        out = rest;
    }
}

/// Copies bytes into words, from byte `at` on, little-endian. The other bytes of the first and the last word stay what they are.
///
/// # Panics
/// Beyond the end.
#[inline(always)]
pub(super) fn store_bytes<W: Word>(words: &[W], at: usize, bytes: &[u8]) {
    let (mut at, mut bytes) = (at, bytes);
    while !bytes.is_empty() {
        let (skip, word) = (at % WORD, &words[at / WORD]);
        let (part, rest) = bytes.split_at((WORD - skip).min(bytes.len()));
        let value = match part.as_array() {
            Some(whole) => u64::from_le_bytes(*whole),
            None => part.iter().enumerate().fold(word.load(Relaxed), |value, (index, byte)| {
                let shift = 8 * (skip + index);
                value & !(0xff << shift) | u64::from(*byte) << shift
            }),
        };
        word.store(value, Relaxed);
        (at, bytes) = (at + part.len(), rest);
    }
}

/// An event bit of this vcore, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Bit(pub u64);

impl Bit {
    pub fn take() -> Option<Bit> {
        event::take_bit().map(Bit)
    }
}

impl Drop for Bit {
    fn drop(&mut self) {
        event::give_back_bit(self.0);
    }
}

/// A slot of the binding table, emptied and given back when this is dropped.
#[derive(Debug)]
pub(super) struct Slot(pub Handle);

impl Slot {
    pub fn take() -> Option<Slot> {
        slots::take().map(Slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        slots::empty(self.0);
    }
}

/// How a vcore and its peer wake each other: an event bit of this vcore, and a binding to one of the peer's.
///
/// Only the vcore that made it may wait with it.
#[derive(Debug)]
pub struct Wake {
    bit: Bit,
    peer: Slot,
}

impl Wake {
    /// From an event bit of this vcore ([`event::take_bit`]) and a binding to the peer's event, in a slot that [`slots::take`] set aside. Both are given back when it is dropped.
    pub const fn new(bit: u64, peer: Event) -> Wake {
        Wake { bit: Bit(bit), peer: Slot(peer.handle()) }
    }

    pub(super) const fn of(bit: Bit, peer: Slot) -> Wake {
        Wake { bit, peer }
    }
}

impl Bell for Arc<Wake> {
    #[inline(always)]
    fn notify(&self) -> Result<(), Refusal> {
        Event::new(self.peer.0).notify()
    }

    #[inline(always)]
    fn wait(&self, until: Instant) {
        // An alarm of 0 would be none.
        event::wait(1 << self.bit.0, Some(until.max(Instant(1))));
    }

    #[inline(always)]
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// [`Rights`] that go with an [`Access`].
pub(super) const fn rights(access: Access) -> Rights {
    match access {
        Access::Read => Rights::POOL_READ,
        Access::Write => Rights::POOL_READ.union(Rights::POOL_WRITE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Ordinary memory, as if the kernel had mapped it.
    fn over(memory: &[AtomicU64]) -> ManuallyDrop<SharedWords> {
        assert!(memory.len().is_multiple_of(PAGE_WORDS));
        let va = memory.as_ptr().expose_provenance() as u64;
        ManuallyDrop::new(SharedWords { va, pages: (memory.len() / PAGE_WORDS) as u64 })
    }

    fn zeros(words: usize) -> Vec<AtomicU64> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn bytes_are_copied_to_the_last_and_no_further() {
        let memory = zeros(2 * PAGE_WORDS);
        let shared = over(&memory);
        shared.write(8189, &[1, 2, 3]);
        shared.write(3, &[4, 5, 6, 7, 8, 9, 10]);
        let (mut end, mut start) = ([0; 4], [0; 12]);
        shared.read(8188, &mut end);
        shared.read(0, &mut start);
        assert_eq!((end, start), ([0, 1, 2, 3], [0, 0, 0, 4, 5, 6, 7, 8, 9, 10, 0, 0]));
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn nothing_is_written_behind_the_end() {
        let memory = zeros(PAGE_WORDS);
        over(&memory).write(4095, &[1, 2]);
    }

    #[test]
    fn a_ring_lies_in_its_part_of_the_memory_alone() {
        use crate::ipc::ring::{Receiver, Sender};
        use crate::ipc::testing::{FAR, Patient};
        let memory = zeros(3 * PAGE_WORDS);
        let shared = Arc::new(ManuallyDrop::into_inner(over(&memory)));
        let area = || Area::new(&shared, 1, 1).unwrap();
        let (mut sender, mut receiver) =
            (Sender::<4, _, _>::new(area(), Patient::new()), Receiver::<4, _, _>::new(area(), Patient::new()));
        for message in 0..300 {
            sender.send(&[message; 4], FAR).unwrap();
            assert_eq!(receiver.receive(FAR), Ok([message; 4]));
        }
        drop((sender, receiver));
        let touched =
            |page: usize| memory[page * PAGE_WORDS..][..PAGE_WORDS].iter().any(|word| word.load(Relaxed) != 0);
        assert_eq!([0, 1, 2].map(touched), [false, true, false]);
        // There is no kernel to unmap it, and nothing was mapped.
        core::mem::forget(shared);
    }

    #[test]
    fn a_part_that_is_not_there_is_none() {
        let memory = zeros(2 * PAGE_WORDS);
        let shared = Arc::new(ManuallyDrop::into_inner(over(&memory)));
        for (first, pages, there) in
            [(0, 2, true), (1, 1, true), (2, 1, false), (0, 3, false), (0, 0, false), (u64::MAX, 2, false)]
        {
            assert_eq!(Area::new(&shared, first, pages).is_some(), there, "{first} {pages}");
        }
        core::mem::forget(shared);
    }

    #[test]
    fn frames_in_a_message_are_few_and_nothing_else() {
        let run = |first: u64, count: u64| first | count << 32;
        for (words, pages) in [
            ([run(5, 1), 0, 0, 0], Some(1)),
            ([run(5, 60), run(90, 1), run(7, 2), run(1, 1)], Some(64)),
            ([run(5, 60), run(90, 1), run(7, 2), run(1, 2)], None),
            ([0; 4], None),
            ([run(5, 0), 0, 0, 0], None),
            ([run(5, 1), run(6, 0), 0, 0], None),
            ([run(5, 65), 0, 0, 0], None),
            ([run(5, 1) | 1 << 48, 0, 0, 0], None),
            ([u64::MAX; 4], None),
        ] {
            assert_eq!(Frames::from_words(words).map(|frames| frames.pages()), pages, "{words:x?}");
        }
    }

    #[test]
    fn without_a_kernel_there_is_no_pool() {
        assert!(SharedPool::create(1, 4).is_err());
        let pool = SharedPool { handle: Handle(9), cell: None };
        let frames = Frames::from_words([1 << 32 | 7, 0, 0, 0]).unwrap();
        assert!(SharedWords::map(&pool, frames, Access::Write).is_err());
        assert!(pool.take(0).is_err() && pool.take(MAX_PAGES + 1).is_err());
    }

    proptest! {
        /// Frames survive the way into words and back, and those that are too scattered have none.
        #[test]
        fn frames_become_runs_and_runs_become_frames(gaps in prop::collection::vec(1u64..3, 1..10), first in 0u64..1000) {
            let mut next = first;
            let frames: Vec<Pfn> = gaps.iter().map(|gap| { next += gap; Pfn(next) }).collect();
            let runs = 1 + gaps[1..].iter().filter(|gap| **gap > 1).count();
            match Frames::of(&frames) {
                None => prop_assert!(runs > MAX_RUNS),
                Some(packed) => {
                    prop_assert!(runs <= MAX_RUNS);
                    prop_assert_eq!(Frames::from_words(packed.words()), Some(packed));
                    prop_assert_eq!(packed.runs().flatten().collect::<Vec<_>>(), frames);
                }
            }
        }

        #[test]
        fn bytes_lie_where_they_were_put(at in 0usize..60, bytes in prop::collection::vec(any::<u8>(), 0..60), fill in any::<u64>()) {
            let words: Vec<AtomicU64> = (0..16).map(|_| AtomicU64::new(fill)).collect();
            let mut wanted: Vec<u8> = (0..16).flat_map(|_| fill.to_le_bytes()).collect();
            store_bytes(&words, at, &bytes);
            wanted[at..at + bytes.len()].copy_from_slice(&bytes);
            let mut all = std::vec![0; 128];
            load_bytes(&words, 0, &mut all);
            prop_assert_eq!(&all, &wanted);
            let mut part = std::vec![0; bytes.len()];
            load_bytes(&words, at, &mut part);
            prop_assert_eq!(part, bytes);
        }
    }
}
