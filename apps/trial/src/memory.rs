//! Frames, pools, tables.

use crate::ensure;
use crate::faults::{self, FREE_PAGE};
use crate::held::{Held, refused};
use exo_abi::calls::immediate;
use exo_abi::exposed::Features;
use exo_abi::page::{Descriptor, MapEntry, Prot};
use exo_abi::{Call, Handle, PAGE_BYTES, Pfn, Refusal};
use libos::mem::{self, Mapping, tables};
use libos::sys::{self, Fill, FrameKind, Progress, StopReason};
use libos::{machine, slots};
use workshop::{Child, Common, DATA_VA, Ground, data};

/// Where a child has a table and nothing mapped.
const FREE_IN_CHILD: u64 = DATA_VA + 0x8_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn new_frame(pool: Handle) -> Result<Pfn, Refusal> {
    let mut frame = [Pfn(0)];
    mem::alloc_frames(pool, &mut frame)?;
    Ok(frame[0])
}

/// A shared pool for the length of a test.
fn with_pool(ground: &Ground, parent: Handle, quota: u64, act: impl FnOnce(Handle) -> Held) -> Held {
    let (number, cell, pool) = (ground.pools.take()?, ground.take_cell()?, ground.take_slot()?);
    sys::pool_create(parent, number, cell, quota, 0, pool)?;
    let result = act(pool);
    destroy(pool)?;
    slots::empty(pool);
    ground.pools.give_back(number);
    ground.give_back_cell(cell);
    result
}

fn destroy(pool: Handle) -> Result<(), Refusal> {
    let mut cursor = 0;
    while let Progress::Again(next) = sys::pool_destroy(pool, cursor)? {
        cursor = next;
    }
    Ok(())
}

pub fn frames_are_taken_once(_: &Ground) -> Held {
    let frame = new_frame(Handle::POOL)?;
    refused("take it again", sys::frame_alloc(Handle::POOL, &[frame], Fill::AsTheyAre), Refusal::NotFree)?;
    sys::frame_free(Handle::POOL, &[frame])?;
    refused("free it again", sys::frame_free(Handle::POOL, &[frame]), Refusal::NotYours)?;
    sys::frame_alloc(Handle::POOL, &[frame], Fill::AsTheyAre)?;
    sys::frame_free(Handle::POOL, &[frame])?;
    Ok(())
}

pub fn new_frames_are_zero(ground: &Ground) -> Held {
    let frame = new_frame(Handle::POOL)?;
    let mut mapping = Mapping::writable(Handle::POOL, frame, 1)?;
    (0..512).for_each(|word| mapping.write_u64(word * 8, !word));
    drop(mapping);
    sys::frame_free(Handle::POOL, &[frame])?;
    with_pool(ground, Handle::POOL, 4, |pool| {
        sys::frame_alloc(pool, &[frame], Fill::AsTheyAre)?;
        let mapping = Mapping::readable(pool, frame, 1)?;
        ensure!((0..512).all(|word| mapping.read_u64(word * 8) == 0), "another pool's contents are in it");
        drop(mapping);
        sys::frame_free(pool, &[frame])?;
        Ok(())
    })
}

pub fn the_bitmap_shows(_: &Ground) -> Held {
    let frame = new_frame(Handle::POOL)?;
    ensure!(!machine::frame_is_free(frame), "a taken frame is shown as free");
    sys::frame_free(Handle::POOL, &[frame])?;
    ensure!(machine::frame_is_free(frame), "a free frame is shown as taken");
    ensure!(!machine::frame_is_free(Pfn(machine::info().bitmap_frame)), "the bitmap's own frame is shown as free");
    Ok(())
}

pub fn quotas_form_a_tree(ground: &Ground) -> Held {
    with_pool(ground, Handle::POOL, 6, |pool| {
        let mut four = [Pfn(0); 4];
        mem::alloc_frames(pool, &mut four)?;
        with_pool(ground, pool, 2, |inner| {
            let mut two = [Pfn(0); 2];
            mem::alloc_frames(inner, &mut two)?;
            let mut more = [Pfn(0)];
            refused("a third of two", mem::alloc_frames(inner, &mut more), Refusal::QuotaExceeded)?;
            refused("a fifth where two are carved off", mem::alloc_frames(pool, &mut more), Refusal::QuotaExceeded)
        })?;
        // What was carved off is back.
        let mut two = [Pfn(0); 2];
        mem::alloc_frames(pool, &mut two)?;
        let mut more = [Pfn(0)];
        refused("a seventh of six", mem::alloc_frames(pool, &mut more), Refusal::QuotaExceeded)
    })
}

