//! Slices: who runs, and for how long.

use crate::ensure;
use crate::held::{Broken, Held, refused};
use alloc::vec::Vec;
use core::time::Duration;
use exo_abi::Refusal;
use libos::ipc::Gate;
use libos::machine;
use libos::sys::{self, StopReason};
use libos::time::{self, Instant};
use workshop::{Child, Common, DATA_VA, Ground};

/// Measurements, of which a busy host may spoil some.
const TRIES: usize = 30;

fn spinner(ground: &Ground, micros: u64) -> Result<(Child, u64), Broken> {
    let mut child = Child::build(ground, 1)?;
    child.vcore(Common::Spin.va(), 0, DATA_VA)?;
    let position = child.claim(ground, 0, micros)?;
    Ok((child, position))
}

fn used(position: u64) -> u64 {
    machine::slice(0, position).map_or(0, |slice| slice.used)
}

/// Three to one, give or take a slice at the ends; a busy host may spoil some of the measurements.
pub fn two_share(ground: &Ground) -> Held {
    let (a, a_position) = spinner(ground, 1000)?;
    let (b, b_position) = spinner(ground, 3000)?;
    sys::vcore_start(a.env, 0)?;
    sys::vcore_start(b.env, 0)?;
    let mut shares = Vec::new();
    for _ in 0..TRIES {
        let before = (used(a_position), used(b_position));
        time::sleep(Duration::from_millis(80));
        let share = (used(a_position) - before.0, used(b_position) - before.1);
        shares.push(share);
        if share.1 > share.0 * 2 {
            break;
        }
    }
    let (a_stop, b_stop) = (a.stop(0)?, b.stop(0)?);
    ensure!(
        a_stop.reason == StopReason::Stopped && b_stop.reason == StopReason::Stopped,
        "{:?}, {:?}",
        a_stop.reason,
        b_stop.reason
    );
    let (a_count, b_count) = (a.view(0)?.read_u64(0), b.view(0)?.read_u64(0));
    ensure!(a_count > 0 && b_count > 0, "one starved: {a_count} and {b_count}");
    ensure!(shares.len() < TRIES, "time was never shared 1 to 3, but {shares:?}");
    a.destroy(ground)?;
    b.destroy(ground)?;
    Ok(())
}

/// This program spins too, and sees the other go on.
pub fn preempted(ground: &Ground) -> Held {
    let (child, _) = spinner(ground, 1000)?;
    sys::vcore_start(child.env, 0)?;
    let view = child.view(0)?;
    let deadline = Instant::after(Duration::from_secs(20));
    let (mut changes, mut last) = (0, 0);
    while changes < 5 && Instant::now() < deadline {
        let now = view.read_u64(0);
        changes += u64::from(now != last);
        last = now;
    }
    ensure!(changes == 5, "{changes} changes were seen within 20 seconds");
    drop(view);
    child.stop(0)?;
    child.destroy(ground)?;
    Ok(())
}

pub fn yields(ground: &Ground) -> Held {
    // Without a slice of its own it runs only when lent one.
    let mut child = Child::build(ground, 1)?;
    child.start(Common::Halt.va(), 0, 9)?;
    time::sleep(Duration::from_millis(3));
    ensure!(sys::vcore_report(child.env, 0).is_err(), "it ran without a slice");
    child.settle(0)?;
    let reason = sys::vcore_report(child.env, 0)?.reason;
    ensure!(reason == StopReason::Halted(9), "{reason:?}");
    refused("yield to the dead", sys::yield_to(child.env, 0), Refusal::Busy)?;
    child.destroy(ground)?;
    Ok(())
}

pub fn yields_to_a_gate(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.start(Common::Echo.va(), 0, 0)?;
    let gate = Gate::new(child.gate(ground, 0, 1)?);
    refused("call who has not begun to serve", gate.call([0; 7]), Refusal::Busy)?;
    for _ in 0..1000 {
        if sys::yield_to(gate.handle(), 0).is_err() {
            break;
        }
    }
    ensure!(gate.call([3; 7]).is_ok(), "lent the core, the server did not open its gate");
    libos::slots::empty(gate.handle());
    child.destroy(ground)?;
    Ok(())
}

/// Two of them with other values, and this program with its own.
pub fn fp_survives(ground: &Ground) -> Held {
    let mut children = [Child::build(ground, 1)?, Child::build(ground, 1)?];
    for (child, value) in children.iter_mut().zip([0x1111_2222_3333_4444, 0x5555_6666_7777_8888]) {
        child.start(Common::KeepFp.va(), 0, value)?;
        child.claim(ground, 0, 500)?;
    }
    let mut sum = 0.0f64;
    let mut terms = 0u32;
    let deadline = Instant::after(Duration::from_secs(20));
    while children.iter().any(|child| sys::vcore_report(child.env, 0).is_err()) && Instant::now() < deadline {
        for _ in 0..1000 {
            sum += core::hint::black_box(0.5);
            terms += 1;
        }
    }
    ensure!(sum == f64::from(terms) * 0.5, "{terms} halves make {sum}");
    for child in children {
        let reason = child.stop(0)?.reason;
        ensure!(reason == StopReason::Halted(1), "a child found other values: {reason:?}");
        child.destroy(ground)?;
    }
    Ok(())
}

/// After a child that filled its registers a new one finds zeros, and so it does after this program's own.
pub fn no_leaks(ground: &Ground) -> Held {
    for _ in 0..3 {
        let mut child = Child::build(ground, 1)?;
        child.start(Common::Residue.va(), 0, 0)?;
        // Something of this program's in the registers.
        core::hint::black_box(core::hint::black_box(1.25f64) * core::hint::black_box(3.5));
        let reason = child.run(0)?.reason;
        ensure!(reason == StopReason::Halted(0), "it found {reason:x?}");
        child.destroy(ground)?;
    }
    Ok(())
}

pub fn cpu_time(_: &Ground) -> Held {
    const WORK: Duration = Duration::from_millis(5);
    let begin = Instant::now();
    charged()?;
    let used_before = time::cpu_time();
    let work = Instant::now();
    while Instant::now() - work < WORK {}
    charged()?;
    let (used, passed) = (time::cpu_time() - used_before, Instant::now() - begin);
    ensure!(used >= WORK && used <= passed, "{used:?} were counted for {WORK:?} of work in {passed:?}");
    let asleep = (0..TRIES).map(|_| {
        let before = time::cpu_time();
        time::sleep(Duration::from_millis(20));
        time::cpu_time() - before
    });
    let least = asleep.min().unwrap_or_default();
    ensure!(least < Duration::from_millis(5), "{least:?} were counted for a sleep of 20 ms");
    Ok(())
}

/// Use is charged when somebody else runs, or nobody: sleeps until the core was idle.
fn charged() -> Held {
    let idle = || machine::idle(0).map_or(0, |(ticks, _)| ticks);
    let before = idle();
    for _ in 0..1000 {
        time::sleep(Duration::from_millis(2));
        if idle() > before {
            return Ok(());
        }
    }
    Err(Broken("the core is never idle".into()))
}
