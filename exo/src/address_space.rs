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
/// Bit of a stale page's address: its descriptor changed, it did not go.
const CHANGED: u64 = 1;
/// The places of the list of stale pages.
const LIST: usize = MAP_PAGES_PER_CALL as usize - 1;
/// The bits of an address that are its place in a level-3 table.
const IN_TABLE: u64 = 511 << 12;
/// No frame's word begins so.
const NO_HEAD: u64 = u64::MAX;
const VALID: u64 = Descriptor::VALID.bits();
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
            if count.wrapping_sub(1) >= MAPPABLE_END.saturating_sub(va) >> 12 {
                return Err(Refusal::BadArgument);
            }
            (self.whole, self.left) = (count, if count == 1 { 0 } else { count });
        }
        let (prot, pfn, handle) = (Prot::from_bits_retain(low as u8), self.second & PFN, self.second >> 48);
        let table = page_table::table_for(self.m, self.target.root(), va, 3).ok_or(Refusal::NotMapped);
        let (frames, stale) = (self.frames, self.stale);
        match MapOp::from_number(self.first & 0xf) {
            Some(MapOp::Map) if page_table::well_formed(prot) && pfn + self.left <= PFN => {
                let leaf = page_table::leaf(Pfn(0), prot, Leaf::Memory).bits();
                let look = |batch: &mut Self, slot: &AtomicU64, head| batch.look_before_map(slot, leaf, head);
                self.pages(table?, [1, 0], look, move |slot, head, _, _, second| {
                    let pfn = Pfn(second & PFN);
                    frames.word(pfn).is_some_and(|place| {
                        let word = place.load(Relaxed);
                        let done = Word(word).head() == head
                            && slot.load(Relaxed) == 0
                            && place.compare_exchange(word, word + 1, AcqRel, Relaxed).is_ok();
                        if done {
                            slot.store(leaf | pfn.address(), Relaxed);
                        }
                        done
                    })
                })
            }
            Some(MapOp::Unmap) if low | pfn | handle == 0 => {
                self.unmaps = true;
                let look = |_: &mut Self, slot: &AtomicU64, _| match slot.load(Relaxed) & VALID {
                    0 => Err(Refusal::NotMapped),
                    _ => Ok(0),
                };
                self.pages(table?, [0, 1], look, move |slot, _, index, first, second| {
                    // Only bit 0 goes: the walkers of other cores may still set accessed and dirty in what they read before (Arm ARM D8.5.4), so this is one atomic.
                    let done = second & PFN == 0 && slot.fetch_and(!VALID, Relaxed) & VALID != 0;
                    if done {
                        stale[index & LIST].store(first & !0xfff, Relaxed);
                    }
                    done
                })
            }
            Some(op @ (MapOp::Protect | MapOp::Mark)) if pfn == 0 => {
                let change = Change::new(op, prot)?;
                let look = |batch: &mut Self, slot: &AtomicU64, head| batch.look_before_change(slot, &change, head);
                let Change { needed, kept, set, .. } = change;
                self.pages(table?, [0, 1], look, move |slot, head, index, first, second| {
                    // Permissions, execute-never and access flag may change without break-before-make (Arm ARM D8.16.1).
                    let old = slot.load(Relaxed);
                    let place = frames.word(Descriptor::from_bits_retain(old).pfn());
                    let done = needed & !old == 0
                        && second & PFN == 0
                        && place.is_some_and(|place| Word(place.load(Relaxed)).head() == head)
                        && slot.compare_exchange(old, old & kept | set, Relaxed, Relaxed).is_ok();
                    if done {
                        stale[index & LIST].store(first & !0xfff | CHANGED, Relaxed);
                    }
                    done
                })
            }
            Some(op @ (MapOp::InstallTable | MapOp::RemoveTable)) if low & !1 == 2 && count == 1 => {
                self.spend(TABLE_COST - 1)?;
                // Pages that this batch unmapped are still in their slots.
                self.finish();
                match op {
                    MapOp::InstallTable => install_table(self.m, self.caller, self.target, va, low, handle, Pfn(pfn)),
                    _ if pfn | handle == 0 => remove_table(self.m, self.target, va, low),
                    _ => Err(Refusal::BadArgument),
                }
            }
            _ => Err(Refusal::BadArgument),
        }
    }

    /// Counts work besides one page an entry.
    fn spend(&mut self, pages: usize) -> Result<(), Refusal> {
        let next = self.end - self.rest.len();
        self.extra += pages;
        let end = self.entries.len().min((MAP_PAGES_PER_CALL as usize).saturating_sub(self.extra));
        self.rest = self.entries.get(next..end).ok_or(Refusal::Again)?.iter();
        self.end = end;
        Ok(())
    }

    /// Does `page` to the slots of the entry's pages, as far as they are in one table, then to those of the entries that differ from it in nothing but frame and
    /// place in the table, until there is something special about one. `look` says what is, and answers the head that the frames must have.
    /// A page adds so much to the number of the frame, and to the list of stale pages.
    #[inline(always)]
    fn pages(
        &mut self,
        table: Pfn,
        [frames, stale]: [u64; 2],
        look: impl Fn(&mut Self, &AtomicU64, u64) -> Result<u64, Refusal>,
        page: impl Fn(&AtomicU64, u64, usize, u64, u64) -> bool + Copy,
    ) -> Result<(), Refusal> {
        let (slots, mut head, mut lost) = (self.m.words(table), NO_HEAD, 0);
        loop {
            let slot = &slots[page_table::index(self.first, 3)];
            head = look(self, slot, head)?;
            // Bounded: a race is lost to a change that got through, or to hardware, which sets accessed and dirty once each.
            if head != OUTSIDE.0 && !page(slot, head, self.stale_count, self.first, self.second) {
                lost += 1;
                if lost == 4 {
                    return Err(Refusal::InUse);
                }
                continue;
            }
            self.stale_count += stale as usize;
            if self.left <= 1 {
                break;
            }
            self.left -= 1;
            self.spend(1)?;
            self.first += 1 << 12;
            self.second += frames;
            if self.first & IN_TABLE == 0 {
                return Ok(());
            }
        }
        if self.left == 0 && self.rest.len() != 0 {
            let (rest, count) = (self.rest.as_slice(), self.stale_count);
            let page = move |slot: &AtomicU64, done, first, second| page(slot, head, count + done, first, second);
            let done = run(rest, slots, self.first, self.second, page);
            self.rest = rest.get(done..).unwrap_or_default().iter();
            self.stale_count += stale as usize * done;
        }
        self.left = 0;
        Ok(())
    }

    #[inline(always)]
    fn look_before_map(&mut self, slot: &AtomicU64, leaf: u64, head: u64) -> Result<u64, Refusal> {
        let old = slot.load(Relaxed);
        if old & VALID != 0 {
            return Err(Refusal::AlreadyMapped);
        }
        if old != 0 {
            // This batch unmapped it.
            self.finish();
        }
        let pfn = Pfn(self.second & PFN);
        let head = self.permitted(Some(self.target), rights(self.first >> 4), pfn, head)?;
        if head == OUTSIDE.0 {
            slot.store(leaf ^ DEVICE_NOT_MEMORY | pfn.address(), Relaxed);
        }
        Ok(head)
    }

    #[inline(always)]
    fn look_before_change(&mut self, slot: &AtomicU64, change: &Change, head: u64) -> Result<u64, Refusal> {
        let old = slot.load(Relaxed);
        if old & VALID == 0 {
            return Err(Refusal::NotMapped);
        }
        let head = self.permitted(None, change.wanted, Descriptor::from_bits_retain(old).pfn(), head)?;
        if change.needed & !old == 0 { Ok(head) } else { Err(Refusal::WrongFrame) }
    }

    /// See [`permit`]; asks only if the frame's head is another than `head`, which was permitted.
    #[inline(always)]
    fn permitted(&self, whom: Option<&Environment>, wanted: Rights, pfn: Pfn, head: u64) -> Result<u64, Refusal> {
        let word = self.frames.word(pfn).map_or(OUTSIDE, |place| Word(place.load(Relaxed)));
        if word.head() == head && head != OUTSIDE.0 {
            return Ok(head);
        }
        permit(self.m, self.caller, whom, self.second >> 48, wanted, pfn, word)
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

/// A run, apart from all else, so that everything it needs stays in registers. Answers how many entries were done.
#[inline(never)]
fn run(
    entries: &[[AtomicU64; 2]],
    slots: &Words,
    first: u64,
    second: u64,
    page: impl Fn(&AtomicU64, usize, u64, u64) -> bool,
) -> usize {
    let mut done = 0;
    for words in entries {
        // What is not done here is read anew.
        let next = (words[0].load(Relaxed), words[1].load(Relaxed));
        let alike = (next.0 ^ first) & !IN_TABLE | (next.1 ^ second) >> 32 == 0;
        if !alike || !page(&slots[page_table::index(next.0, 3)], done, next.0, next.1) {
            break;
        }
        done += 1;
    }
    done
}

/// What `Protect` or `Mark` does to a descriptor, and what it needs.
struct Change {
    wanted: Rights,
    needed: u64,
    kept: u64,
    set: u64,
}

impl Change {
    #[inline(always)]
    fn new(op: MapOp, prot: Prot) -> Result<Change, Refusal> {
        let leaf = page_table::leaf(Pfn(0), prot, Leaf::Memory).bits();
        let marks = (Descriptor::ACCESSED | Descriptor::READ_ONLY).bits();
        let dirty = prot.contains(Prot::DIRTY);
        if op == MapOp::Protect && page_table::well_formed(prot) {
            Ok(Change { wanted: rights(prot.bits().into()), needed: VALID, kept: ADDRESS_MASK, set: leaf })
        } else if op == MapOp::Mark && Prot::ACCESSED.union(Prot::DIRTY).contains(prot) {
            let wanted = if dirty { Rights::POOL_WRITE } else { Rights::POOL_READ };
            let needed = VALID | if dirty { Descriptor::WRITABLE.bits() } else { 0 };
            Ok(Change { wanted, needed, kept: !marks, set: leaf & marks })
        } else {
            Err(Refusal::BadArgument)
        }
    }
}

/// The rights that permissions need: they have the same bits.
fn rights(prot: u64) -> Rights {
    Rights::from_bits_retain(prot as u8 & 7)
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
    let (frames, mut known, mut slots) = (*m.frames(), NO_HEAD, m.words(target.root()));
    for va in stale {
        let va = va.load(Relaxed);
        if va & CHANGED != 0 {
            continue;
        }
        if va >> 21 != known {
            let Some(table) = page_table::table_for(m, target.root(), va, 3) else { continue };
            (known, slots) = (va >> 21, m.words(table));
        }
        let slot = &slots[page_table::index(va, 3)];
        let leaf = Descriptor::from_bits_retain(slot.load(Relaxed));
        slot.store(0, Relaxed);
        release(&frames, leaf);
    }
}

/// One mapping of a frame is gone from every TLB. Pages of devices are not counted.
#[inline(always)]
pub fn release(frames: &Frames, leaf: Descriptor) {
    if let Some(place) = frames.word(leaf.pfn())
        && !leaf.contains(Descriptor::DEVICE)
    {
        place.fetch_sub(1, Release);
    }
}
