//! A child: a small environment without a library, built by calls alone.

use crate::ground::Ground;
use crate::snippets::{Blob, Common};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::control_page::Frame;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal};
use libos::event::CHILD;
use libos::mem::{self, Mapping, tables};
use libos::sys::{self, EnvFrames, FrameKind, Progress, Report, SliceTerms, StopReason, VcoreStart};
use libos::time::{self, Instant};
use libos::{event, machine, slots};

/// Where a child's code begins.
pub const CODE_VA: u64 = 0x20_0000;
/// Where snippets of its maker's begin.
pub const EXTRA_VA: u64 = 0x21_0000;
/// Where its data pages begin.
pub const DATA_VA: u64 = 0x22_0000;
/// Where the control page of its vcore 0 lies; the others follow.
pub const CONTROL_VA: u64 = 0x24_0000;
/// Data pages a child has at most.
pub const MAX_DATA_PAGES: usize = 16;
/// Frames of a child's quota.
const QUOTA: u64 = 96;
/// Yields to a child that does not end before it is given up.
const MOST_YIELDS: u32 = 10_000;
/// Yields in a row that find it waiting.
const MOST_IDLE: u32 = 8;
/// Steps of a destruction before it is given up.
const MOST_STEPS: u32 = 1_000_000;
/// Steps without a pause.
const STEPS_AT_ONCE: u32 = 200;
/// The pause.
const PAUSE: Duration = Duration::from_micros(5);

/// A child environment. Its maker keeps every right on it.
#[derive(Debug)]
pub struct Child {
    /// Its root Env binding.
    pub env: Handle,
    /// Its root Pool binding.
    pub pool: Handle,
    /// Its number.
    pub number: u64,
    /// Its pool's number.
    pub pool_number: u64,
    /// Revokes its Env binding and everything granted of it.
    pub env_cell: u64,
    /// Revokes its Pool binding.
    pub pool_cell: u64,
    /// Its data pages, at [`DATA_VA`].
    pub data: Vec<Pfn>,
    /// The frames of its level-2 and level-3 table.
    pub tables: [Pfn; 2],
    /// What the environment is made of.
    pub parts: EnvFrames,
    /// The control pages of its vcores.
    pub controls: Vec<Pfn>,
    positions: Vec<u64>,
    cells: RefCell<Vec<u64>>,
}

impl Child {
    /// Makes an environment with [`Common`] at [`CODE_VA`] and zeroed data pages at [`DATA_VA`]. It has no vcore yet.
    pub fn build(ground: &Ground, data_pages: usize) -> Result<Child, Refusal> {
        let (number, pool_number) = (ground.environments.take()?, ground.pools.take()?);
        let (env_cell, pool_cell) = (ground.take_cell()?, ground.take_cell()?);
        let (env, pool) = (ground.take_slot()?, ground.take_slot()?);
        sys::pool_create(Handle::POOL, pool_number, pool_cell, QUOTA, 0, pool)?;
        let mut five = [Pfn(0); 5];
        mem::alloc_frames(pool, &mut five)?;
        let [environment, root, bindings, level_2, level_3] = five;
        let parts = EnvFrames { environment, root, bindings };
        sys::env_create(pool, number, env_cell, parts, env)?;
        let mut child = Child {
            env,
            pool,
            number,
            pool_number,
            env_cell,
            pool_cell,
            data: Vec::new(),
            tables: [level_2, level_3],
            parts,
            controls: Vec::new(),
            positions: Vec::new(),
            cells: RefCell::new(Vec::new()),
        };
        child.map(&[
            MapEntry::install_table(CODE_VA, 2, level_2, pool),
            MapEntry::install_table(CODE_VA, 3, level_3, pool),
        ])?;
        child.map_code(CODE_VA, Common::blob().bytes)?;
        for page in 0..data_pages.min(MAX_DATA_PAGES) {
            let frame = child.frame()?;
            child.map(&[data(DATA_VA + page as u64 * PAGE_BYTES, frame, pool)])?;
            child.data.push(frame);
        }
        Ok(child)
    }

    /// A new frame of its pool.
    pub fn frame(&self) -> Result<Pfn, Refusal> {
        let mut frame = [Pfn(0)];
        mem::alloc_frames(self.pool, &mut frame)?;
        Ok(frame[0])
    }

    /// Adds snippets of the maker's own, at [`EXTRA_VA`].
    pub fn with(self, extra: Blob) -> Result<Child, Refusal> {
        self.map_code(EXTRA_VA, extra.bytes)?;
        Ok(self)
    }

