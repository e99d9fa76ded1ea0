//! The kernel's own translation tables: windows while booting, devices, and the linear map of RAM.

use super::boot::{HIGH_2, IDENTITY_1, IMAGE_3, ROOT, TABLES};
use super::layout::*;
use super::registers::{self, execute};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::Range;

const BLOCK: u64 = 2 << 20;
const GIB_SHIFT: u32 = 30;
const PAGE: u64 = 4096;
const ENTRIES: u64 = 512;

type Entries = [u64; ENTRIES as usize];

/// The next free entry of the top GiB's table: 0 is the image.
static NEXT_WINDOW: AtomicU64 = AtomicU64::new(1);
/// Physical address of the image.
static IMAGE_PHYSICAL: AtomicU64 = AtomicU64::new(0);

/// Says where the image was loaded, and takes the page below the stack away.
pub fn set_up(image: u64, guard: u64) {
    IMAGE_PHYSICAL.store(image, Relaxed);
    set(IMAGE_3, guard / PAGE, 0);
    registers::invalidate_all();
}

/// The address space of an idle core: ASID 0 of a root that was emptied.
pub fn idle_space() -> u64 {
    &raw const TABLES[IDENTITY_1] as u64 - IMAGE + IMAGE_PHYSICAL.load(Relaxed)
}

fn set(table: usize, index: u64, descriptor: u64) {
    // SAFETY: only the first core writes the kernel's tables, while booting; the walker reads whole descriptors. The index stays in the table.
    unsafe { TABLES[table].0.get().cast::<u64>().add((index % ENTRIES) as usize).write_volatile(descriptor) };
}

/// Maps physical memory in 2 MiB blocks beside the image; answers the kernel address of `start`, or nothing when the table is full.
fn window(start: u64, bytes: u64, attributes: u64) -> Option<u64> {
    let first = start & !(BLOCK - 1);
    let blocks = (start.checked_add(bytes)?.checked_sub(first)?).div_ceil(BLOCK);
    let entry = NEXT_WINDOW.load(Relaxed);
    if blocks > ENTRIES - entry || start >> 48 != 0 {
        return None;
    }
    NEXT_WINDOW.store(entry + blocks, Relaxed);
    (0..blocks).for_each(|block| set(HIGH_2, entry + block, (first + block * BLOCK) | attributes));
    // From invalid to valid: no TLB can hold anything (Arm ARM D8.13.1); the store must be seen by the walker.
    execute!("dsb ishst; isb");
    Some(IMAGE + entry * BLOCK + (start - first))
}

/// Maps a device's registers for good.
pub fn device(range: Range) -> Option<u64> {
    window(range.start, range.bytes.max(PAGE), BLOCK_DEVICE)
}

/// Memory that is seen through a window while booting.
pub struct Window {
    entry: u64,
    address: u64,
}

/// Maps memory until [`close`]; windows are closed in the order opposite to their opening.
pub fn open(start: u64, bytes: u64) -> Option<Window> {
    let entry = NEXT_WINDOW.load(Relaxed);
    window(start, bytes, BLOCK_DATA).map(|address| Window { entry, address })
}

impl Window {
    /// Words seen through it.
    pub fn words(&self, count: usize) -> &[u32] {
        // SAFETY: mapped, Normal memory that the boot protocol lets the kernel read; nothing writes it while booting.
        unsafe { core::slice::from_raw_parts(self.address as *const u32, count) }
    }
}

/// Closes a window.
pub fn close(window: Window) {
    (window.entry..NEXT_WINDOW.load(Relaxed)).for_each(|entry| set(HIGH_2, entry, 0));
    NEXT_WINDOW.store(window.entry, Relaxed);
    registers::invalidate_all();
}

/// The low identity map is not needed any more: its root, emptied, is an idle core's.
pub fn forget_identity() {
    (0..ENTRIES).for_each(|index| set(IDENTITY_1, index, 0));
    registers::invalidate_all();
}

/// Tables for the linear map: a piece of boot memory, seen through a window.
pub struct TableMemory {
    next: u64,
    end: u64,
    /// Kernel address of physical address 0, if the window showed it.
    offset: u64,
}

impl TableMemory {
    /// All of the window, zeroed; it begins at physical address `start`.
    pub fn new(window: &Window, start: u64, bytes: u64) -> TableMemory {
        // SAFETY: boot memory, which nobody else uses.
        unsafe { registers::zero(window.address, bytes) };
        TableMemory { next: start, end: start + bytes, offset: window.address.wrapping_sub(start) }
    }

    /// The table below an entry, made if there is none.
    fn below(&mut self, entry: &mut u64) -> Option<*mut Entries> {
        if *entry & TABLE != TABLE {
            if self.next >= self.end {
                return None;
            }
            *entry = self.next | TABLE;
            self.next += PAGE;
        }
        Some((*entry & !TABLE).wrapping_add(self.offset) as *mut Entries)
    }
}

/// The linear map that is being made.
pub struct LinearMap {
    /// The kernel's text and read-only data: read-only here too.
    pub text: Range,
    /// What its tables are made of.
    pub tables: TableMemory,
}

impl LinearMap {
    /// Maps a run of RAM, never executable. Nothing when tables run out.
    pub fn add(&mut self, run: Range) -> Option<()> {
        self.fill(TABLES[ROOT].0.get(), GIB_SHIFT, run.start, run.end())?;
        execute!("dsb ishst; isb");
        Some(())
    }

    /// Fills a table whose entries are 1 << `shift` bytes each; goes down two levels at most.
    fn fill(&mut self, table: *mut Entries, shift: u32, mut at: u64, end: u64) -> Option<()> {
        let bytes = 1 << shift;
        while at < end {
            let next = ((at | (bytes - 1)) + 1).min(end);
            // SAFETY: the root, or a table of `below`'s: only the first core has them, while booting.
            let entry = unsafe { &mut (*table)[((at & (MAX_SPAN - 1)) >> shift & (ENTRIES - 1)) as usize] };
            let holds_text = at < self.text.end() && self.text.start < next;
            if bytes == PAGE {
                *entry = at | if holds_text { PAGE_RODATA } else { PAGE_DATA };
            } else if next - at == bytes && !holds_text {
                *entry = at | BLOCK_DATA;
            } else {
                let table = self.tables.below(entry)?;
                self.fill(table, shift - 9, at, next)?;
            }
            at = next;
        }
        Some(())
    }
}
