//! Events: 48 bits a vcore, in the word of its state.

use crate::call::Outcome;
use crate::gate;
use crate::machine::Machine;
use crate::slice;
use crate::vcore::{self, Resume, State, Vcore, VcoreRef};
use core::sync::atomic::Ordering::*;
use exo_abi::{MAX_CHAIN_CALLS, Refusal, event};

/// What raising an event led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Raised {
    /// It is pending.
    Pending,
    /// The vcore waited for it and is ready now.
    Woken,
}

/// Makes events of a vcore pending; wakes it if it waits for one of them.
pub fn raise(m: &impl Machine, reference: VcoreRef, events: u64) -> Raised {
    let target = m.vcore(reference);
    let before = target.state.fetch_or(events, AcqRel);
    let mut word = vcore::StateWord(before | events);
    // The word changes under us only by other events, each of which comes once, or by the end of the wait.
    for _ in 0..64 {
        match word.state() {
            State::Waiting | State::Gate if target.mask.load(Relaxed) & events != 0 => {
                match target.change(word, word.ready(Resume::Events)) {
                    Ok(()) => {
                        make_runnable(m, reference);
                        m.core().woken.store(reference.0, Relaxed);
                        return Raised::Woken;
                    }
                    Err(seen) => word = seen,
                }
            }
            State::Running if reference != m.core().running() => {
                // It runs elsewhere: if it wants to be interrupted for this event and did not know of it yet, its core must look.
                let wanted = vcore::control(m, target).upcall_events().load(Relaxed);
                if wanted & events & !before != 0 {
                    m.interrupt_core(target.home());
                }
                return Raised::Pending;
            }
            _ => return Raised::Pending,
        }
    }
    Raised::Pending
}

/// Marks the positions of a ready vcore, and of who waits for it to reply, as worth a look.
pub fn make_runnable(m: &impl Machine, reference: VcoreRef) {
    let mut reference = reference;
    for _ in 0..=MAX_CHAIN_CALLS {
        let vcore = m.vcore(reference);
        let slots = vcore.slots.load(Acquire);
        if slots != 0
            && let Some(core) = m.core_at(vcore.home())
        {
            let before = core.ready.fetch_or(slots, AcqRel);
            if before & slots != slots {
                slice::kick(m, core);
            }
        }
        reference = VcoreRef::from_word(vcore.caller.load(Acquire));
        if !reference.exists() {
            return;
        }
    }
}

/// `notify`: raises one event; the woken vcore may run at once.
pub fn notify(m: &impl Machine, object: u64, x: &mut [u64; 11]) -> Outcome {
    let core = m.core();
    let target = VcoreRef::from_word(object);
    let bits = 1 << (object >> 44);
    if raise(m, target, bits) == Raised::Woken {
        core.woken.store(0, Relaxed);
        let me = vcore::control(m, m.vcore(core.running()));
        gate::suspend(m, me, 0);
        if slice::borrow(m, target, Resume::Result) {
            return Outcome::Enter(target);
        }
    }
    x[0] = 0;
    // An event of one's own may be wanted as an upcall.
    if target == core.running() { Outcome::ReturnOrUpcall } else { Outcome::Return }
}

/// `wait`: answers at once if an event of the mask is pending.
pub fn wait(m: &impl Machine, mask: u64, alarm: u64, x: &mut [u64; 11]) -> Result<Outcome, Refusal> {
    if mask & !vcore::PENDING != 0 {
        return Err(Refusal::BadArgument);
    }
    let me = m.core().running();
    let vcore = m.vcore(me);
    vcore.mask.store(mask, Relaxed);
    vcore.alarm.store(alarm, Relaxed);
    // Also when the wait ends at once: the alarm stays set.
    slice::note_alarm(m, vcore, alarm);
    if vcore.word().pending() & mask == 0 && (alarm == 0 || m.now() < alarm) {
        gate::suspend(m, vcore::control(m, vcore), 0);
        let mut word = vcore.word();
        for _ in 0..64 {
            if word.pending() & mask != 0 {
                break;
            }
            match vcore.change(word, word.in_state(State::Waiting)) {
                Ok(()) => return Ok(slice::schedule(m)),
                Err(seen) if seen.state() != State::Running => return Ok(slice::schedule(m)),
                Err(seen) => word = seen,
            }
        }
    } else if alarm != 0 && m.now() >= alarm {
        vcore.alarm.store(0, Relaxed);
    }
    (x[0], x[1]) = (0, 0);
    x[2..9].iter_mut().for_each(|x| *x = 0);
    x[1] = vcore.take(vcore.word().pending() & mask);
    Ok(Outcome::Return)
}

/// A slice of this vcore begins: an event for who asks.
pub fn slice_began(m: &impl Machine, reference: VcoreRef) {
    let vcore = m.vcore(reference);
    if vcore::control(m, vcore).upcall_events().load(Relaxed) & 1 << event::SLICE != 0 {
        vcore.state.fetch_or(1 << event::SLICE, AcqRel);
    }
}

/// The alarm of a vcore passed: a wait ends, a call misses its deadline, anything else is told by an event.
pub fn alarm_passed(m: &impl Machine, reference: VcoreRef, vcore: &Vcore) {
    let mut word = vcore.word();
    for _ in 0..64 {
        match word.state() {
            State::Waiting => match vcore.change(word, word.ready(Resume::Events)) {
                Ok(()) => {
                    vcore.alarm.store(0, Relaxed);
                    make_runnable(m, reference);
                    m.core().woken.store(reference.0, Relaxed);
                    return;
                }
                Err(seen) => word = seen,
            },
            State::Calling => {
                vcore.alarm.store(0, Relaxed);
                return gate::miss_deadline(m, reference, vcore);
            }
            _ => {
                vcore.alarm.store(0, Relaxed);
                let _ = raise(m, reference, 1 << event::ALARM);
                return;
            }
        }
    }
}
