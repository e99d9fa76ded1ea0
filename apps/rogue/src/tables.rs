//! Hostile page tables: forged descriptors, tables installed twice, frames used after their unmapping.

use crate::book::{Book, End};
use crate::memory::ended;
use exo_abi::page::{MapEntry, Prot, WINDOW_LEVEL_1, WINDOW_LEVEL_2, WINDOW_LEVEL_3};
use exo_abi::{PAGE_BYTES, Refusal};
use libos::machine;
use libos::mem::Mapping;
use libos::sys::{self, FrameKind};
use workshop::{Child, Common, DATA_VA, Ground};

const RW: Prot = Prot::READ.union(Prot::WRITE).union(Prot::ACCESSED).union(Prot::DIRTY);
/// Address space that has a level-2 table and nothing below.
const ELSEWHERE: u64 = 0x40_0000;
/// A writable, accessed, dirty EL0 page.
const FORGED: u64 = 0x0068_0000_0000_0f43;

/// All of them.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let mut child = Child::build(ground, 3)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    descriptors_before(&child, book)?;
    installed_twice(&child, book)?;
    window(&child, book)?;
    write_and_execute(&child, book)?;
    after_unmapping(&child, book)?;
    child.destroy(ground)
}

fn refused(yes: bool) -> End {
    if yes { End::Refused } else { End::Harm }
}

/// A frame full of descriptors becomes a table: it must be empty then.
fn descriptors_before(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    let target = machine::info().first_frame;
    let frame = child.frame()?;
    let mut forged = Mapping::writable(child.pool, frame, 1)?;
    for entry in 0..512 {
        forged.write_u64(entry * 8, FORGED | (target + entry) << 12);
    }
    let install = MapEntry::install_table(ELSEWHERE, 3, frame, child.pool);
    let while_mapped = sys::map_other(child.env, &[install]);
    book.attack(format_args!("install a table that is mapped for writing"), refused(while_mapped.is_err()));
    drop(forged);
    child.map(&[install])?;
    for page in [0, 1, 511] {
        let report = child.run_at(0, Common::Load.va(), 0, ELSEWHERE + page * PAGE_BYTES)?;
        ended(book, "load by a forged descriptor", &report);
        let report = child.run_at(0, Common::Store.va(), 0, ELSEWHERE + page * PAGE_BYTES)?;
        ended(book, "store by a forged descriptor", &report);
    }
    // As a level-2 table the same frame would lead to tables anywhere.
    child.map(&[MapEntry::remove_table(ELSEWHERE, 3)])?;
    let mut forged = Mapping::writable(child.pool, frame, 1)?;
    (0..512).for_each(|entry| forged.write_u64(entry * 8, FORGED | target << 12));
    drop(forged);
    child.map(&[MapEntry::install_table(1 << 30, 2, frame, child.pool)])?;
    let report = child.run_at(0, Common::Load.va(), 0, 1 << 30)?;
    ended(book, "load by a forged table", &report);
    child.map(&[MapEntry::remove_table(1 << 30, 2)])?;
    libos::mem::free_frames(child.pool, &[frame]);
    Ok(())
}

/// One frame, two places.
fn installed_twice(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    let frame = child.frame()?;
    let first = MapEntry::install_table(ELSEWHERE, 3, frame, child.pool);
    let attempts = [
        (
            "install a table twice in a batch",
            [first, MapEntry::install_table(ELSEWHERE + (1 << 21), 3, frame, child.pool)],
        ),
        ("install a table where one is", [first, MapEntry::install_table(ELSEWHERE, 3, child.frame()?, child.pool)]),
        ("install a level-3 table as level 2", [first, MapEntry::install_table(1 << 30, 2, frame, child.pool)]),
        ("install the root table again", [first, MapEntry::install_table(1 << 30, 2, child.parts.root, child.pool)]),
        (
            "install the level-2 table at level 3",
            [first, MapEntry::install_table(ELSEWHERE + (1 << 21), 3, child.tables[0], child.pool)],
        ),
        (
            "install a control page as a table",
            [first, MapEntry::install_table(ELSEWHERE + (1 << 21), 3, child.controls[0], child.pool)],
        ),
        ("map a table as a page", [first, MapEntry::map(DATA_VA + 0x1_0000, frame, 1, RW, child.pool)]),
        ("install a page as a table", [MapEntry::map(DATA_VA + 0x1_0000, frame, 1, RW, child.pool), first]),
    ];
    for (name, entries) in attempts {
        let result = sys::map_other(child.env, &entries);
        let second_refused = result.as_ref().is_err_and(|stopped| stopped.done == 1);
        book.attack(format_args!("{name}"), refused(second_refused));
        let _ = sys::map_other(child.env, &[MapEntry::remove_table(ELSEWHERE, 3)]);
        let _ = sys::map_other(child.env, &[MapEntry::unmap(DATA_VA + 0x1_0000, 1)]);
    }
    let other_owner = sys::map_other(child.env, &[MapEntry::install_table(ELSEWHERE, 3, child.data[0], child.pool)]);
    book.attack(format_args!("install a mapped page as a table"), refused(other_owner.is_err()));
    Ok(())
}

