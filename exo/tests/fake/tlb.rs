//! What TLBs may hold: every leaf and every step of a walk that EL0 could have loaded, until an invalidation covers it.

use super::Fake;
use exo::frame::Kind;
use exo::machine::Machine;
use exo::page_table::index;
use exo_abi::page::{Descriptor, MAPPABLE_END, WINDOW_LEVEL_1, WINDOW_LEVEL_2, WINDOW_LEVEL_3};
use exo_abi::{MAX_ENVIRONMENTS, Pfn};
use std::collections::HashMap;
use std::sync::atomic::Ordering::*;

/// A leaf (level 3), or the step of a walk through a table of level 1 or 2: address space, level, first address.
type Key = (u64, u64, u64);

/// Whether an invalidation covers the window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Goes,
    Stays,
}

enum Pending {
    Page(u64, u64),
    Space(u64, Window),
}

/// All cores' TLBs in one.
#[derive(Default)]
pub struct Tlb {
    entries: HashMap<Key, u64>,
    pending: Vec<Pending>,
}

const fn span(level: u64) -> u64 {
    1 << (39 - 9 * level)
}

impl Tlb {
    /// The invalidation of what is held for a page, at all levels, begins.
    pub fn forget_page(&mut self, asid: u64, va: u64) {
        self.pending.push(Pending::Page(asid, va));
    }

    /// The invalidation of an address space begins.
    pub fn forget_space(&mut self, asid: u64, window: Window) {
        self.pending.push(Pending::Space(asid, window));
    }

    /// All invalidations are complete.
    pub fn finish(&mut self) {
        for pending in self.pending.drain(..) {
            match pending {
                Pending::Page(asid, va) => (1..=3).for_each(|level| {
                    self.entries.remove(&(asid, level, va & !(span(level) - 1)));
                }),
                Pending::Space(asid, window) => {
                    self.entries.retain(|key, _| key.0 != asid || (window == Window::Stays && key.2 >= MAPPABLE_END))
                }
            }
        }
    }

    /// What is held for an address.
    pub fn held(&self, asid: u64, va: u64) -> Option<Descriptor> {
        self.entries.get(&(asid, 3, va & !0xfff)).map(|raw| Descriptor::from_bits_retain(*raw))
    }

    /// The frames that something held points at.
    pub fn points_at(&self, pfn: Pfn) -> Option<Key> {
        self.entries.iter().find(|(_, raw)| Descriptor::from_bits_retain(**raw).pfn() == pfn).map(|(key, _)| *key)
    }

    /// How much is held for an address space.
    pub fn count(&self, asid: u64) -> usize {
        self.entries.keys().filter(|key| key.0 == asid).count()
    }
}

impl Fake {
    /// Everything that a TLB could load now.
    fn loadable(&self, mut found: impl FnMut(Key, u64)) {
        for number in 1..MAX_ENVIRONMENTS {
            let Some(environment) = exo::environment::by_number(self, number) else { continue };
            // From the second step of its end on nobody runs in it.
            if environment.dying.load(Relaxed) > exo::destroy::step::STOP {
                continue;
            }
            let root = environment.root();
            let window = self.words(root)[511].load(Relaxed);
            found((number, 1, MAPPABLE_END), window);
            found((number, 2, WINDOW_LEVEL_2), window);
            found((number, 3, WINDOW_LEVEL_1), window);
            for (first, entry) in self.words(root)[..511].iter().enumerate() {
                let raw = entry.load(Relaxed);
                if raw & 1 == 0 {
                    continue;
                }
                let base = first as u64 * span(1);
                found((number, 1, base), raw);
                found((number, 2, WINDOW_LEVEL_3 + first as u64 * span(2)), raw);
                found((number, 3, WINDOW_LEVEL_2 + first as u64 * 4096), raw);
                self.loadable_below(number, base, raw, &mut found);
            }
        }
    }

    fn loadable_below(&self, number: u64, base: u64, raw: u64, found: &mut impl FnMut(Key, u64)) {
        for (second, entry) in self.words(Descriptor::from_bits_retain(raw).pfn()).iter().enumerate() {
            let raw = entry.load(Relaxed);
            if raw & 1 == 0 {
                continue;
            }
            let base = base + second as u64 * span(2);
            found((number, 2, base), raw);
            found((number, 3, WINDOW_LEVEL_3 + (base >> 21) * 4096), raw);
            for (third, entry) in self.words(Descriptor::from_bits_retain(raw).pfn()).iter().enumerate() {
                let raw = entry.load(Relaxed);
                // What is not accessed is in no TLB.
                if raw & 1 != 0 && raw & Descriptor::ACCESSED.bits() != 0 {
                    found((number, 3, base + third as u64 * 4096), raw);
                }
            }
        }
    }

    /// Some core loads everything it can.
    pub fn fill_tlb(&self) {
        let work = self.work.get();
        let mut tlb = self.tlb.borrow_mut();
        // What is held already stays as it is: that is what stale means.
        self.loadable(|key, raw| {
            tlb.entries.entry(key).or_insert(raw);
        });
        self.work.set(work);
    }

    /// What is held although no table says so any more.
    pub fn stale(&self) -> Vec<String> {
        let mut now = HashMap::new();
        self.loadable(|key, raw| {
            now.insert(key, raw);
        });
        let tlb = self.tlb.borrow();
        // Hardware, or the user of this model, may have marked the page dirty since.
        let same = |held: u64, said: u64| {
            held == said || (said & Descriptor::WRITABLE.bits() != 0 && held == said | Descriptor::READ_ONLY.bits())
        };
        let stale = tlb.entries.iter().filter(|(key, held)| !now.get(key).is_some_and(|said| same(**held, *said)));
        stale
            .map(|(key, held)| format!("a TLB still holds {held:#x} for {key:x?}; the tables say {:x?}", now.get(key)))
            .collect()
    }

    /// A frame that changes what it is must be in no TLB, except a control page, which was a user's page all along.
    pub fn before_zero(&self, pfn: Pfn) {
        let kind = self.frames().read(pfn).map(|word| word.kind());
        if kind != Some(Kind::Control)
            && let Some(key) = self.tlb.borrow().points_at(pfn)
        {
            self.seen.borrow_mut().push(format!("{pfn:?} of kind {kind:?} changes while a TLB holds it for {key:x?}"));
        }
    }

    /// The descriptor that EL0 of an environment reaches `va` by: held, or found by a walk.
    pub fn translate(&self, number: u64, va: u64) -> Option<Descriptor> {
        if let Some(held) = self.tlb.borrow().held(number, va) {
            return Some(held);
        }
        let mut table = exo::environment::by_number(self, number)?.root();
        for level in 1..=3 {
            let entry = Descriptor::from_bits_retain(self.words(table)[index(va, level)].load(Relaxed));
            if !entry.contains(Descriptor::VALID) {
                return None;
            }
            if level == 3 {
                return Some(entry);
            }
            table = entry.pfn();
        }
        None
    }
}
