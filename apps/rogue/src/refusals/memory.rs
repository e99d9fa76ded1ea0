//! Refusals of frames, pools and `map`.

use crate::book::Book;
use crate::world::{World, refusal_of, shared_pool};
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Call, Handle, PAGE_BYTES, Pfn, Refusal};
use libos::sys::{self, Fill, FrameKind, NameKind, Stopped};
use libos::{mem, slots};
use workshop::{Child, DATA_VA, Ground};

/// Provokes them all.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let world = World::new(ground)?;
    frames(&world, book)?;
    maps(&world, book)?;
    pools(ground, &world, book)?;
    names(&world, book)?;
    bindings(&world, book)?;
    world.end(ground)
}

fn stopped(result: Result<u64, Stopped>) -> Result<(), Refusal> {
    result.map(|_| ()).map_err(|stopped| stopped.refusal)
}

fn frames(world: &World, book: &mut Book) -> Result<(), Refusal> {
    let (pool, child) = (world.pool, &world.child);
    let mut ours = [Pfn(0)];
    mem::alloc_frames(Handle::POOL, &mut ours)?;
    for (call, count) in [
        (Call::FrameAlloc, 0),
        (Call::FrameAlloc, 65),
        (Call::FrameFree, 0),
        (Call::FrameFree, 65),
        (Call::FrameKind, 0),
        (Call::FrameKind, 65),
    ] {
        book.expect(call, Refusal::BadArgument, refusal_of(call, &[u64::from(pool.0), count, 0]));
    }
    book.expect(Call::FrameAlloc, Refusal::BadArgument, refusal_of(Call::FrameAlloc, &[u64::from(pool.0), 1, 2]));
    book.expect(Call::FrameKind, Refusal::BadArgument, refusal_of(Call::FrameKind, &[u64::from(pool.0), 1, 2]));
    // No RAM.
    for frame in [Pfn(0), Pfn(u64::MAX), Pfn(1 << 40)] {
        book.expect(Call::FrameAlloc, Refusal::BadArgument, stopped(sys::frame_alloc(pool, &[frame], Fill::Zeroed)));
        book.expect(Call::FrameFree, Refusal::BadArgument, stopped(sys::frame_free(pool, &[frame])));
        book.expect(Call::FrameKind, Refusal::BadArgument, stopped(sys::frame_kind(pool, &[frame], FrameKind::Code)));
    }
    book.expect(Call::FrameAlloc, Refusal::NotFree, stopped(sys::frame_alloc(pool, &ours, Fill::Zeroed)));
    // 64 of 64, then one more.
    let mut many = [Pfn(0); 65];
    mem::alloc_frames(Handle::POOL, &mut many)?;
    mem::free_frames(Handle::POOL, &many);
    let mut taken = 0;
    while taken < 64 {
        match sys::frame_alloc(pool, &many[taken..64], Fill::Zeroed) {
            Ok(count) => taken += count as usize,
            Err(Stopped { done, refusal: Refusal::Again, .. }) if done > 0 => {
                book.expect(Call::FrameAlloc, Refusal::Again, Err(Refusal::Again));
                taken += done as usize;
            }
            Err(stopped) => return Err(stopped.refusal),
        }
    }
    book.expect(Call::FrameAlloc, Refusal::QuotaExceeded, stopped(sys::frame_alloc(pool, &many[64..], Fill::Zeroed)));
    mem::free_frames(pool, &many[..64]);
    for call in [Call::FrameFree, Call::FrameKind] {
        let attempt = |pool, frame: Pfn| {
            stopped(if call == Call::FrameFree {
                sys::frame_free(pool, &[frame])
            } else {
                sys::frame_kind(pool, &[frame], FrameKind::Code)
            })
        };
        book.expect(call, Refusal::NotYours, attempt(pool, ours[0]));
        book.expect(call, Refusal::NotYours, attempt(pool, many[0]));
        book.expect(call, Refusal::InUse, attempt(child.pool, child.data[0]));
        for frame in
            [child.tables[0], child.parts.root, child.parts.environment, child.parts.bindings, child.controls[0]]
        {
            book.expect(call, Refusal::WrongFrame, attempt(child.pool, frame));
        }
    }
    mem::free_frames(Handle::POOL, &ours);
    Ok(())
}

