//! Who answers an upcall: the library's regions, then the application's handlers, then nobody.

use super::fp::{self, Calls};
use super::{Handler, LightHandler};
use crate::control;
use core::sync::atomic::{AtomicPtr, Ordering::Release};

static FAULT_HANDLER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static EVENT_HANDLER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Answers faults that lie in no region, `svc #0` included, with every register at hand. The last handler given is asked.
pub fn on_fault(handler: Handler) {
    FAULT_HANDLER.store(handler as *mut (), Release);
}

/// Delivers the events of `mask` to `handler` as they come, in the middle of whatever this vcore does.
pub fn on_events(mask: u64, handler: fn(u64)) {
    EVENT_HANDLER.store(handler as *mut (), Release);
    control::set_upcall_events(mask);
}

/// Why a function cannot be a light handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It was not declared by [`crate::light_handler!`].
    NotDeclared,
    /// Its machine code touches floating point, or calls something.
    Unfit(fp::Unfit),
}

/// Answers faults that lie in no region on the light way; `None`: nobody. Other faults go the full way.
pub fn set_light_handler(handler: Option<LightHandler>) -> Result<(), Refused> {
    let Some(handler) = handler else {
        set_light_word(0);
        return Ok(());
    };
    let code = declared_light_code();
    let address = handler as *const () as u64;
    let range = code.as_ptr_range();
    if !(range.start as u64..range.end as u64).contains(&address) {
        return Err(Refused::NotDeclared);
    }
    fp::check(code, Calls::Never).map_err(Refused::Unfit)?;
    set_light_word(address);
    Ok(())
}

/// Whether the library's own light way keeps its promise: no floating-point instruction, no call but that of the handler.
pub fn light_way_is_integer_only() -> bool {
    fp::check(library_light_code(), Calls::ThroughRegisters).is_ok()
}

#[cfg(target_os = "none")]
mod code {
    unsafe extern "C" {
        static __start_velvet_light: u32;
        static __stop_velvet_light: u32;
        static __start_velvet_light_way: u32;
        static __stop_velvet_light_way: u32;
    }

    // No application need declare a handler: then there is no section, and both symbols are 0.
    core::arch::global_asm!(".weak __start_velvet_light", ".weak __stop_velvet_light");

    fn between(start: *const u32, stop: *const u32) -> &'static [u32] {
        if start.is_null() {
            return &[];
        }
        let words = (stop as usize - start as usize) / 4;
        // SAFETY: the linker puts these symbols at the ends of a section of instructions, which is mapped readable for good.
        unsafe { core::slice::from_raw_parts(start, words) }
    }

    pub fn declared() -> &'static [u32] {
        between(&raw const __start_velvet_light, &raw const __stop_velvet_light)
    }

    pub fn librarys() -> &'static [u32] {
        between(&raw const __start_velvet_light_way, &raw const __stop_velvet_light_way)
    }
}

#[cfg(target_os = "none")]
use code::{declared as declared_light_code, librarys as library_light_code};

#[cfg(not(target_os = "none"))]
fn declared_light_code() -> &'static [u32] {
    &[]
}

#[cfg(not(target_os = "none"))]
fn library_light_code() -> &'static [u32] {
    &[]
}

fn set_light_word(address: u64) {
    control::library_set!(address, light_handler);
}

#[cfg(target_os = "none")]
mod machine {
    use super::super::entry::FULL_WAY;
    use super::{EVENT_HANDLER, FAULT_HANDLER};
    use crate::control::{self, library_get, library_set};
    use crate::mem::{self, Answer};
    use crate::sys;
    use crate::upcall::{Frame, Handler, LightHandler, Resume};
    use core::ptr::addr_of_mut;
    use core::sync::atomic::Ordering::Acquire;
    use exo_abi::control_page::ControlPage;
    use exo_abi::page::{MapEntry, MapOp};
    use exo_abi::{Handle, Refusal};

    /// Refused resumes in a row after which the program is given up.
    const MAX_REFUSALS: u64 = 8;
    /// Exception class of `svc` (Arm ARM D24.2.37).
    const CLASS_SVC: u64 = 0x15;

