//! Bindings and revocation cells: what an environment may do.
//!
//! ```text
//! word 0  | 63 root cell 48 | 47 cell 32 | 31 generation 16 | 15 rights 8 | 7 flags 4 | 3 kind 0 |
//! word 1  what the cell must hold          word 2  the object
//! word 3  the badge (Gate), or what the root cell must hold (all kinds that are no Gate or Event)
//! ```
//! A binding is live while its cell holds the value it carries: one load and one compare. What is granted on shares the
//! cell or, from the object's first ("root") binding, gets one of its own and keeps the root's besides: either kills it.
//! Cell values never repeat.
//!
//! Entries are read without a lock. A writer first takes the entry by a compare-and-swap of word 0, which also moves the generation;
//! a reader that sees word 0 unchanged after reading the rest has read one binding and not parts of two.

use crate::environment::Environment;
use crate::machine::Machine;
use core::sync::atomic::{AtomicU64, Ordering::*, fence};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::{BINDINGS_PER_FRAME, MAX_CELLS, Pfn, Refusal};

const FLAG_ROOT: u64 = 1 << 4;
const KIND_BUSY: u64 = 0xf;

/// What a table entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// What it refers to.
    pub kind: BindingKind,
    /// What it permits.
    pub rights: Rights,
    /// It came with the object.
    pub root: bool,
    /// The cell that revokes it.
    pub cell: u64,
    /// The value its cell must have.
    pub expected: u64,
    /// The cell that ends with the object; the same as `cell` for Gate and Event.
    pub root_cell: u64,
    /// The object: a pool number, a frame of an environment, a vcore (and an event), or a range.
    pub object: u64,
    /// The badge, or the value that the root cell must have.
    pub badge: u64,
}

impl Binding {
    /// The first binding to an object, or one to a gate or an event.
    pub fn new(m: &impl Machine, kind: BindingKind, rights: Rights, cell: u64, object: u64) -> Binding {
        let expected = value(m, cell);
        Binding { kind, rights, root: true, cell, expected, root_cell: cell, object, badge: expected }
    }

    /// Neither taken back, nor its object gone.
    fn live(&self, m: &impl Machine) -> bool {
        let own = same(value(m, self.cell), self.expected);
        own && (matches!(self.kind, BindingKind::Gate | BindingKind::Event)
            || same(value(m, self.root_cell), self.badge))
    }

    /// The range of a Core, Irq or Device binding.
    pub const fn range(&self) -> (u64, u64) {
        (self.object & 0xffff_ffff, self.object >> 32)
    }

    /// `first..first+count` lies in its range.
    pub fn covers(&self, first: u64, count: u64) -> bool {
        let (start, length) = self.range();
        first >= start && count <= length && first - start <= length - count
    }
}

/// The object word of a range.
pub const fn range(first: u64, count: u64) -> u64 {
    first | count << 32
}

/// What a cell holds now.
pub fn value(m: &impl Machine, cell: u64) -> u64 {
    m.tables().cells[cell as usize % MAX_CELLS as usize].load(Acquire)
}

/// Two values of a cell agree: its owner, in the low bits, may have changed.
pub const fn same(now: u64, carried: u64) -> bool {
    (now ^ carried) >> 16 == 0
}

/// Gives a cell to another owner; what carries it stays live.
pub fn pass_cell_on(m: &impl Machine, cell: u64, owner: u64) {
    let word = &m.tables().cells[cell as usize % MAX_CELLS as usize];
    let old = word.load(Relaxed);
    // Only its owner bumps a cell, and that is who passes it on, or is dead.
    word.store(old & !0x7fff | owner, Release);
}

/// Makes stale what carries the cell, and gives the cell to `owner`.
pub fn bump(m: &impl Machine, cell: u64, owner: u64) {
    let next = m.tables().last_cell_value.fetch_add(1, Relaxed) + 1;
    m.tables().cells[cell as usize % MAX_CELLS as usize].store(next << 16 | owner, SeqCst);
}

/// Who may use a cell, and whether an object ends with it.
pub fn cell_owner(m: &impl Machine, cell: u64) -> Result<u64, Refusal> {
    if cell >= MAX_CELLS { Err(Refusal::BadArgument) } else { Ok(value(m, cell) & 0x7fff) }
}

/// Bit of a cell's owner field: an object ends with it, so `take_back` must not.
pub const OBJECT: u64 = 1 << 15;

/// A cell for a new object of `caller`: owned, and not another object's. It is bumped and marked.
pub fn claim_cell(m: &impl Machine, cell: u64, caller: u64) -> Result<(), Refusal> {
    check_cell(m, cell, caller)?;
    bump(m, cell, caller | OBJECT);
    Ok(())
}