fn maps(world: &World, book: &mut Book) -> Result<(), Refusal> {
    let child = &world.child;
    let rw = Prot::READ | Prot::WRITE;
    let free_va = DATA_VA + 0x1_0000;
    let mut expect =
        |refusal, entries: &[MapEntry]| book.expect(Call::Map, refusal, stopped(sys::map_other(child.env, entries)));
    let page = |frame, prot| MapEntry::map(free_va, frame, 1, prot, child.pool);
    let frame = child.frame()?;
    // What an entry can say wrongly.
    for entry in [
        MapEntry { first: free_va, second: 1 << 32 },
        MapEntry { first: free_va | 7, second: 1 << 32 },
        MapEntry { first: free_va | 15, second: 1 << 32 },
        MapEntry::map(free_va, frame, 0, rw, child.pool),
        MapEntry::map(exo_abi::page::MAPPABLE_END, frame, 1, rw, child.pool),
        MapEntry::map(u64::MAX, frame, 1, rw, child.pool),
        MapEntry::map(exo_abi::page::MAPPABLE_END - PAGE_BYTES, frame, 2, rw, child.pool),
        page(frame, Prot::WRITE),
        page(frame, rw | Prot::EXECUTE),
        page(frame, Prot::READ | Prot::DIRTY),
        page(frame, Prot::READ | Prot::GUARDED),
        page(frame, Prot::from_bits_retain(Prot::READ.bits() | 1 << 7)),
        MapEntry { second: 1 << 32 | 5, ..MapEntry::unmap(DATA_VA, 1) },
        MapEntry { second: 1 << 32 | 5, ..MapEntry::protect(DATA_VA, 1, rw, child.pool) },
        MapEntry::mark(DATA_VA, 1, rw, child.pool),
        MapEntry::install_table(1 << 30, 1, frame, child.pool),
        MapEntry::install_table(1 << 30, 4, frame, child.pool),
        MapEntry::remove_table(DATA_VA, 1),
        MapEntry::remove_table(DATA_VA, 0),
    ] {
        expect(Refusal::BadArgument, &[entry]);
    }
    expect(Refusal::BadHandle, &[MapEntry::map(free_va, frame, 1, rw, world.empty)]);
    expect(Refusal::WrongKind, &[MapEntry::map(free_va, frame, 1, rw, child.env)]);
    expect(Refusal::WrongKind, &[MapEntry::protect(DATA_VA, 1, rw, exo_abi::binding::first::DEVICES)]);
    expect(Refusal::Stale, &[MapEntry::map(free_va, frame, 1, rw, world.of(exo_abi::BindingKind::Pool).stale)]);
    expect(Refusal::NoRight, &[MapEntry::map(free_va, frame, 1, rw, world.of(exo_abi::BindingKind::Pool).weak)]);
    expect(Refusal::NotYours, &[MapEntry::map(free_va, frame, 1, rw, world.pool)]);
    expect(Refusal::NotYours, &[MapEntry::protect(DATA_VA, 1, rw, world.pool)]);
    expect(Refusal::WrongFrame, &[page(child.tables[1], rw)]);
    expect(Refusal::WrongFrame, &[page(frame, Prot::READ | Prot::EXECUTE)]);
    expect(Refusal::InUse, &[MapEntry::remove_table(DATA_VA, 3)]);
    expect(Refusal::InUse, &[MapEntry::install_table(free_va + (1 << 21), 3, child.data[0], child.pool)]);
    expect(Refusal::NotMapped, &[MapEntry::unmap(free_va, 1)]);
    expect(Refusal::NotMapped, &[MapEntry::map(1 << 31, frame, 1, rw, child.pool)]);
    expect(Refusal::NotMapped, &[MapEntry::remove_table(1 << 31, 3)]);
    expect(Refusal::AlreadyMapped, &[MapEntry::map(DATA_VA, frame, 1, rw, child.pool)]);
    expect(Refusal::AlreadyMapped, &[MapEntry::install_table(DATA_VA, 3, frame, child.pool)]);
    let pages = child.data.len() as u64;
    expect(Refusal::Again, &[MapEntry::protect(DATA_VA, pages, rw | Prot::ACCESSED | Prot::DIRTY, child.pool); 5]);
    for count in [0, 65, u64::MAX] {
        book.expect(Call::Map, Refusal::BadArgument, refusal_of(Call::Map, &[u64::from(child.env.0), count]));
    }
    mem::free_frames(child.pool, &[frame]);
    Ok(())
}

fn pools(ground: &Ground, world: &World, book: &mut Book) -> Result<(), Refusal> {
    let parent = u64::from(world.pool.0);
    let (number, cell, slot) = (ground.pools.take()?, ground.take_cell()?, u64::from(world.empty.0));
    let (foreign_pool, foreign_cell) = (ground.pools.take()?, world.child.own_cell(ground)?);
    sys::names_give(world.child.env, NameKind::Pools, foreign_pool, 1)?;
    for (refusal, rest) in [
        (Refusal::BadArgument, [0, cell, 1, 0, slot]),
        (Refusal::BadArgument, [256, cell, 1, 0, slot]),
        (Refusal::BadArgument, [number, 768, 1, 0, slot]),
        (Refusal::BadArgument, [number, cell, 1, 2, slot]),
        (Refusal::BadArgument, [number, cell, 1 << 40, 0, slot]),
        (Refusal::BadArgument, [number, cell, 1, 0, 0xffff]),
        (Refusal::NotYours, [foreign_pool, cell, 1, 0, slot]),
        (Refusal::NotYours, [number, foreign_cell, 1, 0, slot]),
        (Refusal::InUse, [1, cell, 1, 0, slot]),
        (Refusal::InUse, [number, world.pool_cell, 1, 0, slot]),
        (Refusal::QuotaExceeded, [number, cell, 65, 0, slot]),
        (Refusal::SlotTaken, [number, cell, 1, 0, 0]),
    ] {
        let [x1, x2, x3, x4, x5] = rest;
        book.expect(Call::PoolCreate, refusal, refusal_of(Call::PoolCreate, &[parent, x1, x2, x3, x4, x5]));
    }
    ground.pools.give_back(number);
    ground.give_back_cell(cell);
    too_deep(ground, world, book)?;
    destructions(ground, world, book)
}

