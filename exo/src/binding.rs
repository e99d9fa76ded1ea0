//! Bindings and revocation cells: what an environment may do.
//!
//! ```text
//! word 0  | 63 root cell 48 | 47 cell 32 | 31 generation 16 | 12 root | 11 rights 4 | 3 kind 0 |
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

const FLAG_ROOT: u64 = 1 << 12;
const KIND: u64 = 0xf;
const KIND_BUSY: u64 = 0xf;
/// Where the rights stand in the head.
pub const RIGHTS_SHIFT: u32 = 4;
const RIGHTS: u64 = 0xff << RIGHTS_SHIFT;
const GENERATION: u64 = 0xffff_0000;

/// What a table entry holds: its four words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Binding {
    /// Kind, rights, cells.
    pub head: u64,
    /// The value its cell must have.
    pub expected: u64,
    /// The object: a pool number, a frame of an environment, a vcore (and an event), or a range.
    pub object: u64,
    /// The badge, or the value that the root cell must have.
    pub badge: u64,
}

impl Binding {
    /// The first binding to an object, or one to a gate or an event.
    #[inline(never)]
    pub fn new(m: &impl Machine, kind: BindingKind, rights: Rights, cell: u64, object: u64) -> Binding {
        let expected = value(m, cell);
        let head = kind as u64 | FLAG_ROOT | (rights.bits() as u64) << RIGHTS_SHIFT | cell << 32 | cell << 48;
        Binding { head, expected, object, badge: expected }
    }
    /// The same with other rights.
    pub const fn with(self, rights: Rights) -> Binding {
        Binding { head: self.head & !RIGHTS | (rights.bits() as u64) << RIGHTS_SHIFT, ..self }
    }
    /// It refers to such a thing.
    pub const fn is(&self, kind: BindingKind) -> bool {
        self.head & KIND == kind as u64
    }
    /// It permits this.
    pub const fn permits(&self, rights: Rights) -> bool {
        !(self.head >> RIGHTS_SHIFT) as u8 & rights.bits() == 0
    }
    /// It came with the object.
    pub const fn root(&self) -> bool {
        self.head & FLAG_ROOT != 0
    }
    /// The cell that revokes it.
    pub const fn cell(&self) -> u64 {
        self.head >> 32 & 0xffff
    }
    /// It is live and has these rights.
    #[inline(never)]
    pub fn check(&self, m: &impl Machine, rights: Rights) -> Result<(), Refusal> {
        let own = value(m, self.cell()) == self.expected;
        // The badge of a Gate stands where others have what their object's cell must hold; theirs is one with their own.
        let ends_with_cell = self.is(BindingKind::Gate) || self.is(BindingKind::Event);
        if !own || !(ends_with_cell || value(m, self.head >> 48) == self.badge) {
            Err(Refusal::Stale)
        } else if !self.permits(rights) {
            Err(Refusal::NoRight)
        } else {
            Ok(())
        }
    }
    /// `first..first+count` lies in the range of a Core, Irq or Device binding.
    #[inline(never)]
    pub const fn covers(&self, first: u64, count: u64) -> bool {
        let (start, length) = (self.object & 0xffff_ffff, self.object >> 32);
        first >= start && count <= length && first - start <= length - count
    }
}

/// The object word of a range.
pub const fn range(first: u64, count: u64) -> u64 {
    first | count << 32
}

fn cell_word<M: Machine>(m: &M, cell: u64) -> &AtomicU64 {
    let cells = &m.tables().cells;
    cells.get(cell as usize).unwrap_or(&cells[0])
}

/// What a cell holds now.
pub fn value(m: &impl Machine, cell: u64) -> u64 {
    cell_word(m, cell).load(Acquire)
}

/// What is kept of a binding beside what it gave: the value that its cell must hold, and the cell in bits 15:0.
pub fn stamp(binding: &Binding) -> u64 {
    binding.expected | binding.cell()
}

/// The binding whose stamp this is has not been taken back.
pub fn stamped(m: &impl Machine, stamp: u64) -> bool {
    value(m, stamp & 0x7fff) == stamp & !0x7fff
}

/// Who may use a cell.
pub fn owner(m: &impl Machine, cell: u64) -> u64 {
    m.tables().cell_owners.get(cell as usize).map_or(0, |owner| owner.load(Relaxed).into())
}

/// Gives a cell to another owner; what carries it stays live.
pub fn give(m: &impl Machine, cell: u64, owner: u64) {
    if let Some(place) = m.tables().cell_owners.get(cell as usize) {
        place.store(owner as u8, Relaxed);
    }
}

/// Makes stale what carries the cell, and gives the cell, which is for `what` (an object, or 0), to `owner`.
#[inline(never)]
pub fn bump(m: &impl Machine, cell: u64, owner: u64, what: u64) {
    let next = m.tables().last_cell_value.fetch_add(1, Relaxed) + 1;
    give(m, cell, owner);
    cell_word(m, cell).store(next << 16 | what, SeqCst);
}

/// Bit of a cell: an object ends with it, so `take_back` must not.
pub const OBJECT: u64 = 1 << 15;

/// The cell belongs to `caller` and to no object.
#[inline(never)]
pub fn check_cell(m: &impl Machine, cell: u64, caller: u64) -> Result<(), Refusal> {
    match cell {
        MAX_CELLS.. => Err(Refusal::BadArgument),
        _ if owner(m, cell) != caller => Err(Refusal::NotYours),
        _ if value(m, cell) & OBJECT != 0 => Err(Refusal::InUse),
        _ => Ok(()),
    }
}

