//! Which numbers, positions and badges each program gets: the same at each of its starts.

use exo_abi::{MAX_CELLS, MAX_ENVIRONMENTS, MAX_POOLS, SLICES_PER_CORE};
use velvet_manifest::Manifest;

/// Cells every program gets for its own use, whatever the manifest says: for gates and events it offers.
pub const LEAST_CELLS: u64 = 4;

/// Init's own environment.
pub const FIRST_ENVIRONMENT: u64 = 1;
/// The first that the kernel left unused.
pub const FIRST_FREE_ENVIRONMENT: u64 = 2;
/// The first pool that the kernel left unused: init's own and the archive's come before.
pub const FIRST_FREE_POOL: u64 = 3;

/// A program's numbers. Those with a plain name are init's to create the program with; `given_*` go to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Its environment.
    pub environment: u64,
    /// Its pool.
    pub pool: u64,
    /// The cell of its environment.
    pub environment_cell: u64,
    /// The cell of its pool.
    pub pool_cell: u64,
    /// First and count of the environments it may make.
    pub given_environments: (u64, u64),
    /// First and count of the pools it may make.
    pub given_pools: (u64, u64),
    /// First and count of its cells. The first is the one its services' gates carry.
    pub given_cells: (u64, u64),
}

/// What is left of the three kinds of numbers.
#[derive(Clone, Copy, Debug)]
pub struct Supply {
    environments: u64,
    pools: u64,
    cells: u64,
}

impl Supply {
    /// All numbers from the first that the kernel left unused.
    pub const fn from(environments: u64, pools: u64, cells: u64) -> Supply {
        Supply { environments, pools, cells }
    }

    /// A cell for init itself.
    pub fn cell(&mut self) -> Option<u64> {
        take(&mut self.cells, 1, MAX_CELLS).map(|(first, _)| first)
    }

    /// The numbers of program `program` of the manifest. `None`: the machine has no more.
    pub fn numbers(&mut self, manifest: &Manifest, program: usize) -> Option<Numbers> {
        let names = &manifest.programs.get(program)?.names;
        let mut left = *self;
        let numbers = Numbers {
            environment: take(&mut left.environments, 1, MAX_ENVIRONMENTS)?.0,
            pool: take(&mut left.pools, 1, MAX_POOLS)?.0,
            environment_cell: take(&mut left.cells, 1, MAX_CELLS)?.0,
            pool_cell: take(&mut left.cells, 1, MAX_CELLS)?.0,
            given_environments: take(&mut left.environments, u64::from(names.environments), MAX_ENVIRONMENTS)?,
            given_pools: take(&mut left.pools, u64::from(names.pools), MAX_POOLS)?,
            given_cells: take(&mut left.cells, u64::from(names.cells).max(LEAST_CELLS), MAX_CELLS)?,
        };
        *self = left;
        Some(numbers)
    }
}

fn take(next: &mut u64, count: u64, end: u64) -> Option<(u64, u64)> {
    let first = *next;
    let beyond = first.checked_add(count).filter(|&beyond| beyond <= end)?;
    *next = beyond;
    Some((first, count))
}

/// The badge that program `program` shows at a service, in bits 15:0 beside its `life` above: no two programs share one.
pub const fn badge(program: usize, life: u64) -> u64 {
    (program as u64 + 1) & 0xffff | life << 16
}

/// The program a badge names.
pub const fn program_of(badge: u64) -> usize {
    ((badge & 0xffff) as usize).wrapping_sub(1)
}

/// The first position of a program's slices `group` in the vector of their core, where those of all programs follow each
/// other; core 0 begins at `first_free`. `None`: the vector is full.
pub fn position(manifest: &Manifest, program: usize, group: usize, first_free: u64) -> Option<u64> {
    let wanted = manifest.programs.get(program)?.slices.get(group)?;
    let before = |number: usize, index: usize| number < program || (number == program && index < group);
    let mut position = if wanted.core == 0 { first_free } else { 0 };
    for (number, other) in manifest.programs.iter().enumerate().skip(1) {
        for (index, slices) in other.slices.iter().enumerate() {
            if before(number, index) {
                position += slices.of_core(wanted.core);
            }
        }
    }
    // Whole cores have nothing else before them.
    let (count, whole) =
        (u64::from(wanted.count), position == 0 && wanted.count.is_multiple_of(SLICES_PER_CORE as u32));
    (position + count <= SLICES_PER_CORE || whole).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::manifest;
    use velvet_manifest::Slices;

    #[test]
    fn no_number_is_given_twice() {
        let manifest = manifest();
        let mut supply = Supply::from(2, 3, 4);
        let a = supply.numbers(&manifest, 1).unwrap();
        let b = supply.numbers(&manifest, 2).unwrap();
        assert_eq!((a.environment, a.pool, a.environment_cell, a.pool_cell), (2, 3, 4, 5));
        assert_eq!(a.given_cells, (6, LEAST_CELLS));
        assert_eq!((b.environment, b.pool, b.environment_cell), (3, 4, 10));
        assert_eq!(supply.cell(), Some(12 + b.given_cells.1));
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut manifest = manifest();
        manifest.programs[1].names.cells = 100_000;
        let mut supply = Supply::from(2, 3, 4);
        assert_eq!(supply.numbers(&manifest, 1), None);
        assert_eq!(supply.numbers(&manifest, 2).unwrap().environment, 2);
        assert_eq!(supply.numbers(&manifest, 99), None);
    }

    #[test]
    fn a_badge_names_its_program_in_every_life() {
        for program in [0, 1, 40] {
            for life in [0, 1, 9999] {
                assert_eq!(program_of(badge(program, life)), program);
                assert_ne!(badge(program, life), 0);
            }
        }
        assert!(program_of(0) > 0xffff);
    }

    #[test]
    fn no_position_is_given_twice() {
        let mut manifest = manifest();
        let slices = |core, count| Slices { core, count, micros: 1000, exact: false };
        manifest.programs[1].slices = vec![slices(0, 2), slices(1, 1), slices(0, 3)];
        manifest.programs[2].slices = vec![slices(0, 58), slices(1, 64), slices(0, u32::MAX)];
        assert_eq!(position(&manifest, 1, 0, 1), Some(1));
        assert_eq!(position(&manifest, 1, 1, 1), Some(0));
        assert_eq!(position(&manifest, 1, 2, 1), Some(3));
        assert_eq!(position(&manifest, 2, 0, 1), Some(6));
        assert_eq!(position(&manifest, 2, 1, 1), None);
        assert_eq!(position(&manifest, 2, 2, 1), None);
        assert_eq!(position(&manifest, 9, 0, 1), None);
        // Whole cores, and one behind them that is taken.
        manifest.programs[1].slices = vec![slices(0, 2), slices(2, 128)];
        manifest.programs[2].slices = vec![slices(3, 1), slices(4, 1), slices(4, 64)];
        assert_eq!(position(&manifest, 1, 1, 1), Some(0));
        assert_eq!(position(&manifest, 2, 0, 1), None);
        assert_eq!(position(&manifest, 2, 1, 1), Some(0));
        assert_eq!(position(&manifest, 2, 2, 1), None);
    }
}
