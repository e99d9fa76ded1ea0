//! Machine instructions that Rust has no words for.
//!
//! They are `unsafe` here, and not safe calls of the library, because a safe call that changes this program's own tables, or reads an address of
//! which nobody knows what is there, has to look at each entry first, and that would be measured with it. Assembly is `unsafe` wherever it stands.

use core::arch::asm;
use exo_abi::page::MapEntry;
use exo_abi::{Handle, Pfn, Refusal};
use libos::mem::{Region, tables};
use libos::sys::{self, Stopped};

/// Two instructions for each of `count` turns; answers with how many there are in all.
pub fn counted_loop(count: u64) -> u64 {
    // SAFETY: it counts a register down. `count` is not 0.
    unsafe { asm!("1:", "subs {n}, {n}, #1", "b.ne 1b", n = inout(reg) count.max(1) => _, options(nomem, nostack)) }
    count.max(1) * 2
}

/// Nothing, which the compiler does not see through.
#[inline(always)]
pub fn nothing() {
    // SAFETY: no instruction.
    unsafe { asm!("", options(nostack, preserves_flags)) }
}

/// Nothing, which loses the registers that a switching call loses.
#[inline(always)]
pub fn nothing_but_losses() {
    // SAFETY: no instruction.
    unsafe {
        asm!(
            "",
            lateout("x0") _, lateout("x1") _, lateout("x2") _, lateout("x3") _, lateout("x4") _, lateout("x5") _,
            lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _, lateout("x11") _,
            lateout("x12") _, lateout("x13") _, lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _,
            lateout("x18") _, lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _, lateout("x24") _,
            lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _, lateout("x30") _,
            options(nostack),
        )
    }
}

/// Shifts what follows against the timer, whose tick is 16 instructions: of 16 stretches each begins elsewhere in a tick,
/// so that rounding to ticks is the same up and down.
pub fn shift(round: u64) {
    // SAFETY: it counts a register down, three instructions a turn: 3 and 16 have no common divisor.
    unsafe {
        asm!(
            "1:", "cbz {n}, 2f", "sub {n}, {n}, #1", "b 1b", "2:",
            n = inout(reg) round % 16 => _, options(nomem, nostack, preserves_flags)
        )
    }
}

/// Faults; who answers goes on behind it.
#[inline(always)]
pub fn brk() {
    // SAFETY: the handlers of this program skip it and change no register.
    unsafe { asm!("brk #0", options(nostack, preserves_flags)) }
}

/// Address space that the library leaves alone, above its mappings and the files: 2 MiB.
pub const WINDOW: u64 = 0x60_0000_0000;
/// Pages of it.
pub const WINDOW_PAGES: u64 = 512;

/// Installs the tables of the window.
pub fn open_window() -> Result<(), Refusal> {
    if tables::tables(WINDOW) == tables::Tables::Complete {
        return Ok(());
    }
    let mut frames = [Pfn(0); 2];
    libos::mem::alloc_frames(Handle::POOL, &mut frames)?;
    change_window(&[
        MapEntry::install_table(WINDOW, 2, frames[0], Handle::POOL),
        MapEntry::install_table(WINDOW, 3, frames[1], Handle::POOL),
    ])?;
    Ok(())
}

/// Changes what is mapped in the window.
#[inline(always)]
pub fn change_window(entries: &[MapEntry]) -> Result<u64, Stopped> {
    debug_assert!(entries.iter().all(|entry| entry.first >= WINDOW && entry.first < WINDOW + (WINDOW_PAGES << 12)));
    // SAFETY: the library's layout ends far below; nothing of Rust's lies there.
    unsafe { sys::map(Handle::SELF, entries) }
}

/// Reads a byte of a page of the window.
#[inline(always)]
pub fn touch_window(page: u64) {
    touch(WINDOW + ((page % WINDOW_PAGES) << 12));
}

/// Reads the first byte of a page of a region.
#[inline(always)]
pub fn touch_region(region: &Region, page: u64) {
    assert!(region.start + (page << 12) < region.end);
    touch(region.start + (page << 12));
}

#[inline(always)]
fn touch(address: u64) {
    // SAFETY: a read of a page that is there, or that a fault handler maps; what it holds is not used.
    unsafe { asm!("ldrb wzr, [{}]", in(reg) address, options(nostack, readonly, preserves_flags)) }
}

/// Unmaps `pages` (at most 64) pages of a region that nothing was put into.
pub fn empty_region(region: &Region, page: u64, pages: u64) -> Result<(), Stopped> {
    let va = region.start + (page << 12);
    assert!(va + (pages << 12) <= region.end);
    // SAFETY: `touch_region` is all that is done to these pages.
    unsafe { sys::map(Handle::SELF, &[MapEntry::unmap(va, pages)]) }.map(|_| ())
}
