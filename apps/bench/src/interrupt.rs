//! The UART's transmit interrupt, from the store that raises it to the driver behind its wait.

use crate::events::{LONG_SLICE, between};
use crate::machine;
use crate::meter::{Failed, ITERATIONS};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use libos::device::{Device, Registers};
use libos::sys::{self, SliceTerms};
use libos::time;
use libos::vcore::Vcore;
use workshop::Ground;

/// Registers of the PL011 (Arm DDI 0183): data, flags, interrupt mask.
mod register {
    pub const DATA: u64 = 0x00;
    pub const FLAGS: u64 = 0x18;
    pub const MASK: u64 = 0x38;
}
/// In the flags: there is no space to send.
const FULL: u32 = 1 << 5;
/// In the mask: there is space to send.
const TRANSMIT: u32 = 1 << 5;
/// The driver's event.
const BIT: u64 = 0;
/// Looks at a full device before a byte is dropped.
const MOST_LOOKS: u32 = 1_000_000;

static ENDED: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Measures `irq_to_handler` and prints it, and `bench done`: from here on the UART is this program's own.
///
/// The measured part: from before the store that unmasks the transmit interrupt in the UART, where it is pending, until the
/// driver runs behind its `wait` for the line's event. The driver is a vcore with a later slice of this round.
pub fn irq_to_handler_then_done(ground: &Ground) -> Result<(), Failed> {
    let mut uart = Uart(device()?.registers()?);
    // What is sent makes the interrupt pending; nobody clears it.
    uart.send(b'\n');
    uart.0.write32(register::MASK, 0);
    let terms = SliceTerms { micros: LONG_SLICE, exact: false };
    Vcore { index: 1, core: 0, stack_pages: 4 }.spawn_on(ground.cores, ground.positions.take()?, terms, drive)?;
    // It begins in its slice, and waits.
    time::sleep(Duration::from_millis(10));
    let mut begun = 0u64;
    for round in 0..ITERATIONS {
        machine::shift(round);
        begun = begun.wrapping_add(sys::ticks());
        uart.0.write32(register::MASK, TRANSMIT);
    }
    if COUNT.load(Relaxed) != ITERATIONS {
        let _ = writeln!(
            uart,
            "bench: irq_to_handler: {} interrupts of {ITERATIONS} ran their driver",
            COUNT.load(Relaxed)
        );
        return Err(Failed::Lacks("an interrupt did not run its driver at once"));
    }
    let _ = writeln!(uart, "bench irq_to_handler {} {ITERATIONS}", between(begun, ENDED.load(Relaxed)));
    let _ = writeln!(uart, "bench done");
    Ok(())
}

fn device() -> Result<Device, Failed> {
    Device::named("arm,pl011").ok_or(Failed::Lacks("the manifest gives it no UART"))
}

/// The driver: what a driver does first, and then as little as makes the next interrupt possible.
fn drive() {
    let Ok(device) = device() else { return };
    let (Ok(registers), Some(line)) = (device.registers(), device.interrupt(0)) else { return };
    if line.bind(BIT).is_err() {
        return;
    }
    while let Ok(events) = sys::wait(1 << BIT, 0) {
        let now = sys::ticks();
        if events & 1 << BIT != 0 {
            ENDED.store(ENDED.load(Relaxed).wrapping_add(now), Relaxed);
            COUNT.store(COUNT.load(Relaxed) + 1, Relaxed);
            registers.write32(register::MASK, 0);
            if line.acknowledge().is_err() {
                return;
            }
        }
    }
}

/// The UART, written to without interrupts.
struct Uart(Registers);

impl Uart {
    fn send(&mut self, byte: u8) {
        for _ in 0..MOST_LOOKS {
            if self.0.read32(register::FLAGS) & FULL == 0 {
                return self.0.write32(register::DATA, u32::from(byte));
            }
        }
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}