    /// The light way. Answers with the number of batch entries, or [`FULL_WAY`].
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "velvet_light_way")]
    extern "C" fn velvet_upcall_light(page: *mut ControlPage) -> u64 {
        // SAFETY: the kernel keeps the page mapped; during an upcall nobody else touches this frame.
        let frame = unsafe { &mut *addr_of_mut!((*page).upcall) };
        if frame.spare != 0 || library_get!(batch_used) != 0 {
            return FULL_WAY;
        }
        if let Some(entry) = mem::light_answer(frame.cause, frame.address) {
            library_set!(1, answered);
            return in_batch(entry);
        }
        let Some(handler) = light_handler() else {
            return FULL_WAY;
        };
        match handler(frame).into() {
            Resume::Continue => 0,
            Resume::Mapping(entry) => {
                library_set!(0, answered);
                in_batch(entry)
            }
            Resume::NotMine => FULL_WAY,
        }
    }

    /// One entry for `resume`. A handler may add pages and tables, never take memory away that Rust counts on.
    #[inline(always)]
    fn in_batch(entry: MapEntry) -> u64 {
        if !adds(&entry) {
            return FULL_WAY;
        }
        control::write_batch(0, [entry.first, entry.second]);
        1
    }

    /// The full way. Answers with the number of batch entries.
    #[unsafe(no_mangle)]
    extern "C" fn velvet_upcall_full(page: *mut ControlPage) -> u64 {
        // SAFETY: the kernel keeps the page mapped; during an upcall nobody else touches this frame.
        let frame = unsafe { &mut *addr_of_mut!((*page).upcall) };
        library_set!(library_get!(full_upcalls) + 1, full_upcalls);
        match core::mem::take(&mut frame.spare) {
            0 => library_set!(0, refusals),
            refused => return after_refusal(page, refused & 0xffff, refused >> 16),
        }
        if frame.cause == 0 {
            if let Some(handler) = event_handler() {
                handler(frame.events);
            }
            return 0;
        }
        match mem::answer_fault(frame.cause, frame.address) {
            Answer::Map(entries, count) => {
                library_set!(count as u64, answered);
                return apply(page, &entries[..count]);
            }
            Answer::NoMemory(refusal) => {
                crate::println!("{}: no frame for {:#x}: {refusal}", crate::entry::name(), frame.address);
                return die(page);
            }
            Answer::NotMine => {}
        }
        match ask_handlers(frame) {
            Resume::Continue => 0,
            Resume::Mapping(entry) if adds(&entry) => {
                library_set!(0, answered);
                apply(page, &[entry])
            }
            Resume::Mapping(_) | Resume::NotMine => match mem::way_out(frame.pc) {
                // A copy of shared memory, whose owner took the frames away.
                Some(way_out) => {
                    frame.pc = way_out;
                    0
                }
                None => die(page),
            },
        }
    }

    /// The application's handlers: the light one too, where the batch buffer was in use and the light way did not ask it.
    fn ask_handlers(frame: &mut Frame) -> Resume {
        let answer = match light_handler() {
            Some(handler) if library_get!(batch_used) != 0 => handler(frame).into(),
            _ => Resume::NotMine,
        };
        match (answer, fault_handler()) {
            (Resume::NotMine, Some(handler)) => handler(frame),
            (answer, _) => answer,
        }
    }

    #[inline(always)]
    fn adds(entry: &MapEntry) -> bool {
        let op = entry.first & 0xf;
        op == MapOp::Map as u64 || op == MapOp::InstallTable as u64
    }

    /// `resume` was refused after `done` entries. Where another vcore was faster the program goes on; else it ends.
    fn after_refusal(page: *mut ControlPage, refusal: u64, done: u64) -> u64 {
        let refusals = library_get!(refusals);
        library_set!(refusals + 1, refusals);
        if refusal != Refusal::AlreadyMapped as u64 || refusals >= MAX_REFUSALS {
            return die(page);
        }
        // The frames of what was not done go back into the stock, unless a handler of the application named them.
        for index in done..library_get!(answered) {
            mem::take_back(control::read_batch(index as usize));
        }
        library_set!(0, answered);
        0
    }

    /// Applies entries on the way back, or at once when the program was filling the batch buffer.
    fn apply(page: *mut ControlPage, entries: &[MapEntry]) -> u64 {
        if library_get!(batch_used) == 0 {
            for (index, entry) in entries.iter().enumerate() {
                control::write_batch(index, [entry.first, entry.second]);
            }
            return entries.len() as u64;
        }
        // SAFETY: the entries map where nothing is mapped: the kernel refuses any other place.
        match unsafe { sys::map(Handle::SELF, entries) } {
            Ok(_) => 0,
            Err(stopped) if stopped.refusal == Refusal::AlreadyMapped => {
                let undone = &entries[stopped.done as usize..];
                if library_get!(answered) != 0 {
                    undone.iter().for_each(|entry| mem::take_back([entry.first, entry.second]));
                }
                0
            }
            Err(_) => die(page),
        }
    }

    /// Nobody answers: the program faults again without an upcall entry, and the kernel keeps its registers.
    fn die(page: *mut ControlPage) -> u64 {
        // SAFETY: the kernel reads the word at the next fault; the frame is ours during the upcall.
        unsafe {
            addr_of_mut!((*page).upcall_entry).write_volatile(0);
            let frame = &mut *addr_of_mut!((*page).upcall);
            // A system call goes on behind itself; it is to happen again.
            if frame.cause >> 26 == CLASS_SVC {
                frame.pc -= 4;
            }
        }
        0
    }

    #[inline(always)]
    fn light_handler() -> Option<LightHandler> {
        let handler = library_get!(light_handler);
        // SAFETY: only `set_light_handler` writes the word, with a `LightHandler` or 0.
        (handler != 0).then(|| unsafe { core::mem::transmute::<u64, LightHandler>(handler) })
    }

    fn fault_handler() -> Option<Handler> {
        let handler = FAULT_HANDLER.load(Acquire);
        // SAFETY: only `on_fault` writes it, with a `Handler`.
        (!handler.is_null()).then(|| unsafe { core::mem::transmute::<*mut (), Handler>(handler) })
    }

    fn event_handler() -> Option<fn(u64)> {
        let handler = EVENT_HANDLER.load(Acquire);
        // SAFETY: only `on_events` writes it, with such a function.
        (!handler.is_null()).then(|| unsafe { core::mem::transmute::<*mut (), fn(u64)>(handler) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upcall::{Frame, Resume, Words};
    use exo_abi::page::{MapEntry, Prot};
    use exo_abi::{Handle, Pfn};

    extern "C" fn handler(_: &mut Frame) -> Words {
        Resume::Continue.into()
    }

    #[test]
    fn two_registers_hold_every_answer() {
        let entry = MapEntry::map(0, Pfn(0), 1, Prot::READ, Handle::POOL);
        for resume in [Resume::Continue, Resume::NotMine, Resume::Mapping(entry)] {
            assert_eq!(Resume::from(Words::from(resume)), resume);
        }
    }

    #[test]
    fn a_function_that_was_not_declared_is_no_light_handler() {
        assert_eq!(set_light_handler(Some(handler)), Err(Refused::NotDeclared));
        assert_eq!(set_light_handler(None), Ok(()));
    }
}
