//! Off, reset, and the exit code for an emulator.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::Conduit;
use exo::machine::Power;
use smccc::{Hvc, Smc, psci};

/// [`Conduit`] of PSCI: 0 none, 1 hvc, 2 smc.
static CONDUIT: AtomicU64 = AtomicU64::new(0);
/// The boot header says that QEMU runs this image.
static QEMU: AtomicU64 = AtomicU64::new(0);

/// Says how the machine is switched off.
pub fn set_up(conduit: Option<Conduit>, qemu: bool) {
    CONDUIT.store(conduit.map_or(0, |conduit| if conduit == Conduit::Hvc { 1 } else { 2 }), Relaxed);
    QEMU.store(qemu as u64, Relaxed);
}

/// Switches the machine off, or restarts it.
pub fn switch(what: Power) -> ! {
    match (what, CONDUIT.load(Relaxed)) {
        (Power::Off(code), _) if QEMU.load(Relaxed) != 0 => exit(code),
        (Power::Off(_), 1) => drop(psci::system_off::<Hvc>()),
        (Power::Off(_), 2) => drop(psci::system_off::<Smc>()),
        (Power::Reset, 1) => drop(psci::system_reset::<Hvc>()),
        (Power::Reset, 2) => drop(psci::system_reset::<Smc>()),
        _ => {}
    }
    // Nobody took it: the machine stays as it is.
    loop {
        super::registers::sleep();
    }
}

/// Semihosting SYS_EXIT with ADP_Stopped_ApplicationExit and a code (Arm semihosting 2.0, 6.5). PSCI cannot pass a code on.
fn exit(code: u64) {
    let block = [0x2_0026u64, code];
    // SAFETY: the boot header says that an emulator with semihosting runs this; it does not return.
    unsafe { asm!("hlt #0xf000", in("x0") 0x18u64, in("x1") &block, options(nostack)) };
}
