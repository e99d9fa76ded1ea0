//! The kernel is wrong: it says so on the UART, whoever had it, and stops. Without `core::fmt`, which would be a tenth of the kernel.

use super::{power, uart};
use exo::fault::Fault;
use exo::machine::Power;

/// The exit code of a kernel that panicked.
const EXIT_CODE: u64 = 101;

/// Says why the machine cannot be started, and stops.
#[inline(never)]
pub fn refuse(fault: Fault) -> ! {
    stop(&["exo: cannot start: ", fault.0], &[])
}

/// An exception of the kernel's own.
pub extern "C" fn fault(cause: u64, pc: u64, address: u64) -> ! {
    uart::reset();
    stop(
        &["\r\nexo: panic: exception in the kernel: ESR 0x", " at 0x", ", FAR 0x"],
        &[(cause, 16), (pc, 16), (address, 16)],
    )
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    uart::reset();
    let (file, line) = info.location().map_or(("", 0), |at| (at.file(), at.line()));
    uart::put(b"\r\nexo: panic: ");
    stop(&[file, ":"], &[(0, 0), (line as u64, 10)])
}

/// Says the parts, each followed by its number (in a base; 0: none), and switches off.
fn stop(parts: &[&str], numbers: &[(u64, u64)]) -> ! {
    let mut numbers = numbers.iter();
    for part in parts {
        uart::put(part.as_bytes());
        if let Some((value, base @ 1..)) = numbers.next() {
            put_number(*value, *base);
        }
    }
    uart::put(b"\r\n");
    power::switch(Power::Off(EXIT_CODE))
}

fn put_number(mut value: u64, base: u64) {
    let mut digits = [b'0'; 16];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value % base) as usize & 15];
        value /= base;
    }
    digits.iter().skip_while(|digit| base == 10 && **digit == b'0').for_each(|digit| uart::put(&[*digit]));
}
