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
use crate::frame::{self, Kind, Word};
use crate::machine::Machine;
use crate::page_table::{self, Leaf};
use crate::vcore::Control;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::page::{ADDRESS_MASK, Descriptor, MAPPABLE_END, MapOp, Prot};
use exo_abi::{MAP_PAGES_PER_CALL, Pfn, Refusal};

/// More single invalidations than this become one for the whole address space.
pub const SINGLE_INVALIDATIONS: usize = 16;
/// What the changes of a table count as pages: about what they cost.
const TABLE_COST: u64 = 8;
/// Bit of a stale page's address: its descriptor changed, it did not go.
const CHANGED: u64 = 1;
/// The bits of an address that are its place in a level-3 table.
const IN_TABLE: u64 = 511 << 12;
/// No frame's word begins so.
const NO_HEAD: u64 = u64::MAX;
const VALID: u64 = Descriptor::VALID.bits();
/// Between the descriptor of memory and that of a device's registers.
const DEVICE_NOT_MEMORY: u64 = Descriptor::INNER_SHAREABLE.union(Descriptor::DEVICE).bits();
/// What a page outside the span of RAM would have for a word: the same as one in a hole.
const OUTSIDE: Word = Word::new(0, Kind::Device, 0);

/// How far a batch got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Entries done.
    pub entries: u32,
    /// Pages done of the entry after them.
    pub pages: u32,
}

/// A batch at work.
struct Batch<'m, M: Machine> {
    m: &'m M,
    caller: &'m Environment,
    target: &'m Environment,
    buffer: Control<'m>,
    /// Entries there are, and the first that the bound on pages excludes.
    count: u64,
    end: u64,
    /// Entries done.
    entries: u64,
    /// Pages done besides one an entry.
    extra: u64,
    /// Both words of the entry, the first with the address of the page that is next.
    first: u64,
    second: u64,
    /// The page's frame.
    pfn: Pfn,
    /// Pages of the entry, and those behind the next one.
    whole: u64,
    left: u64,
    /// Pages in the core's list of what TLBs must forget.
    stale: usize,
}

/// Applies `count` entries of a batch buffer to `target`'s tables with `caller`'s rights.
pub fn apply<M: Machine>(
    m: &M,
    caller: &Environment,
    target: &Environment,
    buffer: Control<'_>,
    count: u64,
) -> (Result<(), Refusal>, Progress) {
    let _guard = target.lock.lock();
    if target.is_dying() {
        return (Err(Refusal::Stale), Progress::default());
    }
    let (end, pfn) = (count.min(MAP_PAGES_PER_CALL), Pfn(0));
    let (entries, extra, first, second, whole, left, stale) = (0, 0, 0, 0, 1, 0, 0);
    let mut batch =
        Batch { m, caller, target, buffer, count, end, entries, extra, first, second, pfn, whole, left, stale };
    let result = loop {
        (batch.whole, batch.left) = (1, 0);
        if batch.entries >= batch.end {
            break if batch.entries == count { Ok(()) } else { Err(Refusal::Again) };
        }
        batch.load();
        if let Err(refusal) = batch.entry() {
            break Err(refusal);
        }
    };
    batch.finish();
    (result, Progress { entries: batch.entries as u32, pages: (batch.whole - batch.left - 1) as u32 })
}

