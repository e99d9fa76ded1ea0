//! The first environment: made by the kernel from what the boot header says, of the first free frames; it owns everything.

use crate::binding::{self, Binding, range};
use crate::environment::{self, Parts};
use crate::frame::{self, Kind, Word, Zero};
use crate::interrupt;
use crate::machine::Machine;
use crate::page_table::{self, Leaf};
use crate::pool;
use crate::slice;
use crate::vcore::{self, Start, VcoreRef};
use core::sync::atomic::Ordering::*;
use exo_abi::binding::{BindingKind, Rights, first};
use exo_abi::boot::{BOOT_MAGIC, BootHeader, crc32};
use exo_abi::page::{MAPPABLE_END, Prot};
use exo_abi::{
    ABI_VERSION, DEFAULT_SLICE_US, Handle, MAX_CELLS, MAX_ENVIRONMENTS, MAX_POOLS, PAGE_BYTES, Pfn, SLICES_PER_CORE,
};

/// Its number.
pub const NUMBER: u64 = 1;
/// Its own pool: all free frames.
pub const POOL: u64 = 1;
/// The archive's pool.
pub const ARCHIVE_POOL: u64 = 2;

/// Cells of the kernel-made bindings.
mod cell {
    pub const ENVIRONMENT: u64 = 1;
    pub const POOL: u64 = 2;
    pub const ARCHIVE: u64 = 3;
    pub const MACHINE: u64 = 4;
}

/// Why an image cannot be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No boot header.
    NoHeader,
    /// The header's checksum does not fit.
    Checksum,
    /// The image was made for another version of the contract.
    Version,
    /// The archive is not where, or as long as, the header says.
    Archive,
    /// The first environment's pages are not as they must be.
    Runs,
    /// There is not enough memory.
    Memory,
}

impl Fault {
    /// One sentence for people.
    pub const fn text(self) -> &'static str {
        match self {
            Fault::NoHeader => "the image has no boot header: build it with `cargo image build`",
            Fault::Checksum => "the boot header is damaged: its checksum does not fit",
            Fault::Version => "the image was built for another version of the kernel's contract",
            Fault::Archive => "the archive is cut short or damaged",
            Fault::Runs => "the boot header describes the first environment wrongly",
            Fault::Memory => "there is not enough memory for the first environment",
        }
    }
}

/// Checks the boot header's own bytes, and the version.
pub fn check_header(header: &BootHeader, bytes: &[u8]) -> Result<(), Fault> {
    if header.magic != BOOT_MAGIC {
        return Err(Fault::NoHeader);
    }
    if crc32(bytes) != header.checksum {
        return Err(Fault::Checksum);
    }
    if header.abi_version != ABI_VERSION {
        return Err(Fault::Version);
    }
    Ok(())
}

/// Checks that the first environment's pages lie in the archive and in user space, overlap nowhere, and are never writable and executable.
pub fn check_runs(header: &BootHeader) -> Result<(), Fault> {
    let archive_pages = header.archive_bytes / PAGE_BYTES;
    let end = |run: &exo_abi::boot::InitRun| run.va + run.pages as u64 * PAGE_BYTES;
    let control = |run: &exo_abi::boot::InitRun| header.init_control >= run.va && header.init_control < end(run);
    for (index, run) in header.init_runs.iter().enumerate().filter(|(_, run)| run.pages != 0) {
        let prot = Prot::from_bits(run.prot as u8)
            .filter(|prot| (*prot | Prot::WRITE | Prot::EXECUTE) == Prot::READ | Prot::WRITE | Prot::EXECUTE);
        let fits = run.va.is_multiple_of(PAGE_BYTES)
            && run.va < MAPPABLE_END
            && (run.pages as u64) <= (MAPPABLE_END - run.va) / PAGE_BYTES
            && run.archive_page as u64 + run.pages as u64 <= archive_pages
            && prot.is_some_and(page_table::well_formed)
            && run.prot < 8
            && !control(run);
        let overlaps = |other: &exo_abi::boot::InitRun| other.pages != 0 && run.va < end(other) && other.va < end(run);
        if !fits || header.init_runs[..index].iter().any(overlaps) {
            return Err(Fault::Runs);
        }
    }
    let aligned = header.init_control.is_multiple_of(PAGE_BYTES) && header.init_control < MAPPABLE_END;
    let beside = header.init_runs.iter().any(|run| {
        run.pages != 0
            && (run.va >> 21 == header.init_control >> 21 || (end(run) - 1) >> 21 == header.init_control >> 21)
    });
    if aligned && beside { Ok(()) } else { Err(Fault::Runs) }
}

