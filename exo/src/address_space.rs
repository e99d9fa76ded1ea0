//! `map`: batches of changes to an environment's page tables.
//!
//! A batch holds the environment's lock. Rights are looked up under it, so that whoever takes a binding back and then takes the lock sees every
//! mapping the binding made. An unmap clears bit 0 of the descriptor, and only after the invalidation at the end of the batch has completed on every core
//! is the slot emptied and the frame's count lowered: until then nobody can reuse either.
//!
//! Pages come in runs: entries of one form, with one binding, in one table. What a run has in common is checked once, and of each
//! page only what is its own: its place, and that its frame is of the pool and kind that was permitted before.

use crate::binding;
use crate::environment::Environment;
use crate::frame::{self, Frames, Kind, Word};
use crate::machine::{Machine, Words};
use crate::page_table::{self, Leaf};
use crate::vcore::Control;
use core::mem::offset_of;
use core::slice::Iter;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::control_page::ControlPage;
use exo_abi::page::{ADDRESS_MASK, Descriptor, MAPPABLE_END, MapOp, Prot};
use exo_abi::{MAP_PAGES_PER_CALL, Pfn, Refusal};

/// More single invalidations than this become one for the whole address space.
pub const SINGLE_INVALIDATIONS: usize = 16;
/// What the changes of a table count as pages: about what they cost.
const TABLE_COST: usize = 8;
/// The bits of a frame's number in an entry.
const PFN: u64 = 0xffff_ffff;
/// Bits of an entry's first word: of those whose pages become stale, only an unmap's has none.
const CHANGED: u64 = 0b101;
const _: () = assert!(
    MapOp::Unmap as u64 & CHANGED == 0 && MapOp::Protect as u64 & CHANGED != 0 && MapOp::Mark as u64 & CHANGED != 0
);
/// The places of the list of stale pages.
const LIST: usize = MAP_PAGES_PER_CALL as usize - 1;
/// The bits of an address that are its place in a level-3 table.
const IN_TABLE: u64 = 511 << 12;
/// No frame's word begins so.
const NO_HEAD: u64 = u64::MAX;
const VALID: u64 = Descriptor::VALID.bits();
/// What `Mark` can say, and the bits of a descriptor that say it.
const MARKS: u64 = Prot::ACCESSED.union(Prot::DIRTY).bits() as u64;
const MARKED: u64 = Descriptor::ACCESSED.union(Descriptor::READ_ONLY).bits();
/// Between the descriptor of memory and that of a device's registers.
const DEVICE_NOT_MEMORY: u64 = Descriptor::INNER_SHAREABLE.union(Descriptor::DEVICE).bits();
/// What a page outside the span of RAM would have for a word: the same as one in a hole.
const OUTSIDE: Word = Word::new(0, Kind::Device, 0);

/// A batch at work.
struct Batch<'m, M: Machine> {
    m: &'m M,
    frames: Frames<'m>,
    caller: &'m Environment,
    target: &'m Environment,
    entries: &'m [[AtomicU64; 2]],
    /// How many of them the bound on pages permits, and those that come after the one at work.
    end: usize,
    rest: Iter<'m, [AtomicU64; 2]>,
    /// Pages done besides one an entry.
    extra: usize,
    /// Both words of the entry at work, moved on to the page that is next.
    first: u64,
    second: u64,
    /// Of an entry of several pages: how many, and how many are left. Of any other none are left.
    whole: u64,
    left: u64,
    /// Pages that TLBs must forget, how many there are, and whether the batch unmaps any.
    stale: &'m [AtomicU64; MAP_PAGES_PER_CALL as usize],
    stale_count: usize,
    unmaps: bool,
}

