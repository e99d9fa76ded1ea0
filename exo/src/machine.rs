//! What the decisions need of the machine. `aarch64/` provides it on hardware, the tests provide a fake.

use crate::environment::Environment;
use crate::first::NUMBER;
use crate::frame::Frames;
use crate::pool::Pool;
use crate::slice::Core;
use crate::vcore::{Vcore, VcoreRef};
use core::sync::atomic::AtomicU64;
use exo_abi::{MAX_CELLS, MAX_ENVIRONMENTS, MAX_POOLS, Pfn};

/// A frame seen as words.
pub type Words = [AtomicU64; 512];

/// An array whose elements begin as their type does. Zeroed memory is one, as far as the kernel uses it.
pub struct Each<T, const N: usize>(pub [T; N]);

impl<T: Default, const N: usize> Default for Each<T, N> {
    fn default() -> Self {
        Each(core::array::from_fn(|_| T::default()))
    }
}

impl<T, const N: usize> core::ops::Deref for Each<T, N> {
    type Target = [T; N];
    fn deref(&self) -> &[T; N] {
        &self.0
    }
}

/// The fixed tables of the kernel: their sizes do not grow with anything.
pub struct Tables {
    /// Revocation cells: value in bits 63:16, owner in 15:0.
    pub cells: [AtomicU64; MAX_CELLS as usize],
    /// Pools.
    pub pools: [Pool; MAX_POOLS as usize],
    /// Environment numbers: owner in bits 63:48, frame of the environment in 39:0 (0: unused).
    pub environments: [AtomicU64; MAX_ENVIRONMENTS as usize],
    /// The last value given to a cell: none is given twice.
    pub last_cell_value: AtomicU64,
}

impl Tables {
    /// All numbers belong to the first environment; a cell's first value is 1, which nothing empty carries.
    pub const fn at_boot() -> Tables {
        Tables {
            cells: [const { AtomicU64::new(1 << 16 | NUMBER) }; MAX_CELLS as usize],
            pools: [const { Pool::new(NUMBER) }; MAX_POOLS as usize],
            environments: [const { AtomicU64::new(NUMBER << 48) }; MAX_ENVIRONMENTS as usize],
            last_cell_value: AtomicU64::new(1),
        }
    }
}

/// An enumeration that stands in a field of a word.
macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $value:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u64)]
        pub enum $name { $($(#[$note])* $value = $number,)* }

        impl $name {
            /// What a field stands for; the first for numbers that nobody writes.
            pub const fn from_bits(bits: u64) -> $name {
                $(if bits == $number { return $name::$value; })*
                $name::ALL[0]
            }
            const ALL: &[$name] = &[$($name::$value,)*];
        }
    };
}
pub(crate) use numbers;

/// The machine, as far as decisions need it.
pub trait Machine {
    /// The kernel's tables.
    fn tables(&self) -> &Tables;
    /// Who has which interrupt line: [`crate::interrupt`]'s words, two a line.
    fn lines(&self) -> &[AtomicU64];
    /// The frames' words.
    fn frames(&self) -> &Frames<'_>;
    /// A frame of RAM as words. The caller has seen that it is RAM.
    fn words(&self, pfn: Pfn) -> &Words;
    /// A frame of kind environment. The caller has seen that it is one.
    fn environment(&self, pfn: Pfn) -> &Environment;
    /// A vcore in a frame of kind environment.
    fn vcore(&self, vcore: VcoreRef) -> &Vcore;
    /// The core this runs on.
    fn core(&self) -> &Core;
    /// A core by its id.
    fn core_at(&self, id: u64) -> Option<&Core>;
    /// Timer ticks.
    fn now(&self) -> u64;
    /// Timer ticks of so many microseconds.
    fn ticks(&self, microseconds: u64) -> u64;

    /// Where the calling program goes on after its call.
    fn user_pc(&self) -> u64;
    /// The calling program's stack pointer.
    fn user_sp(&self) -> u64;
    /// The timer interrupts this core when it passes `at`; `u64::MAX`: never.
    fn set_timer(&self, at: u64);

    /// Replaces a word that holds `old`, else answers what it holds: acquires and releases. (The compiler's own calls a function, before which registers must be saved.)
    fn exchange(&self, word: &AtomicU64, old: u64, new: u64) -> Result<(), u64>;
    /// Adds to a word, with wrapping; releases.
    fn add(&self, word: &AtomicU64, value: u64);

    /// Fills a frame with zeros.
    fn zero(&self, pfn: Pfn);
    /// New descriptors become visible to the table walkers of all cores.
    fn publish_descriptors(&self);
    /// Drops what all cores' TLBs hold for a page, all levels; complete only after [`Machine::finish_invalidation`].
    fn invalidate_page(&self, asid: u64, va: u64);
    /// Drops what all cores' TLBs hold for an address space; complete only after [`Machine::finish_invalidation`].
    fn invalidate_space(&self, asid: u64);
    /// Waits until all invalidations are complete on all cores.
    fn finish_invalidation(&self);
    /// Cleans a frame's data cache to the point of unification, before it is executed.
    fn clean_code(&self, pfn: Pfn);
    /// After the last [`Machine::clean_code`]: all cores' instruction caches forget what they held.
    fn invalidate_instructions(&self);

    /// The physical page outside RAM is the kernel's own device (interrupt controller, SMMU).
    fn kernel_device(&self, pfn: Pfn) -> bool;
    /// The frame of the debug UART.
    fn uart(&self) -> Option<Pfn>;
    /// The environment that claimed the debug UART; 0: the kernel has it.
    fn uart_owner(&self) -> &AtomicU64;
    /// Takes the debug UART back and sets it up anew.
    fn reset_uart(&self);
    /// Writes bytes to the debug UART.
    fn write_uart(&self, bytes: &[u8]);

    /// Routes an interrupt line to a core and unmasks it; edge-triggered or level-sensitive.
    fn route_line(&self, line: u64, core: u64, trigger: Trigger);
    /// Masks an interrupt line until it is acknowledged.
    fn mask_line(&self, line: u64);
    /// Leaves an interrupt line masked, inactive and unrouted.
    fn retire_line(&self, line: u64);
    /// Unmasks an interrupt line.
    fn unmask_line(&self, line: u64);
    /// Makes another core look at its ready slots and at who must stop.
    fn interrupt_core(&self, id: u64);
    /// Every core has left the kernel once since the objects that are to be freed became unreachable.
    fn quiesced(&self) -> bool;

    /// FP/SIMD registers of `from`'s control page move into the registers, and EL0 may use them.
    fn load_fp(&self, control: Pfn);
    /// FP/SIMD registers are saved to a control page, and EL0's next use traps.
    fn save_fp(&self, control: Pfn);
    /// EL0's next use of FP/SIMD traps; the registers' contents are dropped.
    fn drop_fp(&self);

    /// Switches the machine off or restarts it. Returns only on the test machine.
    fn power(&self, what: Power);
}

/// How an interrupt line signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Until the device is served.
    Level,
    /// Once.
    Edge,
}

/// What becomes of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// Off, with an exit code for an emulator.
    Off(u64),
    /// Restart.
    Reset,
}
