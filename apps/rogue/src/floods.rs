//! Floods: who does something for ever without pause harms the time of its own slices only.

use crate::book::{Book, End};
use core::time::Duration;
use exo_abi::Refusal;
use exo_abi::binding::Rights;
use exo_abi::{Handle, event};
use libos::sys;
use libos::time;
use workshop::{Child, EXTRA_VA, Ground, svc};

workshop::snippets! {
    /// Loops without end.
    enum Flood in "velvet_flood" {
        /// Of nothing.
        Null: ["1:", svc!(null), "b 1b"],
        /// Of numbers that are no call.
        Unknown: ["1:", "svc #(65535 - 63)", "b 1b"],
        /// Of events for the maker: handle 2.
        Notify: ["1:", "mov x0, #2", svc!(notify), "b 1b"],
        /// Of calls to a gate that is shut: handle 3.
        Call: ["1:", "mov x0, #3", svc!(call), "b 1b"],
        /// Of alarms that have passed.
        Alarm: ["1:", "mov x0, #0", "mov x1, #1", svc!(wait), "b 1b"],
        /// Of alarms a moment ahead.
        Soon: ["1:", "mrs x1, cntvct_el0", "add x1, x1, #50", "mov x0, #0", svc!(wait), "b 1b"],
        /// Of yields to the maker: handle 4.
        Yield: ["1:", "mov x0, #4", "mov x1, #0", svc!(yield_to), "b 1b"],
        /// Of faults that the upcall resumes from: it is its own upcall entry.
        Fault: ["1:", "mrs x16, tpidrro_el0", "adr x17, 1b", "str x17, [x16]", "mov x16, #0", "udf #0", "b 1b"],
        /// Of changes to its own tables: an empty batch, refused.
        Map: ["1:", "mov x0, #0", "mov x1, #64", svc!(map), "b 1b"],
    }
}

/// Sleeps of this program during each flood.
const ROUNDS: u32 = 10;

/// Each of them, while this program sleeps and wakes in its own slice.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    for flood in Flood::ALL {
        let mut child = Child::build(ground, 1)?.with(Flood::blob())?;
        child.vcore(EXTRA_VA + flood.offset(), 0, 0)?;
        let (own_event, own_gate) = (ground.take_slot()?, ground.take_slot()?);
        let (event_cell, gate_cell) = (ground.take_cell()?, ground.take_cell()?);
        sys::event_bind(Handle::SELF, 0, event_cell, own_event, 5)?;
        sys::gate_bind(Handle::SELF, 0, gate_cell, own_gate, 5)?;
        child.give(own_event, Handle(2), Rights::EVENT_NOTIFY)?;
        child.give(own_gate, Handle(3), Rights::GATE_CALL)?;
        child.give(Handle::SELF, Handle(4), Rights::ENV_RUN)?;
        child.claim(ground, 0, 1000)?;
        sys::vcore_start(child.env, 0)?;
        // Each sleep needs an alarm, a wake and a slice; that this goes on at all is what is tested.
        (0..ROUNDS).for_each(|_| time::sleep(Duration::from_millis(1)));
        let end = if child.stop(0).is_ok() { End::Refused } else { End::Harm };
        book.attack(format_args!("flood of {flood:?}"), end);
        sys::take_back(event_cell)?;
        sys::take_back(gate_cell)?;
        libos::slots::empty(own_event);
        libos::slots::empty(own_gate);
        ground.give_back_cell(event_cell);
        ground.give_back_cell(gate_cell);
        child.destroy(ground)?;
        // What it left pending.
        let _ = sys::wait(1 << 5 | 1 << event::CHILD, 1);
    }
    Ok(())
}
