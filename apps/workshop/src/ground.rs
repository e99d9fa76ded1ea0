//! What a testing program owns: bindings, numbers, positions.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use exo_abi::binding::first;
use exo_abi::{Handle, Refusal};
use libos::{slots, start};

/// Numbers `first..first+count`, at most 64, that come and go.
#[derive(Debug)]
pub struct Supply {
    first: u64,
    count: u64,
    used: AtomicU64,
}

impl Supply {
    /// None of them is used yet.
    pub const fn new(first: u64, count: u64) -> Supply {
        Supply { first, count: if count > 64 { 64 } else { count }, used: AtomicU64::new(0) }
    }

    /// The lowest one that is not used.
    pub fn take(&self) -> Result<u64, Refusal> {
        let used = self.used.load(Relaxed);
        let index = u64::from((!used).trailing_zeros());
        if index >= self.count {
            return Err(Refusal::NotYours);
        }
        self.used.store(used | 1 << index, Relaxed);
        Ok(self.first + index)
    }

    /// It is unused again.
    pub fn give_back(&self, number: u64) {
        let index = number.wrapping_sub(self.first);
        if index < self.count {
            self.used.store(self.used.load(Relaxed) & !(1 << index), Relaxed);
        }
    }
}

/// What the program owns.
#[derive(Debug)]
pub struct Ground {
    /// Positions of core 0.
    pub cores: Handle,
    /// All positions of the others, if there are any.
    pub other_cores: Handle,
    /// Power, with the audit.
    pub power: Handle,
    /// Environment numbers.
    pub environments: Supply,
    /// Pool numbers.
    pub pools: Supply,
    /// Revocation cells, of the first environment only: others ask [`slots`].
    own_cells: Supply,
    /// Positions of core 0 that nobody claimed.
    pub positions: Supply,
}

impl Ground {
    /// What an application was given by its manifest; `claimed` positions are its own vcore's already.
    ///
    /// # Errors
    /// Words for people, about what the manifest lacks.
    pub fn of_application(claimed: u64) -> Result<Ground, &'static str> {
        let info = start::info();
        let numbers = |(first, count): (u32, u32)| Supply::new(u64::from(first), u64::from(count));
        let first_position = (0..exo_abi::SLICES_PER_CORE)
            .find(|position| owns(*position, u64::from(info.environment)))
            .ok_or("it has no slice on core 0")?;
        // One for each entry of `slices`: the first is its own vcore's, the second for vcores to be made, the third for other cores, where there are any.
        let mut bindings = info.bindings.iter().filter(|binding| binding.name == "cores").skip(1);
        let cores = bindings.next().ok_or("the manifest gives it no second entry of `slices`")?;
        Ok(Ground {
            cores: Handle(cores.handle),
            other_cores: Handle(bindings.next().unwrap_or(cores).handle),
            power: start::handle("power").ok_or("the manifest gives it no `audit`")?,
            environments: numbers(info.environments),
            pools: numbers(info.pools),
            own_cells: Supply::new(0, 0),
            positions: Supply::new(first_position + claimed, 8),
        })
    }

    /// What the first environment has: everything. Used are its own numbers, low by the kernel's custom, and position 0.
    pub const fn of_first() -> Ground {
        Ground {
            cores: first::CORES,
            other_cores: first::CORES,
            power: first::POWER,
            environments: Supply::new(2, 64),
            pools: Supply::new(3, 64),
            own_cells: Supply::new(16, 64),
            positions: Supply::new(1, 32),
        }
    }

    /// A cell that no object and no binding has.
    pub fn take_cell(&self) -> Result<u64, Refusal> {
        match slots::take_cell() {
            Some(cell) => Ok(cell),
            None => self.own_cells.take(),
        }
    }

    /// The cell carries nothing any more.
    pub fn give_back_cell(&self, cell: u64) {
        slots::give_back_cell(cell);
        self.own_cells.give_back(cell);
    }

    /// An empty place in the binding table.
    pub fn take_slot(&self) -> Result<Handle, Refusal> {
        slots::take().ok_or(Refusal::SlotTaken)
    }
}

fn owns(position: u64, environment: u64) -> bool {
    libos::machine::slice(0, position).is_some_and(|slice| {
        slice.owner & exo_abi::exposed::SLICE_CLAIMED != 0 && slice.owner >> 8 & 0xff == environment
    })
}
