//! Raw memory: the window onto the page tables, the free bitmap, the bytes of mappings.

use super::frames::FreeBitmap;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use exo_abi::page::Descriptor;
#[cfg(target_os = "none")]
use exo_abi::page::{WINDOW_LEVEL_1, WINDOW_LEVEL_2, WINDOW_LEVEL_3};

/// Which tables a page lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// None: a page can be mapped.
    Complete,
    /// The last-level table.
    LackLast,
    /// The table of level 2, and with it the last.
    LackBoth,
}

/// Reads descriptor `index` of the window's part that begins at `window`.
#[cfg(target_os = "none")]
#[inline(always)]
fn descriptor(window: u64, index: u64) -> Descriptor {
    let address = window + index * 8;
    // SAFETY: the callers have seen that the tables above are there, so the window shows this one; it is never written from here.
    Descriptor::from_bits_retain(unsafe { (address as *const u64).read_volatile() })
}

/// A host has no window; the tests of what stands on it see complete tables with nothing in them.
#[cfg(not(target_os = "none"))]
fn descriptor(_: u64, _: u64) -> Descriptor {
    Descriptor::empty()
}

#[cfg(not(target_os = "none"))]
const WINDOW_LEVEL_1: u64 = 0;
#[cfg(not(target_os = "none"))]
const WINDOW_LEVEL_2: u64 = 0;
#[cfg(not(target_os = "none"))]
const WINDOW_LEVEL_3: u64 = 0;

/// Which tables the page at `va` lacks. Asked from the top down: below a missing table the window itself faults.
#[inline(always)]
pub fn tables(va: u64) -> Tables {
    if va >= exo_abi::page::MAPPABLE_END || !descriptor(WINDOW_LEVEL_1, va >> 30).contains(Descriptor::VALID) {
        return Tables::LackBoth;
    }
    if !descriptor(WINDOW_LEVEL_2, va >> 21).contains(Descriptor::VALID) {
        return Tables::LackLast;
    }
    Tables::Complete
}

/// The descriptor of the page at `va`, if there is one.
pub fn leaf(va: u64) -> Option<Descriptor> {
    if tables(va) != Tables::Complete {
        return None;
    }
    let leaf = descriptor(WINDOW_LEVEL_3, va >> 12);
    leaf.contains(Descriptor::VALID).then_some(leaf)
}

static BITMAP_VA: AtomicU64 = AtomicU64::new(0);
static BITMAP_WORDS: AtomicU64 = AtomicU64::new(0);
static FIRST_FRAME: AtomicU64 = AtomicU64::new(0);
static FRAMES: AtomicU64 = AtomicU64::new(0);

/// Who looks at the bitmap now.
static READERS: AtomicU64 = AtomicU64::new(0);

/// Makes a stretch of the free bitmap known: mapped read-only at `va`; `words` of it stand for `frames` frames from `first_frame` on.
pub fn publish_bitmap(va: u64, words: u64, first_frame: u64, frames: u64) {
    FIRST_FRAME.store(first_frame, Relaxed);
    FRAMES.store(frames, Relaxed);
    BITMAP_VA.store(va, SeqCst);
    BITMAP_WORDS.store(words, SeqCst);
}

/// Whether somebody may be looking at a stretch that was published before.
pub fn bitmap_is_read() -> bool {
    READERS.load(SeqCst) != 0
}

/// Looks at the free bitmap; it is empty until it was published.
pub fn with_bitmap<R>(look: impl FnOnce(&FreeBitmap) -> R) -> R {
    READERS.fetch_add(1, SeqCst);
    let words = BITMAP_WORDS.load(SeqCst) as usize;
    let va = BITMAP_VA.load(SeqCst);
    let bits: &[AtomicU64] = if words == 0 {
        &[]
    } else {
        // SAFETY: so many words are mapped there, and stay so while READERS counts this one; the kernel changes them atomically.
        unsafe { core::slice::from_raw_parts(va as *const AtomicU64, words) }
    };
    let result = look(&FreeBitmap::new(bits, FIRST_FRAME.load(Relaxed), FRAMES.load(Relaxed)));
    READERS.fetch_sub(1, SeqCst);
    result
}

/// Bytes at an address that whoever made this environment, or the kernel, mapped read-only for its whole life.
pub fn bytes_mapped_for_good(va: u64, bytes: u64) -> &'static [u8] {
    // SAFETY: the callers pass what the start page or the machine page names: read-only mappings that nobody removes.
    unsafe { core::slice::from_raw_parts(va as *const u8, bytes as usize) }
}

/// The value at an address that the kernel's exposed pages hold, mapped read-only for good. `T` is integers only.
pub fn value_mapped_for_good<T: Copy>(va: u64) -> T {
    // SAFETY: the callers map the page first and name its own type; the kernel may change single words meanwhile.
    unsafe { (va as *const T).read_volatile() }
}

/// Copies from a mapping. The callers have checked the range against it.
pub(super) fn copy_out(va: u64, out: &mut [u8]) {
    // SAFETY: the range lies in a live mapping of pages that no Rust object occupies.
    unsafe { core::ptr::copy_nonoverlapping(va as *const u8, out.as_mut_ptr(), out.len()) }
}

/// Copies into a mapping. The callers have checked the range against it.
pub(super) fn copy_in(va: u64, bytes: &[u8]) {
    // SAFETY: the range lies in a live mapping of pages that no Rust object occupies.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), va as *mut u8, bytes.len()) }
}

/// Reads one aligned value of a mapping, exactly once and at its full width. The callers have checked place and alignment.
#[inline(always)]
pub(super) fn read<T: Copy>(va: u64) -> T {
    // SAFETY: the place lies in a live mapping and is aligned; `T` is an integer.
    unsafe { (va as *const T).read_volatile() }
}

/// Writes one aligned value of a mapping, exactly once and at its full width. The callers have checked place and alignment.
#[inline(always)]
pub(super) fn write<T: Copy>(va: u64, value: T) {
    // SAFETY: the place lies in a live mapping and is aligned; `T` is an integer.
    unsafe { (va as *mut T).write_volatile(value) }
}

/// Changes the own tables at places that [`super::places`] gave out or the layout sets aside, where no Rust object lives yet.
pub(super) fn map_own(entries: &[exo_abi::page::MapEntry]) -> Result<u64, crate::sys::Stopped> {
    // SAFETY: as said; and what is unmapped belonged to a `Mapping` that is being dropped.
    unsafe { crate::sys::map(exo_abi::Handle::SELF, entries) }
}
