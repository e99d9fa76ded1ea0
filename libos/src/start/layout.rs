//! Where things lie in an address space: one rule for who makes it and who lives in it.
//!
//! ```text
//! 0x200000  the program's segments, as linked
//!           (guard)
//! control   control page of vcore 0
//! info      StartInfo, read-only                            mapped by the maker
//!           (guard)
//! upcall_*  the stack it begins on, then that of upcalls    mapped by the maker
//!           (guard)
//! maps_*    small mappings: machine pages, device registers, made by the program
//!           (guard)
//! stack_*   the main stack                                  on demand, from the program's own pool
//!           (guard)
//! heap_*    the heap                                        on demand
//!           (guard)
//! far_*     large mappings
//! ```
//! A small program has all this in one stretch of 2 MiB, which one table maps. What lies between `control` and `maps_end` is in
//! one such stretch for every program: the first thing it maps, the free bitmap, must not need a table.

use exo_abi::PAGE_BYTES;
use serde::{Deserialize, Serialize};

/// Pages for [`super::StartInfo`].
pub const INFO_PAGES: u64 = 2;
/// Pages of the stack of upcalls. The first environment's are the image-builder's choice.
pub const UPCALL_STACK_PAGES: u64 = 3;
/// Pages of small mappings: as many as one word has bits.
pub const MAP_PAGES: u64 = 64;
/// Pages without anything under a stack. More than one: a large array on the stack must not step over them.
pub const GUARD_PAGES: u64 = 4;
/// Bytes of address space for large mappings: they end below the files, which begin at 64 GiB.
const FAR_BYTES: u64 = 32 << 30;
/// Bytes that a last-level table maps.
const TABLE_BYTES: u64 = 1 << 21;

/// The addresses. Each `x` with an `x_end` is a stretch; the rest follows from the constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The control page of vcore 0.
    pub control: u64,
    /// The [`super::StartInfo`].
    pub info: u64,
    /// The stack of upcalls.
    pub upcall_stack: u64,
    /// Its top: where sp begins.
    pub upcall_stack_end: u64,
    /// The main stack.
    pub stack: u64,
    /// Its top.
    pub stack_end: u64,
    /// Small mappings.
    pub maps: u64,
    /// First address beyond them.
    pub maps_end: u64,
    /// The heap.
    pub heap: u64,
    /// First address beyond it.
    pub heap_end: u64,
    /// Large mappings.
    pub far: u64,
    /// First address beyond them.
    pub far_end: u64,
}

impl Layout {
    /// Everything above a control page at `control`, with that many pages of main stack and of heap.
    pub const fn above(control: u64, stack_pages: u64, heap_pages: u64) -> Layout {
        let info = control + PAGE_BYTES;
        let upcall_stack = info + (INFO_PAGES + 1) * PAGE_BYTES;
        let upcall_stack_end = upcall_stack + UPCALL_STACK_PAGES * PAGE_BYTES;
        let maps = upcall_stack_end + PAGE_BYTES;
        let maps_end = maps + MAP_PAGES * PAGE_BYTES;
        let stack = maps_end + GUARD_PAGES * PAGE_BYTES;
        let stack_end = stack + stack_pages * PAGE_BYTES;
        let heap = stack_end + PAGE_BYTES;
        let heap_end = heap + heap_pages * PAGE_BYTES;
        // Its own tables, so that a large mapping never shares one with the rest.
        let far = (heap_end + PAGE_BYTES).next_multiple_of(1 << 30);
        Layout {
            control,
            info,
            upcall_stack,
            upcall_stack_end,
            stack,
            stack_end,
            maps,
            maps_end,
            heap,
            heap_end,
            far,
            far_end: far + FAR_BYTES,
        }
    }