/// The own pool is level 1, the shared one level 2: six more fit.
fn too_deep(ground: &Ground, world: &World, book: &mut Book) -> Result<(), Refusal> {
    let mut made = [(Handle(0), 0, 0); 8];
    let (mut parent, mut count, mut end) = (world.pool, 0, Ok(()));
    while count < made.len() {
        let (number, cell, slot) = (ground.pools.take()?, ground.take_cell()?, ground.take_slot()?);
        end = sys::pool_create(parent, number, cell, 32, 0, slot);
        made[count] = (slot, number, cell);
        count += 1;
        if end.is_err() {
            break;
        }
        parent = slot;
    }
    book.expect(Call::PoolCreate, Refusal::TooDeep, end);
    for (index, (slot, number, cell)) in made[..count].iter().enumerate().rev() {
        if index + 1 == count {
            slots::give_back(*slot);
            ground.pools.give_back(*number);
            ground.give_back_cell(*cell);
        } else {
            crate::world::end_pool(ground, *slot, *number, *cell)?;
        }
    }
    Ok(())
}

fn destructions(ground: &Ground, world: &World, book: &mut Book) -> Result<(), Refusal> {
    let (pool, number, cell) = shared_pool(ground, 4)?;
    book.expect(Call::PoolDestroy, Refusal::BadArgument, refusal_of(Call::PoolDestroy, &[u64::from(pool.0), 5]));
    book.expect(Call::PoolDestroy, Refusal::InUse, refusal_of(Call::PoolDestroy, &[u64::from(Handle::POOL.0)]));
    book.expect(
        Call::PoolDestroy,
        Refusal::NotRoot,
        refusal_of(Call::PoolDestroy, &[u64::from(world.of(exo_abi::BindingKind::Pool).kept.0)]),
    );
    let begun = refusal_of(Call::PoolDestroy, &[u64::from(pool.0)]);
    book.expect(Call::PoolDestroy, Refusal::Again, begun);
    crate::world::end_pool(ground, pool, number, cell)
}

fn names(world: &World, book: &mut Book) -> Result<(), Refusal> {
    let env = u64::from(world.child.env.0);
    let mut expect = |refusal, kind: u64, first: u64, count: u64| {
        book.expect(Call::NamesGive, refusal, refusal_of(Call::NamesGive, &[env, kind, first, count]));
    };
    for (kind, first, count) in [
        (3, 200, 1),
        (0, 0, 1),
        (0, 255, 2),
        (1, 256, 1),
        (2, 768, 1),
        (2, 100, 0),
        (2, 100, 65),
        (2, u64::MAX, 1),
        (2, 1, u64::MAX),
        (u64::MAX, 1, 1),
    ] {
        expect(Refusal::BadArgument, kind, first, count);
    }
    sys::names_give(world.child.env, NameKind::Environments, 250, 1)?;
    expect(Refusal::NotYours, 0, 250, 1);
    expect(Refusal::InUse, 0, 1, 1);
    expect(Refusal::InUse, 1, 1, 1);
    expect(Refusal::InUse, 2, 1, 1);
    Ok(())
}

fn bindings(world: &World, book: &mut Book) -> Result<(), Refusal> {
    let child: &Child = &world.child;
    let mut foreign = [Pfn(0)];
    mem::alloc_frames(Handle::POOL, &mut foreign)?;
    let add = |frame: Pfn| sys::bindings_add(child.env, frame).map(|_| ());
    book.expect(Call::BindingsAdd, Refusal::BadArgument, add(Pfn(0)));
    book.expect(Call::BindingsAdd, Refusal::NotYours, add(foreign[0]));
    book.expect(Call::BindingsAdd, Refusal::InUse, add(child.data[0]));
    book.expect(Call::BindingsAdd, Refusal::WrongFrame, add(child.parts.bindings));
    let mut end = Ok(());
    for _ in 0..exo_abi::MAX_BINDING_FRAMES {
        let frame = child.frame()?;
        end = add(frame);
        if end.is_err() {
            mem::free_frames(child.pool, &[frame]);
        }
    }
    book.expect(Call::BindingsAdd, Refusal::QuotaExceeded, end);
    mem::free_frames(Handle::POOL, &foreign);
    Ok(())
}
