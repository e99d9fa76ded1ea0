//! Environments to test with, made by calls only.

use super::{FIRST, FREE, Fake};
use exo::binding::Binding;
use exo::frame::Kind;
use exo::machine::Machine;
use exo::vcore::{State, VcoreRef};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::name_kind;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Call, Handle, Pfn, Refusal};
use std::sync::atomic::Ordering::*;

/// Handle of the own environment.
pub const SELF: u64 = Handle::SELF.0 as u64;
/// Handle of the own pool.
pub const POOL: u64 = Handle::POOL.0 as u64;
/// What the first environment holds besides.
pub const CORES: u64 = 2;
pub const INTERRUPTS: u64 = 3;
pub const DEVICES: u64 = 4;
pub const POWER: u64 = 5;
pub const ARCHIVE_POOL: u64 = 6;
/// First slot that nothing here uses.
pub const SLOT: u64 = 40;
/// First cell that nothing here uses.
pub const CELL: u64 = 100;
/// First pool number that nothing here uses.
pub const POOL_NUMBER: u64 = 100;
/// Where a child maps what it is told to.
pub const PLACE: u64 = 0x20_0000;
/// The control pages of a child: at the end of the same 2 MiB.
pub const CHILD_CONTROL: u64 = PLACE + 0x1f_0000;

/// An environment made by the first one.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    /// The first environment's Env binding.
    pub env: u64,
    /// The first environment's binding to its pool.
    pub pool: u64,
    /// The frame it lies in.
    pub frame: Pfn,
    /// Its first vcore.
    pub vcore: VcoreRef,
    /// Two cells of its own: this and the next.
    pub cell: u64,
}

impl Fake {
    /// Free frames, the lowest first.
    pub fn free_frames(&self, count: usize) -> Vec<Pfn> {
        let free = (FREE..FIRST + self.frames().words.len() as u64)
            .map(Pfn)
            .filter(|pfn| self.frames().read(*pfn).is_some_and(|word| word.kind() == Kind::Free));
        let found: Vec<Pfn> = free.take(count).collect();
        assert_eq!(found.len(), count, "there are so many free frames");
        found
    }

    /// How many frames are free.
    pub fn free_count(&self) -> usize {
        (0..self.frames().words.len() as u64)
            .filter(|index| self.frames().read(Pfn(FIRST + index)).is_some_and(|word| word.kind() == Kind::Free))
            .count()
    }

    /// Takes frames into a pool of the running environment.
    #[track_caller]
    pub fn alloc(&self, pool: u64, count: usize) -> Vec<Pfn> {
        let frames = self.free_frames(count);
        let mut done = 0;
        while done < count {
            let batch = &frames[done..(done + 24).min(count)];
            self.batch_frames(batch);
            self.must(Call::FrameAlloc, &[pool, batch.len() as u64, 0]);
            done += batch.len();
        }
        frames
    }

    /// Environment number `number` (3 to 9) of two vcores with `quota` frames: the first environment must run. It is ready, owns position `number` of core 0, and has tables for [`PLACE`].
    #[track_caller]
    pub fn child(&self, number: u64, quota: u64) -> Child {
        let child = self.bare_child(number, quota);
        let control = self.alloc(child.pool, 2);
        let tables = self.alloc(child.pool, 2);
        let entries = [
            MapEntry::install_table(PLACE, 2, tables[0], Handle(child.pool as u16)),
            MapEntry::install_table(PLACE, 3, tables[1], Handle(child.pool as u16)),
            MapEntry::map(
                CHILD_CONTROL,
                control[0],
                1,
                Prot::READ | Prot::WRITE | Prot::ACCESSED,
                Handle(child.pool as u16),
            ),
        ];
        for (index, control) in control.iter().enumerate() {
            self.must(
                Call::VcoreCreate,
                &[child.env, index as u64, control.0, CHILD_CONTROL + index as u64 * 4096, 0x1000, 0x2000, 77, 0],
            );
        }
        self.map(child.env, &entries).expect("a child is built so");
        self.must(Call::SliceClaim, &[CORES, 0, number, child.env, 0, 0, 0]);
        self.must(Call::VcoreStart, &[child.env, 0]);
        child
    }

