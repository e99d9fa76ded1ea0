//! The beginning and the end of a program: `_start`, the change of stacks, exit codes, panics.
//!
//! `_start` runs on the small stack that the vcore begins with. It makes the control page the library's, reads what the
//! program was told, declares stack and heap as regions, and calls `main` on the main stack. From then on the small
//! stack belongs to upcalls.

use crate::start;
use core::fmt::Display;

/// Exit code of a program that panicked.
pub const PANICKED: u64 = 101;
/// Exit code of a program whose maker speaks another version of the contract, or told it nonsense.
pub const NOT_STARTED: u64 = 102;

/// What `main` may return: its meaning as an exit code.
pub trait Termination {
    /// The exit code.
    fn code(self) -> u64;
}

impl Termination for () {
    fn code(self) -> u64 {
        0
    }
}

impl Termination for u64 {
    fn code(self) -> u64 {
        self
    }
}

/// The type of `main` functions that never return, which has no name of its own in stable Rust.
pub trait Returns {
    /// What the function returns.
    type Output;
}

impl<R> Returns for fn() -> R {
    type Output = R;
}

impl Termination for <fn() -> ! as Returns>::Output {
    fn code(self) -> u64 {
        self
    }
}

impl<T: Termination, E: Display> Termination for Result<T, E> {
    fn code(self) -> u64 {
        match self {
            Ok(value) => value.code(),
            Err(error) => {
                crate::println!("{}: {error}", name());
                1
            }
        }
    }
}

/// Ends the program, with a code for its supervisor.
pub fn exit(code: u64) -> ! {
    crate::console::flush();
    crate::sys::halt(code)
}

/// The program's name, for messages.
pub(crate) fn name() -> &'static str {
    start::info_if_known().map_or("program", |info| info.name)
}

/// Makes `main` of an application its entry: `libos::main!(main);`.
///
/// `main` takes nothing and returns what [`Termination`] understands.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn velvet_main() -> ! {
            $crate::exit($crate::Termination::code($main()))
        }

        #[unsafe(no_mangle)]
        extern "C" fn velvet_begin(x0: u64, sp: u64) -> ! {
            $crate::entry::begin(x0, sp, $crate::entry::Kind::Application, velvet_main)
        }
    };
}

/// Makes `main` of the first environment its entry. It is told nothing but the frame of the machine's description.
#[macro_export]
macro_rules! first_main {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn velvet_main() -> ! {
            $crate::exit($crate::Termination::code($main()))
        }

        #[unsafe(no_mangle)]
        extern "C" fn velvet_begin(x0: u64, sp: u64) -> ! {
            $crate::entry::begin(x0, sp, $crate::entry::Kind::First, velvet_main)
        }
    };
}

/// Who starts a program, and what x0 means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another environment; x0 is the address of a [`start::StartInfo`].
    Application,
    /// The kernel; x0 is the frame of [`exo_abi::exposed::MachineInfo`].
    First,
}

#[cfg(target_os = "none")]
pub use machine::begin;
#[cfg(target_os = "none")]
pub(crate) use machine::{adopt_vcore, call_on_stack};

/// Nothing begins on a host.
#[cfg(not(target_os = "none"))]
pub fn begin(_: u64, _: u64, _: Kind, _: extern "C" fn() -> !) -> ! {
    panic!("programs begin on Velvet only")
}

