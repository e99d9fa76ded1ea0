//! Cases of `reply_wait`, and of servers with time of their own.

use crate::Cases;
use crate::gates::{GATE, HERE, LATER, client_of, far, pair, serving, soon};
use crate::orders::*;
use exo_abi::BindingKind;
use exo_abi::binding::Rights;
use exo_abi::calls::reply_flag;
use exo_abi::event::ALARM;
use libos::time::sleep;
use workshop::Order;

pub fn cases(cases: &mut Cases) {
    refused(cases);
    events(cases);
    slices(cases);
}

/// Each is refused while somebody waits for the reply, who gets the next one.
fn refused(cases: &mut Cases) {
    let flagged = |flag: u64, more: [u64; 3]| full_reply(flag, 0x30, more);
    let send = |word: u64| flagged(reply_flag::SEND, [0, word, 0]);
    let accept = |word: u64| flagged(reply_flag::ACCEPT, [0, 0, word]);
    let wrong: &[(&str, Order)] = &[
        ("a flag that means nothing", flagged(1 << 51, [0; 3])),
        ("the highest flag", flagged(1 << 63, [0; 3])),
        ("sending nothing there is", send(13 | 0x81 << 16)),
        ("sending from beyond the table", send(1000 | 0x81 << 16)),
        ("sending what was taken back", send(10 | 0x81 << 16)),
        ("sending without the right to", send(11 | 0x01 << 16)),
        ("sending no rights", send(12)),
        ("sending more than there is", send(12 | 0xff << 16)),
        ("sending with bits that mean nothing", send(12 | 0x81 << 16 | 1 << 24)),
        ("sending to who accepts nothing", send(12 | 0x81 << 16)),
        ("accepting in a full slot", accept(12)),
        ("accepting behind the table", accept(128)),
        ("accepting beyond every table", accept(1 << 63)),
    ];
    for (name, order) in wrong {
        let order = *order;
        for called in [true, false] {
            let case = alloc::format!("reply_wait {}, refused: {name}", if called { "with a caller" } else { "alone" });
            cases.add(case, move |stage| {
                let there = stage.environment(1)?;
                let orders: &[Order] = if called {
                    &[reply(0, 0), order, reply(0, 0x10), reply(0, 0x20)]
                } else {
                    &[order, reply(0, 0), reply(0, 0x10), reply(0, 0x20)]
                };
                let server = stage.idle_actor(there, orders)?;
                stage.stale(BindingKind::Event, there, 10)?;
                let event = stage.event(server, 5, there, 12)?;
                stage.child(there)?.give(event, exo_abi::Handle(11), Rights::EVENT_NOTIFY)?;
                stage.start(server)?;
                stage.run(server)?;
                let client = client_of(stage, server, &[call(GATE, 0x40), call(GATE, 0x50)])?;
                stage.run(client)
            });
        }
    }
    cases.add("reply_wait with x8 to x10 that nobody asked for", |stage| {
        let server = [full_reply(0, 0, [1, 1, 1]), full_reply(0, 0x10, [1, 13, HERE])];
        let (_, client) = pair(stage, &server, &[call(GATE, 0x20)])?;
        stage.run(client)
    });
}