impl<M: Machine> Batch<'_, M> {
    /// Reads an entry, each word once: the application may change them meanwhile.
    #[inline(always)]
    fn load(&mut self) {
        let words = self.buffer.batch(self.entries);
        (self.first, self.second) = (words[0].load(Relaxed), words[1].load(Relaxed));
        self.pfn = Pfn(self.second & 0xffff_ffff);
    }

    /// Checks an entry, and applies it and those behind it that are of the same form.
    #[inline(always)]
    fn entry(&mut self) -> Result<(), Refusal> {
        let op = MapOp::from_number(self.first & 0xf).ok_or(Refusal::BadArgument)?;
        let (low, va, count) = (self.first >> 4 & 0xff, self.first & !0xfff, self.second >> 32 & 0xffff);
        let (prot, rest) = (Prot::from_bits_retain(low as u8), self.second & !(0xffff << 32));
        let well_formed = match op {
            MapOp::Map => page_table::well_formed(prot),
            MapOp::Unmap => low | rest == 0,
            MapOp::Protect => page_table::well_formed(prot) && self.pfn.0 == 0,
            MapOp::Mark => Prot::ACCESSED.union(Prot::DIRTY).contains(prot) && self.pfn.0 == 0,
            MapOp::InstallTable => low & !1 == 2 && count == 1,
            MapOp::RemoveTable => low & !1 == 2 && count == 1 && rest == 0,
        };
        if !well_formed || count.wrapping_sub(1) >= MAPPABLE_END.saturating_sub(va) >> 12 {
            return Err(Refusal::BadArgument);
        }
        (self.whole, self.left) = (count, count - 1);
        let mut head = NO_HEAD;
        match op {
            MapOp::Map => {
                let leaf = page_table::leaf(Pfn(0), prot, Leaf::Memory).bits();
                self.run(|batch, slot| batch.map(slot, leaf, rights(prot), &mut head))
            }
            MapOp::Unmap => self.run(|batch, slot| batch.unmap(slot)),
            MapOp::Protect | MapOp::Mark => {
                let change = Change::new(op, prot);
                self.run(|batch, slot| batch.change(slot, &change, &mut head))
            }
            MapOp::InstallTable | MapOp::RemoveTable => {
                self.spend(TABLE_COST - 1)?;
                // Pages that this batch unmapped are still in their slots.
                self.finish();
                if op == MapOp::InstallTable {
                    install_table(self.m, self.caller, self.target, va, low, self.handle(), self.pfn)?;
                } else {
                    remove_table(self.m, self.target, va, low)?;
                }
                self.entries += 1;
                Ok(())
            }
        }
    }

    /// Counts work besides one page an entry.
    fn spend(&mut self, pages: u64) -> Result<(), Refusal> {
        self.extra += pages;
        self.end = self.count.min(MAP_PAGES_PER_CALL.saturating_sub(self.extra));
        if self.entries < self.end { Ok(()) } else { Err(Refusal::Again) }
    }

    /// Does something to the slots of all pages of an entry, then of the entries behind it, as long as they differ in nothing but frame and place in the table.
    #[inline(always)]
    fn run(&mut self, mut page: impl FnMut(&mut Self, &AtomicU64) -> Result<(), Refusal>) -> Result<(), Refusal> {
        // One entry of several pages is a run of its own.
        let end = if self.left == 0 { self.end } else { self.entries + 1 };
        let (form, of) = (self.first & !IN_TABLE, self.second >> 32);
        loop {
            let table = page_table::table_for(self.m, self.target.root(), self.first, 3).ok_or(Refusal::NotMapped)?;
            let slots = self.m.words(table);
            loop {
                page(self, &slots[page_table::index(self.first, 3)])?;
                if self.left != 0 {
                    self.left -= 1;
                    self.spend(1)?;
                    self.first += 1 << 12;
                    self.pfn.0 += 1;
                    if self.first & IN_TABLE == 0 {
                        break;
                    }
                    continue;
                }
                self.entries += 1;
                if self.entries >= end {
                    return Ok(());
                }
                self.load();
                if self.first & !IN_TABLE != form || self.second >> 32 != of {
                    return Ok(());
                }
            }
        }
    }

    #[inline(always)]
    fn map(&mut self, slot: &AtomicU64, leaf: u64, wanted: Rights, head: &mut u64) -> Result<(), Refusal> {
        let old = slot.load(Relaxed);
        if old != 0 {
            if old & VALID != 0 {
                return Err(Refusal::AlreadyMapped);
            }
            // This batch unmapped it.
            self.finish();
        }
        let place = self.m.frames().word(self.pfn);
        let word = place.map_or(OUTSIDE, |place| Word(place.load(Relaxed)));
        if word.head() != *head {
            *head = permit(self.m, self.caller, Some(self.target), self.handle(), wanted, self.pfn, word)?;
            if *head == OUTSIDE.0 {
                slot.store(leaf ^ DEVICE_NOT_MEMORY | self.pfn.address(), Relaxed);
                *head = NO_HEAD;
                return Ok(());
            }
        }
        if let Some(place) = place {
            frame::count_mapping(place, word)?;
        }
        slot.store(leaf | self.pfn.address(), Relaxed);
        Ok(())
    }

    /// Only bit 0 goes: the walkers of other cores may still set accessed and dirty in what they read before (Arm ARM D8.5.4), so this is one atomic.
    #[inline(always)]
    fn unmap(&mut self, slot: &AtomicU64) -> Result<(), Refusal> {
        if slot.fetch_and(!VALID, Relaxed) & VALID == 0 {
            return Err(Refusal::NotMapped);
        }
        self.remember(0);
        Ok(())
    }

    /// Replaces a valid leaf by one to the same frame: permissions, execute-never and access flag may change without break-before-make (Arm ARM D8.16.1).
    #[inline(always)]
    fn change(&mut self, slot: &AtomicU64, change: &Change, head: &mut u64) -> Result<(), Refusal> {
        loop {
            let old = slot.load(Relaxed);
            if old & VALID == 0 {
                return Err(Refusal::NotMapped);
            }
            let pfn = Descriptor::from_bits_retain(old).pfn();
            let word = self.m.frames().read(pfn).unwrap_or(OUTSIDE);
            if word.head() != *head {
                *head = permit(self.m, self.caller, None, self.handle(), change.wanted, pfn, word)?;
            }
            if change.needed & !old != 0 {
                return Err(Refusal::WrongFrame);
            }
            let new = old & change.kept | change.set;
            if slot.compare_exchange(old, new, Relaxed, Relaxed).is_ok() {
                // An entry without the access flag is in no TLB (Arm ARM D8.5.5).
                if old & Descriptor::ACCESSED.bits() != 0 && old != new {
                    self.remember(CHANGED);
                }
                return Ok(());
            }
            // Bounded: hardware set accessed or dirty since, each of which it does once.
        }
    }

    fn handle(&self) -> u64 {
        self.second >> 48
    }

    /// The page must be forgotten by all TLBs before the batch ends.
    #[inline(always)]
    fn remember(&mut self, how: u64) {
        self.m.core().stale[self.stale & (MAP_PAGES_PER_CALL as usize - 1)].store(self.first & !0xfff | how, Relaxed);
        self.stale += 1;
    }

    /// The end of a batch, or of a part of it: new descriptors are published, old ones forgotten by every core.
    #[inline(always)]
    fn finish(&mut self) {
        self.m.publish_descriptors();
        if self.stale != 0 {
            forget(self.m, self.target, self.stale);
            self.stale = 0;
        }
    }
}

