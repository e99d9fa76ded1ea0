//! From the store that raises the UART's transmit interrupt to the driver's first instruction behind its wait.
//!
//! The UART is claimed for this, so the last lines are written to it directly.

use crate::clock::{Figure, TIMES, reading};
use alloc::format;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use exo_abi::Handle;
use libos::device::{Device, Registers};
use libos::sys::SliceTerms;
use libos::vcore::Vcore;
use libos::{event, start, sys};

/// Registers of the UART (PrimeCell PL011, ARM DDI 0183).
mod uart {
    pub const DATA: u64 = 0x00;
    pub const FLAGS: u64 = 0x18;
    pub const MASK: u64 = 0x38;
    pub const FULL: u32 = 1 << 5;
    pub const TRANSMIT: u32 = 1 << 5;
}

static STAMP: AtomicU64 = AtomicU64::new(0);
static SERVED: AtomicU64 = AtomicU64::new(0);
static WAITS: AtomicBool = AtomicBool::new(false);
static FAILED: AtomicBool = AtomicBool::new(false);

/// Measures, prints the last figures, and says that it is done.
pub fn last() -> Result<(), &'static str> {
    let device = Device::named("arm,pl011").ok_or("the manifest gives it no UART")?;
    let registers = device.registers().map_err(|_| "the UART cannot be mapped")?;
    let figure = measure(&registers);
    match figure {
        Ok(figure) => write(&registers, &format!("{figure}\nbench done\n")),
        Err(why) => write(&registers, &format!("bench: {why}\n")),
    }
    figure.map(|_| ())
}

fn write(registers: &Registers, text: &str) {
    for byte in text.bytes() {
        while registers.read32(uart::FLAGS) & uart::FULL != 0 {}
        registers.write32(uart::DATA, u32::from(byte));
    }
}

fn measure(registers: &Registers) -> Result<Figure, &'static str> {
    let cores = start::info().bindings.iter().rev().find(|binding| binding.name == "cores");
    let cores = cores.map(|binding| Handle(binding.handle)).ok_or("the manifest gives it no second slice")?;
    // Its own state after a byte was sent: the transmit interrupt is asserted until somebody clears it.
    registers.write32(uart::MASK, 0);
    write(registers, "\n");
    let driver = Vcore { index: 1, core: 0, stack_pages: 8 };
    let terms = SliceTerms { micros: 1_000_000, exact: false };
    // The last position of this program's, which nothing else has claimed.
    let position = last_position().ok_or("it has no position left")?;
    driver.spawn_on(cores, position, terms, drive).map_err(|_| "the driver's vcore cannot be made")?;
    while !WAITS.load(Relaxed) && !FAILED.load(Relaxed) {
        libos::time::sleep(core::time::Duration::from_millis(1));
    }
    let mut ticks = 0;
    for round in 0..TIMES {
        let begin = sys::ticks();
        registers.write32(uart::MASK, uart::TRANSMIT);
        let stamp = STAMP.load(Relaxed);
        if SERVED.load(Relaxed) != round + 1 || stamp < begin || FAILED.load(Relaxed) {
            return Err("the driver did not run at once");
        }
        ticks += stamp - begin;
    }
    Ok(Figure::new("irq_to_handler", ticks.saturating_sub(TIMES * reading()), TIMES))
}

fn last_position() -> Option<u64> {
    let own = u64::from(start::info().environment);
    let claimed = |position: u64| {
        libos::machine::slice(0, position).filter(|slice| slice.owner & exo_abi::exposed::SLICE_CLAIMED != 0)
    };
    let first = (0..exo_abi::SLICES_PER_CORE)
        .find(|position| claimed(*position).is_some_and(|slice| slice.owner >> 8 & 0xff == own))?;
    Some(first + 8)
}

/// The driver: a vcore of its own that waits for the interrupt.
fn drive() {
    if serve().is_none() {
        FAILED.store(true, Relaxed);
    }
}

fn serve() -> Option<()> {
    let device = Device::named("arm,pl011")?;
    let registers = device.registers().ok()?;
    let line = device.interrupt(0)?;
    let bit = event::take_bit()?;
    line.bind(bit).ok()?;
    WAITS.store(true, Relaxed);
    loop {
        sys::wait(1 << bit, 0).ok()?;
        STAMP.store(sys::ticks(), Relaxed);
        registers.write32(uart::MASK, 0);
        SERVED.store(SERVED.load(Relaxed) + 1, Relaxed);
        line.acknowledge().ok()?;
    }
}
