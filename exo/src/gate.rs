//! Gates: protected control transfer, and the chains it makes.
//!
//! A chain is a row of vcores, each in `call` but the last. `callee` leads down, `caller` up. Whoever ends a link first wins the caller's state word
//! (`Calling` → something else); the word counts calls, so that an answer to an earlier call cannot be taken for one to the present.

use crate::binding::{self, Binding, Copy};
use crate::call::Outcome;
use crate::environment::Environment;
use crate::machine::Machine;
use crate::vcore::{self, ACCEPTS, ONE_CALL, PENDING, Resume, State, StateWord, Vcore, VcoreRef};
use crate::{event, slice, word};
use core::sync::atomic::Ordering::*;
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::{call_flag, reply_flag};
use exo_abi::{MAX_CHAIN_CALLS, Refusal};

/// Where the count of calls above stands in `Vcore::caller`.
pub const DEPTH: u32 = 56;
/// From running to calling, one call more.
pub const BEGIN_CALL: u64 = (((State::Calling as u64) - (State::Running as u64)) << 48) + ONE_CALL;

/// Saves where the running vcore goes on; with x0 = 0 and no events if it goes on by [`Resume::Events`] and waits for none.
#[inline(always)]
pub fn suspend(m: &impl Machine, me: VcoreRef) {
    let vcore = m.vcore(me);
    let control = vcore::control(m, vcore);
    control.set(word!(pc), m.user_pc());
    control.set(word!(sp), m.user_sp());
    vcore.mask.store(0, Relaxed);
}

/// Goes up a chain until `found`: what it was found for, or the first vcore.
fn up(m: &impl Machine, mut at: VcoreRef, found: impl Fn(VcoreRef) -> bool) -> VcoreRef {
    for _ in 0..=MAX_CHAIN_CALLS {
        let caller = VcoreRef::from_word(m.vcore(at).caller.load(Acquire));
        if found(at) || !caller.exists() {
            break;
        }
        at = caller;
    }
    at
}

/// `owner` is above `end` in its chain, or is it.
pub fn leads_back(m: &impl Machine, end: VcoreRef, owner: VcoreRef) -> bool {
    end == owner || up(m, end, |at| at == owner) == owner
}

/// A binding that travels to `to`: checked and copied before anything is claimed.
fn sent(
    m: &impl Machine,
    environment: &Environment,
    flag: u64,
    word: u64,
    to: VcoreRef,
) -> Result<Option<Binding>, Refusal> {
    if flag == 0 {
        return Ok(None);
    }
    Refusal::BadArgument.when(word >> 24 != 0)?;
    let source = binding::read(m, environment, word & 0xffff)?;
    let copy = binding::derive(m, environment.number(), &source, &Copy { rights: word >> 16, ..Copy::default() })?;
    if to.exists() {
        let slot = m.vcore(to).control_address.load(Relaxed) & 0xfff;
        Refusal::SlotTaken.when(slot & ACCEPTS == 0)?;
        binding::check_empty(m, m.environment(to.environment()), slot & !ACCEPTS)?;
    }
    Ok(Some(copy))
}

/// Notes the slot in which a vcore now accepts a binding; 0 flag: none.
fn accept(m: &impl Machine, environment: &Environment, vcore: &Vcore, flag: u64, slot: u64) -> Result<(), Refusal> {
    let address = vcore.control_address.load(Relaxed) & !0xfff;
    if flag != 0 {
        binding::check_empty(m, environment, slot)?;
    }
    vcore.control_address.store(if flag == 0 { address } else { address | ACCEPTS | slot }, Relaxed);
    Ok(())
}

/// Puts a binding into the slot that `to` accepts it in. Answers x8. Somebody of the receiver's own environment may have filled the slot: then nothing arrives.
fn hand_over(m: &impl Machine, to: VcoreRef, sent: Option<&Binding>) -> u64 {
    let Some(binding) = sent else { return 0 };
    let slot = m.vcore(to).control_address.load(Relaxed) & 0xfff;
    let environment = m.environment(to.environment());
    (slot & ACCEPTS != 0 && binding::write(m, environment, slot & !ACCEPTS, binding).is_ok()) as u64
}

