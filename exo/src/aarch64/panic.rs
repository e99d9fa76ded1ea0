//! The kernel is wrong: it says so on the UART, whoever had it, and stops. Without `core::fmt`, which would be a tenth of the kernel.

use super::{power, uart};
use exo::machine::Power;

/// An exception of the kernel's own.
pub extern "C" fn fault(cause: u64, pc: u64, address: u64) -> ! {
    uart::reset();
    stop(&[
        ("\r\nexo: panic: exception in the kernel: ESR 0x", cause, 16),
        (" at 0x", pc, 16),
        (", FAR 0x", address, 16),
    ])
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    uart::reset();
    let (file, line) = info.location().map_or(("", 0), |at| (at.file(), at.line()));
    stop(&[("\r\nexo: panic: ", 0, 0), (file, 0, 0), (":", line as u64, 10)])
}

/// Says texts, each followed by its number (in a base; 0: none), and switches off, with the exit code of a kernel that panicked.
pub fn stop(parts: &[(&str, u64, u64)]) -> ! {
    say(parts);
    power::switch(Power::Off(101))
}

/// Says texts, each followed by its number.
pub fn say(parts: &[(&str, u64, u64)]) {
    for (text, number, base) in parts {
        uart::put(text.as_bytes());
        put_number(*number, *base);
    }
    uart::put(b"\r\n");
}

fn put_number(number: u64, base: u64) {
    if let Some(rest) = number.checked_div(base) {
        put_number(rest, if rest == 0 { 0 } else { base });
        uart::put(&b"0123456789abcdef"[(number % base) as usize & 15..][..1]);
    }
}
