//! The kernel's own translation tables: windows and devices beside the image, and the linear map of RAM.

use super::boot::{HIGH_2, IDENTITY_1, IMAGE_3, ROOT, TABLES};
use super::layout::*;
use super::registers::{self, execute, mrs};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::Range;

const BLOCK: u64 = 2 << 20;
const PAGE: u64 = 4096;
const ENTRIES: u64 = 512;

type Entries = [u64; ENTRIES as usize];

/// The next entry of the top GiB's table for a device: 0 is the image.
static NEXT_DEVICE: AtomicU64 = AtomicU64::new(1);
/// From this entry on, memory is shown while booting.
const WINDOW: u64 = ENTRIES / 2;
/// The identity map's root, which TTBR0 holds from the boot code.
static IDENTITY_ROOT: AtomicU64 = AtomicU64::new(0);

/// Takes the page below the stack away: `guard` bytes from the image's first.
pub fn set_up(guard: u64) {
    IDENTITY_ROOT.store(mrs!("ttbr0_el1"), Relaxed);
    set(IMAGE_3, guard / PAGE, 0);
    registers::invalidate_all();
}

/// The address space of an idle core: ASID 0 of the identity map, which was emptied.
pub fn idle_space() -> u64 {
    IDENTITY_ROOT.load(Relaxed)
}

fn set(table: usize, index: u64, descriptor: u64) {
    // SAFETY: only the first core writes the kernel's tables, while booting; the walker reads whole descriptors. The index stays in the table.
    unsafe { TABLES[table].0.get().cast::<u64>().add((index % ENTRIES) as usize).write_volatile(descriptor) };
}

/// Maps physical memory in 2 MiB blocks beside the image, at entries from `next` on, below `limit`; answers the kernel address of its first byte.
fn map(next: &AtomicU64, limit: u64, range: Range, attributes: u64) -> Option<u64> {
    let (first, entry) = (range.start & !(BLOCK - 1), next.load(Relaxed));
    let blocks = (range.end - first).div_ceil(BLOCK);
    if blocks > limit - entry || range.end >> 48 != 0 {
        return None;
    }
    next.store(entry + blocks, Relaxed);
    (0..blocks).for_each(|block| set(HIGH_2, entry + block, (first + block * BLOCK) | attributes));
    // From invalid to valid: no TLB can hold anything; the walker must see the store (Arm ARM, "TLB maintenance requirements").
    execute!("dsb ishst; isb");
    Some(IMAGE + entry * BLOCK + (range.start - first))
}

/// Maps a device's registers for good; at address 0 there is none.
#[inline(never)]
pub fn device(range: Range) -> Option<u64> {
    (range.start != 0).then(|| map(&NEXT_DEVICE, WINDOW, range, BLOCK_DEVICE))?
}

/// Reads a register of a device.
pub fn read(address: u64) -> u32 {
    // SAFETY: the drivers pass what `device` answered and offsets of registers behind it.
    unsafe { (address as *const u32).read_volatile() }
}

/// Writes a register of a device, as wide as it is.
pub fn write<T>(address: u64, value: T) {
    // SAFETY: as for `read`.
    unsafe { (address as *mut T).write_volatile(value) }
}

/// Waits until these bits of a register are clear, boundedly: a device that answers nothing must not stop the kernel.
pub fn wait_clear(address: u64, bits: u32) {
    let _ = (0..100_000).find(|_| read(address) & bits == 0);
}

/// Shows memory through the window, if there is any; what it showed before is gone.
fn show(range: Option<Range>) -> Option<u64> {
    (WINDOW..ENTRIES).for_each(|entry| set(HIGH_2, entry, 0));
    registers::invalidate_all();
    map(&AtomicU64::new(WINDOW), ENTRIES, range?, BLOCK_DATA)
}

/// Tables that the stacks and structures of so many cores need.
pub fn core_tables(count: u64) -> u64 {
    (count * (CORE_PAGES + 1)).div_ceil(ENTRIES)
}

