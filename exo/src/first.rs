//! The first environment: made by the kernel from what the boot header says, of the first free frames; it owns everything.

use crate::binding::{self, Binding, range};
use crate::environment::{self, Parts};
use crate::fault::{self, Fault};
use crate::frame::{self, Kind, Word};
use crate::machine::Machine;

use crate::vcore::{self, VcoreRef};
use crate::{interrupt, page_table, pool, slice};
use core::sync::atomic::Ordering::*;
use exo_abi::binding::{BindingKind, Rights, first};
use exo_abi::boot::{BOOT_MAGIC, BootHeader, END_MAGIC, InitRun, crc32};
use exo_abi::page::{MAPPABLE_END, Prot};
use exo_abi::{ABI_VERSION, DEFAULT_SLICE_US, Handle, PAGE_BYTES, Pfn, SLICES_PER_CORE};

/// Its number: it owns all numbers at the start.
pub const NUMBER: u64 = 1;
/// Its own pool: all free frames.
pub const POOL: u64 = 1;
/// The archive's pool.
pub const ARCHIVE_POOL: u64 = 2;

// Cells of the kernel-made bindings.
const ENVIRONMENT_CELL: u64 = 1;
const POOL_CELL: u64 = 2;
const ARCHIVE_CELL: u64 = 3;
const MACHINE_CELL: u64 = 4;

/// Checks the boot header's own bytes, the version, and that the archive lies in whole pages behind the kernel's `kernel_bytes`.
pub fn check_header(header: &BootHeader, bytes: &[u8], kernel_bytes: u64) -> Result<(), Fault> {
    let (offset, length) = (header.archive_offset, header.archive_bytes);
    let whole_pages = (offset | length).is_multiple_of(PAGE_BYTES) && length != 0;
    fault::when(header.magic != BOOT_MAGIC, Fault::NO_HEADER)?;
    fault::when(crc32(bytes) != header.checksum, Fault::CHECKSUM)?;
    fault::when(header.abi_version != ABI_VERSION, Fault::VERSION)?;
    fault::when(!whole_pages || offset < kernel_bytes || (offset | length) >> 40 != 0, Fault::ARCHIVE)
}

/// Builds the first environment of the checked header, of the archive that begins at a frame and so many `free` ones, and makes it ready on core 0.
/// It is told the frame of the machine information page.
#[inline(never)]
pub fn build(m: &impl Machine, boot: &BootHeader, archive: Pfn, free: u64, info: Pfn, cores: u64) -> Result<(), Fault> {
    let frames = m.frames();
    let archive_frames = boot.archive_bytes / PAGE_BYTES;
    let last = Pfn(archive.0 + archive_frames - 1);
    let ended = frames.word(last).is_some() && m.words(last)[511].load(Relaxed) == END_MAGIC;
    fault::when(!ended, Fault::ARCHIVE)?;
    (ENVIRONMENT_CELL..MACHINE_CELL + 1).for_each(|cell| binding::bump(m, cell, NUMBER, binding::OBJECT));
    // The archive's frames: what the first environment writes is its own, the rest is code and read-only data, mapped in place.
    // The boot protocol has cleaned the image to the point of coherency: only instruction caches may hold something older.
    let writable = |run: &InitRun| run.prot & Prot::WRITE.bits() as u32 != 0;
    let own_pages = boot.init_runs.iter().filter(|run| writable(run)).map(|run| run.pages as u64).sum();
    let shared_pages = archive_frames.checked_sub(own_pages).ok_or(Fault::RUNS)?;
    for (number, cell, state, quota, used) in [
        (POOL, POOL_CELL, pool::State::Own, free + own_pages, own_pages),
        (ARCHIVE_POOL, ARCHIVE_CELL, pool::State::Shared, archive_frames, shared_pages),
    ] {
        let pool = pool::pool(m, number);
        let _ = pool.change(pool.identity(), pool::Identity::new(NUMBER, 0, cell, state));
        pool.begin(quota);
        pool.charge(used).or(Err(Fault::MEMORY))?;
        [archive, last].iter().for_each(|pfn| pool.note(pfn.0 - frames.first));
    }
    let code = Word::new(ARCHIVE_POOL, Kind::Code, 0);
    (archive.0..last.0 + 1).for_each(|pfn| frames.set(Pfn(pfn), code));
    m.invalidate_instructions();

    let (frame, root, bindings, control) = (take(m)?, take(m)?, take(m)?, take(m)?);
    let (cell, supervisor) = (ENVIRONMENT_CELL, VcoreRef::NONE);
    let parts = Parts { number: NUMBER, cell, pool: POOL, frame, root, bindings, supervisor };
    let environment = environment::establish(m, &parts);
    environment.has_names.store(1, Relaxed);
    for run in boot.init_runs.iter().filter(|run| run.pages != 0) {
        let allowed = [Prot::READ, Prot::READ | Prot::WRITE | Prot::DIRTY, Prot::READ | Prot::EXECUTE];
        let prot = allowed.into_iter().find(|prot| (*prot - Prot::DIRTY).bits() as u32 == run.prot);
        for page in 0..run.pages as u64 {
            let pfn = Pfn(archive.0 + run.archive_page as u64 + page);
            frames.read(pfn).filter(|word| word.kind() == Kind::Code).ok_or(Fault::RUNS)?;
            // A page of the archive can be in one writable run, and in no other run.
            if writable(run) {
                frames.change(pfn, code, Word::new(POOL, Kind::Data, 0)).or(Err(Fault::RUNS))?;
            }
            map(m, root, run.va + page * PAGE_BYTES, pfn, prot.ok_or(Fault::RUNS)?)?;
        }
    }
    let start = [boot.init_entry, boot.init_stack, info.0];
    vcore::create(m, environment, 0, control, boot.init_control, 0, start).or(Err(Fault::MEMORY))?;
    // The control page stands in a table that a run needs anyway.
    page_table::table_for(m, root, boot.init_control, 3).ok_or(Fault::RUNS)?;
    map(m, root, boot.init_control, control, Prot::READ | Prot::WRITE | Prot::DIRTY)?;
    m.publish_descriptors();

    let lines = m.found().lines.len() as u64 / interrupt::WORDS_PER_LINE;
    for (slot, (kind, cell, object)) in (0..).zip([
        (BindingKind::Env, ENVIRONMENT_CELL, frame.0),
        (BindingKind::Pool, POOL_CELL, POOL),
        (BindingKind::Core, MACHINE_CELL, range(0, cores * SLICES_PER_CORE)),
        (BindingKind::Irq, MACHINE_CELL, range(32, lines.saturating_sub(32))),
        (BindingKind::Device, MACHINE_CELL, range(0, u32::MAX as u64)),
        (BindingKind::Power, MACHINE_CELL, 0),
        (BindingKind::Pool, ARCHIVE_CELL, ARCHIVE_POOL),
    ]) {
        let mapped = Rights::POOL_READ | Rights::POOL_EXECUTE | Rights::GRANT;
        let rights = if cell == ARCHIVE_CELL { mapped } else { Rights::EVERYTHING };
        let binding = Binding::new(m, kind, rights, cell, object);
        binding::write(m, environment, slot, &binding).or(Err(Fault::MEMORY))?;
    }

    let owner = VcoreRef::new(frame, 0);
    let by = &Binding::new(m, BindingKind::Core, Rights::EVERYTHING, MACHINE_CELL, 0);
    let claim = slice::Claim { owner, by, length: m.ticks(DEFAULT_SLICE_US), exact: 0 };
    slice::claim(m, m.core(), 0, &claim).or(Err(Fault::MEMORY))?;
    vcore::start(m, owner, &environment.vcores[0], None).or(Err(Fault::MEMORY))
}

