//! `map`: batches of changes to an environment's page tables.
//!
//! A batch holds the environment's lock. Rights are looked up under it, so that whoever takes a binding back and then takes the lock sees every
//! mapping the binding made. An unmap clears bit 0 of the descriptor, and only after the invalidation at the end of the batch has completed on every core
//! is the slot emptied and the frame's count lowered: until then nobody can reuse either.

use crate::binding::{self, Binding};
use crate::environment::Environment;
use crate::frame::{self, Kind, Word};
use crate::machine::Machine;
use crate::page_table::{self, Leaf};
use crate::vcore::Control;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::page::{Descriptor, MAPPABLE_END, MapOp, Prot};
use exo_abi::{MAP_PAGES_PER_CALL, Pfn, Refusal};

/// More single invalidations than this become one for the whole address space.
pub const SINGLE_INVALIDATIONS: usize = 16;
/// What the changes of a table count as pages: about what they cost.
const TABLE_COST: u64 = 8;

/// How far a batch got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Entries done.
    pub entries: u64,
    /// Pages done of the entry after them.
    pub pages: u64,
}

/// A batch at work: whose rights, whose tables, and what must be invalidated at its end.
struct Batch<'m, M: Machine> {
    m: &'m M,
    caller: &'m Environment,
    target: &'m Environment,
    /// The binding used last, by its handle.
    binding: Option<(u64, Binding)>,
    /// The level-3 table used last, by `va >> 21`.
    table: Option<(u64, Pfn)>,
    /// Pages whose descriptor was made invalid but not emptied yet, and (bit 0 of the address) pages that only changed.
    stale: &'m [[AtomicU64; 2]; MAP_PAGES_PER_CALL as usize],
    stale_count: usize,
    budget: u64,
}

/// Bit of a stale page's address: its descriptor changed, it did not go.
const CHANGED: u64 = 1;

/// Applies `count` entries of a batch buffer to `target`'s tables with `caller`'s rights.
pub fn apply<M: Machine>(
    m: &M,
    caller: &Environment,
    target: &Environment,
    buffer: Control<'_>,
    count: u64,
) -> (Result<(), Refusal>, Progress) {
    let _guard = target.lock.lock();
    let mut batch = Batch {
        m,
        caller,
        target,
        binding: None,
        table: None,
        stale: &m.core().stale,
        stale_count: 0,
        budget: MAP_PAGES_PER_CALL,
    };
    let mut progress = Progress::default();
    let mut result = Ok(());
    if target.is_dying() {
        return (Err(Refusal::Stale), progress);
    }
    while progress.entries < count {
        let words = buffer.batch(progress.entries);
        // Each word is read once: the application may change them meanwhile.
        let entry = (words[0].load(Relaxed), words[1].load(Relaxed));
        result = batch.entry(entry, &mut progress.pages);
        if result.is_err() {
            break;
        }
        progress.entries += 1;
        progress.pages = 0;
    }
    batch.finish();
    (result, progress)
}

