//! Single instructions that safe Rust has no words for, for who measures.

use core::arch::asm;

/// Instructions of one round of [`calibration`].
pub const CALIBRATION_ROUND: u64 = 4;

/// A loop whose instructions can be counted: [`CALIBRATION_ROUND`] a round.
#[inline(never)]
pub fn calibration(rounds: u64) {
    // SAFETY: it counts a register down.
    unsafe {
        asm!("1:", "nop", "nop", "subs {rounds}, {rounds}, #1", "b.ne 1b", rounds = inout(reg) rounds => _, options(nomem, nostack))
    }
}

/// An undefined instruction: a fault, which the program's handler is to skip, or else it ends.
#[inline(always)]
pub fn undefined() {
    // SAFETY: skipped, it does nothing.
    unsafe { asm!("udf #0", options(nomem, nostack, preserves_flags)) }
}

/// Loads from an address and drops what was there; a fault where nothing is.
#[inline(always)]
pub fn touch(address: u64) {
    // SAFETY: a load whose value nobody sees changes nothing. Device registers are not mapped where callers touch.
    unsafe { asm!("ldr xzr, [{address}]", address = in(reg) address, options(nostack, preserves_flags)) }
}

/// Changes the program's own tables at addresses from [`FREE_VA`] on, where the library has nothing.
///
/// # Panics
/// For an entry elsewhere.
#[inline(always)]
pub fn map_free(entries: &[exo_abi::page::MapEntry]) -> Result<u64, libos::sys::Stopped> {
    assert!(entries.iter().all(|entry| (FREE_VA..FREE_VA + (1 << 30)).contains(&entry.first)));
    // SAFETY: as checked, nothing of Rust's or of the library's lies there.
    unsafe { libos::sys::map(exo_abi::Handle::SELF, entries) }
}

/// Address space that the library leaves alone: above its mappings and the files.
pub const FREE_VA: u64 = 0x60_0000_0000;