    /// The control page's place for a program whose segments end at `image_end`: the guard page of the image is kept, and
    /// everything up to `maps_end` shares a last-level table.
    pub const fn control_for(image_end: u64) -> u64 {
        let control = image_end.next_multiple_of(PAGE_BYTES) + PAGE_BYTES;
        let last = Layout::above(control, 0, 0).maps_end - 1;
        if control / TABLE_BYTES == last / TABLE_BYTES { control } else { last / TABLE_BYTES * TABLE_BYTES }
    }

    /// What lies at `address`, for people who read about a fault.
    pub fn name_of(&self, address: u64) -> &'static str {
        match address {
            0..PAGE_BYTES => "nothing: a null pointer",
            a if a < self.control - PAGE_BYTES => "the program's segments",
            a if a < self.control => "the guard page above the program's segments",
            a if a < self.info => "the control page",
            a if a < self.upcall_stack - PAGE_BYTES => "the start page",
            a if a < self.upcall_stack => "the guard page of the upcall stack: it overflowed",
            a if a < self.upcall_stack_end => "the upcall stack",
            a if a < self.maps => "the guard page above the upcall stack",
            a if a < self.maps_end => "small mappings",
            a if a < self.stack => "the guard pages of the main stack: it overflowed",
            a if a < self.stack_end => "the main stack",
            a if a < self.heap => "the guard page above the main stack",
            a if a < self.heap_end => "the heap",
            a if a < self.far => "the gap above the heap",
            a if a < self.far_end => "large mappings",
            a if a >= exo_abi::page::USER_END => "beyond user space",
            a if a >= exo_abi::page::MAPPABLE_END => "the window of page tables",
            _ => "nothing, or a file",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout::above(0x20_8000, 16, 64);

    #[test]
    fn a_small_program_needs_one_last_level_table() {
        assert_eq!(LAYOUT.control >> 21, (LAYOUT.heap_end - 1) >> 21);
    }

    #[test]
    fn what_is_mapped_first_shares_a_table_wherever_the_program_ends() {
        for page in 0..1024 {
            let image_end = 0x20_0000 + page * PAGE_BYTES + 17;
            let layout = Layout::above(Layout::control_for(image_end), 5000, 5000);
            assert_eq!(layout.control / TABLE_BYTES, (layout.maps_end - 1) / TABLE_BYTES);
            assert!(layout.control >= image_end + PAGE_BYTES);
        }
    }

    #[test]
    fn nothing_overlaps_and_stacks_have_guards() {
        let ordered = [
            LAYOUT.control,
            LAYOUT.info,
            LAYOUT.upcall_stack,
            LAYOUT.upcall_stack_end,
            LAYOUT.maps,
            LAYOUT.maps_end,
            LAYOUT.stack,
            LAYOUT.stack_end,
            LAYOUT.heap,
            LAYOUT.heap_end,
            LAYOUT.far,
            LAYOUT.far_end,
        ];
        assert!(ordered.is_sorted());
        assert!(ordered.iter().all(|address| address % PAGE_BYTES == 0));
        const { assert!(LAYOUT.upcall_stack >= LAYOUT.info + INFO_PAGES * PAGE_BYTES + PAGE_BYTES) };
        const { assert!(LAYOUT.stack >= LAYOUT.maps_end + GUARD_PAGES * PAGE_BYTES) };
        const { assert!(LAYOUT.far_end <= exo_abi::page::MAPPABLE_END) };
    }

    #[test]
    fn an_overflown_stack_is_named() {
        assert!(LAYOUT.name_of(LAYOUT.stack - 8).contains("overflowed"));
        assert!(LAYOUT.name_of(LAYOUT.upcall_stack - 8).contains("upcall stack: it overflowed"));
        assert_eq!(LAYOUT.name_of(LAYOUT.stack), "the main stack");
        assert_eq!(LAYOUT.name_of(8), "nothing: a null pointer");
        assert_eq!(LAYOUT.name_of(LAYOUT.heap), "the heap");
        assert_eq!(LAYOUT.name_of(exo_abi::page::WINDOW_LEVEL_1), "the window of page tables");
        assert_eq!(LAYOUT.name_of(u64::MAX), "beyond user space");
    }
}
