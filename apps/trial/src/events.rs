//! Events, alarms, borrowing.

use crate::ensure;
use crate::held::{Broken, Held};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use exo_abi::Handle;
use exo_abi::binding::Rights;
use libos::event::{self, ALARM, Event};
use libos::ipc::{Incoming, Outgoing, Server};
use libos::time::{self, Instant};
use libos::{slots, sys, upcall};
use workshop::{Child, Common, DATA_VA, Ground};

/// Long: a busy host makes the guest wait, and no test may depend on that.
const PATIENCE: Duration = Duration::from_secs(20);
/// Alarms, each twice as late as the one before.
const TRIES: u32 = 12;

static HEARD: AtomicU64 = AtomicU64::new(0);

/// Notes events that come by an upcall.
fn hear(events: u64) {
    HEARD.fetch_or(events, Relaxed);
}

fn bit() -> Result<u64, Broken> {
    event::take_bit().ok_or(Broken("no event bit is left".into()))
}

pub fn wake_and_take(_: &Ground) -> Held {
    let (first, second) = (bit()?, bit()?);
    let (a, b) = (Event::of_self(first)?, Event::of_self(second)?);
    ensure!(event::take(1 << first | 1 << second) == 0, "an event came from nowhere");
    a.notify()?;
    a.notify()?;
    b.notify()?;
    ensure!(event::wait(1 << first, None) == 1 << first, "the event did not end the wait");
    ensure!(event::take(1 << first) == 0, "an event was taken twice");
    ensure!(
        event::take(u64::MAX >> 16 & !(1 << event::CONSOLE_BIT)) & 1 << second != 0,
        "an event outside of the mask was lost"
    );
    for event in [a, b] {
        slots::empty(event.handle());
    }
    event::give_back_bit(first);
    event::give_back_bit(second);
    Ok(())
}

pub fn alarms(_: &Ground) -> Held {
    for millis in [0, 1, 2, 5] {
        let alarm = Instant::after(Duration::from_millis(millis));
        let events = event::wait(0, Some(alarm));
        ensure!(events == 0, "events {events:#x} of an empty mask");
        ensure!(Instant::now() >= alarm, "a wait ended before its alarm");
    }
    // One that passes while its vcore runs is an event.
    let bit = bit()?;
    let event = Event::of_self(bit)?;
    // A busy host may let it pass before the wait sets it: then with a later one.
    let mut alarm = Instant::now();
    for round in 0..TRIES {
        event.notify()?;
        alarm = Instant::after(Duration::from_millis(10 << round));
        ensure!(event::wait(1 << bit, Some(alarm)) == 1 << bit, "a pending event did not end the wait");
        if Instant::now() < alarm {
            break;
        }
    }
    // A wait would set an alarm anew, so an upcall tells.
    HEARD.store(0, Relaxed);
    upcall::on_events(ALARM, hear);
    while HEARD.load(Relaxed) == 0 && Instant::now() < alarm + PATIENCE {
        core::hint::spin_loop();
    }
    upcall::on_events(0, hear);
    let told = HEARD.load(Relaxed);
    ensure!(told == ALARM, "the alarm was not told");
    slots::empty(event.handle());
    event::give_back_bit(bit);
    Ok(())
}

pub fn upcalls(_: &Ground) -> Held {
    let bit = bit()?;
    let event = Event::of_self(bit)?;
    HEARD.store(0, Relaxed);
    upcall::on_events(1 << bit, hear);
    event.notify()?;
    let heard = HEARD.load(Relaxed);
    upcall::on_events(0, hear);
    ensure!(heard == 1 << bit, "{heard:#x} was heard");
    ensure!(event::take(1 << bit) == 0, "the event was delivered and is pending still");
    slots::empty(event.handle());
    event::give_back_bit(bit);
    Ok(())
}

pub fn there_and_back(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.start(Common::NotifyBack.va(), 0, 0)?;
    child.claim(ground, 0, 1000)?;
    let bit = bit()?;
    let back = Event::of_self(bit)?;
    child.give(back.handle(), Handle(2), Rights::EVENT_NOTIFY)?;
    let there = child.event(ground, 0, 0)?;
    for round in 0..50 {
        sys::notify(there)?;
        let events = event::wait(1 << bit, Some(Instant::after(PATIENCE)));
        ensure!(events == 1 << bit, "round {round}: {events:#x} came back");
    }
    slots::empty(there);
    slots::empty(back.handle());
    event::give_back_bit(bit);
    child.destroy(ground)?;
    Ok(())
}

/// The child's position comes later in the round, so a notify runs it at once, and it comes back when the child waits.
pub fn borrow(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.start(Common::CountEvents.va(), 0, DATA_VA)?;
    child.settle(0)?;
    child.claim(ground, 0, 1000)?;
    let event = child.event(ground, 0, 0)?;
    let count = child.view(0)?;
    let (mut at_once, mut rounds) = (0, 0);
    while at_once < 15 && rounds < 200 {
        let before = count.read_u64(0);
        sys::notify(event)?;
        at_once += count.read_u64(0) - before;
        rounds += 1;
        // Another round begins: what was borrowed is paid.
        time::sleep(Duration::from_millis(2));
    }
    ensure!(at_once >= 15, "{at_once} of {rounds} ran at once");
    drop(count);
    slots::empty(event);
    child.destroy(ground)?;
    Ok(())
}

/// The same without lending: the slices stand at the same instants every round.
pub fn exact(ground: &Ground) -> Held {
    let mut child = Child::build(ground, 1)?;
    child.start(Common::CountEvents.va(), 0, DATA_VA)?;
    child.settle(0)?;
    let position = ground.positions.take()?;
    let terms = sys::SliceTerms { micros: 1000, exact: true };
    sys::slice_claim(ground.cores, 0, position, child.env, 0, terms)?;
    let event = child.event(ground, 0, 0)?;
    let count = child.view(0)?;
    let (mut at_once, mut counted) = (0, 0);
    for _ in 0..20 {
        let before = count.read_u64(0);
        sys::notify(event)?;
        at_once += count.read_u64(0) - before;
        time::sleep(Duration::from_millis(5));
        counted += count.read_u64(0) - before;
    }
    ensure!(counted > 0, "it never ran");
    // Now and then a slice ends between two instructions.
    ensure!(at_once <= 5, "{at_once} of 20 ran at once");
    drop(count);
    slots::empty(event);
    sys::slice_release(ground.cores, 0, position)?;
    ground.positions.give_back(position);
    child.destroy(ground)?;
    Ok(())
}

pub fn servers_alarm(_: &Ground) -> Held {
    let begin = Instant::now();
    let outgoing = Outgoing { alarm: Some(begin + Duration::from_millis(2)), ..Outgoing::default() };
    let heard = Server::new().turn(&outgoing);
    ensure!(heard == Incoming::Events(ALARM), "{heard:?} instead of the alarm");
    ensure!(Instant::now() >= begin + Duration::from_millis(2), "the alarm came early");
    Ok(())
}

pub fn slice_begins(_: &Ground) -> Held {
    HEARD.store(0, Relaxed);
    upcall::on_events(event::SLICE, hear);
    let end = Instant::after(PATIENCE);
    while HEARD.load(Relaxed) == 0 && Instant::now() < end {
        time::sleep(Duration::from_millis(1));
    }
    upcall::on_events(0, hear);
    event::take(event::SLICE);
    let heard = HEARD.load(Relaxed);
    ensure!(heard == event::SLICE, "{heard:#x} was heard");
    Ok(())
}
