//! The debug UART: a PL011 (Arm DDI 0183), polled, until a driver claims it.

use super::mmu::{self, read, wait_clear, write};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::Range;

const FLAGS: u64 = 0x18;
const LINE_CONTROL: u64 = 0x2c;
const CONTROL: u64 = 0x30;

/// Kernel address of the registers, of which data is the first; 0: none.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Maps the registers and sets the UART up: the boot header's, then the device tree's. Whether there is one.
pub fn begin(registers: Range) -> bool {
    let address = mmu::device(registers);
    BASE.store(address.unwrap_or(BASE.load(Relaxed)), Relaxed);
    reset();
    address.is_some()
}

/// Sets it up as the kernel uses it: 8 bits, no interrupts. The speed stays what firmware set, and so do the FIFOs: switching them would drop what was typed.
pub fn reset() {
    let base = BASE.load(Relaxed);
    if base != 0 {
        wait_clear(base + FLAGS, 1 << 3); // BUSY
        write(base + CONTROL, 0u32);
        write(base + 0x38, 0u32); // UARTIMSC: no interrupt
        write(base + 0x44, 0x7ffu32); // UARTICR: all of them
        write(base + LINE_CONTROL, read(base + LINE_CONTROL) & 1 << 4 | 0x60); // FEN as it is, 8 bits
        write(base + CONTROL, 0x301u32);
    }
}

/// Writes bytes.
pub fn put(bytes: &[u8]) {
    let base = BASE.load(Relaxed);
    for byte in bytes.iter().filter(|_| base != 0) {
        wait_clear(base + FLAGS, 1 << 5); // TXFF: the FIFO is full
        write(base, *byte as u32);
    }
}
