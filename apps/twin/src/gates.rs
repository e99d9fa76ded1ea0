//! Cases of `call`.

use crate::Cases;
use crate::code::Code;
use crate::orders::*;
use crate::stage::{Stage, Who};
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::calls::{call_flag, reply_flag};
use exo_abi::event::{ALARM, CUT};
use exo_abi::{BindingKind, Call, Handle, MAX_CHAIN_CALLS, Refusal};
use libos::sys;
use libos::time::{Instant, sleep};
use workshop::Order;

/// The gate of the server, in the client's table; its badge.
pub const GATE: u64 = 9;
const BADGE: u64 = 0x5151;
/// Others.
const ONLY_GRANT: u64 = 10;
const EVENT: u64 = 11;
const STALE: u64 = 12;
const EMPTY: u64 = 13;
/// Callee's and caller's slots for what travels.
pub const HERE: u64 = 20;
const CALL_AND_GRANT: Rights = Rights::GATE_CALL.union(Rights::GRANT);

/// Longer than until [`soon`].
pub const LATER: Duration = Duration::from_millis(20);

/// Ticks long after every case.
pub fn far() -> u64 {
    sys::ticks() + (1 << 40)
}

/// Ticks soon, but not before everybody is in place.
pub fn soon() -> u64 {
    Instant::after(Duration::from_millis(10)).0
}

/// A server with these orders, in its first wait; then a client, ready, with a gate to it and other bindings.
pub fn pair(stage: &mut Stage, server: &[Order], client: &[Order]) -> Result<(Who, Who), Refusal> {
    let server = serving(stage, server)?;
    let client = client_of(stage, server, client)?;
    Ok((server, client))
}

/// A server that has run until it waits.
pub fn serving(stage: &mut Stage, orders: &[Order]) -> Result<Who, Refusal> {
    let there = stage.environment(2)?;
    let server = stage.actor(there, orders)?;
    stage.run(server)?;
    Ok(server)
}

/// A client of it, which has not run.
pub fn client_of(stage: &mut Stage, server: Who, orders: &[Order]) -> Result<Who, Refusal> {
    let here = stage.environment(2)?;
    let client = stage.idle_actor(here, orders)?;
    equip(stage, server, here)?;
    stage.start(client)?;
    Ok(client)
}

fn equip(stage: &mut Stage, server: Who, here: usize) -> Result<(), Refusal> {
    stage.gate(server, BADGE, here, GATE, CALL_AND_GRANT)?;
    stage.gate(server, BADGE, here, ONLY_GRANT, Rights::GRANT)?;
    stage.event(server, 3, here, EVENT)?;
    stage.stale(BindingKind::Gate, here, STALE)
}

pub fn cases(cases: &mut Cases) {
    plain(cases);
    refused(cases);
    states(cases);
    deadlines(cases);
    events(cases);
    travel(cases);
    chains(cases);
}

