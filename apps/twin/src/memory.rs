//! Cases of `map` with one page and more, and of `resume`.

use crate::Cases;
use crate::code::{LIBRARY, told};
use crate::orders::*;
use crate::stage::{Stage, Who, control_va};
use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;
use exo_abi::binding::Rights;
use exo_abi::control_page::ControlPage;
use exo_abi::page::{MAPPABLE_END, MapEntry, Prot, WINDOW_LEVEL_3};
use exo_abi::{BindingKind, Call, Handle, Pfn, Refusal};
use libos::sys::{self, FrameKind};
use workshop::{DATA_VA, Order};

/// Where pages are mapped: the child's tables reach there.
const PLACE: u64 = 0x26_0000;
const BATCH: u64 = offset_of!(ControlPage, batch) as u64;
const POOL: Handle = Handle::POOL;
/// A binding to the pool with fewer rights; to another pool; taken back.
const READ_ONLY: Handle = Handle(20);
const FOREIGN: Handle = Handle(21);
const STALE: Handle = Handle(22);
const ONLY_GRANT: Handle = Handle(23);

fn map(environment: u64, count: u64) -> Order {
    Order::new(Call::Map as u64, &[environment, count])
}

/// Frames that an entry may name.
struct Frames {
    data: Pfn,
    code: Pfn,
    table: Pfn,
    foreign: Pfn,
}

/// An environment with one actor, frames to map, and bindings to name.
fn mapper(stage: &mut Stage, orders: &[Order]) -> Result<(Who, Frames), Refusal> {
    let here = stage.environment(1)?;
    let other = stage.environment(1)?;
    let who = stage.idle_actor(here, orders)?;
    let child = stage.child(here)?;
    child.give(child.pool, READ_ONLY, Rights::POOL_READ)?;
    child.give(child.pool, ONLY_GRANT, Rights::GRANT)?;
    child.give(stage.child(other)?.pool, FOREIGN, Rights::POOL_READ | Rights::POOL_WRITE)?;
    let frames = Frames {
        data: child.frame()?,
        code: child.frame()?,
        table: child.tables[1],
        foreign: stage.child(other)?.frame()?,
    };
    sys::frame_kind(child.pool, &[frames.code], FrameKind::Code)?;
    stage.stale(BindingKind::Pool, here, STALE.0.into())?;
    Ok((who, frames))
}

fn batch(stage: &Stage, who: Who, entries: &[MapEntry]) -> Result<(), Refusal> {
    for (index, entry) in entries.iter().enumerate() {
        stage.set_control(who, BATCH + index as u64 * 16, entry.first)?;
        stage.set_control(who, BATCH + index as u64 * 16 + 8, entry.second)?;
    }
    Ok(())
}

/// Where its own window shows the descriptor of a page.
const fn descriptor(va: u64) -> u64 {
    WINDOW_LEVEL_3 + (va >> 12) * 8
}

/// What an entry of a frame is.
type Entry = fn(&Frames) -> MapEntry;

