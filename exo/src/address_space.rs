//! `map`: batches of changes to an environment's page tables.
//!
//! A batch holds the environment's lock. Rights are looked up under it, so that whoever takes a binding back and then takes the lock sees every
//! mapping the binding made. An unmap clears bit 0 of the descriptor, and only after the invalidation at the end of the batch has completed on every core
//! is the slot emptied and the frame's count lowered: until then nobody can reuse either.
//!
//! Entries that differ in nothing but frame and place in one table are of one form. What these have in common is checked once, and of each
//! page only what is its own: its place, and that its frame is of the pool and kind that was permitted before.

use crate::binding;
use crate::environment::Environment;
use crate::frame::{self, Frames, Kind, Word};
use crate::machine::{Machine, Words};
use crate::page_table;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::page::{ADDRESS_MASK, Descriptor, MAPPABLE_END, MapOp, Prot};
use exo_abi::{MAP_PAGES_PER_CALL, Pfn, Refusal};

/// More single invalidations than this become one for the whole address space.
pub const SINGLE_INVALIDATIONS: usize = 16;
/// Pages that a batch changes at most.
const PAGES: usize = MAP_PAGES_PER_CALL as usize;
/// What the changes of a table count as pages: about what they cost.
const TABLE_COST: usize = 8;
// What [`Form`] tells apart; `Mark` is a change too.
const MAP: u64 = MapOp::Map as u64;
const UNMAP: u64 = MapOp::Unmap as u64;
const CHANGE: u64 = MapOp::Protect as u64;
/// The bits of a frame's number in an entry.
const PFN: u64 = 0xffff_ffff;
/// The bits of an address that are its place in a level-3 table.
const IN_TABLE: u64 = 511 << 12;
/// No frame's word begins so.
const NO_HEAD: u64 = u64::MAX;
const VALID: u64 = Descriptor::VALID.bits();
/// What `Mark` can say, and the bits of a descriptor that say it.
const MARKS: u64 = Prot::ACCESSED.union(Prot::DIRTY).bits() as u64;
const MARKED: u64 = Descriptor::ACCESSED.union(Descriptor::READ_ONLY).bits();
/// What a page outside the span of RAM would have for a word: the same as one in a hole.
const OUTSIDE: Word = Word::new(0, Kind::Device, 0);

/// An entry of a batch buffer.
pub type Entry = [AtomicU64; 2];

/// A batch at work.
struct Batch<'m, M: Machine> {
    m: &'m M,
    caller: &'m Environment,
    target: &'m Environment,
    /// Pages done so far, tables at their cost; and of the entry at work, while it is not done.
    spent: usize,
    pages: u64,
    /// How many pages TLBs must forget: their addresses stand in the core's list. And the table that these were unmapped from, if they were.
    stale: usize,
    unmapped: Option<&'m Words>,
}

/// Applies entries of a batch buffer to `target`'s tables with `caller`'s rights. Answers 0 or the refusal's number, and how far it got: entries done in bits
/// 31:0, in 63:32 pages done of the entry after them.
pub fn apply(m: &impl Machine, caller: &Environment, target: &Environment, entries: &[Entry]) -> (u64, u64) {
    let _guard = target.locked();
    if target.is_dying() {
        return (Refusal::Stale as u64, 0);
    }
    let mut batch = Batch { m, caller, target, spent: 0, pages: 0, stale: 0, unmapped: None };
    let (mut rest, mut result) = (entries, Ok(()));
    while let ([entry, ..], Ok(())) = (rest, result) {
        result = batch.entry(entry, rest).map(|done| rest = rest.get(done..).unwrap_or_default());
    }
    batch.finish();
    (result.err().map_or(0, |refusal| refusal as u64), (entries.len() - rest.len()) as u64 | batch.pages << 32)
}

