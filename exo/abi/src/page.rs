//! Pages, frames, and the page-table entries an application reads through its window.

use bitflags::bitflags;

/// A physical frame number: physical address / 4096.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(pub u64);

impl Pfn {
    /// Its first physical address.
    pub const fn address(self) -> u64 {
        self.0 << 12
    }
}

/// First address beyond user space: 39 bits.
pub const USER_END: u64 = 1 << 39;
/// First address beyond what an application can map: the root's last entry is the window.
pub const MAPPABLE_END: u64 = WINDOW_LEVEL_3;
/// Level-3 descriptors, read-only: `WINDOW_LEVEL_3 + (va >> 12) * 8`.
pub const WINDOW_LEVEL_3: u64 = 0x7F_C000_0000;
/// Level-2 descriptors, read-only: `WINDOW_LEVEL_2 + (va >> 21) * 8`.
pub const WINDOW_LEVEL_2: u64 = 0x7F_FFE0_0000;
/// Level-1 descriptors, read-only: `WINDOW_LEVEL_1 + (va >> 30) * 8`.
pub const WINDOW_LEVEL_1: u64 = 0x7F_FFFF_F000;

bitflags! {
    /// Bits of a VMSAv8-64 descriptor (Arm ARM D8.3), as the kernel composes them for EL0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Descriptor: u64 {
        /// The entry is there.
        const VALID = 1;
        /// With VALID: a table at levels 1 and 2, a page at level 3.
        const TABLE_OR_PAGE = 1 << 1;
        /// Memory attribute index 1 (Device-nGnRE); index 0 is Normal write-back.
        const DEVICE = 1 << 2;
        /// AP\[1\]: EL0 may access.
        const EL0 = 1 << 6;
        /// AP\[2\]: read-only; with DBM: clean.
        const READ_ONLY = 1 << 7;
        /// Inner shareable.
        const INNER_SHAREABLE = 0b11 << 8;
        /// The access flag: accessed.
        const ACCESSED = 1 << 10;
        /// Not global: the entry belongs to the ASID.
        const NOT_GLOBAL = 1 << 11;
        /// BTI: indirect branches must land on a landing pad (FEAT_BTI).
        const GUARDED = 1 << 50;
        /// Dirty bit modifier: writable; hardware clears READ_ONLY at the first write (FEAT_HAFDBS), else the library does.
        const WRITABLE = 1 << 51;
        /// PXN: EL1 never executes it.
        const PRIVILEGED_EXECUTE_NEVER = 1 << 53;
        /// UXN: EL0 does not execute it.
        const EXECUTE_NEVER = 1 << 54;
        /// APTable\[1\], in table descriptors: no writes through it.
        const TABLE_READ_ONLY = 1 << 62;
        /// UXNTable, in table descriptors.
        const TABLE_EXECUTE_NEVER = 1 << 60;
        /// PXNTable, in table descriptors.
        const TABLE_PRIVILEGED_EXECUTE_NEVER = 1 << 59;
        /// Every other bit.
        const _ = !0;
    }
}

/// The output address bits of a descriptor.
pub const ADDRESS_MASK: u64 = 0x0000_FFFF_FFFF_F000;

impl Descriptor {
    /// The frame it points at.
    pub const fn pfn(self) -> Pfn {
        Pfn((self.bits() & ADDRESS_MASK) >> 12)
    }

    /// Written since it was mapped or last marked clean.
    pub const fn dirty(self) -> bool {
        self.contains(Descriptor::WRITABLE) && !self.contains(Descriptor::READ_ONLY)
    }
}

