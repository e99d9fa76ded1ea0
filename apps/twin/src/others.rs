//! Cases of `notify`, `wait`, `yield_to` and `null`.

use crate::Cases;
use crate::gates::{GATE, LATER, client_of, far, pair, serving, soon};
use crate::orders::*;
use crate::stage::{Stage, Who, control_va};
use alloc::vec;
use exo_abi::binding::Rights;
use exo_abi::{BindingKind, Handle, MAX_VCORES, Refusal};
use libos::sys;
use libos::time::sleep;
use workshop::Order;

/// Events and environments in the first actor's table.
const EVENT: u64 = 9;
const OTHER: u64 = 10;
const STALE: u64 = 12;

pub fn cases(cases: &mut Cases) {
    notifies(cases);
    waits(cases);
    yields(cases);
    cases.add("null", |stage| {
        let here = stage.environment(1)?;
        let who = stage.actor(here, &[null(&[5, 6, 7]), null(&[])])?;
        stage.run(who)
    });
}

/// An actor with an event binding to `of`, and one that permits nothing.
fn notifier(stage: &mut Stage, of: Who, orders: &[Order]) -> Result<Who, Refusal> {
    let here = stage.environment(1)?;
    let who = stage.idle_actor(here, orders)?;
    let event = stage.event(of, 3, here, EVENT)?;
    stage.child(here)?.give(event, Handle(OTHER as u16), Rights::GRANT)?;
    stage.stale(BindingKind::Event, here, STALE)?;
    stage.start(who)?;
    Ok(who)
}

fn notifies(cases: &mut Cases) {
    for (name, handle) in [
        ("an empty slot", 13),
        ("a slot behind the table", 128),
        ("a slot beyond every table", 1024),
        ("a handle with more bits", EVENT | 1 << 16),
        ("the largest number", 1 << 63),
        ("a pool", 1),
        ("what was taken back", STALE),
        ("what lacks the right", OTHER),
    ] {
        cases.add(alloc::format!("notify refused: {name}"), move |stage| {
            let target = serving(stage, &[wait(1 << 3, 0), drain()])?;
            let who = notifier(stage, target, &[notify(handle), notify(EVENT), drain()])?;
            stage.run(who)?;
            stage.run(target)
        });
    }
    let targets = [
        ("who waits for it", vec![wait(1 << 3, 0), drain()], true),
        ("who waits for another", vec![wait(1 << 2, 0), drain()], true),
        ("who waits for it in its gate", vec![reply(1 << 3, 0), drain()], true),
        ("who waits for another in its gate", vec![reply(1 << 2, 0), drain()], true),
        ("who is ready", vec![drain()], false),
        ("who halted", vec![halt(4)], true),
    ];
    for (name, orders, runs) in targets {
        for upcalls in [0, 1 << 3] {
            let orders = orders.clone();
            cases.add(alloc::format!("notify {name}, upcalls {upcalls:x}"), move |stage| {
                let there = stage.environment(1)?;
                let target = stage.idle_actor(there, &orders)?;
                stage.take_upcalls(target, upcalls)?;
                stage.start(target)?;
                if runs {
                    stage.run(target)?;
                }
                let who = notifier(stage, target, &[notify(EVENT), notify(EVENT), notify(EVENT)])?;
                stage.run(who)?;
                stage.run(target)
            });
        }
    }
    cases.add("notify who calls", |stage| {
        let (server, client) = pair(stage, &[reply(0, 0), wait(1, 0), reply(0, 0x10)], &[call(GATE, 0x20), drain()])?;
        let go = stage.own_event(server, 0)?;
        stage.run(client)?;
        let who = notifier(stage, client, &[notify(EVENT), notify(EVENT)])?;
        stage.run(who)?;
        stage.notify(go);
        stage.run(server)?;
        stage.run(client)
    });
    cases.add("notify who serves", |stage| {
        let (server, client) = pair(
            stage,
            &[reply(0, 0), wait(1, 0), reply(1 << 3, 0x10), drain()],
            &[call(GATE, 0x20), call(GATE, 0x30)],
        )?;
        let go = stage.own_event(server, 0)?;
        stage.run(client)?;
        let who = notifier(stage, server, &[notify(EVENT)])?;
        stage.run(who)?;
        stage.notify(go);
        stage.run(server)?;
        stage.run(client)?;
        stage.run(server)
    });
    for (name, upcalls, masked) in [("no upcall", 0, 0), ("an upcall", 1 << 3, 0), ("masked", 1 << 3, 1)] {
        cases.add(alloc::format!("notify oneself, {name}"), move |stage| {
            let here = stage.environment(1)?;
            let orders = [store(control_va(0) + 16, masked), notify(EVENT), notify(EVENT), drain()];
            let who = stage.idle_actor(here, &orders)?;
            stage.event(who, 3, here, EVENT)?;
            stage.take_upcalls(who, upcalls)?;
            stage.start(who)?;
            stage.run(who)
        });
    }
    cases.add("notify who has a later slice", |stage| {
        let target = serving(stage, &[wait(1 << 3, 0), wait(1 << 3, 0), drain()])?;
        stage.claim(target)?;
        let who = notifier(stage, target, &[notify(EVENT)])?;
        stage.claim(who)?;
        sleep(LATER);
        let second = notifier(stage, target, &[notify(EVENT)])?;
        stage.claim(second)?;
        sleep(LATER);
        Ok(())
    });
    cases.add("notify who is gone", |stage| {
        let target = serving(stage, &[wait(1 << 3, 0)])?;
        let who = notifier(stage, target, &[notify(EVENT)])?;
        stage.destroy(0)?;
        stage.run(who)
    });
}