impl<'m, M: Machine> Batch<'m, M> {
    /// Checks the first of these entries, and applies it, then those behind it that are of the same form; answers how many that were.
    #[inline(always)]
    fn entry(&mut self, entry: &Entry, entries: &[Entry]) -> Result<usize, Refusal> {
        // Each word is read once: the application may change them meanwhile.
        let (mut first, mut second) = (entry[0].load(Relaxed), entry[1].load(Relaxed));
        let (va, low, count) = (first & !0xfff, first >> 4 & 0xff, second >> 32 & 0xffff);
        let (prot, pfn, handle) = (Prot::from_bits_retain(low as u8), second & PFN, second >> 48);
        self.pages = 0;
        Refusal::BadArgument.when(count.wrapping_sub(1) >= MAPPABLE_END.saturating_sub(va) >> 12)?;
        let (leaf, rights) = (page_table::leaf(Pfn(0), prot).bits(), Rights::from_bits_retain(low as u8 & 7));
        let op = MapOp::from_number(first & 0xf).ok_or(Refusal::BadArgument)?;
        let (wanted, needed, kept, set) = match op {
            MapOp::Map if page_table::well_formed(prot) && pfn + count <= PFN + 1 => (rights, 0, 0, leaf),
            MapOp::Unmap if low | pfn | handle == 0 => (rights, VALID, 0, 0),
            MapOp::Protect if page_table::well_formed(prot) && pfn == 0 => (rights, VALID, ADDRESS_MASK, leaf),
            MapOp::Mark if low | MARKS == MARKS && pfn == 0 => match prot.contains(Prot::DIRTY) {
                true => (Rights::POOL_WRITE, VALID | Descriptor::WRITABLE.bits(), !MARKED, leaf & MARKED),
                false => (Rights::POOL_READ, VALID, !MARKED, leaf & MARKED),
            },
            MapOp::InstallTable if low & !1 == 2 && count == 1 => return self.table(op, va, low, handle, Pfn(pfn)),
            MapOp::RemoveTable if low & !1 == 2 && count == 1 && pfn | handle == 0 => {
                return self.table(op, va, low, handle, Pfn(pfn));
            }
            _ => return Err(Refusal::BadArgument),
        };
        let (slots, frames) = (self.slots(op, va)?, *self.m.frames());
        let mut form = Form { op, slots, frames, head: NO_HEAD, wanted, needed, kept, set };
        if count == 1 {
            return self.run(&mut form, entries, first, second);
        }
        for page in 0..count {
            self.pages = page;
            if page != 0 && first & IN_TABLE == 0 {
                form.slots = self.slots(op, first)?;
            }
            self.run(&mut form, &[[AtomicU64::new(first), AtomicU64::new(second)]], first, second)?;
            first += 1 << 12;
            second += u64::from(op == MapOp::Map);
        }
        self.pages = 0;
        Ok(1)
    }

    /// Counts work.
    fn spend(&mut self, pages: usize) -> Result<(), Refusal> {
        Refusal::Again.when(self.spent + pages > PAGES)?;
        self.spent += pages;
        Ok(())
    }

