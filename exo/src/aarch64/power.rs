//! Off, reset, and the exit code for an emulator.

use super::boot;
use super::registers::{self, execute};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::machine::Power;
use exo_abi::boot::FLAG_QEMU;
use smccc::psci::{PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, cpu_on};
use smccc::{Hvc, Smc};

/// [`exo::device_tree::Conduit`] of PSCI; 0: none.
pub static CONDUIT: AtomicU64 = AtomicU64::new(0);

/// Switches the machine off, or restarts it.
pub fn switch(what: Power) -> ! {
    let function = match what {
        // The boot header says that QEMU runs this image.
        Power::Off(code) if boot::boot_header.flags & FLAG_QEMU != 0 => exit(code),
        Power::Off(_) => PSCI_SYSTEM_OFF,
        Power::Reset => PSCI_SYSTEM_RESET,
    };
    match CONDUIT.load(Relaxed) {
        1 => drop(smccc::hvc32(function, [0; 7])),
        2 => drop(smccc::smc32(function, [0; 7])),
        _ => {}
    }
    // Nobody took it: the machine stays as it is.
    loop {
        registers::sleep();
    }
}

/// Starts the core with this affinity at a physical address, with `argument` in x0; false: it does not.
pub fn start_core(affinity: u64, at: u64, argument: u64) -> bool {
    // Its structure and the tables that map it are complete before it starts: the conduit is no barrier (Arm ARM, "Data Synchronization Barrier").
    execute!("dsb ishst");
    match CONDUIT.load(Relaxed) {
        1 => cpu_on::<Hvc>(affinity, at, argument).is_ok(),
        2 => cpu_on::<Smc>(affinity, at, argument).is_ok(),
        _ => false,
    }
}

/// Semihosting SYS_EXIT with ADP_Stopped_ApplicationExit and a code (Arm semihosting 2.0, 6.5). PSCI cannot pass a code on.
fn exit(code: u64) -> ! {
    let block = [0x2_0026u64, code];
    // SAFETY: the boot header says that an emulator with semihosting runs this; it does not return.
    unsafe { asm!("hlt #0xf000", in("x0") 0x18u64, in("x1") &block, options(nostack, noreturn)) };
}