/// Applies `count` entries of a batch buffer to `target`'s tables with `caller`'s rights. Answers how far it got: entries done in bits 31:0,
/// in 63:32 pages done of the entry after them.
pub fn apply<M: Machine>(
    m: &M,
    caller: &Environment,
    target: &Environment,
    buffer: Control<'_>,
    count: u64,
) -> (Result<(), Refusal>, u64) {
    let _guard = target.lock.lock();
    if target.is_dying() {
        return (Err(Refusal::Stale), 0);
    }
    let entries =
        buffer.0[offset_of!(ControlPage, batch) / 8..].as_chunks().0.get(..count as usize).unwrap_or_default();
    let mut batch = Batch {
        m,
        frames: *m.frames(),
        caller,
        target,
        entries,
        end: entries.len(),
        rest: entries.iter(),
        extra: 0,
        first: 0,
        second: 0,
        whole: 0,
        left: 0,
        stale: &m.core().stale,
        stale_count: 0,
        unmaps: false,
    };
    let (result, at_work) = loop {
        if batch.left == 0 {
            match batch.rest.next() {
                Some(entry) => batch.load(entry),
                None if batch.end == entries.len() => break (Ok(()), 0),
                None => break (Err(Refusal::Again), 0),
            }
        }
        if let Err(refusal) = batch.entry() {
            break (Err(refusal), 1);
        }
    };
    batch.finish();
    let pages = if batch.left == 0 { 0 } else { batch.whole - batch.left };
    (result, (batch.end - batch.rest.len() - at_work) as u64 | pages << 32)
}