/// `call`.
#[inline(never)]
pub fn call(m: &impl Machine, environment: &Environment, x: &mut [u64; 11]) -> Result<Outcome, Refusal> {
    let core = m.core();
    let me = core.running();
    let vcore = m.vcore(me);
    let flags = x[0] & !0xffff;
    Refusal::BadArgument.when(flags & !(call_flag::DEADLINE | call_flag::SEND | call_flag::ACCEPT) != 0)?;
    let gate = binding::find(m, environment, x[0] & 0xffff, BindingKind::Gate, Rights::GATE_CALL)?;
    let target = VcoreRef::from_word(gate.object);
    let callee = m.vcore(target);
    let depth = (vcore.caller.load(Relaxed) >> DEPTH) + 1;
    Refusal::TooDeep.when(depth > MAX_CHAIN_CALLS)?;
    is_open(callee.word())?;
    let travels = sent(m, environment, flags & call_flag::SEND, x[9], target)?;
    let deadline = if flags & call_flag::DEADLINE != 0 { x[8] } else { 0 };
    Refusal::DeadlineMissed.when(flags & call_flag::DEADLINE != 0 && deadline <= m.now())?;
    accept(m, environment, vcore, flags & call_flag::ACCEPT, x[10])?;
    if !callee.go(m, State::Gate, |word| word.in_state(State::Running)) {
        return is_open(callee.word()).and(Err(Refusal::Busy));
    }
    // From here nothing refuses.
    suspend(m, me);
    callee.caller.store(me.0 | depth << DEPTH, Release);
    vcore.callee.store(target.0, Release);
    vcore.alarm.store(deadline, Relaxed);
    vcore.state.fetch_add(BEGIN_CALL, AcqRel);
    slice::note_alarm(m, vcore, deadline);
    x[0] = gate.badge;
    x[8] = hand_over(m, target, travels.as_ref());
    core.set_running(target);
    Ok(Outcome::Deliver(target))
}

/// The gate of a vcore in this state is open.
fn is_open(word: StateWord) -> Result<(), Refusal> {
    match word.state() {
        State::Gate => Ok(()),
        State::None | State::Stopped => Err(Refusal::Died),
        _ => Err(Refusal::Busy),
    }
}

/// `reply_wait`.
#[inline(never)]
pub fn reply_wait(m: &impl Machine, environment: &Environment, x: &mut [u64; 11]) -> Result<Outcome, Refusal> {
    let core = m.core();
    let me = core.running();
    let vcore = m.vcore(me);
    let (mask, flags) = (x[0] & PENDING, x[0] & !PENDING);
    Refusal::BadArgument.when(flags & !(reply_flag::ALARM | reply_flag::SEND | reply_flag::ACCEPT) != 0)?;
    let link = vcore.caller.load(Acquire);
    let caller = VcoreRef::from_word(link);
    let travels = sent(m, environment, flags & reply_flag::SEND, x[9], caller)?;
    accept(m, environment, vcore, flags & reply_flag::ACCEPT, x[10])?;
    // From here nothing refuses.
    let alarm = if flags & reply_flag::ALARM != 0 { x[8] } else { 0 };
    suspend(m, me);
    vcore.mask.store(mask, Relaxed);
    vcore.alarm.store(alarm, Relaxed);
    let direct = core.base() != me;
    let arrived = if caller.exists() { answer(m, me, caller, direct, travels.as_ref(), x) } else { None };
    // Nobody claims this gate before its state says so: the link can go first.
    vcore.caller.store(0, Release);
    slice::note_alarm(m, vcore, alarm);
    let ends = |word: StateWord| word.pending() & mask != 0;
    let old =
        vcore.update(m, |word| Some(if ends(word) { word.ready(Resume::Events) } else { word.in_state(State::Gate) }));
    let opened = !old.is_some_and(ends);
    match arrived {
        Some(arrived) if direct => {
            if !opened {
                event::make_runnable(m, me);
            }
            core.set_running(caller);
            (x[0], x[8]) = (0, arrived);
            Ok(Outcome::Deliver(caller))
        }
        // An event is pending: the vcore is ready and nobody else has won it, unless another core did.
        _ if !opened && vcore.go(m, State::Ready, |word| word.in_state(State::Running)) => {
            Ok(Outcome::Events(vcore.take(m, vcore.word().pending() & mask)))
        }
        _ => Ok(slice::schedule(m)),
    }
}

