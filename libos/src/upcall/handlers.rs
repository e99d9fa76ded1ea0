//! Who answers an upcall: the library's regions, then the application's handlers, then nobody.

use super::fp::{self, Calls};
use super::{Entry, Handler, LightHandler, QuickHandler, registers};
use crate::control::{self, library_get};
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

/// Answers faults of this vcore on the light way; `None`: nobody. Other faults go the full way.
///
/// Where its machine code changes no register but x0, x1 and x8 to x11, calls nothing, and uses of the frame only these registers, x16, x17 and
/// what the kernel says, upcalls enter by [`Entry::Short`] and ask it before the regions. Else it is asked about what lies in no region.
/// Answers with the entry that upcalls now take.
pub fn set_light_handler(handler: Option<LightHandler>) -> Result<Entry, Refused> {
    let Some(handler) = handler else {
        return Ok(set_handlers(0, None, library_get!(quick_handler)));
    };
    let address = handler as *const () as u64;
    let its_own = declared_from(address).ok_or(Refused::NotDeclared)?;
    fp::check(declared_light_code(), Calls::Never).map_err(Refused::Unfit)?;
    Ok(set_handlers(address, Some(its_own), library_get!(quick_handler)))
}

/// Answers faults of this vcore at once, before the regions are asked; `None`: nobody. Such a handler may use floating point and the stack,
/// but sees and may change `pc`, `flags` and x0 to x17 of the frame only. A light handler on the short entry comes before it.
/// Answers with the entry that upcalls now take.
pub fn set_quick_handler(handler: Option<QuickHandler>) -> Entry {
    let light = library_get!(light_handler);
    set_handlers(light, declared_from(light), handler.map_or(0, |handler| handler as *const () as u64))
}

/// The code of light handlers from `address` on.
fn declared_from(address: u64) -> Option<&'static [u32]> {
    let code = declared_light_code();
    let bytes = address.checked_sub(code.as_ptr() as u64)?;
    code.get((bytes / 4) as usize..).filter(|code| !code.is_empty())
}

/// Writes both words, and the entry that suits them. `light_code` begins with the light handler's.
fn set_handlers(light: u64, light_code: Option<&[u32]>, quick: u64) -> Entry {
    // An upcall may come in between: the common entry minds no word that changes.
    set_entry(Entry::Common);
    control::library_set!(light, light_handler);
    control::library_set!(quick, quick_handler);
    let entry = match light_code {
        Some(code) if registers::check(code).is_ok() => Entry::Short,
        _ if quick != 0 => Entry::Quick,
        _ => Entry::Common,
    };
    set_entry(entry);
    entry
}

fn set_entry(entry: Entry) {
    #[cfg(target_os = "none")]
    control::set_upcall_entry(super::entry_address(entry));
    #[cfg(not(target_os = "none"))]
    control::set_upcall_entry(entry as u64);
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

#[cfg(target_os = "none")]
mod machine {
    use super::super::entry::FULL_WAY;
    use super::{EVENT_HANDLER, FAULT_HANDLER};
    use crate::control::{self, library_get, library_set};
    use crate::mem::{self, Answer};
    use crate::sys;
    use crate::upcall::{Frame, Handler, LightHandler, QuickHandler, Resume, Words};
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
    extern "C" fn velvet_upcall_light() -> u64 {
        // SAFETY: the kernel keeps the page mapped; during an upcall nobody else touches this frame.
        let frame = unsafe { &mut *addr_of_mut!((*control::page()).upcall) };
        if library_get!(batch_used) != 0 {
            return FULL_WAY;
        }
        if let Some(entry) = mem::light_answer(frame.cause, frame.address) {
            library_set!(1, answered);
            return in_batch(entry);
        }
        match light_handler() {
            Some(handler) => ask_light_handler(frame, handler),
            None => FULL_WAY,
        }
    }

    /// For itself, so that what is above needs no frame on the stack.
    #[inline(never)]
    #[unsafe(link_section = "velvet_light_way")]
    fn ask_light_handler(frame: &mut Frame, handler: LightHandler) -> u64 {
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
            refused => return after_refusal(page, frame.address, refused & 0xffff, refused >> 16),
        }
        // What a light handler answered on the short entry, where a batch was in use.
        match library_get!(kept[0]) {
            0 => {}
            first => {
                library_set!(0, kept[0]);
                library_set!(0, answered);
                return apply(page, &[MapEntry { first, second: library_get!(kept[1]) }]);
            }
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

    /// What a quick handler answered, other than that the program goes on. Answers with the number of batch entries, or [`FULL_WAY`].
    #[unsafe(no_mangle)]
    extern "C" fn velvet_upcall_quick_answer(words: Words) -> u64 {
        match words.into() {
            Resume::Continue => 0,
            Resume::Mapping(entry) if adds(&entry) => {
                library_set!(0, answered);
                apply(control::page(), &[entry])
            }
            Resume::Mapping(_) | Resume::NotMine => FULL_WAY,
        }
    }

    /// The application's handlers: the light one too, where the batch buffer was in use and the light way did not ask it.
    fn ask_handlers(frame: &mut Frame) -> Resume {
        let light = light_handler().filter(|_| library_get!(batch_used) != 0);
        for handler in [light, quick_handler()].into_iter().flatten() {
            match handler(frame).into() {
                Resume::NotMine => {}
                answer => return answer,
            }
        }
        fault_handler().map_or(Resume::NotMine, |handler| handler(frame))
    }

    #[inline(always)]
    fn adds(entry: &MapEntry) -> bool {
        let op = entry.first & 0xf;
        op == MapOp::Map as u64 || op == MapOp::InstallTable as u64
    }

    /// `resume` was refused after `done` entries that answer the fault at `address`. Where another vcore was faster the program goes on; else it ends.
    fn after_refusal(page: *mut ControlPage, address: u64, refusal: u64, done: u64) -> u64 {
        // An answer that was taken does not pass by here, so only refusals at one address are certainly in a row.
        let refusals = if library_get!(refused_address) == address { library_get!(refusals) } else { 0 };
        library_set!(refusals + 1, refusals);
        library_set!(address, refused_address);
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
        control::set_upcall_entry(0);
        // SAFETY: the frame is ours during the upcall.
        unsafe {
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

    fn quick_handler() -> Option<QuickHandler> {
        let handler = library_get!(quick_handler);
        // SAFETY: only `set_quick_handler` writes the word, with a `QuickHandler` or 0.
        (handler != 0).then(|| unsafe { core::mem::transmute::<u64, QuickHandler>(handler) })
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

    extern "C" fn handler(_: &mut Frame) -> Words {
        Resume::Continue.into()
    }

    #[test]
    fn a_function_that_was_not_declared_is_no_light_handler() {
        assert_eq!(set_light_handler(Some(handler)), Err(Refused::NotDeclared));
        assert_eq!(set_light_handler(None), Ok(Entry::Common));
    }
}
