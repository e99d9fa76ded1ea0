//! The kernel's own translation tables: windows while booting, devices, and the linear map of RAM.

use super::boot::{HIGH_2, IDENTITY_1, IMAGE_3, ROOT, Table};
use super::layout::*;
use super::registers;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::Range;

const BLOCK: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;

/// The next free entry of the top GiB's table: 0 is the image.
static NEXT_WINDOW: AtomicU64 = AtomicU64::new(1);
/// Physical address of the image.
static IMAGE_PHYSICAL: AtomicU64 = AtomicU64::new(0);

/// Says where the image was loaded, and takes the page below the stack away.
pub fn set_up(image: u64, guard: u64) {
    IMAGE_PHYSICAL.store(image, Relaxed);
    set(&IMAGE_3, (guard / PAGE) as usize, 0);
    registers::invalidate_all();
}

/// Physical address of something in the image.
pub fn physical(address: u64) -> u64 {
    address - IMAGE + IMAGE_PHYSICAL.load(Relaxed)
}

fn set(table: &Table, index: usize, descriptor: u64) {
    // SAFETY: only the first core writes the kernel's tables, while booting; the walker reads whole descriptors.
    unsafe { (*table.0.get())[index] = descriptor };
}

fn get(table: &Table, index: usize) -> u64 {
    // SAFETY: as for `set`.
    unsafe { (*table.0.get())[index] }
}

/// Maps physical memory in 2 MiB blocks beside the image; answers the kernel address of `start`, or nothing when the table is full.
fn window(start: u64, bytes: u64, attributes: u64) -> Option<u64> {
    let first = start & !(BLOCK - 1);
    let blocks = (start.checked_add(bytes)?.checked_sub(first)?).div_ceil(BLOCK);
    let entry = NEXT_WINDOW.fetch_add(blocks, Relaxed);
    if entry + blocks > 512 || start >> 48 != 0 {
        NEXT_WINDOW.fetch_sub(blocks, Relaxed);
        return None;
    }
    (0..blocks).for_each(|block| set(&HIGH_2, (entry + block) as usize, first + block * BLOCK | attributes));
    // From invalid to valid: no TLB can hold anything (Arm ARM D8.13.1); the store must be seen by the walker.
    registers::publish_descriptors();
    registers::synchronise();
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
    (window.entry..NEXT_WINDOW.load(Relaxed)).for_each(|entry| set(&HIGH_2, entry as usize, 0));
    NEXT_WINDOW.store(window.entry, Relaxed);
    registers::invalidate_all();
}

/// The low identity map is not needed any more: its root, emptied, is an idle core's.
pub fn forget_identity() {
    (0..512).for_each(|index| set(&IDENTITY_1, index, 0));
    registers::invalidate_all();
}

/// Tables for the linear map: a piece of boot memory and the window on it.
pub struct TableMemory {
    /// Physical address of the next table.
    pub next: u64,
    /// First address beyond.
    pub end: u64,
    /// The window, which begins at the first `next`.
    pub window: Window,
    /// What the window shows first.
    pub start: u64,
}

impl TableMemory {
    fn take(&mut self) -> Option<u64> {
        let table = self.next;
        if table >= self.end {
            return None;
        }
        self.next += PAGE;
        // SAFETY: boot memory seen through the window, and nobody else's.
        unsafe { registers::zero(self.at(table) as u64, PAGE) };
        Some(table)
    }
    fn at(&self, physical: u64) -> *mut u64 {
        (self.window.address + (physical - self.start)) as *mut u64
    }
    /// The table below an entry, made if there is none.
    fn below(&mut self, entry: u64) -> Option<(u64, u64)> {
        if entry & 3 == TABLE {
            return Some((entry & 0xffff_ffff_f000, entry));
        }
        let table = self.take()?;
        Some((table, table | TABLE))
    }
    fn read(&self, table: u64, index: u64) -> u64 {
        // SAFETY: a table that `take` gave out; the index is below 512.
        unsafe { self.at(table).add(index as usize).read() }
    }
    fn write(&self, table: u64, index: u64, descriptor: u64) {
        // SAFETY: as for `read`.
        unsafe { self.at(table).add(index as usize).write(descriptor) }
    }
}

/// Maps a run of RAM linearly: never executable, and read-only where the kernel's text and read-only data lie. Nothing when tables run out.
pub fn map_linear(run: Range, base: u64, text: Range, tables: &mut TableMemory) -> Option<()> {
    let mut at = run.start;
    while at < run.end() {
        let linear = at - base;
        let root_index = (linear / GIB) as usize;
        let holds_text = |bytes: u64| at < text.end() && text.start < at + bytes;
        if at.is_multiple_of(GIB) && run.end() - at >= GIB && !holds_text(GIB) {
            set(&ROOT, root_index, at | BLOCK_DATA);
            at += GIB;
            continue;
        }
        let (table_2, entry) = tables.below(get(&ROOT, root_index))?;
        set(&ROOT, root_index, entry);
        let index_2 = linear / BLOCK % 512;
        if at.is_multiple_of(BLOCK) && run.end() - at >= BLOCK && !holds_text(BLOCK) {
            tables.write(table_2, index_2, at | BLOCK_DATA);
            at += BLOCK;
            continue;
        }
        let (table_3, entry) = tables.below(tables.read(table_2, index_2))?;
        tables.write(table_2, index_2, entry);
        let attributes = if holds_text(PAGE) { PAGE_RODATA } else { PAGE_DATA };
        tables.write(table_3, linear / PAGE % 512, at | attributes);
        at += PAGE;
    }
    registers::publish_descriptors();
    registers::synchronise();
    Some(())
}
