//! The machine as the kernel shows it: its description, the free bitmap, the slice vectors of its cores.

use crate::mem::{self, Mapping};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use exo_abi::exposed::{MachineInfo, Slice, SliceVector};
use exo_abi::page::Prot;
use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal, SLICES_PER_CORE};
use spin::{Mutex, Once};

/// Pages of the free bitmap that a program looks at: they speak of 2 GiB. Where there is more, it moves on when they have nothing.
const BITMAP_PAGES: u64 = 16;
/// Frames that a page of the bitmap speaks of.
const FRAMES_PER_PAGE: u64 = PAGE_BYTES * 8;

static INFO: Once<(MachineInfo, Pfn)> = Once::new();
/// Address of the first slice vector; 0: not mapped yet.
static SLICES_VA: AtomicU64 = AtomicU64::new(0);

/// Maps the machine's description and the free bitmap. The search begins next to `place`, a frame of this program's: so
/// those that began apart seldom meet.
pub(crate) fn begin(frame: Pfn, place: Pfn) -> Result<(), Refusal> {
    let va = exposed(frame, 1)?;
    let (info, _) = *INFO.call_once(|| (mem::value_mapped_for_good(va), frame));
    let page = place.0.saturating_sub(info.first_frame) / FRAMES_PER_PAGE;
    look_at(&info, &mut BITMAP.lock(), page)?;
    mem::frames::begin_at(place);
    Ok(())
}

/// The stretch of the bitmap that is looked at.
static BITMAP: Mutex<Option<Mapping>> = Mutex::new(None);
/// Its first page.
static BITMAP_PAGE: AtomicU64 = AtomicU64::new(0);

/// Maps the stretch of the bitmap that begins at `page`, or the last one, and lets the search look at it.
fn look_at(info: &MachineInfo, shown: &mut Option<Mapping>, page: u64) -> Result<(), Refusal> {
    let pages = info.bitmap_frames.min(BITMAP_PAGES);
    // All stretches have one length: who reads the new address with the old length stays inside.
    let page = page.min(info.bitmap_frames - pages);
    let mapping = Mapping::new(Handle::SELF, Pfn(info.bitmap_frame + page), pages, Prot::READ)?;
    let first = page * FRAMES_PER_PAGE;
    mem::publish_bitmap(mapping.va(), pages * PAGE_BYTES / 8, info.first_frame + first, info.frames - first);
    BITMAP_PAGE.store(page, Relaxed);
    if let Some(before) = shown.replace(mapping)
        && mem::bitmap_is_read()
    {
        // Another vcore, or what this upcall interrupted, may be in there: it stays mapped.
        before.forever();
    }
    Ok(())
}

/// Stretches that [`look_further`] goes through.
pub(crate) fn stretches() -> u64 {
    INFO.get().map_or(0, |(info, _)| info.bitmap_frames.div_ceil(BITMAP_PAGES))
}

/// Lets the search look at the next stretch of the bitmap. Not while another vcore, or what this upcall interrupted, does so.
pub(crate) fn look_further() -> bool {
    let (Some((info, _)), Some(mut shown)) = (INFO.get(), BITMAP.try_lock()) else {
        return false;
    };
    let next = BITMAP_PAGE.load(Relaxed) + BITMAP_PAGES;
    look_at(info, &mut shown, if next < info.bitmap_frames { next } else { 0 }).is_ok()
}

/// Maps exposed pages for good: whoever names them may, whatever the binding.
fn exposed(first: Pfn, pages: u64) -> Result<u64, Refusal> {
    Mapping::new(Handle::SELF, first, pages, Prot::READ).map(Mapping::forever)
}

/// The machine's description, as it was when this program began.
///
/// # Panics
/// On a host.
pub fn info() -> &'static MachineInfo {
    &INFO.get().expect("the program was started by the library's entry").0
}

/// The frame that holds it.
pub fn frame() -> Pfn {
    INFO.get().map_or(Pfn(0), |(_, frame)| *frame)
}

/// Generic timer ticks a second.
pub(crate) fn timer_hz() -> u64 {
    INFO.get().map_or(1_000_000_000, |(info, _)| info.timer_hz)
}

/// Frames that were free a moment ago.
pub fn free_frames() -> u64 {
    let (info, _) = match INFO.get() {
        Some(info) if stretches() > 1 => info,
        _ => return mem::with_bitmap(|bitmap| bitmap.count()),
    };
    let count = |page| {
        let Ok(mapping) = Mapping::new(Handle::SELF, Pfn(info.bitmap_frame + page), 1, Prot::READ) else {
            return 0;
        };
        (0..mapping.len()).step_by(8).map(|word| u64::from(mapping.read_u64(word).count_ones())).sum::<u64>()
    };
    (0..info.bitmap_frames).map(count).sum()
}

/// Whether a frame was free a moment ago; not for frames beyond the stretch of the bitmap that is looked at.
pub fn frame_is_free(frame: Pfn) -> bool {
    mem::with_bitmap(|bitmap| bitmap.is_free(frame))
}

/// A position of a core's slice vector, as it is now; `None`: no such core or position.
pub fn slice(core: u64, position: u64) -> Option<Slice> {
    if position >= SLICES_PER_CORE {
        return None;
    }
    let at = vector(core)? + (offset_of!(SliceVector, slices) as u64) + position * size_of::<Slice>() as u64;
    Some(mem::value_mapped_for_good(at))
}

/// Ticks that a core slept, and rounds it began.
pub fn idle(core: u64) -> Option<(u64, u64)> {
    let at = vector(core)?;
    let word = |offset: usize| mem::value_mapped_for_good::<u64>(at + offset as u64);
    Some((word(offset_of!(SliceVector, idle)), word(offset_of!(SliceVector, rounds))))
}

/// Longest stretch with interrupts masked on a core, in ticks, where the kernel was built to measure it.
pub fn longest_masked(core: u64) -> Option<u64> {
    vector(core).map(|at| mem::value_mapped_for_good(at + offset_of!(SliceVector, longest_masked) as u64))
}

fn vector(core: u64) -> Option<u64> {
    let (info, _) = INFO.get()?;
    if core >= info.cores {
        return None;
    }
    let mut va = SLICES_VA.load(Relaxed);
    if va == 0 {
        va = exposed(Pfn(info.slices_frame), info.cores).ok()?;
        // Two vcores may map it twice: the second mapping is spare.
        SLICES_VA.store(va, Relaxed);
    }
    Some(va + core * PAGE_BYTES)
}

/// The archive, mapped for good, for who holds the binding of its pool.
pub fn archive(pool: Handle) -> Result<&'static [u8], Refusal> {
    let info = info();
    Mapping::readable(pool, Pfn(info.archive_frame), info.archive_frames).map(Mapping::into_bytes)
}