impl<M: Machine> Batch<'_, M> {
    /// Reads an entry, each word once: the application may change them meanwhile.
    #[inline(always)]
    fn load(&mut self, [first, second]: &[AtomicU64; 2]) {
        (self.first, self.second) = (first.load(Relaxed), second.load(Relaxed));
    }

    /// Checks the entry at work, and applies it, then those behind it that are of the same form. Of an entry of several pages: those in one table.
    #[inline(always)]
    fn entry(&mut self) -> Result<(), Refusal> {
        let (va, low, count) = (self.first & !0xfff, self.first >> 4 & 0xff, self.second >> 32 & 0xffff);
        if self.left == 0 {
            Refusal::BadArgument.when(count.wrapping_sub(1) >= MAPPABLE_END.saturating_sub(va) >> 12)?;
            (self.whole, self.left) = (count, if count == 1 { 0 } else { count });
        }
        let (prot, pfn, handle) = (Prot::from_bits_retain(low as u8), self.second & PFN, self.second >> 48);
        let (leaf, rights) =
            (page_table::leaf(Pfn(0), prot, Leaf::Memory).bits(), Rights::from_bits_retain(low as u8 & 7));
        let op = MapOp::from_number(self.first & 0xf).ok_or(Refusal::BadArgument)?;
        let (wanted, needed, kept, set) = match op {
            MapOp::Map if page_table::well_formed(prot) && pfn + self.left <= PFN => (rights, 0, 0, leaf),
            MapOp::Unmap if low | pfn | handle == 0 => (rights, VALID, 0, 0),
            MapOp::Protect if page_table::well_formed(prot) && pfn == 0 => (rights, VALID, ADDRESS_MASK, leaf),
            MapOp::Mark if low | MARKS == MARKS && pfn == 0 => match prot.contains(Prot::DIRTY) {
                true => (Rights::POOL_WRITE, VALID | Descriptor::WRITABLE.bits(), !MARKED, leaf & MARKED),
                false => (Rights::POOL_READ, VALID, !MARKED, leaf & MARKED),
            },
            MapOp::InstallTable | MapOp::RemoveTable if low & !1 == 2 && count == 1 => {
                self.spend(TABLE_COST - 1)?;
                // Pages that this batch unmapped are still in their slots.
                self.finish();
                return match op {
                    MapOp::InstallTable => install_table(self.m, self.caller, self.target, va, low, handle, Pfn(pfn)),
                    _ if pfn | handle == 0 => remove_table(self.m, self.target, va, low),
                    _ => Err(Refusal::BadArgument),
                };
            }
            _ => return Err(Refusal::BadArgument),
        };
        let slots = leaves(self.m, self.target, va).ok_or(Refusal::NotMapped)?;
        let frames = self.frames;
        self.unmaps |= op == MapOp::Unmap;
        self.pages(Form { op, slots, frames, head: NO_HEAD, wanted, needed, kept, set })
    }

    /// Counts work besides one page an entry.
    #[inline(always)]
    fn spend(&mut self, pages: usize) -> Result<(), Refusal> {
        let next = self.end - self.rest.len();
        self.extra += pages;
        let end = self.entries.len().min((MAP_PAGES_PER_CALL as usize).saturating_sub(self.extra));
        self.rest = self.entries.get(next..end).ok_or(Refusal::Again)?.iter();
        self.end = end;
        Ok(())
    }

    /// Applies a form to the entry's pages, as far as they are in one table, then to those of the entries that differ from it in nothing but frame and place in the
    /// table, until there is something special about one.
    #[inline(always)]
    fn pages(&mut self, mut form: Form<'_>) -> Result<(), Refusal> {
        let mut lost = 0;
        loop {
            let slot = &form.slots[page_table::index(self.first, 3)];
            let done = self.look(&mut form, slot)? || {
                let stale = &self.stale[self.stale_count & LIST];
                match form.op {
                    MapOp::Map => form.map(self.m, slot, self.second),
                    MapOp::Unmap => form.unmap(self.m, slot, stale, self.first),
                    _ => form.change(self.m, slot, stale, self.first),
                }
            };
            if !done {
                // Bounded: a race is lost to a change that got through, or to hardware, which sets accessed and dirty once each.
                lost += 1;
                Refusal::InUse.when(lost == 4)?;
                continue;
            }
            self.stale_count += usize::from(form.op != MapOp::Map);
            if self.left <= 1 {
                break;
            }
            self.left -= 1;
            self.spend(1)?;
            self.first += 1 << 12;
            self.second += u64::from(form.op == MapOp::Map);
            if self.first & IN_TABLE == 0 {
                return Ok(());
            }
        }
        if self.left == 0 && self.rest.len() != 0 {
            let (m, rest, like) = (self.m, self.rest.as_slice(), (self.first & !IN_TABLE, self.second));
            let stale = self.stale.get(self.stale_count..).unwrap_or_default();
            let done = match form.op {
                MapOp::Map => {
                    run::<32>(rest, self.stale, like, form, |form, slot, _, _, second| form.map(m, slot, second))
                }
                MapOp::Unmap => {
                    run::<0>(rest, stale, like, form, |form, slot, stale, first, _| form.unmap(m, slot, stale, first))
                }
                _ => {
                    run::<0>(rest, stale, like, form, |form, slot, stale, first, _| form.change(m, slot, stale, first))
                }
            };
            self.rest = rest.get(done..).unwrap_or_default().iter();
            self.stale_count += if form.op == MapOp::Map { 0 } else { done };
        }
        self.left = 0;
        Ok(())
    }

    /// Looks for what is special about a page, and finds out the head that its frame must have. True when that was all.
    #[inline(always)]
    fn look(&mut self, form: &mut Form<'_>, slot: &AtomicU64) -> Result<bool, Refusal> {
        let old = slot.load(Relaxed);
        let (pfn, whom) = match form.op {
            MapOp::Map if old & VALID != 0 => return Err(Refusal::AlreadyMapped),
            MapOp::Map => (Pfn(self.second & PFN), Some(self.target)),
            _ if old & VALID == 0 => return Err(Refusal::NotMapped),
            MapOp::Unmap => return Ok(false),
            _ => (Descriptor::from_bits_retain(old).pfn(), None),
        };
        if old != 0 && form.op == MapOp::Map {
            // This batch unmapped it.
            self.finish();
        }
        let word = self.frames.word(pfn).map_or(OUTSIDE, |place| Word(place.load(Relaxed)));
        if word.head() != form.head || word.head() == OUTSIDE.0 {
            form.head = permit(self.m, self.caller, whom, self.second >> 48, form.wanted, pfn, word)?;
        }
        Refusal::WrongFrame.when(form.needed & !old != 0)?;
        if form.head == OUTSIDE.0 {
            slot.store(form.set ^ DEVICE_NOT_MEMORY | pfn.address(), Relaxed);
        }
        Ok(form.head == OUTSIDE.0)
    }

    /// The end of a batch, or of a part of it: new descriptors are published, old ones forgotten by every core.
    #[inline(always)]
    fn finish(&mut self) {
        self.m.publish_descriptors();
        if self.stale_count != 0 {
            forget(self.m, self.target, self.stale_count, self.unmaps);
            self.stale_count = 0;
        }
    }
}

/// What the pages of a run have in common.
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