pub fn the_window_shows(_: &Ground) -> Held {
    let frame = new_frame(Handle::POOL)?;
    let mapping = Mapping::writable(Handle::POOL, frame, 1)?;
    let va = mapping.va();
    let leaf = tables::leaf(va);
    ensure!(leaf.is_some_and(|leaf| leaf.pfn() == frame), "{leaf:?} is shown for a page of frame {:#x}", frame.0);
    ensure!(
        leaf.is_some_and(|leaf| leaf
            .contains(Descriptor::WRITABLE | Descriptor::EXECUTE_NEVER | Descriptor::NOT_GLOBAL | Descriptor::EL0)),
        "{leaf:?} is shown for a writable page"
    );
    drop(mapping);
    ensure!(tables::leaf(va).is_none(), "a page is shown after its end");
    mem::free_frames(Handle::POOL, &[frame]);
    Ok(())
}

/// Hardware sets them, or this program after a fault: either way they are seen in the window.
pub fn accessed_and_dirty(_: &Ground) -> Held {
    let frame = new_frame(Handle::POOL)?;
    let tables_used = own_tables()?;
    faults::map_own(&[MapEntry::map(FREE_PAGE, frame, 1, RW, Handle::POOL)])?;
    let shown = || tables::leaf(FREE_PAGE).unwrap_or(Descriptor::empty());
    ensure!(!shown().contains(Descriptor::ACCESSED) && !shown().dirty(), "a new page is {:?}", shown());
    let features = Features::from_bits_retain(machine::info().features);
    let accessed = MapEntry::mark(FREE_PAGE, 1, Prot::ACCESSED, Handle::POOL);
    let read = faults::marking(accessed, || {
        faults::load(FREE_PAGE);
    });
    let by_hardware = features.intersects(Features::HARDWARE_ACCESSED | Features::HARDWARE_DIRTY);
    ensure!(shown().contains(Descriptor::ACCESSED), "a page that was read is {:?}", shown());
    ensure!(!shown().dirty(), "a page that was read is dirty");
    ensure!((read.count == 0) == by_hardware, "{} faults at a read with features {features:?}", read.count);
    let dirty = MapEntry::mark(FREE_PAGE, 1, Prot::ACCESSED | Prot::DIRTY, Handle::POOL);
    let written = faults::marking(dirty, || faults::store(FREE_PAGE, 5));
    let by_hardware = features.contains(Features::HARDWARE_DIRTY);
    ensure!(shown().dirty(), "a page that was written is {:?}", shown());
    ensure!((written.count == 0) == by_hardware, "{} faults at a write with features {features:?}", written.count);
    ensure!(faults::load(FREE_PAGE) == 5, "what was written is not there");
    // Cleaned, it tells the next write anew.
    faults::map_own(&[accessed])?;
    ensure!(!shown().dirty(), "a page that was cleaned is dirty");
    faults::marking(dirty, || faults::store(FREE_PAGE, 6));
    ensure!(shown().dirty(), "the second write is not told");
    faults::map_own(&[MapEntry::unmap(FREE_PAGE, 1)])?;
    mem::free_frames(Handle::POOL, &[frame]);
    remove_own_tables(tables_used)
}

/// Tables for [`FREE_PAGE`].
fn own_tables() -> Result<[Pfn; 2], crate::held::Broken> {
    let mut frames = [Pfn(0); 2];
    mem::alloc_frames(Handle::POOL, &mut frames)?;
    faults::map_own(&[
        MapEntry::install_table(FREE_PAGE, 2, frames[0], Handle::POOL),
        MapEntry::install_table(FREE_PAGE, 3, frames[1], Handle::POOL),
    ])?;
    Ok(frames)
}

fn remove_own_tables(frames: [Pfn; 2]) -> Held {
    faults::map_own(&[MapEntry::remove_table(FREE_PAGE, 3), MapEntry::remove_table(FREE_PAGE, 2)])?;
    mem::free_frames(Handle::POOL, &frames);
    Ok(())
}

