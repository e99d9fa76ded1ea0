//! More vcores of one's own: each with a control page, a stack for upcalls and a stack of its own.

use crate::mem::{self, Region};
use crate::sys::{self, SliceTerms, VcoreStart};
use alloc::boxed::Box;
use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal};

/// Pages of the stack that upcalls of a further vcore run on.
const UPCALL_PAGES: usize = 3;

/// A vcore to be.
#[derive(Clone, Copy, Debug)]
pub struct Vcore {
    /// Its index in this environment, not used yet.
    pub index: u64,
    /// Its home core.
    pub core: u64,
    /// Pages of its main stack.
    pub stack_pages: u64,
}

/// What a new vcore finds at the address in its x0.
struct Beginning {
    index: u64,
    upcall_stack_end: u64,
    stack_end: u64,
    main: fn(),
}

impl Vcore {
    /// Makes it, ready to run `main` and then halt with code 0. It runs once it has a slice or is lent one.
    pub fn spawn(&self, main: fn()) -> Result<(), Refusal> {
        let mut frames = [Pfn(0); 1 + UPCALL_PAGES];
        mem::alloc_frames(Handle::POOL, &mut frames)?;
        let control = mem::places::take(1).ok_or(Refusal::BadArgument)?;
        let upcall_stack_end = stack_of(&frames[1..])?;
        let stack = Region::demand_zero(self.stack_pages).ok_or(Refusal::BadArgument)?;
        let beginning =
            Box::leak(Box::new(Beginning { index: self.index, upcall_stack_end, stack_end: stack.end, main }));
        let start = VcoreStart {
            control_frame: frames[0],
            control_va: control,
            pc: begin_address(),
            sp: upcall_stack_end,
            x0: core::ptr::from_mut(beginning).expose_provenance() as u64,
            core: self.core,
        };
        // Only a frame that nobody has mapped becomes a control page; then it is mapped.
        begin::create(self.index, &start)?;
        mem::map_for_good(control, frames[0])?;
        sys::vcore_start(Handle::SELF, self.index)
    }

    /// Makes it and claims a position of its core for it.
    pub fn spawn_on(&self, cores: Handle, position: u64, terms: SliceTerms, main: fn()) -> Result<(), Refusal> {
        self.spawn(main)?;
        sys::slice_claim(cores, self.core, position, Handle::SELF, self.index, terms)
    }
}

/// Maps frames side by side, with nothing mapped under them; answers with the address above them.
fn stack_of(frames: &[Pfn]) -> Result<u64, Refusal> {
    let pages = frames.len() as u64;
    let place = mem::places::take(pages + 1).ok_or(Refusal::BadArgument)?;
    for (page, frame) in frames.iter().enumerate() {
        mem::map_for_good(place + (page as u64 + 1) * PAGE_BYTES, *frame)?;
    }
    Ok(place + (pages + 1) * PAGE_BYTES)
}

use begin::begin_address;

#[expect(unsafe_code, reason = "the first instructions of a vcore")]
mod begin {
    use super::*;

    /// Makes a vcore of ours.
    pub fn create(index: u64, start: &VcoreStart) -> Result<(), Refusal> {
        // SAFETY: it begins in `begin` on a stack that was mapped for it, with the `Beginning` that was leaked for it.
        unsafe { sys::vcore_create(Handle::SELF, index, start) }
    }

    #[cfg(not(target_os = "none"))]
    pub fn begin_address() -> u64 {
        0
    }

    #[cfg(target_os = "none")]
    pub fn begin_address() -> u64 {
        begin as *const () as u64
    }

    /// The first function of a further vcore, on its upcall stack.
    #[cfg(target_os = "none")]
    extern "C" fn begin(beginning: &'static Beginning) -> ! {
        crate::entry::adopt_vcore(beginning.index, beginning.upcall_stack_end);
        crate::entry::call_on_stack(beginning.stack_end, run, [beginning.main as usize as u64, 0, 0, 0])
    }

    /// Then, on its main stack.
    #[cfg(target_os = "none")]
    extern "C" fn run(main: u64, _: u64, _: u64, _: u64) -> ! {
        // SAFETY: `begin` passed the function here.
        let main: fn() = unsafe { core::mem::transmute(main) };
        main();
        sys::halt(0)
    }
}
