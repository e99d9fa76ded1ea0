//! The kernel is wrong: it says so on the UART, whoever had it, and stops. Without `core::fmt`, which would be a tenth of the kernel.

use super::{power, uart};
use exo::machine::Power;

/// The exit code of a kernel that panicked.
pub const EXIT_CODE: u64 = 101;

/// Says why the machine cannot be started, and stops.
pub fn refuse(why: &str) -> ! {
    say(&["exo: cannot start: ", why, "\r\n"]);
    power::switch(Power::Off(EXIT_CODE))
}

/// An exception of the kernel's own.
pub fn fault(cause: u64, pc: u64, address: u64) -> ! {
    uart::reset();
    let (mut cause_digits, mut pc_digits, mut address_digits) = ([0; 16], [0; 16], [0; 16]);
    say(&[
        "\r\nexo: panic: exception in the kernel: ESR 0x",
        number(cause, 16, &mut cause_digits),
        " at 0x",
        number(pc, 16, &mut pc_digits),
    ]);
    say(&[", FAR 0x", number(address, 16, &mut address_digits), "\r\n"]);
    power::switch(Power::Off(EXIT_CODE))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    uart::reset();
    let mut digits = [0; 16];
    match info.location() {
        Some(at) => say(&["\r\nexo: panic: ", at.file(), ":", number(at.line() as u64, 10, &mut digits), "\r\n"]),
        None => say(&["\r\nexo: panic\r\n"]),
    }
    power::switch(Power::Off(EXIT_CODE))
}

fn say(parts: &[&str]) {
    parts.iter().for_each(|part| uart::put(part.as_bytes()));
}

/// A number's digits, written from the end of the buffer.
fn number(mut value: u64, base: u64, digits: &mut [u8; 16]) -> &str {
    let mut first = digits.len();
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b"0123456789abcdef"[(value % base) as usize & 15];
        (value, first) = (value / base, place);
        if value == 0 {
            break;
        }
    }
    core::str::from_utf8(digits.get(first..).unwrap_or_default()).unwrap_or_default()
}