/// What the first environment is told and given.
pub struct Boot<'a> {
    /// The checked header.
    pub header: &'a BootHeader,
    /// First frame of the archive.
    pub archive: Pfn,
    /// Free frames.
    pub free: u64,
    /// Frame of the machine information page.
    pub info: Pfn,
    /// Cores.
    pub cores: u64,
}

/// Builds the first environment and makes it ready on core 0.
pub fn build(m: &impl Machine, boot: &Boot<'_>) -> Result<(), Fault> {
    let tables = m.tables();
    for number in 0..MAX_ENVIRONMENTS {
        tables.environments[number as usize].store(NUMBER << 48, Relaxed);
    }
    for number in 0..MAX_POOLS {
        environment::give_name(m, exo_abi::calls::name_kind::POOLS, number, NUMBER);
    }
    for number in 0..MAX_CELLS {
        let object = if (cell::ENVIRONMENT..=cell::MACHINE).contains(&number) { binding::OBJECT } else { 0 };
        binding::bump(m, number, NUMBER | object);
    }
    let archive_frames = boot.header.archive_bytes / PAGE_BYTES;
    let own_run = |run: &exo_abi::boot::InitRun| run.prot & Prot::WRITE.bits() as u32 != 0;
    let own_pages: u64 = boot.header.init_runs.iter().filter(|run| own_run(run)).map(|run| run.pages as u64).sum();
    let begin = |number: u64, cell: u64, quota: u64, state: pool::State| {
        let pool = pool::pool(m, number);
        let _ = pool.change(pool.identity(), pool::Identity::new(NUMBER, 0, cell, state));
        pool.begin(quota, 0);
    };
    begin(POOL, cell::POOL, boot.free + own_pages, pool::State::Own);
    begin(ARCHIVE_POOL, cell::ARCHIVE, archive_frames, pool::State::Shared);
    // The archive's frames: what the first environment writes is its own, the rest is code and read-only data, mapped in place.
    for page in 0..archive_frames {
        m.frames().set(Pfn(boot.archive.0 + page), Word::new(ARCHIVE_POOL, Kind::Code, 0));
        for number in [POOL, ARCHIVE_POOL] {
            pool::pool(m, number).note(boot.archive.0 + page - m.frames().first);
        }
    }
    pool::pool(m, ARCHIVE_POOL).charge(archive_frames).map_err(|_| Fault::Memory)?;

    let (frame, root, bindings, control) = (take(m)?, take(m)?, take(m)?, take(m)?);
    let parts = Parts {
        number: NUMBER,
        cell: cell::ENVIRONMENT,
        pool: POOL,
        frame,
        root,
        bindings,
        supervisor: VcoreRef::NONE,
    };
    let environment = environment::establish(m, &parts);
    environment.has_names.store(1, Relaxed);
    for run in &boot.header.init_runs {
        let prot = Prot::from_bits_retain(run.prot as u8) | Prot::ACCESSED;
        for page in 0..run.pages as u64 {
            let pfn = Pfn(boot.archive.0 + run.archive_page as u64 + page);
            if own_run(run) {
                // A page of the archive can be in one writable run, and in no other run.
                if m.frames().read(pfn) != Some(Word::new(ARCHIVE_POOL, Kind::Code, 0)) {
                    return Err(Fault::Runs);
                }
                pool::pool(m, ARCHIVE_POOL).uncharge(1);
                pool::pool(m, POOL).charge(1).map_err(|_| Fault::Memory)?;
                m.frames().set(pfn, Word::new(POOL, Kind::Data, 0));
            } else if m.frames().read(pfn).is_none_or(|word| word.kind() != Kind::Code) {
                return Err(Fault::Runs);
            }
            map(m, environment, run.va + page * PAGE_BYTES, pfn, if own_run(run) { prot | Prot::DIRTY } else { prot })?;
        }
    }
    for page in 0..archive_frames {
        m.clean_code(Pfn(boot.archive.0 + page));
    }
    m.invalidate_instructions();

    let start = Start { pc: boot.header.init_entry, sp: boot.header.init_stack, argument: boot.info.0 };
    vcore::create(m, environment, 0, control, boot.header.init_control, 0, &start).map_err(|_| Fault::Memory)?;
    map(m, environment, boot.header.init_control, control, Prot::READ | Prot::WRITE | Prot::ACCESSED | Prot::DIRTY)?;
    m.publish_descriptors();

    let whole = |kind: BindingKind, cell: u64, object: u64| Binding::new(m, kind, Rights::EVERYTHING, cell, object);
    let lines = m.lines().len() as u64 / interrupt::WORDS_PER_LINE;
    for (handle, binding) in [
        (Handle::SELF, whole(BindingKind::Env, cell::ENVIRONMENT, frame.0)),
        (Handle::POOL, whole(BindingKind::Pool, cell::POOL, POOL)),
        (first::CORES, whole(BindingKind::Core, cell::MACHINE, range(0, boot.cores * SLICES_PER_CORE))),
        (first::INTERRUPTS, whole(BindingKind::Irq, cell::MACHINE, range(32, lines.saturating_sub(32)))),
        (first::DEVICES, whole(BindingKind::Device, cell::MACHINE, range(0, u32::MAX as u64))),
        (first::POWER, whole(BindingKind::Power, cell::MACHINE, 0)),
        (
            first::ARCHIVE,
            Binding {
                rights: Rights::POOL_READ | Rights::POOL_EXECUTE | Rights::GRANT,
                ..whole(BindingKind::Pool, cell::ARCHIVE, ARCHIVE_POOL)
            },
        ),
    ] {
        binding::write(m, environment, handle.0 as u64, &binding).map_err(|_| Fault::Memory)?;
    }

    let reference = VcoreRef::new(frame, 0);
    let claim = slice::Claim {
        owner: reference,
        environment: NUMBER,
        cell: (cell::MACHINE, binding::value(m, cell::MACHINE)),
        length: m.ticks(DEFAULT_SLICE_US),
        exact: slice::Exact::No,
    };
    slice::claim(m, m.core(), 0, &claim).map_err(|_| Fault::Memory)?;
    vcore::start(m, reference, &environment.vcores[0], None).map_err(|_| Fault::Memory)
}