pub fn a_batch_changes_tables(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    let va = FREE_IN_CHILD;
    let mut frames = [Pfn(0); 20];
    mem::alloc_frames(child.pool, &mut frames)?;
    let entries: [MapEntry; 20] =
        core::array::from_fn(|page| data(va + page as u64 * PAGE_BYTES, frames[page], child.pool));
    let done = sys::map_other(child.env, &entries)?;
    ensure!(done == 20, "{done} of 20 were mapped");
    let runs = |code: Common, va| child.run_at(0, code.va(), 0, va).map(|report| report.reason);
    ensure!(runs(Common::Store, va + 19 * PAGE_BYTES)? == StopReason::Halted(2), "a mapped page cannot be written");
    let batch = [
        MapEntry::protect(va, 10, Prot::READ | Prot::ACCESSED, child.pool),
        MapEntry::mark(va + 10 * PAGE_BYTES, 2, Prot::ACCESSED, child.pool),
        MapEntry::unmap(va + 15 * PAGE_BYTES, 5),
    ];
    sys::map_other(child.env, &batch)?;
    ensure!(runs(Common::Load, va)? == StopReason::Halted(1), "a protected page cannot be read");
    ensure!(runs(Common::Store, va + 9 * PAGE_BYTES)? == StopReason::Faulted, "a protected page can be written");
    ensure!(runs(Common::Load, va + 15 * PAGE_BYTES)? == StopReason::Faulted, "an unmapped page can be read");
    ensure!(runs(Common::Store, va + 14 * PAGE_BYTES)? == StopReason::Halted(2), "a page beside was changed too");
    // A batch stops where it is refused, and says where.
    let partly = sys::map_other(
        child.env,
        &[MapEntry::unmap(va, 1), MapEntry::unmap(va, 1), MapEntry::unmap(va + PAGE_BYTES, 1)],
    );
    ensure!(
        partly.is_err_and(|stopped| stopped.done == 1 && stopped.refusal == Refusal::NotMapped),
        "{partly:?} for a page unmapped twice"
    );
    child.destroy(ground)?;
    Ok(())
}

/// The kernel has a short way for a page alone: it must do, and refuse, what the long way does.
pub fn a_page_alone_is_as_in_a_batch(_: &Ground) -> Held {
    let tables_used = own_tables()?;
    let mut frames = [Pfn(0); 2];
    mem::alloc_frames(Handle::POOL, &mut frames)?;
    let [frame, beside] = frames;
    let neighbour = FREE_PAGE + PAGE_BYTES;
    faults::map_own(&[MapEntry::map(neighbour, beside, 1, RW | Prot::ACCESSED, Handle::POOL)])?;
    let mark = MapEntry::mark(neighbour, 1, Prot::ACCESSED, Handle::POOL);
    let tried = |entry: MapEntry| {
        let alone = faults::map_own(&[entry]).map_err(|stopped| (stopped.done, stopped.pages, stopped.refusal));
        let shown = (tables::leaf(FREE_PAGE), empty_if_mapped());
        let behind =
            faults::map_own(&[mark, entry]).map_err(|stopped| (stopped.done - 1, stopped.pages, stopped.refusal));
        let same = alone == behind.map(|done| done - 1) && shown == (tables::leaf(FREE_PAGE), empty_if_mapped());
        if same { Ok(()) } else { Err((entry, alone, behind)) }
    };
    let good = MapEntry::map(FREE_PAGE, frame, 1, RW, Handle::POOL);
    for bits in 0..1 << 12 {
        let entry = MapEntry { first: FREE_PAGE | bits, ..good };
        ensure!(tried(entry).is_ok(), "{:x?} alone and in a batch", tried(entry));
    }
    let info = machine::info();
    let strange =
        [Pfn(0), beside, Pfn(info.first_frame), Pfn(info.bitmap_frame), Pfn(info.first_frame - 1), Pfn(0xffff_ffff)];
    let handles = [Handle::SELF, Handle::POOL, Handle(100), Handle(127), Handle(128), Handle(5000), Handle(u16::MAX)];
    let entries = strange.map(|frame| MapEntry::map(FREE_PAGE, frame, 1, RW, Handle::POOL)).into_iter();
    let entries = entries.chain(handles.map(|handle| MapEntry::map(FREE_PAGE, frame, 1, RW, handle)));
    let entries =
        entries.chain([0, 2, 0x8000, 0xffff].map(|count| MapEntry::map(FREE_PAGE, frame, count, RW, Handle::POOL)));
    let places =
        [neighbour, faults::FREE_VA + (1 << 30), 1 << 39, FREE_PAGE | 1 << 63, !0xfff, exo_abi::page::MAPPABLE_END];
    for entry in entries.chain(places.map(|va| MapEntry::map(va, frame, 1, RW, Handle::POOL))) {
        ensure!(tried(entry).is_ok(), "{:x?} alone and in a batch", tried(entry));
    }
    faults::map_own(&[MapEntry::unmap(neighbour, 1)])?;
    // Nothing was counted too often, or it could not be freed.
    sys::frame_free(Handle::POOL, &frames)?;
    remove_own_tables(tables_used)
}