// The slots in which the bindings stand above.
const _: () = assert!(Handle::SELF.0 == 0 && Handle::POOL.0 == 1 && first::CORES.0 == 2 && first::INTERRUPTS.0 == 3);
const _: () = assert!(first::DEVICES.0 == 4 && first::POWER.0 == 5 && first::ARCHIVE.0 == 6);

/// The first free frame, as the first environment's data.
fn take(m: &impl Machine) -> Result<Pfn, Fault> {
    let hints = m.frames().bitmap.iter().map(|word| word.load(Relaxed)).enumerate();
    let (index, word) = { hints }.find(|(_, word)| *word != 0).ok_or(Fault::MEMORY)?;
    let pfn = Pfn(m.frames().first + index as u64 * 64 + word.trailing_zeros() as u64);
    pool::pool(m, POOL).charge(1).or(Err(Fault::MEMORY))?;
    frame::allocate(m, POOL, pfn, exo_abi::calls::alloc_flag::ZERO, &mut 1).map(|()| pfn).or(Err(Fault::MEMORY))
}

/// Maps one page where nothing is yet, with the tables it needs, and counts that.
fn map(m: &impl Machine, root: Pfn, va: u64, pfn: Pfn, prot: Prot) -> Result<(), Fault> {
    fault::when(!va.is_multiple_of(PAGE_BYTES) || va >= MAPPABLE_END, Fault::RUNS)?;
    let mut table = root;
    for level in 2..=3 {
        let slot = &m.words(table)[page_table::index(va, level - 1)];
        if slot.load(Relaxed) == 0 {
            let new = take(m)?;
            m.frames().set(new, Word::table(POOL, level, NUMBER));
            slot.store(page_table::table(new).bits(), Relaxed);
        }
        table = page_table::next_table(slot).ok_or(Fault::RUNS)?;
    }
    let slot = &m.words(table)[page_table::index(va, 3)];
    let word = m.frames().read(pfn).filter(|_| slot.load(Relaxed) == 0).ok_or(Fault::RUNS)?;
    m.frames().set(pfn, Word(word.0 + 1));
    slot.store(page_table::leaf(pfn, prot | Prot::ACCESSED).bits(), Relaxed);
    Ok(())
}