    /// The level-3 table that serves an address. Pages on the list were unmapped from one table, or from none.
    fn slots(&mut self, op: MapOp, va: u64) -> Result<&'m Words, Refusal> {
        let table = page_table::table_for(self.m, self.target.root(), va, 3).ok_or(Refusal::NotMapped)?;
        let slots = self.m.words(table);
        let unmapped = (op == MapOp::Unmap).then_some(slots);
        if op != MapOp::Map && unmapped.map(core::ptr::from_ref) != self.unmapped.map(core::ptr::from_ref) {
            self.finish();
            self.unmapped = unmapped;
        }
        Ok(slots)
    }

    /// Applies a form to the first of these entries, whose words have been read, and to those behind it that are alike. Answers how many that were.
    #[inline(never)]
    fn run(&mut self, form: &mut Form<'_>, entries: &[Entry], first: u64, second: u64) -> Result<usize, Refusal> {
        let entries = entries.get(..entries.len().min(PAGES - self.spent)).unwrap_or_default();
        Refusal::Again.when(entries.is_empty())?;
        // One loop for each operation: what a page costs is in it.
        let run = match form.op {
            MapOp::Map => Form::run::<MAP, M>,
            MapOp::Unmap => Form::run::<UNMAP, M>,
            _ => Form::run::<CHANGE, M>,
        };
        // Bounded: a race is lost to a change that got through, or to hardware, which sets accessed and dirty once each.
        for _ in 0..5 {
            let stale = self.m.core().stale.get(self.stale..).unwrap_or_default();
            let done = run(*form, self.m, entries, stale, [first & !IN_TABLE, second]);
            if done != 0 || self.look(form, first, second)? {
                let done = done.max(1);
                self.spent += done;
                self.stale += if form.op == MapOp::Map { 0 } else { done };
                return Ok(done);
            }
        }
        Err(Refusal::InUse)
    }

    /// Looks for what is special about a page, and finds out the head that its frame must have. True when that was all.
    #[inline(always)]
    fn look(&mut self, form: &mut Form<'_>, first: u64, second: u64) -> Result<bool, Refusal> {
        let slot = &form.slots[page_table::index(first, 3)];
        let (old, maps) = (slot.load(Relaxed), form.op == MapOp::Map);
        Refusal::AlreadyMapped.when(maps && old & VALID != 0)?;
        Refusal::NotMapped.when(!maps && old & VALID == 0)?;
        if maps && old != 0 {
            // This batch unmapped it.
            self.finish();
        }
        let pfn = if maps { Pfn(second & PFN) } else { Descriptor::from_bits_retain(old).pfn() };
        let word = form.frames.word(pfn).map_or(OUTSIDE, |place| Word(place.load(Relaxed)));
        if word.head() != form.head || word.head() == OUTSIDE.0 {
            form.head = self.permit(form, second >> 48, pfn, word)?;
        }
        Refusal::WrongFrame.when(form.needed & !old != 0)?;
        if form.head == OUTSIDE.0 {
            slot.store(form.set ^ page_table::DEVICE_NOT_MEMORY | pfn.address(), Relaxed);
        }
        Ok(form.head == OUTSIDE.0)
    }

    /// Whether a binding of the caller's permits that a page is changed so. Answers the head that words of frames have for which the same is true; [`OUTSIDE`]'s
    /// for a page of a device, of which that says nothing. A device's page is mapped for the target; nobody changes it.
    #[inline(never)]
    fn permit(&self, form: &Form<'_>, handle: u64, pfn: Pfn, word: Word) -> Result<u64, Refusal> {
        let (m, wanted) = (self.m, form.wanted);
        if word.exposed() && wanted == Rights::POOL_READ {
            return Ok(word.head());
        }
        let find = |kind| binding::find(m, self.caller, handle, kind, wanted);
        let binding = match find(BindingKind::Pool) {
            Err(Refusal::WrongKind) if form.op == MapOp::Map => {
                // It lies in the binding's range, is not RAM, and is not the kernel's; the UART goes to who maps it for writing.
                let (device, found, number) = (find(BindingKind::Device)?, m.found(), self.target.number());
                Refusal::NotYours.when(!device.covers(pfn.0, 1) || found.devices.touch(pfn))?;
                Refusal::WrongFrame.when(wanted.contains(Rights::POOL_EXECUTE) || word.kind() != Kind::Device)?;
                if found.uart == Some(pfn) && wanted.contains(Rights::POOL_WRITE) {
                    let claimed = m.tables().uart_owner.compare_exchange(0, number, AcqRel, Acquire);
                    Refusal::InUse.when(claimed.is_err_and(|owner| owner != number))?;
                }
                return Ok(OUTSIDE.0);
            }
            binding => binding?,
        };
        Refusal::NotYours.when(word.pool() != binding.object || word.kind() == Kind::Free)?;
        match word.kind() {
            Kind::Data | Kind::Control if !wanted.contains(Rights::POOL_EXECUTE) => Ok(word.head()),
            Kind::Code if !wanted.contains(Rights::POOL_WRITE) => Ok(word.head()),
            _ => Err(Refusal::WrongFrame),
        }
    }

    /// Installs or removes a table.
    #[inline(never)]
    fn table(&mut self, op: MapOp, va: u64, level: u64, handle: u64, pfn: Pfn) -> Result<usize, Refusal> {
        let (m, target) = (self.m, self.target);
        self.spend(TABLE_COST)?;
        // Pages that this batch unmapped are still in their slots.
        self.finish();
        let above = page_table::table_for(m, target.root(), va, level - 1).ok_or(Refusal::NotMapped);
        let slot = |above: Pfn| &m.words(above)[page_table::index(va, level - 1)];
        if op == MapOp::InstallTable {
            let binding = binding::find(m, self.caller, handle, BindingKind::Pool, Rights::POOL_ALLOC)?;
            // Kernel objects are made of the environment's own pool only: a shared pool can end without asking who lives in it.
            Refusal::NotYours.when(binding.object != target.pool())?;
            let slot = slot(above?);
            Refusal::AlreadyMapped.when(slot.load(Relaxed) != 0)?;
            frame::turn_into(m, pfn, Word::table(binding.object, level, target.number()))?;
            // The walkers must see the zeros before the table (Arm ARM B2.3.11: DMB ordering is not enough for them).
            m.publish_descriptors();
            slot.store(page_table::table(pfn).bits(), Relaxed);
            return Ok(1);
        }
        let slot = slot(above?);
        let table = page_table::next_table(slot).ok_or(Refusal::NotMapped)?;
        Refusal::InUse.when(m.words(table).iter().any(|slot| slot.load(Relaxed) != 0))?;
        slot.fetch_and(!VALID, AcqRel);
        m.publish_descriptors();
        // All of the address space: the walk caches' entries of this table and of the window's view of it, at every level.
        m.invalidate_space(target.number());
        m.finish_invalidation();
        slot.store(0, Relaxed);
        // Its contents are the kernel's no more, and nothing refers to it.
        m.zero(table);
        m.frames().set(table, Word::new(target.pool(), Kind::Data, 0));
        Ok(1)
    }

    /// The end of a batch, or of a part of it: new descriptors are published, old ones forgotten by every core; then the slots of those that were unmapped are emptied
    /// and their frames counted less.
    #[inline(never)]
    fn finish(&mut self) {
        let (m, number) = (self.m, self.target.number());
        let stale = m.core().stale.get(..self.stale).unwrap_or_default();
        self.stale = 0;
        m.publish_descriptors();
        if stale.is_empty() {
            return;
        }
        if stale.len() > SINGLE_INVALIDATIONS {
            m.invalidate_space(number);
        } else {
            stale.iter().for_each(|va| m.invalidate_page(number, va.load(Relaxed)));
        }
        m.finish_invalidation();
        let Some(slots) = self.unmapped else { return };
        let frames = *m.frames();
        for va in stale {
            let slot = &slots[page_table::index(va.load(Relaxed), 3)];
            let leaf = Descriptor::from_bits_retain(slot.load(Relaxed));
            slot.store(0, Relaxed);
            release(m, &frames, leaf);
        }
    }
}