/// Entries that are, or nearly are, the map of one page of data.
const ENTRIES: &[(&str, Entry)] = &[
    ("read", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ, POOL)),
    ("read, accessed", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ | Prot::ACCESSED, POOL)),
    ("write", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ | Prot::WRITE, POOL)),
    ("write, accessed", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ | Prot::WRITE | Prot::ACCESSED, POOL)),
    ("write, all marks", |f| MapEntry::map(PLACE, f.data, 1, MARKED, POOL)),
    ("write, dirty", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ | Prot::WRITE | Prot::DIRTY, POOL)),
    ("dirty, not writable", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ | Prot::DIRTY, POOL)),
    ("no rights", |f| MapEntry::map(PLACE, f.data, 1, Prot::empty(), POOL)),
    ("write only", |f| MapEntry::map(PLACE, f.data, 1, Prot::WRITE, POOL)),
    ("write and execute", |f| MapEntry::map(PLACE, f.data, 1, Prot::WRITE | Prot::EXECUTE | Prot::READ, POOL)),
    ("execute data", |f| MapEntry::map(PLACE, f.data, 1, Prot::EXECUTE | Prot::READ, POOL)),
    ("execute code", |f| MapEntry::map(PLACE, f.code, 1, Prot::EXECUTE | Prot::READ, POOL)),
    ("guarded code", |f| MapEntry::map(PLACE, f.code, 1, Prot::EXECUTE | Prot::READ | Prot::GUARDED, POOL)),
    ("write code", |f| MapEntry::map(PLACE, f.code, 1, Prot::READ | Prot::WRITE, POOL)),
    ("read code", |f| MapEntry::map(PLACE, f.code, 1, Prot::READ, POOL)),
    ("a bit of prot that means nothing", |f| raw(MapEntry::map(PLACE, f.data, 1, Prot::READ, POOL), 1 << 11, 0)),
    ("a table", |f| MapEntry::map(PLACE, f.table, 1, Prot::READ, POOL)),
    ("a foreign frame by the own pool", |f| MapEntry::map(PLACE, f.foreign, 1, Prot::READ, POOL)),
    ("a foreign frame by its pool", |f| MapEntry::map(PLACE, f.foreign, 1, Prot::READ | Prot::WRITE, FOREIGN)),
    ("a frame by a foreign pool", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ, FOREIGN)),
    ("a frame that is no RAM", |_| MapEntry::map(PLACE, Pfn(3), 1, Prot::READ, POOL)),
    ("a frame beyond RAM", |_| MapEntry::map(PLACE, Pfn(0xffff_ffff), 1, Prot::READ, POOL)),
    ("read by a binding to read", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ, READ_ONLY)),
    ("write by a binding to read", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ | Prot::WRITE, READ_ONLY)),
    ("by a binding that permits nothing", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ, ONLY_GRANT)),
    ("by a binding that was taken back", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ, STALE)),
    ("by an empty slot", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ, Handle(13))),
    ("by a slot behind the table", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ, Handle(128))),
    ("by the largest handle", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ, Handle(0xffff))),
    ("by an environment", |f| MapEntry::map(PLACE, f.data, 1, Prot::READ, Handle::SELF)),
    ("where a page is", |f| MapEntry::map(DATA_VA, f.data, 1, Prot::READ, POOL)),
    ("without a table of level 3", |f| MapEntry::map(0x1000_0000, f.data, 1, Prot::READ, POOL)),
    ("without a table of level 2", |f| MapEntry::map(3 << 30, f.data, 1, Prot::READ, POOL)),
    ("the last page", |f| MapEntry::map(MAPPABLE_END - 4096, f.data, 1, Prot::READ, POOL)),
    ("the window", |f| MapEntry::map(MAPPABLE_END, f.data, 1, Prot::READ, POOL)),
    ("beyond user space", |f| MapEntry::map(1 << 39, f.data, 1, Prot::READ, POOL)),
    ("the kernel's half", |f| MapEntry::map(0xffff_8000_0000_0000, f.data, 1, Prot::READ, POOL)),
    ("no pages", |f| MapEntry::map(PLACE, f.data, 0, Prot::READ, POOL)),
    ("two pages", |f| MapEntry::map(PLACE, f.data, 2, Prot::READ, POOL)),
    ("no operation", |f| raw(MapEntry::map(PLACE, f.data, 1, Prot::READ, POOL), 1, 0)),
    ("an operation that is none", |f| raw(MapEntry::map(PLACE, f.data, 1, Prot::READ, POOL), 14, 0)),
    ("unmap a page", |_| MapEntry::unmap(DATA_VA + 0xf000, 1)),
    ("protect what is not there", |_| MapEntry::protect(PLACE, 1, Prot::READ, POOL)),
    ("install a table again", |f| MapEntry::install_table(PLACE, 3, f.data, POOL)),
    ("remove a table that is used", |_| MapEntry::remove_table(PLACE, 3)),
];

const MARKED: Prot = Prot::READ.union(Prot::WRITE).union(Prot::ACCESSED).union(Prot::DIRTY);

const fn raw(entry: MapEntry, first: u64, second: u64) -> MapEntry {
    MapEntry { first: entry.first ^ first, second: entry.second ^ second }
}