    /// The same without vcores and tables, but with two cells and eight pool numbers of its own.
    #[track_caller]
    pub fn bare_child(&self, number: u64, quota: u64) -> Child {
        let (env, pool, cell) = (8 + number * 2, 9 + number * 2, 10 + number * 8);
        self.must(Call::PoolCreate, &[POOL, number, cell, quota, 0, pool]);
        let frames = self.alloc(pool, 3);
        self.must(Call::EnvCreate, &[pool, number, cell + 1, frames[0].0, frames[1].0, frames[2].0, env]);
        self.must(Call::NamesGive, &[env, name_kind::CELLS, cell + 2, 4]);
        self.must(Call::NamesGive, &[env, name_kind::POOLS, 20 + number * 8, 8]);
        self.must(Call::NamesGive, &[env, name_kind::ENVIRONMENTS, 20 + number * 8, 8]);
        Child { env, pool, frame: frames[0], vcore: VcoreRef::new(frames[0], 0), cell: cell + 2 }
    }

    /// The first environment's vcore.
    pub fn init(&self) -> VcoreRef {
        let first = exo::environment::by_number(self, 1).expect("the first environment lives");
        VcoreRef::new(first.frame(), 0)
    }

    /// Copies a binding of the first environment, which runs, into a child's table.
    #[track_caller]
    pub fn give(&self, child: &Child, handle: u64, slot: u64, rights: u64) {
        self.must(Call::Grant, &[handle, child.env, slot, rights, 0, 0, 0]);
    }

    /// A gate binding to a child's first vcore in the first environment's slot.
    #[track_caller]
    pub fn gate_to(&self, child: &Child, slot: u64, badge: u64) {
        self.must(Call::GateBind, &[child.env, 0, child.cell, slot, badge]);
    }

    /// Lets a child run until it has opened its gate; then the first environment runs again.
    #[track_caller]
    pub fn serve(&self, child: &Child, mask: u64) {
        self.until(child.vcore);
        self.svc(Call::ReplyWait, &[mask]);
        assert_eq!(self.state(child.vcore), State::Gate);
        self.until(self.init());
    }

    /// What a vcore does.
    pub fn state(&self, vcore: VcoreRef) -> State {
        self.vcore(vcore).word().state()
    }

    /// It waits for a reply.
    pub fn calls(&self, vcore: VcoreRef) -> bool {
        self.state(vcore) == State::Running && self.vcore(vcore).calls().exists()
    }

    /// Events pending for a vcore.
    pub fn pending(&self, vcore: VcoreRef) -> u64 {
        self.vcore(vcore).word().pending()
    }

    /// What a vcore that goes on behind its call finds in x0 to x8.
    pub fn result(&self, vcore: VcoreRef, index: usize) -> u64 {
        self.control(vcore).get(exo::word!(result) + index)
    }

    /// Destroys a child; the first environment runs.
    #[track_caller]
    pub fn destroy(&self, env: u64) {
        assert_eq!(self.finish(Call::EnvDestroy, &[env, 0]), Ok(()));
    }

    /// Everything of the frames' words, numbers, cells' owners and pools' accounts that must be the same before and after a child's life.
    pub fn holdings(&self) -> Vec<u64> {
        let kinds = (0..self.frames().words.len() as u64)
            .filter_map(|index| self.frames().read(Pfn(FIRST + index)))
            .map(|word| word.kind() as u64);
        let numbers = self.tables().environments.iter().map(|entry| entry.load(Relaxed));
        let pools = self.tables().pools.iter().flat_map(|pool| {
            [pool.account().0, pool.account().1, pool.identity().owner(), pool.identity().state() as u64]
        });
        let cells = self.tables().cells.iter().map(|cell| cell.load(Relaxed) & 0xffff);
        let owners = self.tables().cell_owners.iter().map(|owner| owner.load(Relaxed).into());
        kinds.chain(numbers).chain(pools).chain(cells).chain(owners).collect()
    }
}

/// What a binding refers to.
pub fn kind(binding: &Binding) -> BindingKind {
    BindingKind::from_number(binding.head & 0xf).expect("a binding has a kind")
}

/// What it permits.
pub fn rights(binding: &Binding) -> Rights {
    Rights::from_bits_retain((binding.head >> exo::binding::RIGHTS_SHIFT) as u8)
}

/// The range it refers to: first and count.
pub fn range(binding: &Binding) -> (u64, u64) {
    (binding.object & 0xffff_ffff, binding.object >> 32)
}

/// A refusal as `map` answers it before anything is done.
pub fn at_once(refusal: Refusal) -> Result<(), (Refusal, u64, u64)> {
    Err((refusal, 0, 0))
}
