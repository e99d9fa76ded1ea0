//! Calls that have nothing to do with memory: the bare crossing, gates, `yield_to`, bindings.

use crate::meter::{Failed, Figure, Measured, Stretches};
use alloc::vec::Vec;
use core::time::Duration;
use exo_abi::Handle;
use exo_abi::binding::Rights;
use libos::event::Event;
use libos::ipc::Gate;
use libos::sys::{self, CallMessage};
use libos::time::Instant;
use libos::{event, slots, start};
use workshop::{Child, Common, Ground};

/// How long the other side of the gate may take to begin.
const PATIENCE: Duration = Duration::from_secs(1);
/// Grants between two clearings of the slots they went to.
const GRANTS: u64 = 32;

/// The other side of the gate: this same program in an environment of its own. It answers with what it was told.
pub fn serve() -> ! {
    let mut words = [0; 7];
    loop {
        let [_, heard @ .., _] = sys::reply_wait_words(0, words);
        words = heard;
    }
}

/// `svc` of the call that does nothing, and back.
pub fn null_call(_: &Ground) -> Measured {
    Stretches::ONE.measure(|_| sys::null(), |_| Ok(()))
}

/// A call through a gate into another address space, and the reply, without words.
/// The other side's loop is in it.
pub fn gate_round_trip_0(_: &Ground) -> Measured {
    let gate = server()?;
    Stretches::ONE.measure_switching(|_| gate.knock())
}

/// The same with seven words each way, which are looked at.
pub fn gate_round_trip_7(_: &Ground) -> Measured {
    let gate = server()?;
    let mut words = [1, 2, 3, 4, 5, 6, 7];
    let figure = Stretches::ONE.measure_switching(|_| gate.call(words).map(|heard| words = heard))?;
    if words != [1, 2, 3, 4, 5, 6, 7] {
        return Err(Failed::Lacks("the words that came back are others"));
    }
    Ok(figure)
}

fn server() -> Result<Gate, Failed> {
    let gate = start::service("server").ok_or(Failed::Lacks("the manifest names no server to call"))?;
    gate.call_patiently(&CallMessage::default(), Instant::after(PATIENCE))?;
    Ok(gate)
}

/// Giving the slice to a vcore of another environment until that runs behind its own `yield_to`: half of there and back.
pub fn yield_to(ground: &Ground) -> Measured {
    let mut child = Child::build(ground, 1)?;
    child.give(Handle::SELF, Handle(2), Rights::ENV_RUN)?;
    child.start(Common::YieldBack.va(), 0, 0)?;
    let there_and_back = Stretches::ONE.measure_switching(|_| sys::yield_to(child.env, 0))?;
    child.destroy(ground)?;
    Ok(Figure { iterations: there_and_back.iterations * 2, ..there_and_back })
}

/// Copying a binding of one's own into an empty slot.
pub fn grant(ground: &Ground) -> Measured {
    let event = Event::of_self(event::take_bit().ok_or(Failed::Lacks("no event is left"))?)?;
    let slots: Vec<Handle> = (0..GRANTS).map(|_| ground.take_slot()).collect::<Result<_, _>>()?;
    let figure = Stretches::of(GRANTS).measure(
        |index| sys::grant(event.handle(), Handle::SELF, slots[index as usize], Rights::EVENT_NOTIFY, 0, None),
        |_| {
            for slot in &slots {
                sys::restrict(*slot, Rights::empty())?;
            }
            Ok(())
        },
    )?;
    slots.iter().for_each(|slot| slots::give_back(*slot));
    slots::empty(event.handle());
    Ok(figure)
}

/// Making everything stale that carries a cell.
pub fn take_back(ground: &Ground) -> Measured {
    let cell = ground.take_cell()?;
    let figure = Stretches::ONE.measure(|_| sys::take_back(cell), |_| Ok(()))?;
    ground.give_back_cell(cell);
    Ok(figure)
}