fn plain(cases: &mut Cases) {
    cases.add("call and reply", |stage| {
        let (_, client) = pair(stage, &[reply(0, 0), reply(0, 0x10)], &[call(GATE, 0x20)])?;
        stage.run(client)
    });
    cases.add("three calls", |stage| {
        let server = [reply(0, 0), reply(0, 0x10), reply(0, 0x20), reply(0, 0x30)];
        let (_, client) = pair(stage, &server, &[call(GATE, 0x40), call(GATE, 0x50), call(GATE, 0x60), drain()])?;
        stage.run(client)
    });
    cases.add("large words", |stage| {
        let (_, client) = pair(stage, &[reply(0, 0), reply(0, 1 << 62)], &[call(GATE, 1 << 63)])?;
        stage.run(client)
    });
    cases.add("two clients, each with its badge", |stage| {
        let server = [reply(0, 0), reply(0, 0x10), reply(0, 0x20), reply(0, 0x30)];
        let (server, first) = pair(stage, &server, &[call(GATE, 0x40), call(GATE, 0x50)])?;
        let here = stage.environment(1)?;
        let second = stage.idle_actor(here, &[call(GATE, 0x60)])?;
        stage.gate(server, 0x7777, here, GATE, CALL_AND_GRANT)?;
        stage.start(second)?;
        stage.run(first)?;
        stage.run(second)
    });
    cases.add("between vcores of one environment", |stage| {
        let here = stage.environment(2)?;
        let server = stage.actor(here, &[reply(0, 0), reply(0, 0x10)])?;
        stage.run(server)?;
        let client = stage.idle_actor(here, &[call(GATE, 0x20)])?;
        stage.gate(server, 1, here, GATE, CALL_AND_GRANT)?;
        stage.start(client)?;
        stage.run(client)
    });
    cases.add("with a gate of a second frame of bindings", |stage| {
        let server = serving(stage, &[reply(0, 0), reply(0, 0x10)])?;
        let here = stage.environment(1)?;
        let frame = stage.child(here)?.frame()?;
        sys::bindings_add(stage.child(here)?.env, frame)?;
        let client = stage.idle_actor(here, &[call(200, 0x20), call(128, 0), call(255, 0), call(256, 0)])?;
        stage.gate(server, 1, here, 200, CALL_AND_GRANT)?;
        stage.start(client)?;
        stage.run(client)
    });
    cases.add("floating point on both sides", |stage| {
        let server = [reply(0, 0), float(3), reply(0, 0x10), reply(0, 0x20)];
        let (_, client) = pair(stage, &server, &[float(5), call(GATE, 0x20), float(7), call(GATE, 0x30)])?;
        stage.run(client)
    });
    cases.add("a server that works in between", |stage| {
        let (server, client) = pair(stage, &[reply(0, 0), null(&[]), wait(0, 1), reply(0, 0x10)], &[call(GATE, 0x20)])?;
        stage.run(client)?;
        stage.run(server)
    });
}

/// Each is refused, and the same gate works at once afterwards.
fn refused(cases: &mut Cases) {
    let call_0 = |x0: u64| full_call(x0, 0x30, [0; 3]);
    let flagged = |flag: u64, more: [u64; 3]| full_call(GATE | flag, 0x30, more);
    let send = |word: u64| flagged(call_flag::SEND, [0, word, 0]);
    let accept = |word: u64| flagged(call_flag::ACCEPT, [0, 0, word]);
    let wrong: &[(&str, Order)] = &[
        ("an empty slot", call_0(EMPTY)),
        ("the last slot of a frame", call_0(127)),
        ("a slot behind the table", call_0(128)),
        ("a slot in the last frame", call_0(1023)),
        ("a slot beyond every table", call_0(1024)),
        ("the largest handle", call_0(0xffff)),
        ("a pool", call_0(1)),
        ("an environment", call_0(0)),
        ("an event", call_0(EVENT)),
        ("without the right", call_0(ONLY_GRANT)),
        ("taken back", call_0(STALE)),
        ("a flag that means nothing", flagged(1 << 19, [0; 3])),
        ("the highest flag", flagged(1 << 63, [0; 3])),
        ("every flag", flagged(!0xffff, [0; 3])),
        ("a deadline of zero", flagged(call_flag::DEADLINE, [0; 3])),
        ("a deadline that passed", flagged(call_flag::DEADLINE, [1, 0, 0])),
        ("sending to who accepts nothing", send(GATE | 0x81 << 16)),
        ("sending nothing there is", send(EMPTY | 0x81 << 16)),
        ("sending from beyond the table", send(128 | 0x81 << 16)),
        ("sending what was taken back", send(STALE | 0x81 << 16)),
        ("sending without the right to", send(HERE | 0x01 << 16)),
        ("sending more than there is", send(GATE | 0x83 << 16)),
        ("sending no rights", send(GATE)),
        ("sending with bits that mean nothing", send(GATE | 0x81 << 16 | 1 << 24)),
        ("accepting in a full slot", accept(GATE)),
        ("accepting behind the table", accept(128)),
        ("accepting beyond every table", accept(1 << 63)),
    ];
    for (name, order) in wrong {
        let order = *order;
        cases.add(format_name("call refused: ", name), move |stage| {
            let server = serving(stage, &[reply(0, 0), reply(0, 0x10)])?;
            let client = client_of(stage, server, &[order, call(GATE, 0x20), drain()])?;
            // One that may be used and not sent on.
            let own = stage.own_event(server, 5)?;
            stage.place(client)?.0.give(own, Handle(HERE as u16), Rights::EVENT_NOTIFY)?;
            stage.run(client)
        });
    }
    cases.add("call with x8 to x10 that nobody asked for", |stage| {
        let order = full_call(GATE, 0x20, [1, GATE | 0x81 << 16, HERE]);
        let (_, client) = pair(stage, &[reply(0, 0), reply(0, 0x10)], &[order])?;
        stage.run(client)
    });
}