/// What `Protect` or `Mark` does to a descriptor, and what it needs.
struct Change {
    wanted: Rights,
    needed: u64,
    kept: u64,
    set: u64,
}

impl Change {
    fn new(op: MapOp, prot: Prot) -> Change {
        let leaf = page_table::leaf(Pfn(0), prot, Leaf::Memory).bits();
        if op == MapOp::Protect {
            return Change { wanted: rights(prot), needed: 0, kept: ADDRESS_MASK, set: leaf };
        }
        let marks = (Descriptor::ACCESSED | Descriptor::READ_ONLY).bits();
        let wanted = if prot.contains(Prot::DIRTY) { Rights::POOL_WRITE } else { Rights::POOL_READ };
        let needed = if prot.contains(Prot::DIRTY) { Descriptor::WRITABLE.bits() } else { 0 };
        Change { wanted, needed, kept: !marks, set: leaf & marks }
    }
}

/// The rights that permissions need: they have the same bits.
fn rights(prot: Prot) -> Rights {
    Rights::from_bits_retain(prot.bits() & 7)
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
    let binding = binding::find_any(m, caller, handle)?;
    let device = whom.filter(|_| binding.is(BindingKind::Device));
    if device.is_none() && !binding.is(BindingKind::Pool) {
        return Err(Refusal::WrongKind);
    }
    if !binding.permits(wanted) {
        return Err(Refusal::NoRight);
    }
    if let Some(whom) = device {
        // It lies in the binding's range, is not RAM, and is not the kernel's; the UART goes to who maps it for writing.
        if !binding.covers(pfn.0, 1) || m.kernel_device(pfn) {
            return Err(Refusal::NotYours);
        }
        if wanted.contains(Rights::POOL_EXECUTE) || word.kind() != Kind::Device {
            return Err(Refusal::WrongFrame);
        }
        if m.uart() == Some(pfn) && wanted.contains(Rights::POOL_WRITE) {
            let claimed = m.uart_owner().compare_exchange(0, whom.number(), AcqRel, Acquire);
            if claimed.is_err_and(|owner| owner != whom.number()) {
                return Err(Refusal::InUse);
            }
        }
        return Ok(OUTSIDE.0);
    }
    if word.pool() != binding.object || word.kind() == Kind::Free {
        return Err(Refusal::NotYours);
    }
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
    if binding.object != target.pool() {
        return Err(Refusal::NotYours);
    }
    let slot = table_slot(m, target, va, level)?;
    if slot.load(Relaxed) != 0 {
        return Err(Refusal::AlreadyMapped);
    }
    frame::become_object(m, binding.object, pfn, Word::table(binding.object, level, target.number()))?;
    // The walkers must see the zeros before the table (Arm ARM B2.3.11: DMB ordering is not enough for them).
    m.publish_descriptors();
    slot.store(page_table::table(pfn).bits(), Relaxed);
    Ok(())
}

