//! Interrupts, bindings, children, exposed pages, power, the audit.

use crate::ensure;
use crate::faults;
use crate::held::{Broken, Held, refused};
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::page::MapEntry;
use exo_abi::{Call, Handle, Pfn, Refusal, exposed};
use libos::device::Device;
use libos::event::{self, CHILD};
use libos::mem::Mapping;
use libos::sys::{self, StopReason};
use libos::time::Instant;
use libos::{machine, slots};
use workshop::{Child, Common, DATA_VA, Ground, Order, Script, audit, class_of};

/// Registers of the clock (PrimeCell PL031, ARM DDI 0224).
mod clock {
    pub const NOW: u64 = 0x00;
    pub const MATCH: u64 = 0x04;
    pub const MASK: u64 = 0x10;
    pub const CLEAR: u64 = 0x1c;
}

/// The clock's alarm is set to this second: it rings at once.
pub fn interrupt(_: &Ground) -> Held {
    let Some(device) = Device::named("arm,pl031") else { return Err(Broken("it has no clock".into())) };
    let (Some(line), Some(bit)) = (device.interrupt(0), event::take_bit()) else {
        return Err(Broken("the clock has no line".into()));
    };
    let registers = device.registers()?;
    let ring = || registers.write32(clock::MATCH, registers.read32(clock::NOW));
    // Long where something must come: a busy host makes the guest wait.
    let within = |millis| event::wait(1 << bit, Some(Instant::after(Duration::from_millis(millis)))) != 0;
    registers.write32(clock::CLEAR, 1);
    registers.write32(clock::MASK, 1);
    line.bind(bit)?;
    for round in 0..10 {
        // The second may change between reading and writing.
        let heard = (0..100).any(|_| {
            ring();
            within(50)
        });
        ensure!(heard, "round {round}: no interrupt came");
        registers.write32(clock::CLEAR, 1);
        // Until it is acknowledged the line is masked.
        ring();
        ensure!(!within(3), "round {round}: an interrupt came through a masked line");
        line.acknowledge()?;
        ensure!(within(10_000), "round {round}: an interrupt that was still asserted did not come");
        registers.write32(clock::CLEAR, 1);
        line.acknowledge()?;
        ensure!(event::take(1 << bit) == 0, "round {round}: an interrupt came from nowhere");
    }
    registers.write32(clock::MASK, 0);
    event::give_back_bit(bit);
    Ok(())
}

pub fn grant_and_take_back(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 2)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    let (number, pool_cell, pool) = (ground.pools.take()?, ground.take_cell()?, ground.take_slot()?);
    sys::pool_create(Handle::POOL, number, pool_cell, 8, 0, pool)?;
    let cell = ground.take_cell()?;
    let slot = Handle(9);
    sys::grant(pool, child.env, slot, Rights::POOL_ALLOC | Rights::GRANT, cell, None)?;
    // The child grants it on to itself, under another handle.
    let on = Order::new(Call::Grant as u64, &[9, 0, 10, Rights::POOL_ALLOC.bits().into(), 0]);
    let more = Order::new(Call::Grant as u64, &[9, 0, 11, Rights::POOL_WRITE.bits().into(), 0]);
    let free = |handle: u64| Order::new(Call::FrameFree as u64, &[handle, 1]);
    let answers = |orders: &[Order]| -> Result<alloc::vec::Vec<u64>, Broken> {
        let progress = Script::run(&child, orders)?;
        ensure!(progress.finished, "the child stopped after {} calls", progress.begun);
        (0..orders.len() as u64).map(|index| Ok(Script::result(&child, index)?[0])).collect()
    };
    // What is freed is frame 0, which is no RAM: a refusal of the argument, not of the handle.
    let before = answers(&[on, more, free(9), free(10)])?;
    let (bad, no_right, stale) = (Refusal::BadArgument as u64, Refusal::NoRight as u64, Refusal::Stale as u64);
    ensure!(before == [0, no_right, bad, bad], "before: {before:?}");
    sys::take_back(cell)?;
    let after = answers(&[free(9), free(10), on])?;
    ensure!(after == [stale, stale, stale], "after it was taken back: {after:?}");
    // Its own binding is as it was.
    let mut frame = [Pfn(0)];
    libos::mem::alloc_frames(pool, &mut frame)?;
    let mut cursor = 0;
    while let sys::Progress::Again(next) = sys::pool_destroy(pool, cursor)? {
        cursor = next;
    }
    slots::empty(pool);
    ground.pools.give_back(number);
    ground.give_back_cell(pool_cell);
    ground.give_back_cell(cell);
    child.destroy(ground)?;
    Ok(())
}

