//! The debug UART: a PL011 (Arm DDI 0183), polled, until a driver claims it.

use super::mmu;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::Range;

const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const LINE_CONTROL: u64 = 0x2c;
const CONTROL: u64 = 0x30;
const INTERRUPT_MASK: u64 = 0x38;
const INTERRUPT_CLEAR: u64 = 0x44;
const FIFOS: u32 = 1 << 4;
const EIGHT_BITS: u32 = 0x60;
const FLAG_BUSY: u32 = 1 << 3;
const FLAG_FULL: u32 = 1 << 5;
/// Looks at the flags before a character is given up: a UART that answers nothing must not stop the kernel.
const PATIENCE: u32 = 100_000;

/// Kernel address of the registers; 0: none.
static BASE: AtomicU64 = AtomicU64::new(0);

fn read(offset: u64) -> u32 {
    // SAFETY: BASE is 0 (not called then) or a device mapping of a PL011's page.
    unsafe { ((BASE.load(Relaxed) + offset) as *const u32).read_volatile() }
}

fn write(offset: u64, value: u32) {
    // SAFETY: as for `read`.
    unsafe { ((BASE.load(Relaxed) + offset) as *mut u32).write_volatile(value) }
}

/// Maps the registers and sets the UART up: the boot header's, then the device tree's. Whether there is one.
pub fn begin(registers: Range) -> bool {
    let address = mmu::device(registers);
    BASE.store(address.unwrap_or(BASE.load(Relaxed)), Relaxed);
    reset();
    address.is_some()
}

/// Waits, boundedly, until a flag is clear.
fn wait_clear(flag: u32) {
    let _ = (0..PATIENCE).find(|_| read(FLAGS) & flag == 0);
}

/// Sets it up as the kernel uses it: 8 bits, no interrupts. The speed stays what firmware set, and so do the FIFOs: switching them would drop what was typed.
pub fn reset() {
    if BASE.load(Relaxed) == 0 {
        return;
    }
    wait_clear(FLAG_BUSY);
    write(CONTROL, 0);
    write(INTERRUPT_MASK, 0);
    write(INTERRUPT_CLEAR, 0x7ff);
    write(LINE_CONTROL, read(LINE_CONTROL) & FIFOS | EIGHT_BITS);
    write(CONTROL, 0x301);
}

/// Writes bytes.
pub fn put(bytes: &[u8]) {
    if BASE.load(Relaxed) == 0 {
        return;
    }
    for byte in bytes {
        wait_clear(FLAG_FULL);
        write(DATA, *byte as u32);
    }
}