/// The cell belongs to `caller` and to no object.
pub fn check_cell(m: &impl Machine, cell: u64, caller: u64) -> Result<(), Refusal> {
    if cell_owner(m, cell)? != caller {
        return Err(Refusal::NotYours);
    }
    if value(m, cell) & OBJECT != 0 { Err(Refusal::InUse) } else { Ok(()) }
}

/// The four words of a table entry.
fn entry<'m>(m: &'m impl Machine, environment: &Environment, handle: u64) -> Result<&'m [AtomicU64; 4], Refusal> {
    let frame = environment.binding_frames.get((handle / BINDINGS_PER_FRAME) as usize).ok_or(Refusal::BadHandle)?;
    let pfn = frame.load(Acquire);
    if pfn == 0 {
        return Err(Refusal::BadHandle);
    }
    // Masked besides the check above, so that a mispredicted branch reads no further either.
    let first = (handle % BINDINGS_PER_FRAME) as usize * 4;
    m.words(Pfn(pfn))[first..].first_chunk().ok_or(Refusal::BadHandle)
}

/// Reads a binding, whatever it is, stale or not.
#[inline(never)]
pub fn read(m: &impl Machine, environment: &Environment, handle: u64) -> Result<Binding, Refusal> {
    let words = entry(m, environment, handle)?;
    let head = words[0].load(Acquire);
    let (expected, object, badge) = (words[1].load(Relaxed), words[2].load(Relaxed), words[3].load(Relaxed));
    fence(Acquire);
    if words[0].load(Relaxed) != head {
        return Err(Refusal::BadHandle);
    }
    Ok(Binding {
        kind: BindingKind::from_number(head & 0xf).ok_or(Refusal::BadHandle)?,
        rights: Rights::from_bits_retain((head >> 8) as u8),
        root: head & FLAG_ROOT != 0,
        cell: head >> 32 & 0xffff,
        expected,
        root_cell: head >> 48,
        object,
        badge,
    })
}

/// What the fast paths need of a live binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Word 0.
    head: u64,
    /// The object.
    pub object: u64,
    /// The badge of a Gate.
    pub badge: u64,
}

impl Found {
    /// It refers to such a thing.
    pub const fn is(&self, kind: BindingKind) -> bool {
        self.head & 0xf == kind as u64
    }
    /// It permits this.
    pub const fn permits(&self, rights: Rights) -> bool {
        !(self.head >> 8) as u8 & rights.bits() == 0
    }
    /// `first..first+count` lies in the range it refers to.
    pub const fn covers(&self, first: u64, count: u64) -> bool {
        let (start, length) = (self.object & 0xffff_ffff, self.object >> 32);
        first >= start && count <= length && first - start <= length - count
    }
}

/// The live binding `handle`, of whatever kind. It stays in registers: a whole [`Binding`] would be copied about.
#[inline(always)]
pub fn find_any(m: &impl Machine, environment: &Environment, handle: u64) -> Result<Found, Refusal> {
    let words = entry(m, environment, handle)?;
    let head = words[0].load(Acquire);
    let (expected, object, badge) = (words[1].load(Relaxed), words[2].load(Relaxed), words[3].load(Relaxed));
    fence(Acquire);
    if words[0].load(Relaxed) != head || head & 0xf == 0 || head & 0xf == KIND_BUSY {
        return Err(Refusal::BadHandle);
    }
    let found = Found { head, object, badge };
    let own = same(value(m, head >> 32 & 0xffff), expected);
    let root = || found.is(BindingKind::Gate) || found.is(BindingKind::Event) || same(value(m, head >> 48), badge);
    if own && root() { Ok(found) } else { Err(Refusal::Stale) }
}

/// The live binding `handle`, if it is of this kind and has these rights.
#[inline(always)]
pub fn find(
    m: &impl Machine,
    of: &Environment,
    handle: u64,
    kind: BindingKind,
    rights: Rights,
) -> Result<Found, Refusal> {
    let found = find_any(m, of, handle);
    // A stale binding of another kind is of another kind first: the order in which things are refused is the same everywhere.
    match found {
        Ok(found) if !found.is(kind) => Err(Refusal::WrongKind),
        Ok(found) if !found.permits(rights) => Err(Refusal::NoRight),
        Err(Refusal::Stale) if read(m, of, handle)?.kind != kind => Err(Refusal::WrongKind),
        _ => found,
    }
}

/// The live binding `handle`, if it is of this kind and has these rights.
#[inline(never)]
pub fn look_up(
    m: &impl Machine,
    environment: &Environment,
    handle: u64,
    kind: BindingKind,
    rights: Rights,
) -> Result<Binding, Refusal> {
    let binding = read(m, environment, handle)?;
    if binding.kind != kind {
        return Err(Refusal::WrongKind);
    }
    check(m, &binding, rights)?;
    Ok(binding)
}

