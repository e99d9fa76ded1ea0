//! Gates: protected control transfer, and the chains it makes.
//!
//! A chain is a row of vcores, each in `call` but the last. `callee` leads down, `caller` up. A call ends when its callee's `caller` is taken out, by one
//! atomic: the reply, the deadline or a death, whichever comes first, decides how the caller goes on. (No gate opens before its `reply_wait`,
//! so a late reply finds nothing, and never the next call.)

use crate::binding::{self, Binding};
use crate::call::Outcome;
use crate::environment::Environment;
use crate::machine::Machine;
use crate::vcore::{self, ACCEPT_SHIFT, ACCEPTS, DEADLINE, Link, PENDING, Resume, State, StateWord, Vcore, VcoreRef};
use crate::{event, slice, word};
use core::sync::atomic::Ordering::*;
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::{call_flag, reply_flag};
use exo_abi::{MAX_CHAIN_CALLS, Refusal};

/// Saves where the running vcore goes on; with x0 = 0 and no events if it goes on by [`Resume::Events`] and waits for none.
#[inline(always)]
pub fn suspend(m: &impl Machine, me: VcoreRef) {
    let vcore = m.vcore(me);
    let control = vcore::control(m, vcore);
    control.set(word!(pc), m.user_pc());
    control.set(word!(sp), m.user_sp());
    vcore.mask.store(0, Relaxed);
}

/// `owner` is above `end` in its chain, or is it.
pub fn leads_back(m: &impl Machine, end: VcoreRef, owner: VcoreRef) -> bool {
    let caller = |at: &VcoreRef| Some(m.vcore(*at).serves()).filter(|caller| caller.exists());
    core::iter::successors(Some(end), caller).take(MAX_CHAIN_CALLS as usize + 2).any(|at| at == owner)
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
    let copy = binding::derive(m, environment.number(), &source, [word >> 16, 0, 0, 0])?;
    if to.exists() {
        let slot = m.vcore(to).accepts().ok_or(Refusal::SlotTaken)?;
        binding::check_empty(m, m.environment_of(to), slot)?;
    }
    Ok(Some(copy))
}

/// What [`Vcore::mask`] says of the slot in which a binding is accepted; 0 flag: none.
fn accept(m: &impl Machine, environment: &Environment, flag: u64, slot: u64) -> Result<u64, Refusal> {
    if flag == 0 { Ok(0) } else { binding::check_empty(m, environment, slot).map(|_| ACCEPTS | slot << ACCEPT_SHIFT) }
}

/// Puts a binding into the slot that `to` accepts it in. Answers x8. Somebody of the receiver's own environment may have filled the slot: then nothing arrives.
fn hand_over(m: &impl Machine, to: VcoreRef, sent: Option<&Binding>) -> u64 {
    let Some(binding) = sent else { return 0 };
    let environment = m.environment_of(to);
    m.vcore(to).accepts().is_some_and(|slot| binding::write(m, environment, slot, binding).is_ok()) as u64
}

