//! Upcalls and `resume`.

use crate::ensure;
use crate::faults::{self, CLASS_DATA_ABORT, CLASS_SVC, CLASS_UNKNOWN, FREE_PAGE};
use crate::held::Held;
use core::mem::offset_of;
use exo_abi::control_page::ControlPage;
use exo_abi::page::MapEntry;
use exo_abi::{Handle, Pfn};
use libos::mem::{self, Mapping, Region, tables};
use libos::sys::StopReason;
use workshop::{Child, Common, Ground, class_of, data};

pub fn a_fault(_: &Ground) -> Held {
    for address in [0, 8, FREE_PAGE, 0xffff_ff80_0000_0000, 1 << 39] {
        let seen = faults::skipping(|| {
            faults::load(address);
        });
        ensure!(seen.count == 1, "{} upcalls for a load from {address:#x}", seen.count);
        ensure!(seen.class() == CLASS_DATA_ABORT, "class {:#x} for a load from {address:#x}", seen.class());
        ensure!(seen.address == address, "address {:#x} for a load from {address:#x}", seen.address);
    }
    Ok(())
}

pub fn foreign_svc(_: &Ground) -> Held {
    let mut after = (0, 0);
    let seen = faults::skipping(|| after = faults::svc_0(17, 23));
    ensure!(seen.count == 1 && seen.class() == CLASS_SVC, "{seen:x?}");
    ensure!(seen.cause & 0xffff == 0, "immediate {:#x}", seen.cause & 0xffff);
    ensure!(after == (17, 23), "registers became {after:?}");
    Ok(())
}

pub fn undefined(_: &Ground) -> Held {
    let seen = faults::skipping(faults::undefined);
    ensure!(seen.count == 1 && seen.class() == CLASS_UNKNOWN, "{seen:x?}");
    Ok(())
}

pub fn misaligned(_: &Ground) -> Held {
    const ALIGNMENT: u64 = 0x21;
    let seen = faults::skipping(faults::misaligned);
    ensure!(seen.count == 1 && seen.class() == CLASS_DATA_ABORT && seen.status() == ALIGNMENT, "{seen:x?}");
    Ok(())
}

/// The handler answers with a mapping; the kernel applies it on the way back.
pub fn resume_applies(_: &Ground) -> Held {
    let mut frames = [Pfn(0); 3];
    mem::alloc_frames(Handle::POOL, &mut frames)?;
    let [level_2, level_3, page] = frames;
    faults::map_own(&[
        MapEntry::install_table(FREE_PAGE, 2, level_2, Handle::POOL),
        MapEntry::install_table(FREE_PAGE, 3, level_3, Handle::POOL),
    ])?;
    let mut mapping = Mapping::writable(Handle::POOL, page, 1)?;
    mapping.write_u64(16, 0x1234_5678);
    drop(mapping);
    let mut loaded = 0;
    let seen = faults::mapping(data(FREE_PAGE, page, Handle::POOL), || loaded = faults::load(FREE_PAGE + 16));
    ensure!(seen.count == 1, "{} upcalls", seen.count);
    ensure!(loaded == 0x1234_5678, "{loaded:#x} was loaded");
    faults::map_own(&[
        MapEntry::unmap(FREE_PAGE, 1),
        MapEntry::remove_table(FREE_PAGE, 3),
        MapEntry::remove_table(FREE_PAGE, 2),
    ])?;
    mem::free_frames(Handle::POOL, &frames);
    Ok(())
}

pub fn demand_zero(_: &Ground) -> Held {
    const PAGES: u64 = 20;
    let before = mem::statistics();
    let region = Region::demand_zero(PAGES);
    let Some(region) = region else { return Err(crate::held::Broken("there is no place for a region".into())) };
    for page in 0..PAGES {
        let at = region.start + page * 4096;
        ensure!(tables::leaf(at).is_none(), "page {page} is there before it was touched");
        ensure!(faults::load(at + 8) == 0, "page {page} is not zero");
        ensure!(tables::leaf(at).is_some(), "page {page} is not there after it was touched");
    }
    let after = mem::statistics();
    ensure!(
        after.demand_faults > before.demand_faults || after.full_upcalls > before.full_upcalls,
        "no faults were counted"
    );
    // Beside it is nothing.
    for guard in [region.start - 8, region.end] {
        let seen = faults::skipping(|| {
            faults::load(guard);
        });
        ensure!(seen.count == 1, "the page at {guard:#x} beside the region is there");
    }
    Ok(())
}

pub fn masked_fault(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    // Its upcalls begin with a load from x0, which faults as the program did.
    child.control(0)?.write_u64(offset_of!(ControlPage, upcall_entry) as u64, Common::Load.va());
    let report = child.run_at(0, Common::Load.va(), 0, 0x1000)?;
    ensure!(report.reason == StopReason::Faulted, "{:?}", report.reason);
    ensure!(
        class_of(&report.frame) == CLASS_DATA_ABORT && report.frame.address == 0x1000,
        "cause {:#x} at {:#x}",
        report.frame.cause,
        report.frame.address
    );
    ensure!(
        report.frame.pc == Common::Load.va() && report.frame.x[0] == 0x1000,
        "pc {:#x}, x0 {:#x}",
        report.frame.pc,
        report.frame.x[0]
    );
    // One that does not fault ends the program as it likes.
    child.control(0)?.write_u64(offset_of!(ControlPage, upcall_entry) as u64, Common::Halt.va());
    let report = child.run_at(0, Common::Load.va(), 0, 0x1000)?;
    ensure!(report.reason == StopReason::Halted(0x1000), "{:?}", report.reason);
    child.destroy(ground)?;
    Ok(())
}