/// The four words of a table entry.
#[inline(always)]
fn entry<'m>(m: &'m impl Machine, environment: &Environment, handle: u64) -> Result<&'m [AtomicU64; 4], Refusal> {
    let frame = environment.binding_frames.get((handle / BINDINGS_PER_FRAME) as usize).ok_or(Refusal::BadHandle)?;
    let pfn = frame.load(Acquire);
    Refusal::BadHandle.when(pfn == 0)?;
    // Masked besides the check above, so that a mispredicted branch reads no further either.
    let first = (handle % BINDINGS_PER_FRAME) as usize * 4;
    m.words(Pfn(pfn))[first..].first_chunk().ok_or(Refusal::BadHandle)
}

/// Reads a binding, whatever it is, stale or not.
#[inline(always)]
pub fn read(m: &impl Machine, environment: &Environment, handle: u64) -> Result<Binding, Refusal> {
    let words = entry(m, environment, handle)?;
    let head = words[0].load(Acquire);
    let (expected, object, badge) = (words[1].load(Relaxed), words[2].load(Relaxed), words[3].load(Relaxed));
    fence(Acquire);
    let moved = words[0].load(Relaxed) != head;
    Refusal::BadHandle.when(moved || matches!(head & KIND, 0 | KIND_BUSY))?;
    Ok(Binding { head, expected, object, badge })
}

/// The live binding `handle`, if it is of this kind and has these rights.
#[inline(never)]
pub fn find(
    m: &impl Machine,
    environment: &Environment,
    handle: u64,
    kind: BindingKind,
    rights: Rights,
) -> Result<Binding, Refusal> {
    let binding = read(m, environment, handle)?;
    Refusal::WrongKind.when(!binding.is(kind))?;
    binding.check(m, rights).map(|()| binding)
}

/// The slot exists and is empty: its head.
#[inline(never)]
pub fn check_empty(m: &impl Machine, environment: &Environment, slot: u64) -> Result<u64, Refusal> {
    let head = entry(m, environment, slot).map_err(|_| Refusal::BadArgument)?[0].load(Relaxed);
    if head & KIND == 0 { Ok(head) } else { Err(Refusal::SlotTaken) }
}

/// Writes a binding into an empty slot.
#[inline(never)]
pub fn write(m: &impl Machine, environment: &Environment, slot: u64, binding: &Binding) -> Result<(), Refusal> {
    let old = check_empty(m, environment, slot)?;
    put(m, environment, slot, old, binding)
}

/// Puts a binding, or (kind 0) nothing, in the place of what a slot held when its head was `old`.
pub fn put(m: &impl Machine, to: &Environment, slot: u64, old: u64, new: &Binding) -> Result<(), Refusal> {
    let words = entry(m, to, slot)?;
    let generation = old.wrapping_add(1 << 16) & GENERATION;
    words[0].compare_exchange(old, generation | KIND_BUSY, AcqRel, Relaxed).map_err(|_| Refusal::SlotTaken)?;
    // The words below must not be seen with the old head: the reader's second look finds the head changed.
    fence(Release);
    words[1].store(new.expected, Relaxed);
    words[2].store(new.object, Relaxed);
    words[3].store(new.badge, Relaxed);
    words[0].store(new.head & !GENERATION | generation, Release);
    Ok(())
}

/// Reduces a binding's rights; none left empties the slot.
pub fn restrict(m: &impl Machine, environment: &Environment, handle: u64, rights: u64) -> Result<(), Refusal> {
    let old = read(m, environment, handle)?;
    Refusal::BadArgument.when(rights > 0xff)?;
    let kept = old.head & rights << RIGHTS_SHIFT;
    let head = if kept == 0 { 0 } else { old.head & !RIGHTS | kept };
    put(m, environment, handle, old.head, &Binding { head, ..old }).map_err(|_| Refusal::BadHandle)
}

/// The copy of live binding `source` that its holder may pass on, never more than the source: the rights it keeps, a cell of its own (0: the same),
/// and a narrower range's first and count (0: all of it).
pub fn derive(m: &impl Machine, caller: u64, source: &Binding, copy: [u64; 4]) -> Result<Binding, Refusal> {
    let [rights, cell, first, count] = copy;
    source.check(m, Rights::GRANT)?;
    Refusal::BadArgument.when(rights == 0 || rights > 0xff)?;
    let kept = Rights::from_bits_retain(rights as u8);
    Refusal::NoRight.when(!source.permits(kept))?;
    let mut derived = source.with(kept);
    derived.head &= !FLAG_ROOT;
    if count != 0 || first != 0 {
        let ranged = [BindingKind::Core, BindingKind::Irq, BindingKind::Device].iter().any(|kind| source.is(*kind));
        Refusal::BadArgument.when(!ranged || count == 0 || !source.covers(first, count))?;
        derived.object = range(first, count);
    }
    if cell != 0 {
        Refusal::NotRoot.when(!source.root() || source.is(BindingKind::Gate) || source.is(BindingKind::Event))?;
        check_cell(m, cell, caller)?;
        derived.head = derived.head & !(0xffff << 32) | cell << 32;
        derived.expected = value(m, cell);
    }
    Ok(derived)
}