    /// Copies code into new frames of its pool and maps them, executable.
    fn map_code(&self, va: u64, code: &[u8]) -> Result<(), Refusal> {
        for (page, bytes) in code.chunks(PAGE_BYTES as usize).enumerate() {
            let frame = self.frame()?;
            Mapping::writable(self.pool, frame, 1)?.write(0, bytes);
            sys::frame_kind(self.pool, &[frame], FrameKind::Code)?;
            let prot = Prot::READ | Prot::EXECUTE | Prot::ACCESSED;
            let va = va + page as u64 * PAGE_BYTES;
            self.map(&[MapEntry::map(va, frame, 1, prot, self.pool)])?;
        }
        Ok(())
    }

    /// Changes its tables.
    pub fn map(&self, entries: &[MapEntry]) -> Result<(), Refusal> {
        Ok(tables::map_all_other(self.env, entries)?)
    }

    /// Makes its next vcore, which will begin there with that stack pointer and x0. Answers with its index.
    pub fn vcore(&mut self, pc: u64, sp: u64, x0: u64) -> Result<u64, Refusal> {
        self.vcore_on(0, pc, sp, x0)
    }

    /// The same with another home than core 0.
    pub fn vcore_on(&mut self, core: u64, pc: u64, sp: u64, x0: u64) -> Result<u64, Refusal> {
        let index = self.controls.len() as u64;
        let control_frame = self.frame()?;
        let control_va = CONTROL_VA + index * PAGE_BYTES;
        let start = VcoreStart { control_frame, control_va, pc, sp, x0, core };
        sys::vcore_create_other(self.env, index, &start)?;
        self.controls.push(control_frame);
        self.map(&[data(control_va, control_frame, self.pool)])?;
        Ok(index)
    }

    /// [`Child::vcore`], started.
    pub fn start(&mut self, pc: u64, sp: u64, x0: u64) -> Result<u64, Refusal> {
        let index = self.vcore(pc, sp, x0)?;
        sys::vcore_start(self.env, index)?;
        Ok(index)
    }

