//! Events: 48 bits a vcore, in the word of its state.

use crate::call::Outcome;
use crate::machine::Machine;
use crate::vcore::{self, DEADLINE, PENDING, Resume, State, StateWord, Vcore, VcoreRef};
use crate::{gate, remote, slice, word};
use core::sync::atomic::Ordering::*;
use exo_abi::{MAX_CHAIN_CALLS, Refusal, event};

/// Makes events of a vcore pending, and wakes it if it waits for one of them.
#[inline(never)]
pub fn raise(m: &impl Machine, reference: VcoreRef, events: u64) {
    let target = m.vcore(reference);
    let ends = |word: StateWord| word.waits() && word.pending() & target.mask.load(Relaxed) != 0;
    let with = |word: StateWord| StateWord(word.0 | events);
    let before = target.update(m, |word| {
        let word = with(word);
        Some(if ends(word) { word.ready(Resume::Events) } else { word })
    });
    // An event is never lost: it stays for the next look, if others change the word all the time.
    let before = before.unwrap_or_else(|| StateWord(target.state.fetch_or(events, AcqRel)));
    if ends(with(before)) {
        // Again: it may have waited anew, for something else, in between; the word does not show that.
        target.update(m, |word| ends(word).then(|| word.ready(Resume::Events)));
        make_runnable(m, reference);
    } else if before.is(State::Running) && reference != m.core().running() && !target.calls().exists() {
        // It runs elsewhere: if it wants to be interrupted for this event and did not know of it yet, its core must look.
        let wanted = vcore::control(m, target).get(word!(upcall_events));
        if wanted & events & !before.0 != 0 {
            remote::interrupt(m, reference);
        }
    }
}

/// Marks the positions of a ready vcore, and of who waits for it to reply, as worth a look.
pub fn make_runnable(m: &impl Machine, mut reference: VcoreRef) {
    for _ in 0..=MAX_CHAIN_CALLS {
        let vcore = m.vcore(reference);
        let slots = vcore.slots.load(Acquire);
        if slots != 0
            && let Some(core) = m.core_at(vcore::home(m, reference))
            && let ready = core.ready.fetch_or(slots, AcqRel)
            && ready & slots != slots
        {
            slice::kick(m, core, ready);
        }
        reference = vcore.serves();
        if !reference.exists() {
            return;
        }
    }
}

/// The running vcore, or one that is held, becomes ready, to go on so.
#[inline(always)]
pub fn go_on(m: &impl Machine, reference: VcoreRef, resume: Resume) {
    let (vcore, core) = (m.vcore(reference), m.core());
    let busy = |word: StateWord| word.is(State::Running) || word.is(State::Held);
    if vcore.update(m, |word| busy(word).then(|| word.ready(resume))).is_none() {
        return;
    }
    // Mostly there is nothing to do, for only its own core clears a position's bit.
    let known = vcore::home(m, reference) == core.id() && vcore.slots.load(Relaxed) & !core.ready.load(Relaxed) == 0;
    if !known || vcore.caller.load(Relaxed) != 0 {
        make_runnable(m, reference);
    }
}

/// [`slice::wake`] for an interrupt, of which the running vcore is saved in full: who was won goes on when it ends.
#[inline(never)]
pub fn wake_by_interrupt(m: &impl Machine, target: VcoreRef, event: u64) -> bool {
    let woken = slice::wake(m, target, event, Resume::Full);
    if woken {
        m.core().won.store(target.0, Relaxed);
    }
    woken
}

/// `notify`: raises one event; the woken vcore may run at once.
#[inline(always)]
pub fn notify(m: &impl Machine, object: u64) -> Outcome {
    let (target, event) = (VcoreRef::from_link(object), 1 << (object & 63));
    if slice::wake(m, target, event, Resume::Events) {
        return Outcome::Waited(target);
    }
    raise(m, target, event);
    // An event of one's own may be wanted as an upcall.
    if target == m.core().me() { Outcome::ReturnOrUpcall } else { Outcome::Events(0) }
}

/// `wait`: answers at once if an event of the mask is pending, or the alarm has passed.
#[inline(never)]
pub fn wait(m: &impl Machine, mask: u64, alarm: u64) -> Outcome {
    if mask & !PENDING != 0 {
        return Outcome::Refused(Refusal::BadArgument);
    }
    let me = m.core().me();
    let vcore = m.vcore(me);
    let passed = alarm != 0 && m.now() >= alarm;
    let alarm = if passed { 0 } else { alarm };
    vcore.alarm.store(alarm, Relaxed);
    // Also when the wait ends at once: the alarm stays set.
    slice::note_alarm(m, me, alarm);
    if !passed && vcore.word().pending() & mask == 0 {
        gate::suspend(m, me);
        vcore.mask.store(mask, Relaxed);
        let waits = |word: StateWord| (word.pending() & mask == 0).then(|| word.in_state(State::Waiting));
        if vcore.update(m, waits).is_some() {
            return slice::schedule(m);
        }
    }
    Outcome::Events(vcore.take(m, vcore.word().pending() & mask))
}

/// A slice of this vcore begins: an event for who asks.
pub fn slice_began(m: &impl Machine, vcore: &Vcore) {
    if vcore::control(m, vcore).get(word!(upcall_events)) & 1 << event::SLICE != 0 {
        vcore.state.fetch_or(1 << event::SLICE, AcqRel);
    }
}

/// The alarm of a vcore passed: a wait ends, a call misses its deadline, anything else is told by an event.
pub fn alarm_passed(m: &impl Machine, reference: VcoreRef, vcore: &Vcore, alarm: u64) {
    if vcore.alarm.compare_exchange(alarm, 0, AcqRel, Relaxed).is_err() {
        // It has just set another one.
        return;
    }
    let word = vcore.word();
    let event = if word.is(State::Waiting) { 0 } else { 1 << event::ALARM };
    if vcore.mask.load(Relaxed) & DEADLINE != 0 && vcore.calls().exists() {
        gate::miss_deadline(m, reference, vcore);
    } else if !wake_by_interrupt(m, reference, event) {
        if vcore.go(m, State::Waiting, |word| word.ready(Resume::Events)) {
            make_runnable(m, reference);
        } else {
            raise(m, reference, 1 << event::ALARM);
        }
    }
}