/// Ends `caller`'s call, if it still is in that call of `callee`: it is in state `next` then.
fn end(m: &impl Machine, callee: VcoreRef, caller: VcoreRef, next: State) -> bool {
    let vcore = m.vcore(caller);
    let this = |word: StateWord| word.is(State::Calling) && VcoreRef(vcore.callee.load(Acquire)) == callee;
    let ended = vcore.update(m, |word| this(word).then(|| word.in_state(next))).is_some();
    if ended {
        vcore.alarm.store(0, Relaxed);
    }
    ended
}

/// Ends the caller's call with the words in `x`, if it still waits for this very call: it runs on here (`direct`), or is ready. Answers whether a binding arrived.
fn answer(
    m: &impl Machine,
    me: VcoreRef,
    caller: VcoreRef,
    direct: bool,
    travels: Option<&Binding>,
    x: &[u64; 11],
) -> Option<u64> {
    // Held while the results are written: no core may run it yet, and nobody can end its call a second time.
    if !end(m, me, caller, if direct { State::Running } else { State::Held }) {
        return None;
    }
    m.vcore(caller).callee.store(0, Relaxed);
    let arrived = hand_over(m, caller, travels);
    if !direct {
        release(m, caller, &[0, x[1], x[2], x[3], x[4], x[5], x[6], x[7], arrived]);
    }
    Some(arrived)
}

/// A vcore held at the end of its call goes on with these results.
fn release(m: &impl Machine, caller: VcoreRef, results: &[u64; 9]) {
    let control = vcore::control(m, m.vcore(caller));
    results.iter().enumerate().for_each(|(index, value)| control.set(word!(result) + index, *value));
    event::go_on(m, caller, Resume::Result);
}

/// A call ended without a reply.
fn failed(refusal: Refusal) -> [u64; 9] {
    [refusal as u64, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The callee died or stopped: who called it is told.
pub fn fail_caller(m: &impl Machine, reference: VcoreRef, vcore: &Vcore, refusal: Refusal) {
    let link = vcore.caller.load(Acquire);
    let caller = VcoreRef::from_word(link);
    if caller.exists() && end(m, reference, caller, State::Held) {
        m.vcore(caller).callee.store(0, Relaxed);
        release(m, caller, &failed(refusal));
    }
    vcore.caller.store(0, Release);
}

/// The deadline of a call passed.
pub fn miss_deadline(m: &impl Machine, reference: VcoreRef, vcore: &Vcore) {
    if end(m, VcoreRef(vcore.callee.load(Acquire)), reference, State::Held) {
        abandon_callee(m, reference, vcore);
        release(m, reference, &failed(Refusal::DeadlineMissed));
    }
}

/// The caller is gone, or waits no longer: the link is cleared and the callee told by CUT.
pub fn abandon_callee(m: &impl Machine, reference: VcoreRef, vcore: &Vcore) {
    let target = VcoreRef(vcore.callee.swap(0, AcqRel));
    if !target.exists() {
        return;
    }
    let (callee, core) = (m.vcore(target), m.core());
    let link = callee.caller.load(Acquire);
    if VcoreRef::from_word(link) != reference {
        return;
    }
    // Whoever calls it meanwhile is somebody else: this caller cannot, before its own call has ended.
    if callee.caller.compare_exchange(link, 0, AcqRel, Relaxed).is_err() {
        return;
    }
    event::raise(m, target, 1 << exo_abi::event::CUT);
    core.reschedule.store(1, Relaxed);
    slice::arm(m);
}