/// `call`.
#[inline(never)]
pub fn call(m: &impl Machine, environment: &Environment, x: &mut [u64; 11]) -> Result<Outcome, Refusal> {
    let core = m.core();
    let me = core.me();
    let vcore = m.vcore(me);
    let flags = x[0] & !0xffff;
    Refusal::BadArgument.when(flags & !(call_flag::DEADLINE | call_flag::SEND | call_flag::ACCEPT) != 0)?;
    let gate = binding::find(m, environment, x[0] & 0xffff, BindingKind::Gate, Rights::GATE_CALL)?;
    let target = VcoreRef::from_word(gate.object);
    let callee = m.vcore(target);
    let link = core.link();
    Refusal::TooDeep.when(link.has(Link::DEEP))?;
    is_open(callee.word())?;
    let travels = sent(m, environment, flags & call_flag::SEND, x[9], target)?;
    let deadline = if flags & call_flag::DEADLINE != 0 { x[8] } else { 0 };
    Refusal::DeadlineMissed.when(flags & call_flag::DEADLINE != 0 && deadline <= m.now())?;
    let mut mask = accept(m, environment, flags & call_flag::ACCEPT, x[10])?;
    if !callee.go(m, State::Gate, |word| word.in_state(State::Running)) {
        return is_open(callee.word()).and(Err(Refusal::Busy));
    }
    // From here nothing refuses.
    suspend(m, me);
    if deadline != 0 {
        vcore.alarm.store(deadline, Relaxed);
        mask |= DEADLINE;
    }
    vcore.mask.store(mask, Relaxed);
    let below = link.call(gate.object);
    // The arbiter last: who ends the call takes `callee` away, which must stand there by then.
    vcore.callee.store(below.0, Relaxed);
    callee.caller.store(link.plain(mask == 0).0, Release);
    slice::note_alarm(m, me, deadline);
    x[0] = gate.badge;
    x[8] = hand_over(m, target, travels.as_ref());
    core.set_link(below);
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
    let me = core.me();
    let vcore = m.vcore(me);
    let (mask, flags) = (x[0] & PENDING, x[0] & !PENDING);
    Refusal::BadArgument.when(flags & !(reply_flag::ALARM | reply_flag::SEND | reply_flag::ACCEPT) != 0)?;
    let travels = sent(m, environment, flags & reply_flag::SEND, x[9], vcore.serves())?;
    let accepts = accept(m, environment, flags & reply_flag::ACCEPT, x[10])?;
    // From here nothing refuses.
    suspend(m, me);
    vcore.mask.store(mask | accepts, Relaxed);
    if flags & reply_flag::ALARM != 0 {
        vcore.alarm.store(x[8], Relaxed);
        slice::note_alarm(m, me, x[8]);
    }
    let direct = !core.link().has(Link::OWN);
    let caller = take_caller(m, vcore);
    let arrived = caller.map(|caller| {
        let caller = VcoreRef::from_word(caller.0);
        let arrived = hand_over(m, caller, travels.as_ref());
        if !direct {
            release(m, caller, &[0, x[1], x[2], x[3], x[4], x[5], x[6], x[7], arrived]);
        }
        arrived
    });
    let ends = |word: StateWord| word.pending() & mask != 0;
    let old =
        vcore.update(m, |word| Some(if ends(word) { word.ready(Resume::Events) } else { StateWord(word.pending()) }));
    let opened = !old.is_some_and(ends);
    match (arrived, caller) {
        (Some(arrived), Some(caller)) if direct => {
            if !opened {
                event::make_runnable(m, me);
            }
            m.vcore(VcoreRef::from_word(caller.0)).mask.store(0, Relaxed);
            core.set_link(caller.plain(true));
            (x[0], x[8]) = (0, arrived);
            Ok(Outcome::Deliver(core.me()))
        }
        // An event is pending: the vcore is ready and nobody else has won it, unless another core did.
        _ if !opened && vcore.go(m, State::Ready, |word| word.in_state(State::Running)) => {
            Ok(Outcome::Events(vcore.take(m, vcore.word().pending() & mask)))
        }
        _ => Ok(slice::schedule(m)),
    }
}

/// Ends the call that a vcore serves, if it still does: the caller's link. Its results are the business of who ended the call; meanwhile no core runs it.
fn take_caller(m: &impl Machine, vcore: &Vcore) -> Option<Link> {
    let link = Link(vcore.caller.swap(0, AcqRel));
    let caller = m.vcore(Some(VcoreRef::from_word(link.0)).filter(|caller| caller.exists())?);
    caller.callee.store(0, Relaxed);
    if caller.mask.load(Relaxed) & DEADLINE != 0 {
        caller.alarm.store(0, Relaxed);
    }
    Some(link)
}

/// Who was in a call that has ended goes on with these results.
fn release(m: &impl Machine, caller: VcoreRef, results: &[u64; 9]) {
    let vcore = m.vcore(caller);
    let control = vcore::control(m, vcore);
    results.iter().enumerate().for_each(|(index, value)| control.set(word!(result) + index, *value));
    vcore.mask.store(0, Relaxed);
    event::go_on(m, caller, Resume::Result);
}

/// A call ended without a reply.
fn failed(refusal: Refusal) -> [u64; 9] {
    [refusal as u64, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The callee died or stopped: who called it is told.
pub fn fail_caller(m: &impl Machine, vcore: &Vcore, refusal: Refusal) {
    if let Some(link) = take_caller(m, vcore) {
        release(m, VcoreRef::from_word(link.0), &failed(refusal));
    }
}

/// The deadline of a call passed.
pub fn miss_deadline(m: &impl Machine, reference: VcoreRef, vcore: &Vcore) {
    if abandon_callee(m, reference, vcore) {
        release(m, reference, &failed(Refusal::DeadlineMissed));
    }
}

/// Ends the call of a vcore that is gone, or waits no longer; the callee is told by CUT. False: it was in no call, or somebody else has ended it.
pub fn abandon_callee(m: &impl Machine, reference: VcoreRef, vcore: &Vcore) -> bool {
    let target = vcore.calls();
    if !target.exists() {
        return false;
    }
    let (callee, core) = (m.vcore(target), m.core());
    let link = callee.caller.load(Acquire);
    if VcoreRef::from_word(link) != reference {
        return false;
    }
    // Once again if it has just begun to run by its own claim: that changes the link once.
    let take = |link| callee.caller.compare_exchange(link, 0, AcqRel, Relaxed);
    if take(link).is_err() && take(Link(link).plain(false).0).is_err() {
        return false;
    }
    vcore.callee.store(0, Relaxed);
    event::raise(m, target, 1 << exo_abi::event::CUT);
    core.reschedule.store(1, Relaxed);
    slice::arm(m);
    true
}