fn format_name(first: &str, second: &str) -> alloc::string::String {
    alloc::format!("{first}{second}")
}

/// What the other side can be doing.
fn states(cases: &mut Cases) {
    let twice = [call(GATE, 0x20), call(GATE, 0x30)];
    cases.add("call one that was not started", move |stage| {
        let there = stage.environment(1)?;
        let server = stage.idle_actor(there, &[])?;
        let client = client_of(stage, server, &twice)?;
        stage.run(client)
    });
    cases.add("call one that has not run", move |stage| {
        let there = stage.environment(1)?;
        let server = stage.actor(there, &[reply(0, 0), reply(0, 0x10)])?;
        let client = client_of(stage, server, &twice)?;
        stage.run(client)
    });
    cases.add("call one that waits for events", move |stage| {
        let (_, client) = pair(stage, &[wait(1, 0)], &twice)?;
        stage.run(client)
    });
    cases.add("call one that halted", move |stage| {
        let (_, client) = pair(stage, &[halt(7)], &twice)?;
        stage.run(client)
    });
    cases.add("call one that faulted", move |stage| {
        let (_, client) = pair(stage, &[load(0)], &twice)?;
        stage.run(client)
    });
    cases.add("call one that was stopped in its gate", move |stage| {
        let (server, client) = pair(stage, &[reply(0, 0), reply(0, 0x10)], &twice)?;
        stage.stop(server)?;
        stage.run(client)
    });
    cases.add("call one that is called", move |stage| {
        let (server, client) = pair(stage, &[reply(0, 0), wait(1, 0), reply(0, 0x10), reply(0, 0x20)], &twice)?;
        let event = stage.own_event(server, 0)?;
        let second = client_of(stage, server, &twice)?;
        stage.run(client)?;
        stage.run(second)?;
        stage.notify(event);
        stage.run(server)?;
        stage.run(client)
    });
    cases.add("call one that calls", move |stage| {
        let far = serving(stage, &[reply(0, 0), wait(1, 0), reply(0, 0x10)])?;
        let middle = client_of(stage, far, &[call(GATE, 0x40), reply(0, 0)])?;
        stage.run(middle)?;
        let client = client_of(stage, middle, &twice)?;
        stage.run(client)
    });
    cases.add("call one whose environment ends", move |stage| {
        let (server, client) = pair(stage, &[reply(0, 0), reply(0, 0x10)], &twice)?;
        let (child, _) = stage.place(server)?;
        let step = sys::env_destroy(child.env, 0);
        stage.say(&alloc::format!("one step {step:?}"));
        stage.run(client)
    });
    cases.add("call one whose environment is gone", move |stage| {
        let (_, client) = pair(stage, &[reply(0, 0), reply(0, 0x10)], &twice)?;
        stage.destroy(0)?;
        stage.run(client)
    });
    cases.add("call oneself", |stage| {
        let here = stage.environment(1)?;
        let own = stage.idle_actor(here, &[call(GATE, 0x20), reply(0, 0)])?;
        stage.gate(own, 1, here, GATE, CALL_AND_GRANT)?;
        stage.start(own)?;
        stage.run(own)
    });
    cases.add("call back up the chain", |stage| {
        let there = stage.environment(1)?;
        let server = stage.idle_actor(there, &[reply(0, 0), call(GATE, 0x30), reply(0, 0x10)])?;
        let client = client_of(stage, server, &[call(GATE, 0x20)])?;
        stage.gate(client, 2, there, GATE, CALL_AND_GRANT)?;
        stage.start(server)?;
        stage.run(server)?;
        stage.run(client)
    });
    cases.add("a callee halts", move |stage| {
        let (_, client) = pair(stage, &[reply(0, 0), halt(3)], &twice)?;
        stage.run(client)
    });
    cases.add("a callee faults", move |stage| {
        let (_, client) = pair(stage, &[reply(0, 0), load(0)], &twice)?;
        stage.run(client)
    });
    cases.add("a callee is stopped", move |stage| {
        let (server, client) = pair(stage, &[reply(0, 0), wait(1, 0)], &twice)?;
        stage.run(client)?;
        stage.stop(server)?;
        stage.run(client)
    });
    cases.add("a callee's environment is destroyed", move |stage| {
        let (_, client) = pair(stage, &[reply(0, 0), wait(1, 0)], &twice)?;
        stage.run(client)?;
        stage.destroy(0)?;
        stage.run(client)
    });
    cases.add("a callee stops and begins anew", move |stage| {
        let (server, client) = pair(stage, &[reply(0, 0), wait(1, 0)], &twice)?;
        stage.run(client)?;
        stage.stop(server)?;
        let (child, vcore) = stage.place(server)?;
        child.start_at(vcore, Code::Spin.va(), 0, 0)?;
        stage.run(server)?;
        stage.lend(client)?;
        stage.stop(server)
    });
    cases.add("a gate is taken back while its caller waits", move |stage| {
        let there = stage.environment(1)?;
        let cell = stage.child(there)?.own_cell(stage.ground)?;
        let back = Order::new(Call::TakeBack as u64, &[cell]);
        let server = stage.actor(there, &[reply(0, 0), back, reply(0, 0x10)])?;
        stage.run(server)?;
        let here = stage.environment(1)?;
        let client = stage.idle_actor(here, &twice)?;
        let own = stage.ground.take_slot()?;
        let env = stage.child(there)?.env;
        sys::gate_bind(env, 0, cell, own, 5)?;
        stage.hand(own, here, GATE, CALL_AND_GRANT)?;
        stage.start(client)?;
        stage.run(client)
    });
    cases.add("a caller is stopped, and the reply goes nowhere", move |stage| {
        let server = [reply(0, 0), wait(1, 0), reply(1 << CUT, 0x10), reply(0, 0x20), reply(0, 0x30)];
        let (server, client) = pair(stage, &server, &twice)?;
        let event = stage.own_event(server, 0)?;
        stage.run(client)?;
        stage.stop(client)?;
        stage.notify(event);
        stage.run(server)?;
        let second = client_of(stage, server, &[call(GATE, 0x50)])?;
        stage.run(second)
    });
    cases.add("a caller's environment is destroyed", move |stage| {
        let (server, client) = pair(stage, &[reply(0, 0), wait(1, 0), reply(0, 0x10), drain()], &twice)?;
        let event = stage.own_event(server, 0)?;
        stage.run(client)?;
        stage.destroy(1)?;
        stage.notify(event);
        stage.run(server)?;
        let second = client_of(stage, server, &[call(GATE, 0x50)])?;
        stage.run(second)
    });
}

