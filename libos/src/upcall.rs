//! Upcalls: how a fault, an event or a foreign system call interrupts the program, and how it goes on.
//!
//! The kernel keeps pc, flags, x16 and x17 in the control page, masks upcalls and jumps to one of the library's entries ([`Entry`]). All have two ways:
//!
//! - The **light** way saves the registers that a Rust function may change, floating point excepted, and answers
//!   demand-zero faults whose frame is in stock, or whatever the application's light handler answers. Code on this way
//!   contains no floating-point instruction; [`set_light_handler`] reads the machine code to be sure.
//! - The **full** way saves everything, fetches frames, installs tables, and asks the application's handlers.
//!
//! Two entries come before them for who has a use for them, and ask the application first, its regions after it:
//!
//! - The **short** one for a light handler whose machine code changes so few registers that there is hardly anything to save.
//! - The **quick** one for a handler that is any Rust function, floating point included, and content with pc, flags and x0 to x17
//!   ([`set_quick_handler`]).
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
mod registers;
#[expect(unsafe_code, reason = "a register that holds nothing")]
mod words;

#[cfg(target_os = "none")]
pub(crate) use entry::address as entry_address;
pub use exo_abi::control_page::Frame;
pub use handlers::{Refused, light_way_is_integer_only, on_events, on_fault, set_light_handler, set_quick_handler};
pub use words::Words;

use exo_abi::page::MapEntry;

/// Where the upcalls of a vcore enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The light way, then the full one.
    Common,
    /// The light handler at once, with six registers saved; then [`Entry::Common`].
    Short,
    /// The quick handler at once, with what any Rust function may change saved; then [`Entry::Common`].
    Quick,
}

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

/// What answers a fault. A light or quick handler sees and may change `pc`, `flags` and x0 to x17 of the frame only. It is asked about events
/// too (`cause` 0) and perhaps twice about one upcall, if it says [`Resume::NotMine`]; then the frame must be as it was.
pub type Handler = fn(&mut Frame) -> Resume;

/// What [`light_handler!`](crate::light_handler) makes of a function.
pub type LightHandler = extern "C" fn(&mut Frame) -> Words;

/// What [`quick_handler!`](crate::quick_handler) makes of a function.
pub type QuickHandler = extern "C" fn(&mut Frame) -> Words;

/// Makes a function fit for [`set_light_handler`]: `libos::light_handler!(NAME = fn_name);` declares `NAME: LightHandler`.
///
/// The function must be `#[inline(always)]`, use integers only, and call nothing that can panic.
#[macro_export]
macro_rules! light_handler {
    ($(#[$doc:meta])* $name:ident = $function:path) => {
        $crate::quick_handler!(@ [$(#[$doc])*], [#[unsafe(link_section = "velvet_light")]], $name, $function);
    };
}

/// Makes a function fit for [`set_quick_handler`]: `libos::quick_handler!(NAME = fn_name);` declares `NAME: QuickHandler`.
#[macro_export]
macro_rules! quick_handler {
    ($(#[$doc:meta])* $name:ident = $function:path) => {
        $crate::quick_handler!(@ [$(#[$doc])*], [], $name, $function);
    };
    (@ [$($doc:tt)*], [$($section:tt)*], $name:ident, $function:path) => {
        $($doc)*
        const $name: extern "C" fn(&mut $crate::upcall::Frame) -> $crate::upcall::Words = {
            $($section)*
            extern "C" fn handler(frame: &mut $crate::upcall::Frame) -> $crate::upcall::Words {
                $function(frame).into()
            }
            handler
        };
    };
}