/// What an entry of a `map` batch does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MapOp {
    /// Map `count` frames from `pfn` on at `va`. Needs the rights in `prot` on the frames' pool (or Device binding).
    Map = 1,
    /// Unmap `count` pages from `va` on. Needs nothing but the environment.
    Unmap = 2,
    /// Give `count` pages from `va` on the permissions in `prot`. Needs those rights on the frames' pool.
    Protect = 3,
    /// Make the data frame `pfn` a page table and install it for `va`; `prot` holds its level, 2 or 3. Needs POOL_ALLOC.
    InstallTable = 4,
    /// Remove the empty table that serves `va`; `prot` holds its level. Its frame is data again.
    RemoveTable = 5,
    /// Set accessed and dirty of `count` pages to what `prot` says. Needs POOL_WRITE for dirty, POOL_READ otherwise.
    Mark = 6,
}

impl MapOp {
    /// The operation a number stands for.
    pub const fn from_number(number: u64) -> Option<MapOp> {
        Some(match number {
            1 => MapOp::Map,
            2 => MapOp::Unmap,
            3 => MapOp::Protect,
            4 => MapOp::InstallTable,
            5 => MapOp::RemoveTable,
            6 => MapOp::Mark,
            _ => return None,
        })
    }
}

bitflags! {
    /// Permissions and marks of a page in a `map` batch.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Prot: u8 {
        /// Readable; every mapping is.
        const READ = 1;
        /// Writable. Never together with EXECUTE.
        const WRITE = 1 << 1;
        /// Executable: only frames of kind code.
        const EXECUTE = 1 << 2;
        /// Starts (or is marked) accessed. Without it the first access sets it, or faults where hardware does not.
        const ACCESSED = 1 << 4;
        /// Starts (or is marked) dirty; with WRITE only.
        const DIRTY = 1 << 5;
        /// BTI guard on an executable page; ignored by cores without FEAT_BTI.
        const GUARDED = 1 << 6;
    }
}

/// An entry of a `map` batch: two words of the batch buffer.
///
/// Word 0 is `va` (page-aligned, below [`MAPPABLE_END`]) with the operation in bits 3:0 and `prot` (or the table level) in bits 11:4.
/// Word 1 is `pfn` in bits 31:0, `count` (1 to 65535) in bits 47:32 and the frames' binding in bits 63:48.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapEntry {
    /// First word.
    pub first: u64,
    /// Second word.
    pub second: u64,
}

impl MapEntry {
    const fn new(op: MapOp, va: u64, low: u64, pfn: Pfn, count: u64, handle: u16) -> MapEntry {
        MapEntry {
            first: (va & !0xfff) | op as u64 | low << 4,
            second: (pfn.0 & 0xffff_ffff) | (count & 0xffff) << 32 | (handle as u64) << 48,
        }
    }

    /// Map frames.
    pub const fn map(va: u64, pfn: Pfn, count: u64, prot: Prot, binding: super::Handle) -> MapEntry {
        MapEntry::new(MapOp::Map, va, prot.bits() as u64, pfn, count, binding.0)
    }

    /// Unmap pages.
    pub const fn unmap(va: u64, count: u64) -> MapEntry {
        MapEntry::new(MapOp::Unmap, va, 0, Pfn(0), count, 0)
    }

    /// Change permissions; `binding` is the pool of the frames.
    pub const fn protect(va: u64, count: u64, prot: Prot, binding: super::Handle) -> MapEntry {
        MapEntry::new(MapOp::Protect, va, prot.bits() as u64, Pfn(0), count, binding.0)
    }

    /// Install a table of `level` (2 or 3) for `va`.
    pub const fn install_table(va: u64, level: u64, pfn: Pfn, pool: super::Handle) -> MapEntry {
        MapEntry::new(MapOp::InstallTable, va, level, pfn, 1, pool.0)
    }

    /// Remove the empty table of `level` that serves `va`.
    pub const fn remove_table(va: u64, level: u64) -> MapEntry {
        MapEntry::new(MapOp::RemoveTable, va, level, Pfn(0), 1, 0)
    }

    /// Set accessed and dirty to what `prot` says; `binding` is the pool of the frames.
    pub const fn mark(va: u64, count: u64, prot: Prot, binding: super::Handle) -> MapEntry {
        MapEntry::new(MapOp::Mark, va, prot.bits() as u64, Pfn(0), count, binding.0)
    }
}