/// Built, run, reported by the event CHILD, destroyed: twice, so that what the library keeps for itself does not count.
pub fn a_child_leaves_nothing(ground: &Ground) -> Held {
    let mut free = [0; 3];
    for free in &mut free {
        *free = machine::free_frames();
        let mut child = Child::build(ground, 4)?;
        child.vcore(Common::Jump.va(), 0, 0xdead_0000)?;
        child.claim(ground, 0, 1000)?;
        event::take(CHILD);
        sys::vcore_start(child.env, 0)?;
        let events = event::wait(CHILD, Some(Instant::after(Duration::from_secs(20))));
        ensure!(events == CHILD, "its end was not told");
        let report = sys::vcore_report(child.env, 0)?;
        ensure!(report.reason == StopReason::Faulted, "{:?}", report.reason);
        ensure!(
            report.frame.pc == 0xdead_0000 && class_of(&report.frame) == 0x20,
            "pc {:#x}, cause {:#x}",
            report.frame.pc,
            report.frame.cause
        );
        let (env, pool) = (child.env, child.pool);
        child.destroy(ground)?;
        for handle in [env, pool] {
            ensure!(sys::restrict(handle, Rights::empty()).is_err(), "a binding is left in slot {}", handle.0);
        }
    }
    ensure!(free[1] == free[2], "{} frames were free before, {} after", free[1], free[2]);
    Ok(())
}

pub fn a_private_child(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.start(Common::Halt.va(), 0, 5)?;
    let secret = child.data[0];
    sys::restrict(child.env, Rights::ENV_RUN | Rights::ENV_DESTROY)?;
    sys::restrict(child.pool, Rights::empty())?;
    refused("map into it", sys::map_other(child.env, &[MapEntry::unmap(DATA_VA, 1)]), Refusal::NoRight)?;
    refused("look into it", Mapping::readable(child.pool, secret, 1), Refusal::BadHandle)?;
    refused("look into it by one's own pool", Mapping::readable(Handle::POOL, secret, 1), Refusal::NotYours)?;
    refused("make it a vcore", sys::bindings_add(child.env, secret), Refusal::NoRight)?;
    // It runs, and can be ended.
    ensure!(child.run(0)?.reason == StopReason::Halted(5), "it does not run");
    child.destroy(ground)?;
    Ok(())
}

pub fn begins_anew(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.vcore(Common::Halt.va(), 0, 1)?;
    sys::vcore_start(child.env, 0)?;
    ensure!(child.run(0)?.reason == StopReason::Halted(1), "the first life");
    refused("start it again where it began", sys::vcore_start(child.env, 0), Refusal::WrongState)?;
    for life in 2..6 {
        let reason = child.run_at(0, Common::Halt.va(), 0, life)?.reason;
        ensure!(reason == StopReason::Halted(life), "life {life} ended with {reason:?}");
    }
    // One that runs can be stopped and begin anew.
    child.start_at(0, Common::Spin.va(), 0, DATA_VA)?;
    child.claim(ground, 0, 1000)?;
    ensure!(child.stop(0)?.reason == StopReason::Stopped, "it does not stop");
    child.start_at(0, Common::Halt.va(), 0, 9)?;
    ensure!(child.run(0)?.reason == StopReason::Halted(9), "the last life");
    child.destroy(ground)?;
    Ok(())
}

pub fn exposed_pages(_: &Ground) -> Held {
    let info = machine::info();
    ensure!(info.layout_version == exposed::LAYOUT_VERSION, "layout version {}", info.layout_version);
    ensure!(info.abi_version == u64::from(exo_abi::ABI_VERSION), "ABI version {}", info.abi_version);
    ensure!(
        info.cores >= 1 && matches!(info.gic_version, 2 | 3),
        "{} cores, GIC version {}",
        info.cores,
        info.gic_version
    );
    ensure!(
        info.frames_of_ram <= info.frames && info.kernel_frames < info.frames_of_ram,
        "{} frames, {} of RAM",
        info.frames,
        info.frames_of_ram
    );
    ensure!(info.first_user_ticks > info.entry_ticks, "the first user instruction came before the kernel's");
    let slice = machine::slice(0, 0).unwrap_or(exposed::Slice { owner: 0, length: 0, used: 0, starts: 0 });
    ensure!(slice.owner & exposed::SLICE_CLAIMED != 0 && slice.starts > 0, "position 0 is not the first environment's");
    for frame in [info.slices_frame, info.bitmap_frame] {
        let mapping = Mapping::readable(Handle::SELF, Pfn(frame), 1)?;
        let seen = faults::skipping(|| faults::store_readonly(mapping.va()));
        ensure!(seen.count == 1, "exposed frame {frame:#x} can be written");
        refused("map it for writing", Mapping::writable(Handle::POOL, Pfn(frame), 1), Refusal::NotYours)?;
    }
    Ok(())
}

pub fn power(ground: &Ground) -> Held {
    let power = u64::from(ground.power.0);
    ensure!(faults::raw(Call::Power, &[power, 9]) == Refusal::BadArgument as u64, "a nonsense order was not refused");
    ensure!(faults::raw(Call::Power, &[u64::from(Handle::POOL.0), 0]) == Refusal::WrongKind as u64, "a pool has power");
    let weak = ground.take_slot()?;
    let granted = sys::grant(ground.power, Handle::SELF, weak, Rights::POWER_AUDIT, 0, None);
    refused("grant power on without the right to", granted, Refusal::NoRight)?;
    slots::give_back(weak);
    Ok(())
}

pub fn audit_is_clean(ground: &Ground) -> Held {
    let found = audit(ground.power)?;
    ensure!(found.is_clean(), "{found}");
    ensure!(found.frames == machine::info().frames && found.tables > 6, "{found}");
    Ok(())
}