fn events(cases: &mut Cases) {
    cases.add("reply_wait with events pending, of the mask and not", |stage| {
        let there = stage.environment(1)?;
        let orders = [notify(9), notify(10), reply(1 << 5, 0), reply(1 << 5 | 1 << 6, 0), reply(1 << 5, 0)];
        let server = stage.idle_actor(there, &orders)?;
        stage.event(server, 5, there, 9)?;
        stage.event(server, 6, there, 10)?;
        stage.start(server)?;
        stage.run(server)
    });
    for (name, flags, at) in [("passed", 1 << ALARM, 1), ("will pass", 1 << ALARM, 0), ("does not matter", 0, 1)] {
        cases.add(alloc::format!("reply_wait with an alarm that {name}"), move |stage| {
            let at = if at == 0 { soon() } else { at };
            let orders = [full_reply(flags | reply_flag::ALARM, 0, [at, 0, 0]), drain()];
            let server = serving(stage, &orders)?;
            stage.claim(server)?;
            sleep(LATER);
            Ok(())
        });
    }
    cases.add("an alarm of reply_wait, and a call before", |stage| {
        let orders = [full_reply(1 << ALARM | reply_flag::ALARM, 0, [far(), 0, 0]), reply(0, 0x10), drain()];
        let (_, client) = pair(stage, &orders, &[call(GATE, 0x20)])?;
        stage.run(client)
    });
    for mask in [0, 1 << 6] {
        cases.add(alloc::format!("a server's own event as it replies, mask {mask:x}"), move |stage| {
            let there = stage.environment(1)?;
            let orders = [reply(0, 0), notify(9), reply(mask, 0x10), reply(0, 0x30), drain()];
            let server = stage.idle_actor(there, &orders)?;
            stage.event(server, 6, there, 9)?;
            let client = client_of(stage, server, &[call(GATE, 0x20), call(GATE, 0x40)])?;
            stage.start(server)?;
            stage.run(server)?;
            stage.run(client)?;
            stage.run(server)?;
            stage.run(client)
        });
    }
    cases.add("an event wakes a server, which opens its gate again", |stage| {
        let (server, client) = pair(stage, &[reply(1 << 4, 0), reply(0, 0x10), reply(0, 0x20)], &[call(GATE, 0x30)])?;
        let event = stage.own_event(server, 4)?;
        stage.notify(event);
        stage.run(server)?;
        stage.run(client)
    });
    cases.add("an event that a server in its gate wants as an upcall", |stage| {
        let there = stage.environment(1)?;
        let server = stage.idle_actor(there, &[reply(1 << 5, 0), reply(0, 0x10), drain()])?;
        stage.take_upcalls(server, 1 << 4)?;
        stage.start(server)?;
        stage.run(server)?;
        let event = stage.own_event(server, 4)?;
        stage.notify(event);
        let client = client_of(stage, server, &[call(GATE, 0x30)])?;
        stage.run(client)?;
        stage.run(server)
    });
}

fn slices(cases: &mut Cases) {
    cases.add("a server with a slice of its own", |stage| {
        let (server, client) =
            pair(stage, &[reply(0, 0), reply(0, 0x10), reply(0, 0x20)], &[call(GATE, 0x30), call(GATE, 0x40)])?;
        stage.claim(server)?;
        stage.run(client)
    });
    cases.add("a server finishes in a slice of its own", |stage| {
        let (server, client) = pair(stage, &[reply(0, 0), wait(1, 0), reply(0, 0x10)], &[call(GATE, 0x30), drain()])?;
        let event = stage.own_event(server, 0)?;
        stage.run(client)?;
        stage.claim(server)?;
        stage.notify(event);
        sleep(LATER);
        stage.run(client)
    });
    cases.add("a client with slices, a server without", |stage| {
        let (_, client) =
            pair(stage, &[reply(0, 0), reply(0, 0x10), reply(0, 0x20)], &[call(GATE, 0x30), call(GATE, 0x40)])?;
        stage.claim(client)?;
        sleep(LATER);
        Ok(())
    });
    cases.add("both with slices", |stage| {
        let (server, client) =
            pair(stage, &[reply(0, 0), reply(0, 0x10), reply(0, 0x20)], &[call(GATE, 0x30), call(GATE, 0x40)])?;
        stage.claim(server)?;
        stage.claim(client)?;
        sleep(LATER);
        Ok(())
    });
    cases.add("a server replies in a slice of its own to who sends along", |stage| {
        let there = stage.environment(1)?;
        let orders = [reply(0, 0), wait(1, 0), full_reply(reply_flag::SEND, 0x10, [0, 9 | 1 << 16, 0])];
        let server = stage.idle_actor(there, &orders)?;
        let order = full_call(GATE | exo_abi::calls::call_flag::ACCEPT, 0x20, [0, 0, HERE]);
        let client = client_of(stage, server, &[order, notify(HERE), drain()])?;
        stage.event(client, 6, there, 9)?;
        let event = stage.own_event(server, 0)?;
        stage.start(server)?;
        stage.run(server)?;
        stage.run(client)?;
        stage.claim(server)?;
        stage.notify(event);
        sleep(LATER);
        stage.run(client)
    });
}