/// Each answers whether there was nothing special about the page, and it is done.
impl Form<'_> {
    #[inline(always)]
    fn map(&self, m: &impl Machine, slot: &AtomicU64, second: u64) -> bool {
        let pfn = Pfn(second & PFN);
        let Some(place) = self.frames.word(pfn) else { return false };
        let word = place.load(Relaxed);
        let done =
            Word(word).head() == self.head && slot.load(Relaxed) == 0 && m.exchange(place, word, word + 1).is_ok();
        if done {
            slot.store(self.set | pfn.address(), Relaxed);
        }
        done
    }

    /// Only bit 0 goes: the walkers of other cores may still set accessed and dirty in what they read before (Arm ARM D8.5.4), so this is one atomic.
    #[inline(always)]
    fn unmap(&self, m: &impl Machine, slot: &AtomicU64, stale: &AtomicU64, first: u64) -> bool {
        let valid = slot.load(Relaxed) & VALID != 0;
        if valid {
            // Nobody else changes that bit: the lock is held.
            m.add(slot, VALID.wrapping_neg());
            stale.store(first, Relaxed);
        }
        valid
    }

    /// Permissions, execute-never and access flag may change without break-before-make (Arm ARM D8.16.1).
    #[inline(always)]
    fn change(&self, m: &impl Machine, slot: &AtomicU64, stale: &AtomicU64, first: u64) -> bool {
        let old = slot.load(Relaxed);
        let place = self.frames.word(Descriptor::from_bits_retain(old).pfn());
        let done = self.needed & !old == 0
            && place.is_some_and(|place| Word(place.load(Relaxed)).head() == self.head)
            && m.exchange(slot, old, old & self.kept | self.set).is_ok();
        if done {
            stale.store(first, Relaxed);
        }
        done
    }
}

/// A run, apart from all else, so that everything it needs stays in registers. Entries are alike in all but their place in the table and the lowest `OTHER` bits of
/// the second word. Answers how many were done.
#[inline(never)]
fn run<'m, const OTHER: u32>(
    entries: &[[AtomicU64; 2]],
    stale: &[AtomicU64],
    like: (u64, u64),
    form: Form<'m>,
    page: impl Fn(&Form<'m>, &AtomicU64, &AtomicU64, u64, u64) -> bool,
) -> usize {
    let count = entries.len().min(stale.len());
    let mut left = count;
    for (words, stale) in entries.iter().zip(stale) {
        // What is not done here is read anew.
        let (first, second) = (words[0].load(Relaxed), words[1].load(Relaxed));
        let alike = first & !IN_TABLE == like.0 && (second ^ like.1) >> OTHER == 0;
        if !alike || !page(&form, &form.slots[page_table::index(first, 3)], stale, first, second) {
            break;
        }
        left -= 1;
    }
    count - left
}

/// Whether a binding of `caller`'s permits that a page is mapped so. Answers the head that words of frames have for which the same is true; [`OUTSIDE`]'s
/// for a page of a device, of which that says nothing. A device's page is mapped for `whom`; nobody changes it.
#[inline(never)]
fn permit<M: Machine>(
    m: &M,
    caller: &Environment,
    whom: Option<&Environment>,
    handle: u64,
    wanted: Rights,
    pfn: Pfn,
    word: Word,
) -> Result<u64, Refusal> {
    if word.exposed() && wanted == Rights::POOL_READ {
        return Ok(word.head());
    }
    let binding = binding::read(m, caller, handle)?;
    binding.check(m, Rights::empty())?;
    let device = whom.filter(|_| binding.is(BindingKind::Device));
    Refusal::WrongKind.when(device.is_none() && !binding.is(BindingKind::Pool))?;
    Refusal::NoRight.when(!binding.permits(wanted))?;
    if let Some(whom) = device {
        // It lies in the binding's range, is not RAM, and is not the kernel's; the UART goes to who maps it for writing.
        Refusal::NotYours.when(!binding.covers(pfn.0, 1) || m.found().devices.touch(pfn))?;
        Refusal::WrongFrame.when(wanted.contains(Rights::POOL_EXECUTE) || word.kind() != Kind::Device)?;
        if m.found().uart == Some(pfn) && wanted.contains(Rights::POOL_WRITE) {
            let claimed = m.tables().uart_owner.compare_exchange(0, whom.number(), AcqRel, Acquire);
            Refusal::InUse.when(claimed.is_err_and(|owner| owner != whom.number()))?;
        }
        return Ok(OUTSIDE.0);
    }
    Refusal::NotYours.when(word.pool() != binding.object || word.kind() == Kind::Free)?;
    match word.kind() {
        Kind::Data | Kind::Control if !wanted.contains(Rights::POOL_EXECUTE) => Ok(word.head()),
        Kind::Code if !wanted.contains(Rights::POOL_WRITE) => Ok(word.head()),
        _ => Err(Refusal::WrongFrame),
    }
}