/// The binding is live and has these rights.
pub fn check(m: &impl Machine, binding: &Binding, rights: Rights) -> Result<(), Refusal> {
    if !binding.live(m) {
        Err(Refusal::Stale)
    } else if !binding.rights.contains(rights) {
        Err(Refusal::NoRight)
    } else {
        Ok(())
    }
}

/// The slot exists and is empty.
pub fn check_empty(m: &impl Machine, environment: &Environment, slot: u64) -> Result<(), Refusal> {
    let words = entry(m, environment, slot).map_err(|_| Refusal::BadArgument)?;
    if words[0].load(Relaxed) & 0xf == 0 { Ok(()) } else { Err(Refusal::SlotTaken) }
}

/// Writes a binding into an empty slot.
pub fn write(m: &impl Machine, environment: &Environment, slot: u64, binding: &Binding) -> Result<(), Refusal> {
    let words = entry(m, environment, slot).map_err(|_| Refusal::BadArgument)?;
    let old = words[0].load(Relaxed);
    if old & 0xf != 0 {
        return Err(Refusal::SlotTaken);
    }
    put(words, old, binding)
}

/// Puts another binding in the place of `handle`.
pub fn replace(m: &impl Machine, environment: &Environment, handle: u64, binding: &Binding) -> Result<(), Refusal> {
    let words = entry(m, environment, handle)?;
    put(words, words[0].load(Relaxed), binding)
}

fn put(words: &[AtomicU64; 4], old: u64, binding: &Binding) -> Result<(), Refusal> {
    let generation = (old & 0xffff_0000).wrapping_add(1 << 16) & 0xffff_0000;
    words[0].compare_exchange(old, generation | KIND_BUSY, AcqRel, Relaxed).map_err(|_| Refusal::SlotTaken)?;
    // The words below must not be seen with the old head: the reader's second look finds the head changed.
    fence(Release);
    words[1].store(binding.expected, Relaxed);
    words[2].store(binding.object, Relaxed);
    words[3].store(binding.badge, Relaxed);
    let root = if binding.root { FLAG_ROOT } else { 0 };
    let head = binding.kind as u64
        | root
        | (binding.rights.bits() as u64) << 8
        | generation
        | binding.cell << 32
        | binding.root_cell << 48;
    words[0].store(head, Release);
    Ok(())
}

/// Reduces a binding's rights; none left empties the slot.
pub fn restrict(m: &impl Machine, environment: &Environment, handle: u64, rights: u64) -> Result<(), Refusal> {
    let words = entry(m, environment, handle)?;
    let old = words[0].load(Relaxed);
    let kind = old & 0xf;
    if kind == 0 || kind == KIND_BUSY {
        return Err(Refusal::BadHandle);
    }
    if rights > 0xff {
        return Err(Refusal::BadArgument);
    }
    let generation = (old & 0xffff_0000).wrapping_add(1 << 16) & 0xffff_0000;
    let kept = old & 0xff00 & (rights << 8);
    let new = if kept == 0 { generation } else { (old & !0xffff_ff00) | kept | generation };
    words[0].compare_exchange(old, new, AcqRel, Relaxed).map_err(|_| Refusal::BadHandle)?;
    Ok(())
}

/// What becomes of a copied binding.
pub struct Copy {
    /// The rights it keeps.
    pub rights: u64,
    /// A cell of its own; 0: the same.
    pub cell: u64,
    /// A narrower range.
    pub first: u64,
    /// How long; 0: all of it.
    pub count: u64,
}

/// The copy of live binding `source` that its holder may pass on: never more than the source.
pub fn derive(m: &impl Machine, caller: u64, source: &Binding, copy: &Copy) -> Result<Binding, Refusal> {
    check(m, source, Rights::GRANT)?;
    if copy.rights == 0 || copy.rights > 0xff {
        return Err(Refusal::BadArgument);
    }
    if copy.rights & !(source.rights.bits() as u64) != 0 {
        return Err(Refusal::NoRight);
    }
    let mut derived = *source;
    derived.rights = Rights::from_bits_retain(copy.rights as u8);
    derived.root = false;
    if copy.count != 0 || copy.first != 0 {
        let ranged = matches!(source.kind, BindingKind::Core | BindingKind::Irq | BindingKind::Device);
        if !ranged || copy.count == 0 || !source.covers(copy.first, copy.count) {
            return Err(Refusal::BadArgument);
        }
        derived.object = range(copy.first, copy.count);
    }
    if copy.cell != 0 {
        if !source.root || matches!(source.kind, BindingKind::Gate | BindingKind::Event) {
            return Err(Refusal::NotRoot);
        }
        check_cell(m, copy.cell, caller)?;
        derived.cell = copy.cell;
        derived.expected = value(m, copy.cell);
    }
    Ok(derived)
}