pub fn cases(cases: &mut Cases) {
    for (name, entry) in ENTRIES {
        let entry = *entry;
        cases.add(alloc::format!("map {name}"), move |stage| {
            // Once, and once more: then something is there.
            let orders =
                [map(0, 1), load(descriptor(PLACE)), load(PLACE), load(descriptor(PLACE + 4096)), map(0, 1), map(0, 2)];
            let (who, frames) = mapper(stage, &orders)?;
            stage.take_upcalls(who, 0)?;
            let unmap = MapEntry::unmap(PLACE, 1);
            batch(stage, who, &[entry(&frames), unmap])?;
            stage.start(who)?;
            stage.run(who)
        });
        cases.add(alloc::format!("resume with map {name}"), move |stage| {
            let orders =
                [foreign(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]), load(descriptor(PLACE)), load(PLACE), null(&[])];
            let (who, frames) = mapper(stage, &orders)?;
            stage.take_upcalls(who, 0)?;
            batch(stage, who, &[entry(&frames)])?;
            stage.set_control(who, LIBRARY + told::ENTRIES, 1)?;
            stage.start(who)?;
            stage.run(who)
        });
    }
    for (name, environment, count) in [
        ("no entries", 0, 0),
        ("too many entries", 0, 65),
        ("far too many entries", 0, 1 << 63),
        ("the pool", 1, 1),
        ("an empty slot", 13, 1),
        ("behind the table", 128, 1),
        ("beyond every table", 1 << 20, 1),
        ("another name of oneself", 24, 1),
        ("another name of oneself, two entries", 24, 2),
    ] {
        cases.add(alloc::format!("map into {name}"), move |stage| {
            let (who, frames) = mapper(stage, &[map(environment, count), load(PLACE), map(0, 1)])?;
            let (child, _) = stage.place(who)?;
            child.give(child.env, Handle(24), Rights::ENV_MAP)?;
            stage.take_upcalls(who, 0)?;
            batch(stage, who, &[MapEntry::map(PLACE, frames.data, 1, MARKED, POOL), MapEntry::unmap(PLACE, 1)])?;
            stage.start(who)?;
            stage.run(who)
        });
    }
    cases.add("map without the right to", |stage| {
        let (who, frames) = mapper(stage, &[restrict(0, 2), map(0, 1), foreign(&[]), restrict(0, 0), map(0, 1)])?;
        stage.take_upcalls(who, 0)?;
        batch(stage, who, &[MapEntry::map(PLACE, frames.data, 1, MARKED, POOL)])?;
        stage.set_control(who, LIBRARY + told::ENTRIES, 1)?;
        stage.start(who)?;
        stage.run(who)
    });
    cases.add("map after the pool's binding was dropped", |stage| {
        let (who, frames) = mapper(stage, &[restrict(1, 1), map(0, 1), restrict(1, 0), map(0, 1)])?;
        batch(stage, who, &[MapEntry::map(PLACE, frames.data, 1, MARKED, POOL)])?;
        stage.start(who)?;
        stage.run(who)
    });
    batches(cases);
    resumes(cases);
}