/// The entry of a table of `level - 1` where a table of `level` for `va` is, or could be.
fn table_slot<'m>(m: &'m impl Machine, target: &Environment, va: u64, level: u64) -> Result<&'m AtomicU64, Refusal> {
    let above = page_table::table_for(m, target.root(), va, level - 1).ok_or(Refusal::NotMapped)?;
    Ok(&m.words(above)[page_table::index(va, level - 1)])
}

#[inline(never)]
fn install_table(
    m: &impl Machine,
    caller: &Environment,
    target: &Environment,
    va: u64,
    level: u64,
    handle: u64,
    pfn: Pfn,
) -> Result<(), Refusal> {
    let binding = binding::find(m, caller, handle, BindingKind::Pool, Rights::POOL_ALLOC)?;
    // Kernel objects are made of the environment's own pool only: a shared pool can end without asking who lives in it.
    Refusal::NotYours.when(binding.object != target.pool())?;
    let slot = table_slot(m, target, va, level)?;
    Refusal::AlreadyMapped.when(slot.load(Relaxed) != 0)?;
    frame::turn_into(m, pfn, Word::table(binding.object, level, target.number()))?;
    // The walkers must see the zeros before the table (Arm ARM B2.3.11: DMB ordering is not enough for them).
    m.publish_descriptors();
    slot.store(page_table::table(pfn).bits(), Relaxed);
    Ok(())
}

#[inline(never)]
fn remove_table(m: &impl Machine, target: &Environment, va: u64, level: u64) -> Result<(), Refusal> {
    let slot = table_slot(m, target, va, level)?;
    let table = page_table::next_table(slot).ok_or(Refusal::NotMapped)?;
    Refusal::InUse.when(m.words(table).iter().any(|slot| slot.load(Relaxed) != 0))?;
    slot.fetch_and(!VALID, Relaxed);
    m.publish_descriptors();
    // All of the address space: the walk caches' entries of this table and of the window's view of it, at every level.
    m.invalidate_space(target.number());
    m.finish_invalidation();
    slot.store(0, Relaxed);
    frame::become_data(m, table);
    Ok(())
}

/// All cores' TLBs forget the first `count` pages of the core's list; then the slots of those that were unmapped are emptied and their frames counted less.
#[inline(never)]
fn forget(m: &impl Machine, target: &Environment, count: usize, unmaps: bool) {
    let stale = m.core().stale.get(..count).unwrap_or_default();
    if count > SINGLE_INVALIDATIONS {
        m.invalidate_space(target.number());
    } else {
        stale.iter().for_each(|va| m.invalidate_page(target.number(), va.load(Relaxed)));
    }
    m.finish_invalidation();
    if !unmaps {
        return;
    }
    let mut left = stale;
    while let [next, rest @ ..] = left {
        let like = next.load(Relaxed) & !IN_TABLE;
        left = match leaves(m, target, like).filter(|_| like & CHANGED == 0) {
            Some(slots) => left.get(left.len() - empty(m, left, like, slots)..).unwrap_or_default(),
            None => rest,
        };
    }
}

/// Empties the slots of pages in one table, as far as they are, and counts their frames less. Answers how many are left.
#[inline(never)]
fn empty(m: &impl Machine, stale: &[AtomicU64], like: u64, slots: &Words) -> usize {
    let frames = *m.frames();
    let mut rest = stale.iter();
    while let Some(va) = rest.next() {
        let va = va.load(Relaxed);
        if va & !IN_TABLE != like {
            return rest.len() + 1;
        }
        let slot = &slots[page_table::index(va, 3)];
        let leaf = Descriptor::from_bits_retain(slot.load(Relaxed));
        slot.store(0, Relaxed);
        release(m, &frames, leaf);
    }
    0
}

/// The level-3 table that serves an address.
#[cold]
#[inline(never)]
fn leaves<'m, M: Machine>(m: &'m M, target: &Environment, va: u64) -> Option<&'m Words> {
    page_table::table_for(m, target.root(), va, 3).map(|table| m.words(table))
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
