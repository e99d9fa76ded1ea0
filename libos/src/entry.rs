//! The beginning and the end of a program: `_start`, the change of stacks, exit codes, panics.
//!
//! `_start` runs on the small stack that the vcore begins with: it learns where things lie, declares stack and heap as
//! regions, and changes to the main stack, whose first touch is the first upcall. From then on the small stack belongs to
//! upcalls. On the main stack the heap begins, the rest of what the program was told is read, and `main` is called.

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

/// Makes `main` of a program its entry: `libos::main!(main);`, or `libos::main!(main, First);` in one that is the first environment, which is
/// told nothing but the frame of the machine's description.
///
/// `main` takes nothing and returns what [`Termination`] understands.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        $crate::main!(@ $main, 0);
    };
    ($main:path, First) => {
        $crate::main!(@ $main, 1);
    };
    (@ $main:path, $first:literal) => {
        #[unsafe(no_mangle)]
        extern "C" fn velvet_main() -> ! {
            $crate::exit($crate::Termination::code($main()))
        }

        // What image-builder and `_start` look at: the version this program is built for, and whether it is a first environment; kept through
        // the linker's garbage collection ("R").
        ::core::arch::global_asm!(
            ".pushsection .velvet.abi, \"aR\", %progbits",
            ".balign 8",
            ".globl velvet_abi",
            "velvet_abi: .word {version}, {first}",
            ".popsection",
            version = const $crate::abi::ABI_VERSION,
            first = const $first,
        );
    };
}

#[cfg(target_os = "none")]
pub(crate) use machine::{adopt_vcore, call_on_stack};

#[cfg(target_os = "none")]
mod machine {
    use super::{NOT_STARTED, PANICKED, name};
    use crate::control::{self, library_get, library_set};
    use crate::start::{self, INFO_PAGES, Layout, StartInfo};
    use crate::{machine, mem, sys, upcall};
    use alloc::vec::Vec;
    use core::arch::{asm, global_asm};
    use core::panic::PanicInfo;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
    use exo_abi::exposed::{Features, MachineInfo};
    use exo_abi::{PAGE_BYTES, Pfn, Refusal, binding};

    /// Pages of address space for the first environment's heap and stack.
    const FIRST_HEAP_PAGES: u64 = 256;
    const FIRST_STACK_PAGES: u64 = 16;
    /// In place of the address of a start page.
    const NOTHING_TOLD: u64 = 0;
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
        "adrp x2, velvet_abi",
        "add x2, x2, :lo12:velvet_abi",
        "ldr w2, [x2, #4]",
        "b {begin}",
        ".popsection",
        begin = sym begin,
    );

    unsafe extern "C" {
        /// Where [`main!`](crate::main) put the application's.
        safe fn velvet_main() -> !;
    }

    /// The library's first code, on the small stack. `first`: the kernel started this program, and x0 is the frame of [`MachineInfo`];
    /// else another environment did, and it is the address of a [`StartInfo`].
    ///
    /// Nothing here touches stack or heap proper: the upcall that fills them would run on the stack that is in use.
    extern "C" fn begin(x0: u64, sp: u64, first: u32) -> ! {
        let first = first != 0;
        let told = if first {
            let control = control::page() as u64;
            Some((exo_abi::ABI_VERSION, Layout::above(control, FIRST_STACK_PAGES, FIRST_HEAP_PAGES), x0))
        } else {
            start::peek(told(x0)).filter(|(version, ..)| *version == exo_abi::ABI_VERSION)
        };
        let Some((_, layout, machine_frame)) = told else { sys::halt(NOT_STARTED) };
        if begin_memory(&layout, Pfn(machine_frame)).is_err() {
            sys::halt(NOT_STARTED);
        }
        adopt_vcore(0, sp);
        let info = if first { NOTHING_TOLD } else { x0 };
        call_on_stack(layout.stack_end, go_on, [info, layout.heap, layout.heap_end, 0])
    }

    /// Makes the running vcore's control page the library's: upcalls enter from now on, on the stack that ends at `stack_end`.
    pub fn adopt_vcore(index: u64, stack_end: u64) {
        library_set!(index, vcore);
        library_set!(stack_end, upcall_stack);
        control::set_upcall_entry(upcall::entry_address(upcall::Entry::Common));
    }

    /// What the outlined atomics of compiler-builtins look at before each operation; not 0: FEAT_LSE is there. A change decides about speed only.
    #[unsafe(no_mangle)]
    static __aarch64_have_lse_atomics: AtomicU8 = AtomicU8::new(0);

    /// Goes on with the main stack: the heap, what the program was told, `main`.
    extern "C" fn go_on(info: u64, heap: u64, heap_end: u64, _: u64) -> ! {
        mem::begin_heap(heap, heap_end);
        let info = match info {
            NOTHING_TOLD => Some(first_info()),
            address => start::decode(told(address)),
        };
        let Some(info) = info else { sys::halt(NOT_STARTED) };
        start::set_info(info);
        velvet_main()
    }

    fn told(info: u64) -> &'static [u8] {
        mem::bytes_mapped_for_good(info, INFO_PAGES * PAGE_BYTES)
    }

    /// What the first environment knows by itself.
    fn first_info() -> StartInfo<'static> {
        let machine: &MachineInfo = machine::info();
        StartInfo {
            abi_version: exo_abi::ABI_VERSION,
            layout: Layout::above(control::page() as u64, FIRST_STACK_PAGES, FIRST_HEAP_PAGES),
            machine_frame: machine::frame().0,
            name: "init",
            args: Vec::new(),
            environment: FIRST_ENVIRONMENT,
            pool: FIRST_POOL,
            core: 0,
            frames: machine.frames_free_at_start,
            timer_hz: machine.timer_hz,
            slots: (binding::first::FREE.0, SLOTS - binding::first::FREE.0),
            cells: (0, 0),
            environments: (0, 0),
            pools: (0, 0),
            bindings: Vec::new(),
            devices: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Machine pages and the regions.
    fn begin_memory(layout: &Layout, machine_frame: Pfn) -> Result<(), Refusal> {
        mem::places::begin(layout.maps, layout.far, layout.far_end);
        let control = mem::tables::leaf(layout.control).ok_or(Refusal::NotMapped)?;
        machine::begin(machine_frame, control.pfn())?;
        let features = Features::from_bits_retain(machine::info().features);
        __aarch64_have_lse_atomics.store(features.contains(Features::LSE) as u8, Relaxed);
        for (start, end) in [(layout.stack, layout.stack_end), (layout.heap, layout.heap_end)] {
            if start < end {
                mem::add_region(start, end).ok_or(Refusal::BadArgument)?;
            }
        }
        Ok(())
    }

    /// Calls a function that never returns on another stack, with four arguments.
    pub fn call_on_stack(stack_end: u64, function: extern "C" fn(u64, u64, u64, u64) -> !, arguments: [u64; 4]) -> ! {
        // SAFETY: the stack is a region that nothing else uses; the function never comes back to this one.
        unsafe {
            asm!(
                "mov sp, {stack}", "mov x29, xzr", "mov x30, xzr", "br {function}",
                stack = in(reg) stack_end, function = in(reg) function,
                in("x0") arguments[0], in("x1") arguments[1], in("x2") arguments[2], in("x3") arguments[3],
                options(noreturn),
            )
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
        sys::halt(PANICKED)
    }
}
