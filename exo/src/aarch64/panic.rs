//! The kernel is wrong: it says so on the UART, whoever had it, and stops.

use super::{power, uart};
use core::fmt::Write;
use exo::machine::Power;

/// The exit code of a kernel that panicked.
pub const EXIT_CODE: u64 = 101;

/// Says why the machine cannot be started, and stops.
pub fn refuse(why: &str) -> ! {
    let _ = writeln!(uart::Writer, "exo: cannot start: {why}\r");
    power::switch(Power::Off(EXIT_CODE))
}

/// An exception of the kernel's own.
pub fn fault(cause: u64, pc: u64, address: u64) -> ! {
    uart::reset();
    let _ = writeln!(uart::Writer, "\r\nexo: panic: exception in the kernel: ESR {cause:#x} at {pc:#x}, FAR {address:#x}\r");
    power::switch(Power::Off(EXIT_CODE))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    uart::reset();
    let _ = writeln!(uart::Writer, "\r\nexo: panic: {info}\r");
    power::switch(Power::Off(EXIT_CODE))
}