#[inline(never)]
fn remove_table(m: &impl Machine, target: &Environment, va: u64, level: u64) -> Result<(), Refusal> {
    let slot = table_slot(m, target, va, level)?;
    let table = page_table::next_table(slot).ok_or(Refusal::NotMapped)?;
    if m.words(table).iter().any(|slot| slot.load(Relaxed) != 0) {
        return Err(Refusal::InUse);
    }
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
fn forget(m: &impl Machine, target: &Environment, count: usize) {
    let stale = m.core().stale.get(..count).unwrap_or_default();
    if count > SINGLE_INVALIDATIONS {
        m.invalidate_space(target.number());
    } else {
        stale.iter().for_each(|va| m.invalidate_page(target.number(), va.load(Relaxed)));
    }
    m.finish_invalidation();
    let (mut known, mut slots) = (NO_HEAD, m.words(target.root()));
    for va in stale.iter().map(|va| va.load(Relaxed)).filter(|va| va & CHANGED == 0) {
        if va >> 21 != known {
            let Some(table) = page_table::table_for(m, target.root(), va, 3) else { continue };
            (known, slots) = (va >> 21, m.words(table));
        }
        let slot = &slots[page_table::index(va, 3)];
        let leaf = Descriptor::from_bits_retain(slot.load(Relaxed));
        slot.store(0, Relaxed);
        release(m, leaf);
    }
}

/// One mapping of a frame is gone from every TLB. Pages of devices are not counted.
#[inline(always)]
pub fn release(m: &impl Machine, leaf: Descriptor) {
    if !leaf.contains(Descriptor::DEVICE) {
        frame::uncount_mapping(m, leaf.pfn());
    }
}
