//! Page tables: descriptors composed from an enumeration, and the walk to a slot.
//!
//! 39 bits of user space, three levels (Arm ARM D8.2). The root's last entry points at the root: the window, through which EL0 reads its own
//! descriptors. Therefore every table descriptor also serves as a page descriptor: it carries AP=11 (read-only), AF, SH, nG, XN, and never DBM.

use crate::machine::Machine;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::Pfn;
use exo_abi::page::{ADDRESS_MASK, Descriptor, Prot};

const PAGE: Descriptor =
    Descriptor::VALID.union(Descriptor::TABLE_OR_PAGE).union(Descriptor::EL0).union(Descriptor::NOT_GLOBAL);
const NEVER_EXECUTE: Descriptor = Descriptor::EXECUTE_NEVER.union(Descriptor::PRIVILEGED_EXECUTE_NEVER);

/// A page of memory that is readable and nothing else, and has not been accessed.
pub const READABLE: Descriptor =
    PAGE.union(NEVER_EXECUTE).union(Descriptor::READ_ONLY).union(Descriptor::INNER_SHAREABLE);

/// Permissions a leaf can have: READ always, never WRITE with EXECUTE, DIRTY only with WRITE, GUARDED only with EXECUTE.
pub fn well_formed(prot: Prot) -> bool {
    Prot::from_bits(prot.bits()).is_some()
        && prot.contains(Prot::READ)
        && !prot.contains(Prot::WRITE | Prot::EXECUTE)
        && (prot.contains(Prot::WRITE) || !prot.contains(Prot::DIRTY))
        && (prot.contains(Prot::EXECUTE) || !prot.contains(Prot::GUARDED))
}

/// Between a leaf of memory and one of registers of a device: Device-nGnRE.
pub const DEVICE_NOT_MEMORY: u64 = Descriptor::INNER_SHAREABLE.union(Descriptor::DEVICE).bits();

/// The level-3 descriptor for a frame of memory; `prot` has been checked.
pub fn leaf(pfn: Pfn, prot: Prot) -> Descriptor {
    let mut bits = READABLE;
    bits.set(Descriptor::EXECUTE_NEVER, !prot.contains(Prot::EXECUTE));
    bits.set(Descriptor::GUARDED, prot.contains(Prot::GUARDED));
    bits.set(Descriptor::WRITABLE, prot.contains(Prot::WRITE));
    bits.set(Descriptor::READ_ONLY, !prot.contains(Prot::DIRTY));
    bits.set(Descriptor::ACCESSED, prot.contains(Prot::ACCESSED));
    Descriptor::from_bits_retain(bits.bits() | pfn.address())
}

/// The descriptor of a table: 0x0060…0FC3 and the address.
pub fn table(pfn: Pfn) -> Descriptor {
    let bits = PAGE | NEVER_EXECUTE | Descriptor::READ_ONLY | Descriptor::INNER_SHAREABLE | Descriptor::ACCESSED;
    Descriptor::from_bits_retain(bits.bits() | pfn.address())
}

/// The root's last entry: 0x5860…0FC3 and the root's own address. Through it everything is read-only and never executed.
pub fn window(root: Pfn) -> Descriptor {
    table(root)
        | Descriptor::TABLE_READ_ONLY
        | Descriptor::TABLE_EXECUTE_NEVER
        | Descriptor::TABLE_PRIVILEGED_EXECUTE_NEVER
}

/// The table an entry points at.
#[inline(always)]
pub fn next_table(entry: &AtomicU64) -> Option<Pfn> {
    let entry = Descriptor::from_bits_retain(entry.load(Acquire));
    entry.contains(Descriptor::VALID).then(|| Pfn((entry.bits() & ADDRESS_MASK) >> 12))
}

/// The place of `va` in a table of `level`.
pub const fn index(va: u64, level: u64) -> usize {
    (va >> (39 - 9 * level)) as usize & 511
}

/// The table of `level` (1 to 3) that serves `va`.
#[inline(always)]
pub fn table_for(m: &impl Machine, root: Pfn, va: u64, level: u64) -> Option<Pfn> {
    let below = |table: Pfn, above: u64| next_table(&m.words(table)[index(va, above)]);
    let table = if level == 1 { root } else { below(root, 1)? };
    if level == 3 { below(table, 2) } else { Some(table) }
}