fn waits(cases: &mut Cases) {
    const ALL: u64 = (1 << 48) - 1;
    for (name, mask, alarm) in [
        ("for one that is pending", 1 << 3, 0),
        ("for several", 1 << 3 | 1 << 4 | 1 << 9, 0),
        ("for all", ALL, 0),
        ("for none, an alarm that passed", 0, 1),
        ("for one that is pending, an alarm that passed", 1 << 3, 1),
        ("for one that is not, an alarm that passed", 1 << 9, 1),
        ("for one that is pending, with an alarm", 1 << 3, u64::MAX / 2),
        ("with a bit that is no event", 1 << 48, 1),
        ("with the highest bit", 1 << 63 | 1 << 3, 1),
    ] {
        for upcalls in [0, 1 << 4] {
            cases.add(alloc::format!("wait {name}, upcalls {upcalls:x}"), move |stage| {
                let here = stage.environment(1)?;
                let orders = [notify(9), notify(10), wait(mask, alarm), drain()];
                let who = stage.idle_actor(here, &orders)?;
                stage.take_upcalls(who, upcalls)?;
                stage.event(who, 3, here, 9)?;
                stage.event(who, 4, here, 10)?;
                stage.start(who)?;
                stage.run(who)
            });
        }
    }
    cases.add("wait until an alarm", |stage| {
        let who = serving(stage, &[wait(1 << 3, soon()), drain()])?;
        stage.claim(who)?;
        sleep(LATER);
        Ok(())
    });
    cases.add("wait with an alarm, and the event comes", |stage| {
        let who = serving(stage, &[wait(1 << 3, far()), drain()])?;
        let event = stage.own_event(who, 3)?;
        stage.notify(event);
        stage.run(who)
    });
    cases.add("wait twice, and other events come between", |stage| {
        let who = serving(stage, &[wait(1 << 3, 0), wait(1 << 4, 0), drain()])?;
        let (three, four, five) = (stage.own_event(who, 3)?, stage.own_event(who, 4)?, stage.own_event(who, 5)?);
        stage.notify(five);
        stage.notify(three);
        stage.run(who)?;
        stage.notify(four);
        stage.notify(three);
        stage.run(who)
    });
    cases.add("wait while an upcall event is pending", |stage| {
        let here = stage.environment(1)?;
        let who = stage.idle_actor(here, &[wait(1 << 3, 0), drain()])?;
        stage.take_upcalls(who, 1 << 4)?;
        stage.start(who)?;
        stage.run(who)?;
        let (three, four) = (stage.own_event(who, 3)?, stage.own_event(who, 4)?);
        stage.notify(four);
        stage.notify(three);
        stage.run(who)
    });
}

