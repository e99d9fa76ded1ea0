//! Where vcores can run: the free positions of every core that the manifest names.

use alloc::vec::Vec;
use core::cell::RefCell;
use exo_abi::exposed::SLICE_CLAIMED;
use exo_abi::{Handle, Refusal, SLICES_PER_CORE};
use libos::sys::{self, SliceTerms};
use libos::{machine, start};

/// A position of a core, and the binding to claim it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    cores: Handle,
    /// The core.
    pub core: u64,
    position: u64,
}

/// All of them; those that nobody has are in the list.
pub struct Places {
    all: Vec<Place>,
    free: RefCell<Vec<Place>>,
}

impl Places {
    /// What the bindings called `cores` cover and nobody claimed: the kernel says so when one is asked to be released.
    pub fn find() -> Places {
        let mut all = Vec::new();
        for binding in start::info().bindings.iter().filter(|binding| binding.name == "cores") {
            let cores = Handle(binding.handle);
            for core in 0..machine::info().cores {
                for position in 0..SLICES_PER_CORE {
                    let claimed = machine::slice(core, position).is_none_or(|slice| slice.owner & SLICE_CLAIMED != 0);
                    if !claimed && sys::slice_release(cores, core, position) == Err(Refusal::WrongState) {
                        all.push(Place { cores, core, position });
                    }
                }
            }
        }
        Places { free: RefCell::new(all.clone()), all }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The cores they are on.
    pub fn cores(&self) -> Vec<u64> {
        let mut cores: Vec<u64> = self.all.iter().map(|place| place.core).collect();
        cores.dedup();
        cores
    }

    /// Claims one of a core for vcore 0 of an environment, which lives there.
    pub fn claim(&self, core: u64, environment: Handle, micros: u64) -> Result<Place, Refusal> {
        let mut free = self.free.borrow_mut();
        let index = free.iter().position(|place| place.core == core).ok_or(Refusal::NotYours)?;
        let place = free.remove(index);
        let terms = SliceTerms { micros, exact: false };
        sys::slice_claim(place.cores, place.core, place.position, environment, 0, terms)?;
        Ok(place)
    }

    /// Takes one away from its owner.
    pub fn release(&self, place: Place) -> Result<(), Refusal> {
        sys::slice_release(place.cores, place.core, place.position)?;
        self.free.borrow_mut().push(place);
        Ok(())
    }

    /// Its owner is gone, and it is free already.
    pub fn give_back(&self, place: Place) {
        self.free.borrow_mut().push(place);
    }
}