    /// Lends a started vcore the slice until it waits: for an event, or with its gate open.
    pub fn settle(&self, vcore: u64) -> Result<(), Refusal> {
        for _ in 0..MOST_YIELDS {
            match sys::yield_to(self.env, vcore) {
                Ok(()) => {}
                Err(Refusal::Busy) => return Ok(()),
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::Busy)
    }

    /// Starts a stopped vcore anew at an address.
    pub fn start_at(&self, vcore: u64, pc: u64, sp: u64, x0: u64) -> Result<(), Refusal> {
        restart::other(self.env, vcore, pc, sp, x0)
    }

    /// Gives a vcore a position of core 0, for so many microseconds a round.
    pub fn claim(&mut self, ground: &Ground, vcore: u64, micros: u64) -> Result<u64, Refusal> {
        self.claim_on(ground, vcore, 0, micros)
    }

    /// The same of another core, on which all positions are the maker's.
    pub fn claim_on(&mut self, ground: &Ground, vcore: u64, core: u64, micros: u64) -> Result<u64, Refusal> {
        let position = ground.positions.take()?;
        let terms = SliceTerms { micros, exact: false };
        let cores = if core == 0 { ground.cores } else { ground.other_cores };
        sys::slice_claim(cores, core, position, self.env, vcore, terms)?;
        self.positions.push(position);
        Ok(position)
    }

    /// Lends it the slice until it stops, and reports. `Busy`: it does not stop.
    pub fn run(&self, vcore: u64) -> Result<Report, Refusal> {
        let mut idle = 0;
        for _ in 0..MOST_YIELDS {
            match sys::vcore_report(self.env, vcore) {
                Err(Refusal::WrongState) => {}
                report => return report,
            }
            match sys::yield_to(self.env, vcore) {
                Ok(()) => idle = 0,
                Err(Refusal::Busy) if idle < MOST_IDLE => idle += 1,
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::Busy)
    }

    /// Starts a stopped vcore at an address and runs it to its end.
    pub fn run_at(&self, vcore: u64, pc: u64, sp: u64, x0: u64) -> Result<Report, Refusal> {
        self.start_at(vcore, pc, sp, x0)?;
        self.run(vcore)
    }

    /// Sleeps until a vcore that has slices of its own stops, and reports. `DeadlineMissed`: it does not.
    pub fn await_stop(&self, vcore: u64, patience: Duration) -> Result<Report, Refusal> {
        let deadline = Instant::after(patience);
        loop {
            match sys::vcore_report(self.env, vcore) {
                Err(Refusal::WrongState) => {}
                report => return report,
            }
            if Instant::now() >= deadline {
                return Err(Refusal::DeadlineMissed);
            }
            event::wait(CHILD, Some(deadline));
        }
    }

    /// Stops a vcore and reports what it was doing. `Again`: it runs on another core that does not stop it.
    pub fn stop(&self, vcore: u64) -> Result<Report, Refusal> {
        for step in 0..MOST_STEPS {
            let_others_run(step);
            match sys::vcore_stop(self.env, vcore) {
                Ok(()) | Err(Refusal::WrongState) => return sys::vcore_report(self.env, vcore),
                Err(Refusal::Again) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::Again)
    }

    /// The maker's view of a data page.
    pub fn view(&self, page: usize) -> Result<Mapping, Refusal> {
        Mapping::writable(self.pool, self.data[page], 1)
    }

    /// The maker's view of a control page.
    pub fn control(&self, vcore: u64) -> Result<Mapping, Refusal> {
        Mapping::writable(self.pool, self.controls[vcore as usize], 1)
    }

    /// Copies a binding into its table.
    pub fn give(&self, binding: Handle, slot: Handle, rights: Rights) -> Result<(), Refusal> {
        sys::grant(binding, self.env, slot, rights, 0, None)
    }

    /// A binding to the gate of one of its vcores, in a slot of the maker's.
    pub fn gate(&self, ground: &Ground, vcore: u64, badge: u64) -> Result<Handle, Refusal> {
        let (slot, cell) = (ground.take_slot()?, self.own_cell(ground)?);
        sys::gate_bind(self.env, vcore, cell, slot, badge)?;
        Ok(slot)
    }

    /// A binding to an event of one of its vcores, in a slot of the maker's.
    pub fn event(&self, ground: &Ground, vcore: u64, bit: u64) -> Result<Handle, Refusal> {
        let (slot, cell) = (ground.take_slot()?, self.own_cell(ground)?);
        sys::event_bind(self.env, vcore, cell, slot, bit)?;
        Ok(slot)
    }

    /// A cell that belongs to the child from now on, until its end.
    pub fn own_cell(&self, ground: &Ground) -> Result<u64, Refusal> {
        let cell = ground.take_cell()?;
        sys::names_give(self.env, sys::NameKind::Cells, cell, 1)?;
        self.cells.borrow_mut().push(cell);
        Ok(cell)
    }

    /// Ends it; its frames are free, its numbers the maker's.
    pub fn destroy(self, ground: &Ground) -> Result<(), Refusal> {
        let mut cursor = 0;
        for step in 0..MOST_STEPS {
            let_others_run(step);
            match sys::env_destroy(self.env, cursor)? {
                Progress::Done => {
                    self.positions.iter().for_each(|position| ground.positions.give_back(*position));
                    self.cells.take().into_iter().for_each(|cell| ground.give_back_cell(cell));
                    ground.environments.give_back(self.number);
                    ground.pools.give_back(self.pool_number);
                    ground.give_back_cell(self.env_cell);
                    ground.give_back_cell(self.pool_cell);
                    slots::empty(self.env);
                    slots::empty(self.pool);
                    return Ok(());
                }
                Progress::Again(next) => cursor = next,
            }
        }
        Err(Refusal::Again)
    }
}

/// Who waits for another core after so many steps sleeps between them. (An emulator that counts instructions lets one core run until the next timer: a loop would
/// keep the other from coming to its end.)
fn let_others_run(step: u32) {
    if step > STEPS_AT_ONCE && machine::info().cores > 1 {
        time::sleep(PAUSE);
    }
}

/// How a report ends, in two numbers: the exit code, or the class of the exception that stopped it above 2^32.
pub fn end_of(report: &Report) -> u64 {
    match report.reason {
        StopReason::Halted(code) => code,
        StopReason::Faulted => class_of(&report.frame) << 32,
        StopReason::New | StopReason::Stopped => u64::MAX,
    }
}

/// The exception class (ESR_EL1.EC) of a frame.
pub const fn class_of(frame: &Frame) -> u64 {
    frame.cause >> 26 & 0x3f
}

/// An entry for a page that is read and written, marked from the start.
pub fn data(va: u64, frame: Pfn, pool: Handle) -> MapEntry {
    let prot = Prot::READ | Prot::WRITE | Prot::ACCESSED | Prot::DIRTY;
    MapEntry::map(va, frame, 1, prot, pool)
}

#[expect(unsafe_code, reason = "the stub is unsafe for the caller's own environment only")]
mod restart {
    use super::*;

    /// Starts a stopped vcore of another environment.
    pub fn other(env: Handle, vcore: u64, pc: u64, sp: u64, x0: u64) -> Result<(), Refusal> {
        // SAFETY: children are other environments: their code never runs on this program's memory.
        unsafe { sys::vcore_restart(env, vcore, pc, sp, x0) }
    }
}