/// Empties the page the tests use; whether it was mapped.
fn empty_if_mapped() -> bool {
    faults::map_own(&[MapEntry::unmap(FREE_PAGE, 1)]).is_ok()
}

pub fn tables_come_and_go(_: &Ground) -> Held {
    let frames = own_tables()?;
    let page = new_frame(Handle::POOL)?;
    faults::map_own(&[data(FREE_PAGE, page, Handle::POOL)])?;
    refused("remove a table in use", faults::map_own(&[MapEntry::remove_table(FREE_PAGE, 3)]), Refusal::InUse)?;
    refused("free a table", sys::frame_free(Handle::POOL, &[frames[1]]), Refusal::WrongFrame)?;
    refused("map a table", Mapping::readable(Handle::POOL, frames[1], 1), Refusal::WrongFrame)?;
    faults::map_own(&[MapEntry::unmap(FREE_PAGE, 1)])?;
    mem::free_frames(Handle::POOL, &[page]);
    remove_own_tables(frames)
}

pub fn write_xor_execute(ground: &Ground) -> Held {
    let child = Child::build(ground, 1)?;
    let rx = Prot::READ | Prot::EXECUTE;
    let map = |entry| sys::map_other(child.env, &[entry]);
    refused("data for execution", map(MapEntry::protect(DATA_VA, 1, rx, child.pool)), Refusal::WrongFrame)?;
    refused("code for writing", map(MapEntry::protect(workshop::CODE_VA, 1, RW, child.pool)), Refusal::WrongFrame)?;
    refused("both", map(MapEntry::protect(DATA_VA, 1, RW | Prot::EXECUTE, child.pool)), Refusal::BadArgument)?;
    child.destroy(ground)?;
    Ok(())
}

/// The same frame: written, run, written anew, run: caches are maintained.
pub fn data_becomes_code(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    let (va, frame) = (FREE_IN_CHILD, child.frame()?);
    for code in 1..20u32 {
        // mov x0, #code; svc of `halt`
        let words = [0xd280_0000 | code << 5, 0xd400_0001u32 | (immediate(Call::Halt as u64) as u32) << 5];
        let mut mapping = Mapping::writable(child.pool, frame, 1)?;
        mapping.write(0, &words[0].to_le_bytes());
        mapping.write(4, &words[1].to_le_bytes());
        refused("make code of a page in use", sys::frame_kind(child.pool, &[frame], FrameKind::Code), Refusal::InUse)?;
        drop(mapping);
        sys::frame_kind(child.pool, &[frame], FrameKind::Code)?;
        child.map(&[MapEntry::map(va, frame, 1, Prot::READ | Prot::EXECUTE | Prot::ACCESSED, child.pool)])?;
        let reason = child.run_at(0, va, 0, 0)?.reason;
        ensure!(reason == StopReason::Halted(u64::from(code)), "{reason:?} instead of exit code {code}");
        child.map(&[MapEntry::unmap(va, 1)])?;
        sys::frame_kind(child.pool, &[frame], FrameKind::Data)?;
    }
    child.destroy(ground)?;
    Ok(())
}

pub fn a_pool_ends_everywhere(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    let va = FREE_IN_CHILD;
    with_pool(ground, Handle::POOL, 4, |pool| {
        let frame = new_frame(pool)?;
        child.map(&[data(va, frame, pool)])?;
        let reason = child.run_at(0, Common::Store.va(), 0, va)?.reason;
        ensure!(reason == StopReason::Halted(2), "a shared page cannot be written: {reason:?}");
        Ok(())
    })?;
    let reason = child.run_at(0, Common::Load.va(), 0, va)?.reason;
    ensure!(reason == StopReason::Faulted, "a page of a pool that ended can be read: {reason:?}");
    child.destroy(ground)?;
    Ok(())
}