fn deadlines(cases: &mut Cases) {
    let until = |at: u64| full_call(GATE | call_flag::DEADLINE, 0x20, [at, 0, 0]);
    cases.add("a deadline that is kept", move |stage| {
        let (_, client) =
            pair(stage, &[reply(0, 0), reply(0, 0x10), reply(0, 0x20)], &[until(far()), call(GATE, 0x30)])?;
        stage.run(client)
    });
    cases.add("a deadline passes while the callee waits", move |stage| {
        let (server, client) = pair(
            stage,
            &[reply(0, 0), wait(1, 0), reply(1 << CUT, 0x10), reply(0, 0x20)],
            &[until(soon()), call(GATE, 0x30), drain()],
        )?;
        let event = stage.own_event(server, 0)?;
        // Alarms of who has no slice are looked at in its chain's: it gets one.
        stage.claim(client)?;
        sleep(LATER);
        stage.notify(event);
        stage.run(server)
    });
    cases.add("a deadline passes while the callee works", move |stage| {
        let there = stage.environment(1)?;
        let server = stage.extra(there, Code::Spin)?;
        stage.start(server)?;
        stage.run(server)?;
        let client = client_of(stage, server, &[until(soon()), call(GATE, 0x30), drain()])?;
        stage.claim(client)?;
        sleep(LATER);
        stage.run(client)?;
        stage.stop(server)
    });
    cases.add("a deadline passes far down the chain", move |stage| {
        let far_away = serving(stage, &[reply(0, 0), wait(1, 0), drain(), reply(0, 0)])?;
        let middle = client_of(stage, far_away, &[reply(0, 0), call(GATE, 0x40), drain(), reply(0, 0x10)])?;
        stage.run(middle)?;
        let client = client_of(stage, middle, &[until(soon()), drain()])?;
        let event = stage.own_event(far_away, 0)?;
        stage.claim(client)?;
        sleep(LATER);
        stage.notify(event);
        stage.run(far_away)?;
        stage.run(middle)
    });
    cases.add("a late reply does not end the next call", move |stage| {
        let late = serving(stage, &[reply(0, 0), wait(1, 0), reply(0, 0x10)])?;
        let other = serving(stage, &[reply(0, 0), wait(1, 0), reply(0, 0x60)])?;
        let client = client_of(stage, late, &[until(soon()), call(30, 0x70)])?;
        stage.gate(other, 3, 2, 30, CALL_AND_GRANT)?;
        let (first, second) = (stage.own_event(late, 0)?, stage.own_event(other, 0)?);
        stage.claim(client)?;
        sleep(LATER);
        stage.notify(first);
        stage.run(late)?;
        stage.notify(second);
        stage.run(other)?;
        stage.run(client)
    });
}