fn batches(cases: &mut Cases) {
    const PLAIN: Prot = Prot::READ;
    type Batch = fn(&Frames) -> Vec<MapEntry>;
    let batches: &[(&str, Batch)] = &[
        ("map, protect, mark, unmap", |f| {
            vec![
                MapEntry::map(PLACE, f.data, 1, PLAIN, POOL),
                MapEntry::protect(PLACE, 1, Prot::READ | Prot::WRITE, POOL),
                MapEntry::mark(PLACE, 1, Prot::ACCESSED | Prot::DIRTY, POOL),
                MapEntry::map(PLACE + 4096, f.data, 1, MARKED, POOL),
                MapEntry::unmap(PLACE, 1),
            ]
        }),
        ("the second refused", |f| {
            vec![MapEntry::map(PLACE, f.data, 1, MARKED, POOL), MapEntry::map(PLACE, f.data, 1, PLAIN, POOL)]
        }),
        ("the second page of the second refused", |f| {
            vec![MapEntry::map(PLACE + 4096, f.data, 1, MARKED, POOL), MapEntry::protect(PLACE + 4096, 2, PLAIN, POOL)]
        }),
        ("the same frame 64 times", |f| {
            (0..64).map(|index| MapEntry::map(PLACE + index * 4096, f.data, 1, PLAIN, POOL)).collect()
        }),
        ("more pages than a call changes", |f| {
            let map = (0..32).map(|index| MapEntry::map(PLACE + index * 4096, f.data, 1, PLAIN, POOL));
            map.chain([MapEntry::unmap(PLACE, 32), MapEntry::map(PLACE, f.data, 1, PLAIN, POOL)]).collect()
        }),
    ];
    for (name, entries) in batches {
        let entries = *entries;
        cases.add(alloc::format!("a batch: {name}"), move |stage| {
            let (who, frames) = mapper(stage, &[])?;
            let entries = entries(&frames);
            batch(stage, who, &entries)?;
            let orders = [
                map(0, entries.len() as u64),
                load(descriptor(PLACE)),
                load(descriptor(PLACE + 4096)),
                load(descriptor(PLACE + 40 * 4096)),
                map(0, 1),
                map(0, entries.len() as u64),
            ];
            stage.tell(who, &orders)?;
            stage.start(who)?;
            stage.run(who)
        });
        cases.add(alloc::format!("resume with a batch: {name}"), move |stage| {
            let orders = [foreign(&[7]), load(descriptor(PLACE)), load(descriptor(PLACE + 4096)), null(&[])];
            let (who, frames) = mapper(stage, &orders)?;
            let entries = entries(&frames);
            batch(stage, who, &entries)?;
            stage.take_upcalls(who, 0)?;
            stage.set_control(who, LIBRARY + told::ENTRIES, entries.len() as u64)?;
            stage.start(who)?;
            stage.run(who)
        });
    }
}

fn resumes(cases: &mut Cases) {
    let words = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21];
    for (name, entries) in [
        ("no entry", 0),
        ("two entries", 2),
        ("three, of which the last is refused", 3),
        ("65", 65),
        ("too many", 1 << 63),
    ] {
        for pending in [0, 1 << 3] {
            cases.add(alloc::format!("resume with {name}, events {pending:x}"), move |stage| {
                let orders = [
                    store(control_va(0) + 16, 1),
                    notify(30),
                    store(control_va(0) + 16, 0),
                    foreign(&words),
                    load(descriptor(PLACE + 0x1000)),
                    foreign(&words),
                    drain(),
                ];
                let (who, frames) = mapper(stage, &orders)?;
                stage.take_upcalls(who, pending)?;
                stage.event(who, 3, 0, 30)?;
                batch(
                    stage,
                    who,
                    &[
                        MapEntry::map(PLACE, frames.data, 1, MARKED, POOL),
                        MapEntry::unmap(PLACE, 1),
                        MapEntry::unmap(PLACE, 1),
                    ],
                )?;
                stage.set_control(who, LIBRARY + told::ENTRIES, entries)?;
                stage.start(who)?;
                stage.run(who)
            });
        }
    }
    cases.add("resume with flags that no program may have", move |stage| {
        let (who, _) = mapper(stage, &[foreign(&words), null(&[])])?;
        stage.take_upcalls(who, 0)?;
        stage.set_control(who, LIBRARY + told::FLAGS, 0xf000_0000 | 0x3cf)?;
        stage.start(who)?;
        stage.run(who)
    });
    cases.add("a page fault, mapped by resume", |stage| {
        let (who, frames) = mapper(stage, &[store(PLACE + 8, 0x77), load(PLACE + 8), load(PLACE)])?;
        stage.take_upcalls(who, 0)?;
        batch(stage, who, &[MapEntry::map(PLACE, frames.data, 1, MARKED, POOL)])?;
        stage.set_control(who, LIBRARY + told::ENTRIES, 1)?;
        stage.start(who)?;
        stage.run(who)
    });
    cases.add("faults that are given up", |stage| {
        let (who, _) =
            mapper(stage, &[load(PLACE), store(8, 8), load(1 << 39), load(WINDOW_LEVEL_3), store(WINDOW_LEVEL_3, 0)])?;
        stage.take_upcalls(who, 0)?;
        stage.start(who)?;
        stage.run(who)
    });
    cases.add("a fault while masked", |stage| {
        let (who, _) = mapper(stage, &[store(control_va(0) + 16, 1), load(PLACE)])?;
        stage.take_upcalls(who, 0)?;
        stage.start(who)?;
        stage.run(who)
    });
}