/// What pages have in common that are changed alike.
#[derive(Clone, Copy)]
struct Form<'m> {
    op: MapOp,
    slots: &'m Words,
    frames: Frames<'m>,
    /// The head of the words of frames that has been permitted, and for what.
    head: u64,
    wanted: Rights,
    /// Bits that a descriptor must have, keeps, and gets.
    needed: u64,
    kept: u64,
    set: u64,
}

impl Form<'_> {
    /// Applies it to a page. Answers whether there was nothing special about that, and it is done.
    #[inline(always)]
    fn apply(&self, op: u64, m: &impl Machine, slot: &AtomicU64, stale: &AtomicU64, first: u64, second: u64) -> bool {
        let old = slot.load(Relaxed);
        if op == UNMAP {
            if old & VALID != 0 {
                // Only bit 0 goes: the walkers of other cores may still set accessed and dirty in what they read before (Arm ARM D8.5.4), so this is one atomic.
                // Nobody else changes that bit: the lock is held.
                m.add(slot, VALID.wrapping_neg());
                stale.store(first, Relaxed);
            }
            return old & VALID != 0;
        }
        let pfn = if op == MAP { Pfn(second & PFN) } else { Descriptor::from_bits_retain(old).pfn() };
        let Some(place) = self.frames.word(pfn) else { return false };
        let word = place.load(Relaxed);
        let fits = if op == MAP { old == 0 } else { self.needed & !old == 0 };
        if !fits || Word(word).head() != self.head {
            return false;
        }
        if op == MAP {
            let counted = m.exchange(place, word, word + 1).is_ok();
            if counted {
                slot.store(self.set | pfn.address(), Relaxed);
            }
            return counted;
        }
        // Permissions, execute-never and access flag may change without break-before-make (Arm ARM D8.16.1).
        let changed = m.exchange(slot, old, old & self.kept | self.set).is_ok();
        if changed {
            stale.store(first, Relaxed);
        }
        changed
    }

    /// Applies it to entries that differ in nothing but their place in the table `like` and, for `Map`, their frame, until there is something special about one.
    /// Apart from all else, so that everything it needs stays in registers. Answers how many were done.
    #[inline(never)]
    fn run<const OP: u64, M: Machine>(self, m: &M, entries: &[Entry], stale: &[AtomicU64], like: [u64; 2]) -> usize {
        let frames = if OP == MAP { PFN } else { 0 };
        let mut left = entries.len().min(stale.len());
        let count = left;
        for (entry, stale) in entries.iter().zip(stale) {
            // What is not done here is read anew.
            let words = (entry[0].load(Relaxed), entry[1].load(Relaxed));
            let alike = words.0 & !IN_TABLE == like[0] && (words.1 ^ like[1]) & !frames == 0;
            if !alike || !self.apply(OP, m, &self.slots[page_table::index(words.0, 3)], stale, words.0, words.1) {
                break;
            }
            left -= 1;
        }
        count - left
    }
}

/// One mapping of a frame is gone from every TLB. Pages of devices are not counted.
#[inline(always)]
pub fn release(m: &impl Machine, frames: &Frames, leaf: Descriptor) {
    if let Some(place) = frames.word(leaf.pfn())
        && !leaf.contains(Descriptor::DEVICE)
    {
        m.add(place, 1u64.wrapping_neg());
    }
}