/// The first free frame, as the first environment's data.
fn take(m: &impl Machine) -> Result<Pfn, Fault> {
    let frames = m.frames();
    let (index, word) = frames
        .bitmap
        .iter()
        .enumerate()
        .map(|(index, word)| (index, word.load(Relaxed)))
        .find(|(_, word)| *word != 0)
        .ok_or(Fault::Memory)?;
    let pfn = Pfn(frames.first + index as u64 * 64 + word.trailing_zeros() as u64);
    pool::pool(m, POOL).charge(1).map_err(|_| Fault::Memory)?;
    frame::allocate(m, POOL, pfn, Zero::Always).map(|_| pfn).map_err(|_| Fault::Memory)
}

/// Maps one page, with the tables it needs.
fn map(m: &impl Machine, environment: &environment::Environment, va: u64, pfn: Pfn, prot: Prot) -> Result<(), Fault> {
    let mut table = environment.root();
    for level in 2..=3 {
        let slot = &m.words(table)[page_table::index(va, level - 1)];
        table = match page_table::next_table(slot) {
            Some(table) => table,
            None => {
                let new = take(m)?;
                m.frames().set(new, Word::table(POOL, level, NUMBER));
                slot.store(page_table::table(new).bits(), Relaxed);
                new
            }
        };
    }
    m.frames().word(pfn).ok_or(Fault::Memory)?.fetch_add(1, Relaxed);
    m.words(table)[page_table::index(va, 3)].store(page_table::leaf(pfn, prot, Leaf::Memory).bits(), Relaxed);
    Ok(())
}