/// Maps the stacks and structures of `count` cores for good: [`CORE_PAGES`] each, one behind the other from `pages` on, below them a page that is not mapped.
/// Answers where the first begins, with that page. The tables are at `tables`; all of it is boot memory, zeroed.
pub fn map_cores(tables: u64, pages: u64, count: u64) -> Option<u64> {
    let (entry, slots) = (NEXT_DEVICE.load(Relaxed), CORE_PAGES + 1);
    let blocks = core_tables(count);
    if blocks > WINDOW - entry {
        return None;
    }
    NEXT_DEVICE.store(entry + blocks, Relaxed);
    let leaves = super::objects::boot_words(tables, blocks * ENTRIES);
    for (index, leaf) in leaves.iter().take((count * slots) as usize).enumerate() {
        let (core, page) = (index as u64 / slots, index as u64 % slots);
        if let Some(page) = page.checked_sub(1) {
            leaf.store((pages + (core * CORE_PAGES + page) * PAGE) | PAGE_DATA, Relaxed);
        }
    }
    (0..blocks).for_each(|block| set(HIGH_2, entry + block, (tables + block * PAGE) | TABLE));
    execute!("dsb ishst; isb");
    Some(IMAGE + entry * BLOCK)
}

/// Lets `read` look at memory; nothing if it is not aligned, or nowhere.
pub fn look_at<T>(range: Range, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let address = show(Some(range)).filter(|address| address.is_multiple_of(8) && range.start != 0)?;
    // SAFETY: mapped, Normal memory that the boot protocol lets the kernel read; nothing writes it while booting.
    Some(read(unsafe { core::slice::from_raw_parts(address as *const u8, range.bytes() as usize) }))
}

/// Maps runs of RAM linearly, never executable, the kernel's `text` read-only; the tables are made in `tables`. Nothing if they run out.
pub fn map_linear(mut runs: impl Iterator<Item = Range>, text: Range, tables: Range) -> Option<()> {
    let address = show(Some(tables))?;
    // SAFETY: boot memory, which nobody else uses.
    unsafe { registers::zero(address, tables.bytes()) };
    let mut map = LinearMap { text, tables, offset: address.wrapping_sub(tables.start) };
    runs.try_for_each(|run| map.fill(TABLES[ROOT].0.get(), GIB.trailing_zeros(), run.start, run.end))
}

/// The identity map and the window have served, on every core: both are emptied.
pub fn end_boot() {
    (0..ENTRIES).for_each(|index| set(IDENTITY_1, index, 0));
    show(None);
}

/// The linear map that is being made.
struct LinearMap {
    text: Range,
    /// What is left for tables.
    tables: Range,
    /// Kernel address of physical address 0, if the window showed it.
    offset: u64,
}

impl LinearMap {
    /// Fills a table whose entries are 1 << `shift` bytes each; goes down two levels at most.
    fn fill(&mut self, table: *mut Entries, shift: u32, mut at: u64, end: u64) -> Option<()> {
        let bytes = 1 << shift;
        while at < end {
            let next = ((at | (bytes - 1)) + 1).min(end);
            // SAFETY: the root, or a table made below: only the first core has them, while booting.
            let entry = unsafe { &mut (*table)[((at & (MAX_SPAN - 1)) >> shift & (ENTRIES - 1)) as usize] };
            let holds_text = at < self.text.end && self.text.start < next;
            if bytes == PAGE {
                *entry = at | if holds_text { PAGE_RODATA } else { PAGE_DATA };
            } else if next - at == bytes && !holds_text {
                *entry = at | BLOCK_DATA;
            } else {
                if *entry == 0 {
                    *entry = self.tables.start | TABLE;
                    self.tables.start += PAGE;
                }
                let below = (*entry & !TABLE).wrapping_add(self.offset) as *mut Entries;
                (self.tables.start <= self.tables.end).then_some(())?;
                self.fill(below, shift - 9, at, next)?;
            }
            at = next;
        }
        Some(())
    }
}