#[cfg(target_os = "none")]
mod machine {
    use super::{Kind, NOT_STARTED, PANICKED, name};
    use crate::control::{self, library_get, library_set};
    use crate::start::{self, INFO_PAGES, Layout, StartInfo};
    use crate::{machine, mem, sys, upcall};
    use alloc::vec::Vec;
    use core::arch::{asm, global_asm};
    use core::panic::PanicInfo;
    use core::ptr::addr_of_mut;
    use exo_abi::exposed::MachineInfo;
    use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal, binding};

    /// Pages of address space for the first environment's heap and stack.
    const FIRST_HEAP_PAGES: u64 = 256;
    const FIRST_STACK_PAGES: u64 = 16;
    /// The first environment's own numbers.
    const FIRST_ENVIRONMENT: u32 = 1;
    const FIRST_POOL: u32 = 1;
    /// Binding slots of a table of one frame.
    const SLOTS: u16 = exo_abi::BINDINGS_PER_FRAME as u16;

    global_asm!(
        ".pushsection .text.velvet_start, \"ax\", %progbits",
        ".globl _start",
        "_start:",
        "mov x29, xzr",
        "mov x30, xzr",
        "mov x1, sp",
        "b velvet_begin",
        ".popsection",
        // The version this program is built for; kept through the linker's garbage collection ("R").
        ".pushsection .velvet.abi, \"aR\", %progbits",
        ".balign 4",
        ".word {version}",
        ".popsection",
        version = const exo_abi::ABI_VERSION,
    );

    /// The library's first code. What `_start` calls, by way of the application's macro.
    pub fn begin(x0: u64, sp: u64, kind: Kind, main: extern "C" fn() -> !) -> ! {
        // No upcall entry yet: a fault in here stops the vcore, and its supervisor sees where.
        adopt_vcore(0, sp);
        let made = match kind {
            Kind::Application => begin_application(x0),
            Kind::First => begin_first(Pfn(x0)),
        };
        match made {
            Ok(layout) => call_on_stack(layout.stack_end, main),
            Err(_) => sys::halt(NOT_STARTED),
        }
    }

    /// Makes the running vcore's control page the library's; `stack_end` becomes the top of its upcall stack.
    pub fn adopt_vcore(index: u64, stack_end: u64) {
        library_set!(index, vcore);
        library_set!(stack_end, upcall_stack);
        // SAFETY: the page is this vcore's; the upcall stack is in place.
        unsafe {
            addr_of_mut!((*control::page()).upcall_entry).write_volatile(upcall::entry_address())
        };
    }

    fn begin_application(info: u64) -> Result<Layout, Refusal> {
        let bytes = mem::bytes_mapped_for_good(info, INFO_PAGES * PAGE_BYTES);
        // The heap comes before the rest of what the page tells: decoding allocates.
        let (version, layout, frame) = start::peek(bytes).ok_or(Refusal::BadArgument)?;
        if version != exo_abi::ABI_VERSION {
            return Err(Refusal::BadArgument);
        }
        let seed = info ^ frame;
        begin_memory(&layout, Pfn(frame), seed)?;
        start::set_info(start::decode(bytes).ok_or(Refusal::BadArgument)?);
        Ok(layout)
    }

    fn begin_first(frame: Pfn) -> Result<Layout, Refusal> {
        let control = control::page() as u64;
        let layout = Layout::above(control, FIRST_STACK_PAGES, FIRST_HEAP_PAGES);
        begin_memory(&layout, frame, 0)?;
        let machine: &MachineInfo = machine::info();
        start::set_info(StartInfo {
            abi_version: exo_abi::ABI_VERSION,
            name: "init",
            args: Vec::new(),
            environment: FIRST_ENVIRONMENT,
            pool: FIRST_POOL,
            core: 0,
            frames: machine.frames_free_at_start,
            layout,
            machine_frame: frame.0,
            timer_hz: machine.timer_hz,
            slots: (binding::first::FREE.0, SLOTS - binding::first::FREE.0),
            cells: (0, 0),
            environments: (0, 0),
            pools: (0, 0),
            bindings: Vec::new(),
            devices: Vec::new(),
            files: Vec::new(),
        });
        Ok(layout)
    }

    /// Machine pages, then the regions, then what stands on them.
    fn begin_memory(layout: &Layout, machine_frame: Pfn, seed: u64) -> Result<(), Refusal> {
        mem::places::begin(layout.maps, layout.far, layout.far_end);
        machine::begin(machine_frame)?;
        mem::frames::begin_at(seed);
        for (start, end) in [
            (layout.stack, layout.stack_end),
            (layout.heap, layout.heap_end),
        ] {
            if start < end {
                mem::add_region(start, end).ok_or(Refusal::BadArgument)?;
            }
        }
        mem::begin_heap(layout.heap, layout.heap_end);
        Ok(())
    }

    /// Calls a function that never returns on another stack.
    pub fn call_on_stack(stack_end: u64, function: extern "C" fn() -> !) -> ! {
        // SAFETY: the stack is a region of the layout that nothing else uses; the function never comes back to this one.
        unsafe {
            asm!("mov sp, {stack}", "mov x29, xzr", "mov x30, xzr", "br {function}", stack = in(reg) stack_end, function = in(reg) function, options(noreturn))
        }
    }

    #[panic_handler]
    fn panic(info: &PanicInfo) -> ! {
        // Only the first panic of a vcore speaks: printing might panic too.
        if library_get!(panicking) == 0 {
            library_set!(1, panicking);
            crate::println!("{}: {info}", name());
            crate::console::flush();
        }
        let _ = Handle::SELF;
        sys::halt(PANICKED)
    }
}