fn events(cases: &mut Cases) {
    for (name, mask) in [("outside of the mask", 0), ("of the mask", 1 << 4)] {
        cases.add(alloc::format!("call who has an event pending {name}"), move |stage| {
            let (server, client) = pair(
                stage,
                &[reply(mask, 0), reply(mask, 0x10), reply(1 << 4, 0x20), drain()],
                &[call(GATE, 0x20), call(GATE, 0x30)],
            )?;
            let event = stage.own_event(server, 4)?;
            stage.notify(event);
            stage.run(client)?;
            stage.run(server)?;
            stage.run(client)
        });
    }
    for (name, upcalls) in [("without", 0), ("with", 1 << 4)] {
        cases.add(alloc::format!("an event comes to the caller during its call, {name} upcalls"), move |stage| {
            let there = stage.environment(1)?;
            let server = stage.idle_actor(there, &[reply(0, 0), notify(GATE), reply(0, 0x10)])?;
            let client = client_of(stage, server, &[call(GATE, 0x20), drain()])?;
            stage.take_upcalls(client, upcalls)?;
            stage.event(client, 4, there, GATE)?;
            stage.start(server)?;
            stage.run(server)?;
            stage.run(client)
        });
        cases.add(alloc::format!("an event is pending when the caller calls, {name} upcalls"), move |stage| {
            let (_, client) = pair(stage, &[reply(0, 0), reply(0, 0x10)], &[call(GATE, 0x20), drain()])?;
            stage.take_upcalls(client, upcalls)?;
            let event = stage.own_event(client, 4)?;
            stage.notify(event);
            stage.run(client)
        });
        cases.add(alloc::format!("an event is pending for a masked caller, {name} upcalls"), move |stage| {
            let orders = [store(crate::stage::control_va(0) + 16, 1), notify(21), call(GATE, 0x20), drain()];
            let (_, client) = pair(stage, &[reply(0, 0), reply(0, 0x10)], &orders)?;
            stage.take_upcalls(client, upcalls)?;
            let here = 1;
            stage.event(client, 4, here, 21)?;
            stage.run(client)
        });
        cases.add(alloc::format!("an event comes to the callee while it serves, {name} upcalls"), move |stage| {
            let there = stage.environment(1)?;
            let server = stage.idle_actor(there, &[reply(0, 0), notify(GATE), reply(1 << 4, 0x10), drain()])?;
            stage.event(server, 4, there, GATE)?;
            stage.take_upcalls(server, upcalls)?;
            let client = client_of(stage, server, &[call(GATE, 0x20), drain()])?;
            stage.start(server)?;
            stage.run(server)?;
            stage.run(client)?;
            stage.run(server)
        });
    }
    cases.add("an event ends the callee's wait before the call", |stage| {
        let (server, client) = pair(
            stage,
            &[reply(1 << 3, 0), reply(0, 0x10), reply(0, 0x20)],
            &[notify(EVENT), call(GATE, 0x20), yield_to(GATE, 0), call(GATE, 0x30)],
        )?;
        stage.run(client)?;
        stage.run(server)?;
        stage.run(client)
    });
    cases.add("an alarm comes to who calls", |stage| {
        let orders = [wait(0, soon()), call(GATE, 0x20), drain()];
        let (server, client) = pair(stage, &[reply(0, 0), wait(1 << ALARM, soon()), reply(0, 0x10)], &orders)?;
        stage.claim(client)?;
        sleep(LATER);
        stage.run(server)?;
        stage.run(client)
    });
}