fn yields(cases: &mut Cases) {
    /// The environment of who is lent to.
    const THERE: u64 = 9;
    /// The same without ENV_RUN.
    const NO_RUN: u64 = 10;
    let environments = |stage: &mut Stage, orders: &[Order], lender: &[Order]| -> Result<(Who, Who), Refusal> {
        let there = stage.environment(2)?;
        let target = stage.actor(there, orders)?;
        let here = stage.environment(1)?;
        let who = stage.idle_actor(here, lender)?;
        let env = stage.child(there)?.env;
        stage.child(here)?.give(env, Handle(THERE as u16), Rights::ENV_RUN)?;
        stage.child(here)?.give(env, Handle(NO_RUN as u16), Rights::ENV_READ)?;
        stage.stale(BindingKind::Env, here, STALE)?;
        stage.start(who)?;
        Ok((target, who))
    };
    for (name, x0, x1) in [
        ("a vcore that does not exist", THERE, 1),
        ("the last vcore", THERE, MAX_VCORES - 1),
        ("beyond the vcores", THERE, MAX_VCORES),
        ("far beyond the vcores", THERE, 1 << 63),
        ("an empty slot", 13, 0),
        ("behind the table", 128, 0),
        ("beyond every table", 1024, 0),
        ("with a flag", THERE | 1 << 16, 0),
        ("a pool", 1, 0),
        ("what was taken back", STALE, 0),
        ("without the right", NO_RUN, 0),
        ("oneself", 0, 0),
    ] {
        cases.add(alloc::format!("yield_to refused: {name}"), move |stage| {
            let (target, who) = environments(stage, &[drain()], &[yield_to(x0, x1), yield_to(THERE, 0), drain()])?;
            stage.run(who)?;
            stage.run(target)
        });
    }
    let targets = [
        ("who has not run", vec![drain()], false),
        ("who waits", vec![wait(1 << 3, 0)], true),
        ("who waits in its gate", vec![reply(1 << 3, 0)], true),
        ("who halted", vec![halt(1)], true),
    ];
    for (name, orders, runs) in targets {
        cases.add(alloc::format!("yield_to {name}"), move |stage| {
            let (target, who) = environments(stage, &orders, &[yield_to(THERE, 0), yield_to(THERE, 0), drain()])?;
            if runs {
                stage.run(target)?;
            }
            stage.run(who)
        });
    }
    for upcalls in [0, 1 << 3, 1 << 4] {
        cases.add(alloc::format!("yield_to who was woken, upcalls {upcalls:x}"), move |stage| {
            let lender = [yield_to(THERE, 0), yield_to(THERE, 0), drain()];
            let (target, who) = environments(stage, &[wait(1 << 3, 0), wait(1 << 5, 0), drain()], &lender)?;
            stage.run(target)?;
            stage.take_upcalls(target, upcalls)?;
            let (three, four) = (stage.own_event(target, 3)?, stage.own_event(target, 4)?);
            stage.notify(four);
            stage.notify(three);
            stage.run(who)
        });
    }
    cases.add("yield_to and back, with an event for the lender", move |stage| {
        let lender = [yield_to(THERE, 0), drain()];
        let (target, who) = environments(stage, &[notify(30), yield_to(31, 0), drain()], &lender)?;
        stage.event(who, 3, 0, 30)?;
        let env = stage.child(1)?.env;
        stage.child(0)?.give(env, Handle(31), Rights::ENV_RUN)?;
        stage.take_upcalls(who, 1 << 3)?;
        stage.run(who)?;
        stage.run(target)
    });
    cases.add("yield_to with floating point in the registers", move |stage| {
        let lender = [float(9), yield_to(THERE, 0), float(10), drain()];
        let (_, who) = environments(stage, &[wait(0, 1), float(3), wait(0, 1), drain()], &lender)?;
        stage.run(who)
    });
    cases.add("yield_to by who serves", move |stage| {
        let there = stage.environment(1)?;
        let target = stage.actor(there, &[drain()])?;
        let (server, client) = pair(stage, &[reply(0, 0), yield_to(40, 0), reply(0, 0x10)], &[call(GATE, 0x20)])?;
        let env = stage.child(there)?.env;
        let (child, _) = stage.place(server)?;
        child.give(env, Handle(40), Rights::ENV_RUN)?;
        stage.run(client)?;
        stage.run(target)
    });
    cases.add("yield_to by who has a slice, to who has one", move |stage| {
        let lender = [yield_to(THERE, 0), drain()];
        let (target, who) = environments(stage, &[wait(1 << 3, 0), drain()], &lender)?;
        stage.run(target)?;
        let event = stage.own_event(target, 3)?;
        stage.notify(event);
        stage.claim(target)?;
        stage.claim(who)?;
        sleep(LATER);
        Ok(())
    });
    cases.add("yield_to an environment that ends", move |stage| {
        let (target, who) = environments(stage, &[wait(0, 1)], &[yield_to(THERE, 0)])?;
        let (child, _) = stage.place(target)?;
        let step = sys::env_destroy(child.env, 0);
        stage.say(&alloc::format!("one step {step:?}"));
        stage.run(who)
    });
    gates(cases);
}

fn gates(cases: &mut Cases) {
    cases.add("yield_to a gate whose server is ready", |stage| {
        let there = stage.environment(1)?;
        let server = stage.actor(there, &[reply(0, 0), reply(0, 0x10)])?;
        let orders = [yield_to(GATE, 0), yield_to(GATE, 1), yield_to(GATE, 0), call(GATE, 0x20)];
        let client = client_of(stage, server, &orders)?;
        stage.run(client)
    });
    cases.add("yield_to a gate whose server works for another", |stage| {
        let (server, client) =
            pair(stage, &[reply(0, 0), wait(1, 0), reply(0, 0x10), reply(0, 0x20)], &[call(GATE, 0x20)])?;
        let event = stage.own_event(server, 0)?;
        stage.run(client)?;
        let other = client_of(
            stage,
            server,
            &[call(GATE, 0x30), yield_to(GATE, 0), wait(1, 0), yield_to(GATE, 0), call(GATE, 0x40)],
        )?;
        let go = stage.own_event(other, 0)?;
        stage.run(other)?;
        stage.notify(event);
        stage.notify(go);
        stage.run(other)?;
        stage.run(client)
    });
    cases.add("yield_to a gate of the dead", |stage| {
        let (_, client) = pair(stage, &[halt(1)], &[yield_to(GATE, 0)])?;
        stage.run(client)
    });
    cases.add("yield_to a gate of the gone", |stage| {
        let (_, client) = pair(stage, &[reply(0, 0)], &[yield_to(GATE, 0)])?;
        stage.destroy(0)?;
        stage.run(client)
    });
}
