//! What the decisions need of the machine. `aarch64/` provides it on hardware, the tests provide a fake.

use crate::device_tree::Ranges;
use crate::environment::Environment;
use crate::first::NUMBER;
use crate::frame::Frames;
use crate::pool::Pool;
use crate::slice::Core;
use crate::vcore::{Vcore, VcoreRef};
use core::sync::atomic::{AtomicU8, AtomicU64};
use exo_abi::{MAX_CELLS, MAX_ENVIRONMENTS, MAX_POOLS, Pfn};

/// Where the kernel sees RAM: at its physical address modulo [`MAX_SPAN`], so that going from one to the other needs no variable.
pub const LINEAR: u64 = 0xffff_ff80_0000_0000;
/// Most RAM span that the linear map takes: 256 GiB.
pub const MAX_SPAN: u64 = 256 << 30;

/// The kernel's address of a frame of RAM.
pub const fn linear(pfn: Pfn) -> u64 {
    LINEAR | pfn.address() & (MAX_SPAN - 1)
}

/// A frame seen as words.
pub type Words = [AtomicU64; 512];

/// The fixed tables of the kernel: their sizes do not grow with anything.
pub struct Tables {
    /// Revocation cells: value in bits 63:16, [`crate::binding::OBJECT`].
    pub cells: [AtomicU64; MAX_CELLS as usize],
    /// The environment that may use each cell.
    pub cell_owners: [AtomicU8; MAX_CELLS as usize],
    /// Pools.
    pub pools: [Pool; MAX_POOLS as usize],
    /// Environment numbers: frame of the environment in bits 63:16 (0: unused), owner in 15:0.
    pub environments: [AtomicU64; MAX_ENVIRONMENTS as usize],
    /// The last value given to a cell: none is given twice.
    pub last_cell_value: AtomicU64,
    /// The last ticket that was drawn ([`crate::remote`]).
    pub tickets: AtomicU64,
    /// The environment that claimed the debug UART; 0: the kernel has it.
    pub uart_owner: AtomicU64,
}

impl Tables {
    /// All numbers belong to the first environment; a cell's first value is 1, which nothing empty carries.
    pub const fn at_boot() -> Tables {
        Tables {
            cells: [const { AtomicU64::new(1 << 16) }; MAX_CELLS as usize],
            cell_owners: [const { AtomicU8::new(NUMBER as u8) }; MAX_CELLS as usize],
            pools: [const { Pool::new(NUMBER) }; MAX_POOLS as usize],
            environments: [const { AtomicU64::new(NUMBER) }; MAX_ENVIRONMENTS as usize],
            last_cell_value: AtomicU64::new(1),
            tickets: AtomicU64::new(0),
            uart_owner: AtomicU64::new(0),
        }
    }
}

/// What is found out once, while booting.
pub struct Found<'m> {
    /// The frames' words and the bitmap.
    pub frames: Frames<'m>,
    /// Who has which interrupt line: [`crate::interrupt`]'s words, two a line.
    pub lines: &'m [AtomicU64],
    /// Timer ticks a second.
    pub hz: u64,
    /// The frame of the debug UART.
    pub uart: Option<Pfn>,
    /// The kernel's own devices: the interrupt controller.
    pub devices: Ranges,
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
    /// What was found out while booting.
    fn found(&self) -> &Found<'_>;
    /// The frames' words.
    fn frames(&self) -> &Frames<'_> {
        &self.found().frames
    }
    /// A frame of RAM as words. The caller has seen that it is RAM.
    fn words(&self, pfn: Pfn) -> &Words;
    /// A frame of kind environment. The caller has seen that it is one.
    fn environment(&self, pfn: Pfn) -> &Environment;
    /// The environment of a vcore.
    fn environment_of(&self, vcore: VcoreRef) -> &Environment {
        self.environment(vcore.environment())
    }
    /// A vcore in a frame of kind environment.
    fn vcore(&self, vcore: VcoreRef) -> &Vcore;
    /// The control page of a vcore that was created.
    fn control_page(&self, vcore: &Vcore) -> &Words {
        self.words(vcore.control_frame())
    }
    /// The core this runs on.
    fn core(&self) -> &Core;
    /// A core by its id.
    fn core_at(&self, id: u64) -> Option<&Core>;
    /// Timer ticks.
    fn now(&self) -> u64;
    /// Timer ticks of so many microseconds.
    #[inline(never)]
    fn ticks(&self, microseconds: u64) -> u64 {
        microseconds.saturating_mul(self.found().hz) / 1_000_000
    }

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

    /// Takes the debug UART back and sets it up anew.
    fn reset_uart(&self);
    /// Writes bytes to the debug UART.
    fn write_uart(&self, bytes: &[u8]);

    /// Changes how an interrupt line is treated.
    fn set_line(&self, line: u64, to: Line);
    /// Makes another core look: [`crate::remote::look`], then [`crate::slice::after_interrupt`].
    fn interrupt_core(&self, id: u64);

    /// FP/SIMD registers of `from`'s control page move into the registers, and EL0 may use them.
    fn load_fp(&self, control: Pfn);
    /// FP/SIMD registers are saved to a control page, and EL0's next use traps.
    fn save_fp(&self, control: Pfn);
    /// EL0's next use of FP/SIMD traps; the registers' contents are dropped.
    fn drop_fp(&self);

    /// Switches the machine off or restarts it. Returns only on the test machine.
    fn power(&self, what: Power);
}

/// What becomes of an interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// Masked until it is acknowledged.
    Masked,
    /// Unmasked.
    Unmasked,
    /// Masked, inactive and unrouted.
    Retired,
    /// Routed to a core, and unmasked.
    Routed(u64, Trigger),
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
