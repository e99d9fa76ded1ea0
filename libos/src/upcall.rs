//! Upcalls: how a fault, an event or a foreign system call interrupts the program, and how it goes on.
//!
//! The kernel keeps pc, flags, x16 and x17 in the control page, masks upcalls and jumps to the library. The library has two ways:
//!
//! - The **light** way saves the registers that a Rust function may change, floating point excepted, and answers
//!   demand-zero faults whose frame is in stock, or whatever the application's light handler answers. Code on this way
//!   contains no floating-point instruction; [`set_light_handler`] reads the machine code to be sure.
//! - The **full** way saves everything, fetches frames, installs tables, and asks the application's handlers.
//!
//! A fault that nobody answers ends the program: the library withdraws its upcall entry and resumes, so that the program
//! faults again, and the kernel keeps the true registers for the supervisor's report.
//!
//! Handlers run on a small stack of their own with upcalls masked: a fault inside them, an allocation included, stops the vcore.

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "saving and restoring registers")]
mod entry;
mod fp;
#[expect(unsafe_code, reason = "function pointers kept in words, the control page's frame")]
mod handlers;

#[cfg(target_os = "none")]
pub(crate) use entry::address as entry_address;
pub use exo_abi::control_page::Frame;
pub use handlers::{Refused, light_way_is_integer_only, on_events, on_fault, set_light_handler};

use exo_abi::page::MapEntry;

/// How a handler ends an upcall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The program goes on as [`Frame`] now says.
    Continue,
    /// The kernel applies this to the own page tables first: a page or a table where there is none.
    Mapping(MapEntry),
    /// This is somebody else's matter.
    NotMine,
}

/// What answers a fault. A light handler may change `pc`, `flags` and x0 to x17 of the frame only.
pub type Handler = fn(&mut Frame) -> Resume;

/// [`Resume`] in two registers: the words of an entry, or 0 and what it is instead.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Words(u64, u64);

impl From<Resume> for Words {
    #[inline(always)]
    fn from(resume: Resume) -> Words {
        match resume {
            Resume::Continue => Words(0, 0),
            Resume::Mapping(MapEntry { first, second }) => Words(first, second),
            Resume::NotMine => Words(0, 1),
        }
    }
}

impl From<Words> for Resume {
    #[inline(always)]
    fn from(words: Words) -> Resume {
        match words {
            Words(0, 0) => Resume::Continue,
            Words(0, _) => Resume::NotMine,
            Words(first, second) => Resume::Mapping(MapEntry { first, second }),
        }
    }
}

/// What [`light_handler!`](crate::light_handler) makes of a function.
pub type LightHandler = extern "C" fn(&mut Frame) -> Words;

/// Makes a function fit for [`set_light_handler`]: `libos::light_handler!(NAME = fn_name);` declares `NAME: LightHandler`.
///
/// The function must be `#[inline(always)]`, use integers only, and call nothing that can panic.
#[macro_export]
macro_rules! light_handler {
    ($(#[$doc:meta])* $name:ident = $function:path) => {
        $(#[$doc])*
        const $name: $crate::upcall::LightHandler = {
            #[unsafe(link_section = "velvet_light")]
            extern "C" fn light(frame: &mut $crate::upcall::Frame) -> $crate::upcall::Words {
                $function(frame).into()
            }
            light
        };
    };
}