/// The window shows the own tables; nobody writes through it, or maps over it.
fn window(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    for va in [
        WINDOW_LEVEL_3 + (DATA_VA >> 12) * 8,
        WINDOW_LEVEL_2 + (DATA_VA >> 21) * 8,
        WINDOW_LEVEL_1,
        WINDOW_LEVEL_1 + 511 * 8,
    ] {
        let report = child.run_at(0, Common::Store.va(), 0, va)?;
        ended(book, "store through the window", &report);
        let report = child.run_at(0, Common::Jump.va(), 0, va)?;
        ended(book, "execute the window", &report);
        let page = va & !(PAGE_BYTES - 1);
        let entries = [
            MapEntry::map(page, child.data[0], 1, RW, child.pool),
            MapEntry::unmap(page, 1),
            MapEntry::protect(page, 1, RW, child.pool),
            MapEntry::mark(page, 1, Prot::ACCESSED, child.pool),
            MapEntry::install_table(page, 2, child.data[0], child.pool),
            MapEntry::remove_table(page, 2),
        ];
        let harmless = entries.iter().all(|entry| sys::map_other(child.env, &[*entry]).is_err());
        book.attack(format_args!("map into the window at {page:#x}"), refused(harmless));
    }
    Ok(())
}

/// Code that can be written, in one place or in two.
fn write_and_execute(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    let va = DATA_VA + 0x1_0000;
    let frame = child.frame()?;
    let rx = Prot::READ | Prot::EXECUTE | Prot::ACCESSED;
    let both = [
        ("map data for execution", MapEntry::map(va, frame, 1, rx, child.pool)),
        ("map for writing and execution", MapEntry::map(va, frame, 1, RW | Prot::EXECUTE, child.pool)),
        ("protect data for execution", MapEntry::protect(DATA_VA, 1, rx, child.pool)),
        ("protect code for writing", MapEntry::protect(workshop::CODE_VA, 1, RW, child.pool)),
        ("mark code dirty", MapEntry::mark(workshop::CODE_VA, 1, Prot::ACCESSED | Prot::DIRTY, child.pool)),
    ];
    for (name, entry) in both {
        book.attack(format_args!("{name}"), refused(sys::map_other(child.env, &[entry]).is_err()));
    }
    let mapping = Mapping::writable(child.pool, frame, 1)?;
    let changed = sys::frame_kind(child.pool, &[frame], FrameKind::Code);
    book.attack(format_args!("make code of a page that is mapped for writing"), refused(changed.is_err()));
    drop(mapping);
    sys::frame_kind(child.pool, &[frame], FrameKind::Code)?;
    child.map(&[MapEntry::map(va, frame, 1, rx, child.pool)])?;
    let back = sys::frame_kind(child.pool, &[frame], FrameKind::Data);
    book.attack(format_args!("make data of code that is mapped"), refused(back.is_err()));
    let writable = Mapping::writable(child.pool, frame, 1);
    book.attack(format_args!("map code for writing elsewhere"), refused(writable.is_err()));
    let report = child.run_at(0, Common::Store.va(), 0, va)?;
    ended(book, "store to code", &report);
    let report = child.run_at(0, Common::Jump.va(), 0, DATA_VA)?;
    ended(book, "execute data", &report);
    child.map(&[MapEntry::unmap(va, 1)])?;
    libos::mem::free_frames(child.pool, &[frame]);
    Ok(())
}

/// A page that was used, unmapped and freed cannot be reached any more, in the same batch or later.
fn after_unmapping(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    let va = DATA_VA + 0x1_0000;
    let frame = child.frame()?;
    child.map(&[MapEntry::map(va, frame, 1, RW, child.pool)])?;
    child.run_at(0, Common::Store.va(), 0, va)?;
    let early = sys::frame_free(child.pool, &[frame]);
    book.attack(format_args!("free a page that is mapped"), refused(early.is_err()));
    child.map(&[MapEntry::unmap(va, 1)])?;
    let report = child.run_at(0, Common::Store.va(), 0, va)?;
    ended(book, "store to an unmapped page", &report);
    let twice = sys::map_other(child.env, &[MapEntry::unmap(va, 1)]);
    book.attack(format_args!("unmap a page twice"), refused(twice.is_err()));
    let in_batch = sys::map_other(
        child.env,
        &[MapEntry::map(va, frame, 1, RW, child.pool), MapEntry::unmap(va, 1), MapEntry::unmap(va, 1)],
    );
    book.attack(format_args!("unmap a page twice in a batch"), refused(in_batch.is_err()));
    sys::frame_free(child.pool, &[frame])?;
    let freed = sys::frame_free(child.pool, &[frame]);
    book.attack(format_args!("free a frame twice"), refused(freed.is_err()));
    let mapped = sys::map_other(child.env, &[MapEntry::map(va, frame, 1, RW, child.pool)]);
    book.attack(format_args!("map a frame that was freed"), refused(mapped.is_err()));
    Ok(())
}