fn travel(cases: &mut Cases) {
    let accepting = |slot: u64| full_reply(reply_flag::ACCEPT, 0, [0, 0, slot]);
    let sending = |word: u64| full_call(GATE | call_flag::SEND, 0x20, [0, word, 0]);
    for rights in [0x01u64, 0x80, 0x81] {
        cases.add(alloc::format!("a gate travels with rights {rights:x}"), move |stage| {
            let server = [accepting(HERE), call(HERE, 0x60), restrict(HERE, 0xff), reply(0, 0x10), reply(0, 0x20)];
            let (_, client) = pair(stage, &server, &[sending(GATE | rights << 16), sending(GATE | rights << 16)])?;
            stage.run(client)
        });
    }
    cases.add("an event travels and is used", move |stage| {
        let server = [accepting(HERE), notify(HERE), reply(0, 0x10)];
        let (_, client) = pair(stage, &server, &[sending(21 | 0x01 << 16), drain()])?;
        stage.event(client, 6, 1, 21)?;
        stage.run(client)
    });
    cases.add("a server accepts, and nothing comes", move |stage| {
        let server = [accepting(HERE), restrict(HERE, 0xff), reply(0, 0x10), reply(0, 0x20)];
        let (_, client) = pair(stage, &server, &[call(GATE, 0x20), sending(GATE | 0x81 << 16), call(GATE, 0x30)])?;
        stage.run(client)
    });
    cases.add("a slot is filled while its owner accepts", move |stage| {
        let (server, client) = pair(
            stage,
            &[accepting(HERE), reply(0, 0x10), reply(0, 0x20)],
            &[sending(GATE | 0x81 << 16), call(GATE, 0x30)],
        )?;
        let own = stage.own_event(server, 5)?;
        let (child, _) = stage.place(server)?;
        child.give(own, Handle(HERE as u16), Rights::EVENT_NOTIFY)?;
        stage.run(client)
    });
    let asking = |slot: u64| full_call(GATE | call_flag::ACCEPT, 0x20, [0, 0, slot]);
    let answering = |word: u64| full_reply(reply_flag::SEND, 0x10, [0, word, 0]);
    cases.add("a binding travels with the reply", move |stage| {
        let there = stage.environment(1)?;
        let server = stage.idle_actor(there, &[reply(0, 0), answering(9 | 0x01 << 16), reply(0, 0x20)])?;
        let client = client_of(stage, server, &[asking(HERE), notify(HERE), call(GATE, 0x30), drain()])?;
        stage.event(client, 6, there, 9)?;
        stage.start(server)?;
        stage.run(server)?;
        stage.run(client)
    });
    cases.add("a caller accepts, and nothing comes", move |stage| {
        let (_, client) = pair(
            stage,
            &[reply(0, 0), reply(0, 0x10), reply(0, 0x20)],
            &[asking(HERE), restrict(HERE, 0xff), call(GATE, 0x30)],
        )?;
        stage.run(client)
    });
    cases.add("a caller accepts no more, and the reply would send", move |stage| {
        let there = stage.environment(1)?;
        let orders = [reply(0, 0), reply(0, 0x10), answering(9 | 0x01 << 16), reply(0, 0x20)];
        let server = stage.idle_actor(there, &orders)?;
        let client = client_of(stage, server, &[asking(HERE), call(GATE, 0x30), restrict(HERE, 0xff)])?;
        stage.event(client, 6, there, 9)?;
        stage.start(server)?;
        stage.run(server)?;
        stage.run(client)
    });
    cases.add("a caller's slot is filled during its call", move |stage| {
        let there = stage.environment(1)?;
        let orders = [reply(0, 0), wait(1, 0), answering(9 | 0x01 << 16), reply(0, 0x20)];
        let server = stage.idle_actor(there, &orders)?;
        let client = client_of(stage, server, &[asking(HERE), restrict(HERE, 0xff)])?;
        let own = stage.event(client, 6, there, 9)?;
        let go = stage.own_event(server, 0)?;
        stage.start(server)?;
        stage.run(server)?;
        stage.run(client)?;
        let (child, _) = stage.place(client)?;
        child.give(own, Handle(HERE as u16), Rights::EVENT_NOTIFY)?;
        stage.notify(go);
        stage.run(server)?;
        stage.run(client)
    });
    cases.add("bindings travel both ways, with a deadline", move |stage| {
        let there = stage.environment(1)?;
        let server = [accepting(HERE), notify(HERE), answering(9 | 0x01 << 16), reply(0, 0x20)];
        let server = stage.idle_actor(there, &server)?;
        let flags = GATE | call_flag::SEND | call_flag::ACCEPT | call_flag::DEADLINE;
        let orders = [full_call(flags, 0x20, [far(), 21 | 0x01 << 16, HERE]), notify(HERE), drain()];
        let client = client_of(stage, server, &orders)?;
        stage.event(client, 6, 1, 21)?;
        stage.event(client, 7, there, 9)?;
        stage.start(server)?;
        stage.run(server)?;
        stage.run(client)
    });
    cases.add("what is sent must not have been taken back", move |stage| {
        let (_, client) =
            pair(stage, &[accepting(HERE), reply(0, 0x10)], &[sending(STALE | 1 << 16), call(GATE, 0x20)])?;
        stage.run(client)
    });
}