impl<M: Machine> Batch<'_, M> {
    fn entry(&mut self, (first, second): (u64, u64), pages: &mut u64) -> Result<(), Refusal> {
        let op = MapOp::from_number(first & 0xf).ok_or(Refusal::BadArgument)?;
        let (low, va) = (first >> 4 & 0xff, first & !0xfff);
        let (pfn, count, handle) = (second & 0xffff_ffff, second >> 32 & 0xffff, second >> 48);
        if va >= MAPPABLE_END || count == 0 || count > (MAPPABLE_END - va) >> 12 {
            return Err(Refusal::BadArgument);
        }
        let prot = Prot::from_bits_retain(low as u8);
        match op {
            MapOp::InstallTable => self.install_table(va, low, Pfn(pfn), count, handle),
            MapOp::RemoveTable => self.remove_table(va, low, count, second),
            MapOp::Map => {
                page_table::check(prot)?;
                self.each(va, count, pages, |batch, va, page| batch.map(va, Pfn(pfn + page), prot, handle))
            }
            MapOp::Unmap if low != 0 || pfn != 0 || handle != 0 => Err(Refusal::BadArgument),
            MapOp::Unmap => self.each(va, count, pages, |batch, va, _| batch.unmap(va)),
            MapOp::Protect | MapOp::Mark if pfn != 0 => Err(Refusal::BadArgument),
            MapOp::Protect => {
                page_table::check(prot)?;
                self.each(va, count, pages, |batch, va, _| batch.protect(va, prot, handle))
            }
            MapOp::Mark if !Prot::ACCESSED.union(Prot::DIRTY).contains(prot) => Err(Refusal::BadArgument),
            MapOp::Mark => self.each(va, count, pages, |batch, va, _| batch.mark(va, prot, handle)),
        }
    }

    /// One page after the other, within the budget.
    #[inline(always)]
    fn each(
        &mut self,
        va: u64,
        count: u64,
        pages: &mut u64,
        one: impl Fn(&mut Self, u64, u64) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        while *pages < count {
            self.spend(1)?;
            one(self, va + (*pages << 12), *pages)?;
            *pages += 1;
        }
        Ok(())
    }

    fn spend(&mut self, pages: u64) -> Result<(), Refusal> {
        self.budget = self.budget.checked_sub(pages).ok_or(Refusal::Again)?;
        Ok(())
    }

    /// The caller's binding of a handle, looked up once for a run of entries.
    #[inline(always)]
    fn binding(&mut self, handle: u64) -> Result<Binding, Refusal> {
        match self.binding {
            Some((known, binding)) if known == handle => Ok(binding),
            _ => {
                let binding = binding::read(self.m, self.caller, handle)?;
                binding.check(self.m, Rights::empty())?;
                if !binding.is(BindingKind::Pool) && !binding.is(BindingKind::Device) {
                    return Err(Refusal::WrongKind);
                }
                self.binding = Some((handle, binding));
                Ok(binding)
            }
        }
    }

    /// The descriptor slot of a page.
    #[inline(always)]
    fn slot(&mut self, va: u64) -> Result<&AtomicU64, Refusal> {
        let table = match self.table {
            Some((known, table)) if known == va >> 21 => table,
            _ => {
                let table = page_table::table_for(self.m, self.target.root(), va, 3).ok_or(Refusal::NotMapped)?;
                self.table = Some((va >> 21, table));
                table
            }
        };
        Ok(&self.m.words(table)[page_table::index(va, 3)])
    }

    #[inline(always)]
    fn map(&mut self, va: u64, pfn: Pfn, prot: Prot, handle: u64) -> Result<(), Refusal> {
        let old = self.slot(va)?.load(Relaxed);
        if old != 0 {
            if old & Descriptor::VALID.bits() != 0 {
                return Err(Refusal::AlreadyMapped);
            }
            // This batch unmapped it.
            self.finish();
        }
        let wanted = Rights::from_bits_retain(prot.bits() & 7);
        let word = self.m.frames().read(pfn);
        let kind =
            if word.is_some_and(|word| word.exposed() && prot.intersection(Prot::WRITE | Prot::EXECUTE).is_empty()) {
                frame::count_mapping(self.m, pfn, |_| Ok(()))?;
                Leaf::Memory
            } else {
                let binding = self.binding(handle)?;
                if !binding.permits(wanted) {
                    return Err(Refusal::NoRight);
                }
                if binding.is(BindingKind::Device) {
                    self.check_device(&binding, pfn, prot, word)?;
                    Leaf::Device
                } else {
                    frame::count_mapping(self.m, pfn, |word| {
                        if word.pool() != binding.object || word.kind() == Kind::Free {
                            return Err(Refusal::NotYours);
                        }
                        let permitted = match word.kind() {
                            Kind::Data | Kind::Control => !prot.contains(Prot::EXECUTE),
                            Kind::Code => !prot.contains(Prot::WRITE),
                            _ => false,
                        };
                        if permitted { Ok(()) } else { Err(Refusal::WrongFrame) }
                    })?;
                    Leaf::Memory
                }
            };
        let descriptor = page_table::leaf(pfn, prot, kind);
        self.slot(va)?.store(descriptor.bits(), Relaxed);
        Ok(())
    }

    /// A device page lies in the binding's range, is not RAM, and is not the kernel's; the UART goes to who maps it for writing.
    fn check_device(&self, binding: &Binding, pfn: Pfn, prot: Prot, word: Option<Word>) -> Result<(), Refusal> {
        if !binding.covers(pfn.0, 1) || self.m.kernel_device(pfn) {
            return Err(Refusal::NotYours);
        }
        if prot.contains(Prot::EXECUTE) || word.is_some_and(|word| word.kind() != Kind::Device) {
            return Err(Refusal::WrongFrame);
        }
        if self.m.uart() == Some(pfn) && prot.contains(Prot::WRITE) {
            let claimed = self.m.uart_owner().compare_exchange(0, self.target.number(), AcqRel, Acquire);
            if claimed.is_err_and(|owner| owner != self.target.number()) {
                return Err(Refusal::InUse);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn unmap(&mut self, va: u64) -> Result<(), Refusal> {
        let slot = self.slot(va)?;
        // Only bit 0 goes: the walkers of other cores may still set accessed and dirty in what they read before (Arm ARM D8.5.4), so this is one atomic.
        let old = slot.fetch_and(!Descriptor::VALID.bits(), Relaxed);
        if old & Descriptor::VALID.bits() == 0 {
            return Err(Refusal::NotMapped);
        }
        let table = self.table.map_or(Pfn(0), |(_, table)| table);
        self.remember(table, va);
        Ok(())
    }

    #[inline(always)]
    fn remember(&mut self, table: Pfn, va: u64) {
        if let Some([first, second]) = self.stale.get(self.stale_count) {
            first.store(table.0, Relaxed);
            second.store(va, Relaxed);
            self.stale_count += 1;
        }
    }

    #[inline(always)]
    fn protect(&mut self, va: u64, prot: Prot, handle: u64) -> Result<(), Refusal> {
        self.change(va, handle, Rights::from_bits_retain(prot.bits() & 7), |old, word| {
            let permitted = match word.kind() {
                Kind::Data | Kind::Control => !prot.contains(Prot::EXECUTE),
                Kind::Code => !prot.contains(Prot::WRITE),
                _ => false,
            };
            if permitted { Ok(page_table::leaf(old.pfn(), prot, Leaf::Memory)) } else { Err(Refusal::WrongFrame) }
        })
    }

    #[inline(always)]
    fn mark(&mut self, va: u64, prot: Prot, handle: u64) -> Result<(), Refusal> {
        let wanted = if prot.contains(Prot::DIRTY) { Rights::POOL_WRITE } else { Rights::POOL_READ };
        self.change(va, handle, wanted, |mut old, _| {
            if prot.contains(Prot::DIRTY) && !old.contains(Descriptor::WRITABLE) {
                return Err(Refusal::WrongFrame);
            }
            old.set(Descriptor::ACCESSED, prot.contains(Prot::ACCESSED));
            old.set(Descriptor::READ_ONLY, !prot.contains(Prot::DIRTY));
            Ok(old)
        })
    }

    /// Replaces a valid leaf by one to the same frame: permissions, execute-never and access flag may change without break-before-make (Arm ARM D8.16.1).
    #[inline(always)]
    fn change(
        &mut self,
        va: u64,
        handle: u64,
        wanted: Rights,
        new: impl Fn(Descriptor, Word) -> Result<Descriptor, Refusal>,
    ) -> Result<(), Refusal> {
        let binding = self.binding(handle)?;
        if !binding.is(BindingKind::Pool) {
            return Err(Refusal::WrongKind);
        }
        if !binding.permits(wanted) {
            return Err(Refusal::NoRight);
        }
        let m = self.m;
        let slot = self.slot(va)?;
        // Hardware may set accessed, then dirty, between the look and the change: it does so twice at most.
        for _ in 0..4 {
            let old = slot.load(Relaxed);
            let descriptor = Descriptor::from_bits_retain(old);
            if !descriptor.contains(Descriptor::VALID) {
                return Err(Refusal::NotMapped);
            }
            let word = m
                .frames()
                .read(descriptor.pfn())
                .filter(|word| word.pool() == binding.object && word.count() != 0)
                .ok_or(Refusal::NotYours)?;
            let new = new(descriptor, word)?.bits();
            if slot.compare_exchange(old, new, Relaxed, Relaxed).is_ok() {
                // An entry without the access flag is in no TLB (Arm ARM D8.5.5).
                if descriptor.contains(Descriptor::ACCESSED) && old != new {
                    self.remember(Pfn(0), va | CHANGED);
                }
                return Ok(());
            }
        }
        Err(Refusal::InUse)
    }

    fn install_table(&mut self, va: u64, level: u64, pfn: Pfn, count: u64, handle: u64) -> Result<(), Refusal> {
        if !(2..=3).contains(&level) || count != 1 {
            return Err(Refusal::BadArgument);
        }
        self.spend(TABLE_COST)?;
        let binding = self.binding(handle)?;
        if !binding.is(BindingKind::Pool) {
            return Err(Refusal::WrongKind);
        }
        if !binding.permits(Rights::POOL_ALLOC) {
            return Err(Refusal::NoRight);
        }
        // Kernel objects are made of the environment's own pool only: a shared pool can end without asking who lives in it.
        if binding.object != self.target.pool() {
            return Err(Refusal::NotYours);
        }
        let above = page_table::table_for(self.m, self.target.root(), va, level - 1).ok_or(Refusal::NotMapped)?;
        let slot = &self.m.words(above)[page_table::index(va, level - 1)];
        if slot.load(Relaxed) != 0 {
            return Err(Refusal::AlreadyMapped);
        }
        frame::become_object(self.m, binding.object, pfn, Word::table(binding.object, level, self.target.number()))?;
        // The walkers must see the zeros before the table (Arm ARM B2.3.11: DMB ordering is not enough for them).
        self.m.publish_descriptors();
        slot.store(page_table::table(pfn).bits(), Relaxed);
        Ok(())
    }

    fn remove_table(&mut self, va: u64, level: u64, count: u64, second: u64) -> Result<(), Refusal> {
        if !(2..=3).contains(&level) || count != 1 || second != 1 << 32 {
            return Err(Refusal::BadArgument);
        }
        self.spend(TABLE_COST)?;
        // Pages that this batch unmapped are still in their slots.
        self.finish();
        let above = page_table::table_for(self.m, self.target.root(), va, level - 1).ok_or(Refusal::NotMapped)?;
        let slot = &self.m.words(above)[page_table::index(va, level - 1)];
        let table = page_table::next_table(slot).ok_or(Refusal::NotMapped)?;
        if self.m.words(table).iter().any(|slot| slot.load(Relaxed) != 0) {
            return Err(Refusal::InUse);
        }
        self.table = None;
        slot.fetch_and(!Descriptor::VALID.bits(), Relaxed);
        self.m.publish_descriptors();
        // All of the address space: the walk caches' entries of this table and of the window's view of it, at every level.
        self.m.invalidate_space(self.target.number());
        self.m.finish_invalidation();
        slot.store(0, Relaxed);
        frame::become_data(self.m, table);
        Ok(())
    }

    /// Second half of the unmaps, and the end of a batch: new descriptors are published, old ones forgotten by every core.
    fn finish(&mut self) {
        self.m.publish_descriptors();
        if self.stale_count == 0 {
            return;
        }
        let stale = &self.stale[..self.stale_count.min(self.stale.len())];
        let asid = self.target.number();
        if stale.len() > SINGLE_INVALIDATIONS {
            self.m.invalidate_space(asid);
        } else {
            stale.iter().for_each(|[_, va]| self.m.invalidate_page(asid, va.load(Relaxed) & !CHANGED));
        }
        self.m.finish_invalidation();
        for [table, va] in stale {
            let (table, va) = (Pfn(table.load(Relaxed)), va.load(Relaxed));
            if va & CHANGED == 0 {
                let slot = &self.m.words(table)[page_table::index(va, 3)];
                let pfn = Descriptor::from_bits_retain(slot.load(Relaxed)).pfn();
                slot.store(0, Relaxed);
                release(self.m, pfn);
            }
        }
        self.stale_count = 0;
    }
}

/// One mapping of a frame is gone from every TLB. Device pages outside RAM, and those in its holes, are not counted.
pub fn release(m: &impl Machine, pfn: Pfn) {
    if m.frames().read(pfn).is_some_and(|word| word.kind() != Kind::Device) {
        frame::uncount_mapping(m, pfn);
    }
}