/// Each passes on to the next; `down` of them, from a first caller on.
fn chain(stage: &mut Stage, down: u64) -> Result<(), Refusal> {
    let there = stage.environment(11)?;
    let mut next: Option<Who> = None;
    for index in (0..down).rev() {
        let orders = match next {
            Some(_) => [reply(0, 0), call(30 + index, 0x20 + index), reply(0, 0x40 + index), reply(0, 0)],
            None => [reply(0, 0), call(EMPTY, 0), reply(0, 0x40 + index), reply(0, 0)],
        };
        let who = stage.idle_actor(there, &orders)?;
        if let Some(next) = next {
            stage.gate(next, 0x100 + index, there, 30 + index, CALL_AND_GRANT)?;
        }
        stage.start(who)?;
        stage.run(who)?;
        next = Some(who);
    }
    let Some(first) = next else { return Err(Refusal::BadArgument) };
    let client = client_of(stage, first, &[call(GATE, 0x20), call(GATE, 0x30)])?;
    stage.run(client)
}

fn chains(cases: &mut Cases) {
    for down in [2, 3, MAX_CHAIN_CALLS - 1, MAX_CHAIN_CALLS, MAX_CHAIN_CALLS + 1] {
        cases.add(alloc::format!("a chain of {down}"), move |stage| chain(stage, down));
    }
    cases.add("the middle of a chain is stopped", |stage| {
        let last = serving(stage, &[reply(0, 0), wait(1, 0), drain(), reply(0, 0x10)])?;
        let middle = client_of(stage, last, &[reply(0, 0), call(GATE, 0x40), reply(0, 0x50)])?;
        stage.run(middle)?;
        let client = client_of(stage, middle, &[call(GATE, 0x60), drain()])?;
        let event = stage.own_event(last, 0)?;
        stage.run(client)?;
        stage.stop(middle)?;
        stage.notify(event);
        stage.run(last)?;
        stage.run(client)
    });
}
