//! Gates: protected control transfer, and the chains it makes.
//!
//! A chain is a row of vcores, each in `call` but the last. `callee` leads down, `caller` up. Whoever ends a link first wins the caller's state word
//! (`Calling` → something else); the word counts calls, so that an answer to an earlier call cannot be taken for one to the present.

use crate::binding::{self, Binding, Copy};
use crate::call::Outcome;
use crate::environment::Environment;
use crate::event;
use crate::machine::Machine;
use crate::slice;
use crate::vcore::{self, ACCEPTS, Control, ONE_CALL, PENDING, Resume, State, StateWord, Vcore, VcoreRef};
use core::sync::atomic::Ordering::*;
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::{call_flag, reply_flag};
use exo_abi::{MAX_CHAIN_CALLS, Refusal};

const SEQUENCE: u64 = 0xfff << 44;
const ONE_SERVICE: u64 = 1 << 44;
const DEPTH: u32 = 56;

/// Saves where the running vcore goes on, and the status it finds in x0 if it goes on by [`Resume::Result`].
pub fn suspend(m: &impl Machine, control: Control<'_>, status: u64) {
    control.pc().store(m.user_pc(), Relaxed);
    control.sp().store(m.user_sp(), Relaxed);
    control.result(0).store(status, Relaxed);
    control.result(1).store(0, Relaxed);
}

/// The first vcore of the chain.
pub fn root(m: &impl Machine, reference: VcoreRef) -> VcoreRef {
    let mut root = reference;
    for _ in 0..=MAX_CHAIN_CALLS {
        let caller = VcoreRef::from_word(m.vcore(root).caller.load(Acquire));
        if !caller.exists() {
            break;
        }
        root = caller;
    }
    root
}

/// `owner` is above `end` in its chain, or is it.
pub fn leads_back(m: &impl Machine, end: VcoreRef, owner: VcoreRef) -> bool {
    let mut at = end;
    for _ in 0..=MAX_CHAIN_CALLS {
        if at == owner {
            return true;
        }
        at = VcoreRef::from_word(m.vcore(at).caller.load(Acquire));
        if !at.exists() {
            return false;
        }
    }
    false
}

/// A binding that travels: checked and copied before anything is claimed.
fn sent(
    m: &impl Machine,
    environment: &Environment,
    number: u64,
    flag: u64,
    word: u64,
) -> Result<Option<Binding>, Refusal> {
    if flag == 0 {
        return Ok(None);
    }
    if word >> 24 != 0 {
        return Err(Refusal::BadArgument);
    }
    let source = binding::read(m, environment, word & 0xffff)?;
    binding::derive(m, number, &source, &Copy { rights: word >> 16, cell: 0, first: 0, count: 0 }).map(Some)
}

/// The slot in which a vcore now accepts a binding; 0 flag: none.
fn accept(m: &impl Machine, environment: &Environment, vcore: &Vcore, flag: u64, slot: u64) -> Result<(), Refusal> {
    let address = vcore.control_address.load(Relaxed) & !0xfff;
    let low = if flag == 0 {
        0
    } else {
        binding::check_empty(m, environment, slot)?;
        ACCEPTS | slot
    };
    vcore.control_address.store(address | low, Relaxed);
    Ok(())
}

/// Puts a binding into the slot that `to` accepts it in. Answers x8. Somebody of the receiver's own environment may have filled the slot: then nothing arrives.
fn hand_over(m: &impl Machine, to: VcoreRef, sent: Option<&Binding>) -> u64 {
    let Some(binding) = sent else { return 0 };
    let slot = m.vcore(to).control_address.load(Relaxed) & 0xfff;
    let written =
        slot & ACCEPTS != 0 && binding::write(m, m.environment(to.environment()), slot & !ACCEPTS, binding).is_ok();
    written as u64
}

/// `call`.
pub fn call(m: &impl Machine, environment: &Environment, x: &mut [u64; 11]) -> Result<Outcome, Refusal> {
    let core = m.core();
    let me = core.running();
    let vcore = m.vcore(me);
    let flags = x[0] & !0xffff;
    if flags & !(call_flag::DEADLINE | call_flag::SEND | call_flag::ACCEPT) != 0 {
        return Err(Refusal::BadArgument);
    }
    let gate = binding::find(m, environment, x[0] & 0xffff, BindingKind::Gate, Rights::GATE_CALL)?;
    let callee_reference = VcoreRef::from_word(gate.object);
    let callee = m.vcore(callee_reference);
    let depth = (vcore.caller.load(Relaxed) >> DEPTH) + 1;
    if depth > MAX_CHAIN_CALLS {
        return Err(Refusal::TooDeep);
    }
    let mut word = callee.word();
    open(word)?;
    let (mut deadline, mut travels) = (0, None);
    if flags != 0 {
        let number = environment.number();
        travels = sent(m, environment, number, flags & call_flag::SEND, x[9])?;
        if travels.is_some() {
            check_accepts(m, callee_reference, callee)?;
        }
        if flags & call_flag::DEADLINE != 0 {
            deadline = x[8];
            if deadline <= m.now() {
                return Err(Refusal::DeadlineMissed);
            }
        }
    }
    accept(m, environment, vcore, flags & call_flag::ACCEPT, x[10])?;
    // The claim. The word changes only by events, each of which comes once, or because somebody else was first.
    let mut tries = 64;
    while let Err(seen) = callee.change(word, word.in_state(State::Running)) {
        word = seen;
        open(word)?;
        tries -= 1;
        if tries == 0 {
            return Err(Refusal::Busy);
        }
    }
    let control = vcore::control(m, vcore);
    suspend(m, control, 0);
    let sequence = callee.caller.load(Relaxed).wrapping_add(ONE_SERVICE) & SEQUENCE;
    callee.caller.store(me.0 | sequence | depth << DEPTH, Release);
    vcore.callee.store(callee_reference.0, Release);
    vcore.alarm.store(deadline, Relaxed);
    const BEGIN: u64 = (((State::Calling as u64) - (State::Running as u64)) << 48) + ONE_CALL;
    vcore.state.fetch_add(BEGIN, AcqRel);
    slice::note_alarm(m, vcore, deadline);
    x[0] = gate.badge;
    x[8] = hand_over(m, callee_reference, travels.as_ref());
    core.set_running(callee_reference);
    Ok(Outcome::Deliver(callee_reference))
}

/// The gate of a vcore in this state is open.
fn open(word: StateWord) -> Result<(), Refusal> {
    match word.state() {
        State::Gate => Ok(()),
        State::None | State::Stopped => Err(Refusal::Died),
        _ => Err(Refusal::Busy),
    }
}

/// The vcore accepts a binding, and its slot is empty.
fn check_accepts(m: &impl Machine, reference: VcoreRef, vcore: &Vcore) -> Result<(), Refusal> {
    let slot = vcore.control_address.load(Relaxed) & 0xfff;
    if slot & ACCEPTS == 0 {
        return Err(Refusal::SlotTaken);
    }
    binding::check_empty(m, m.environment(reference.environment()), slot & !ACCEPTS)
}

/// `reply_wait`.
pub fn reply_wait(m: &impl Machine, environment: &Environment, x: &mut [u64; 11]) -> Result<Outcome, Refusal> {
    let core = m.core();
    let me = core.running();
    let vcore = m.vcore(me);
    let mask = x[0] & PENDING;
    let flags = x[0] & !PENDING;
    if flags & !(reply_flag::ALARM | reply_flag::SEND | reply_flag::ACCEPT) != 0 {
        return Err(Refusal::BadArgument);
    }
    let caller_word = vcore.caller.load(Acquire);
    let caller = VcoreRef::from_word(caller_word);
    let mut travels = None;
    if flags & reply_flag::SEND != 0 {
        travels = sent(m, environment, environment.number(), reply_flag::SEND, x[9])?;
        if caller.exists() {
            check_accepts(m, caller, m.vcore(caller))?;
        }
    }
    accept(m, environment, vcore, flags & reply_flag::ACCEPT, x[10])?;
    // From here nothing refuses.
    vcore.mask.store(mask, Relaxed);
    vcore.alarm.store(0, Relaxed);
    suspend(m, vcore::control(m, vcore), 0);
    let direct = caller.exists() && core.base() != me;
    let answered = if caller.exists() { answer(m, me, caller, direct, travels.as_ref(), x) } else { None };
    // Nobody claims this gate before its state says so: the link can go first.
    vcore.caller.store(caller_word & SEQUENCE, Release);
    if flags & reply_flag::ALARM != 0 {
        vcore.alarm.store(x[8], Relaxed);
        slice::note_alarm(m, vcore, x[8]);
    }
    let opened = open_gate(vcore, mask);
    if let Some(arrived) = answered
        && direct
    {
        if !opened {
            event::make_runnable(m, me);
        }
        core.set_running(caller);
        x[0] = 0;
        x[8] = arrived;
        return Ok(Outcome::Deliver(caller));
    }
    if opened {
        return Ok(slice::schedule(m));
    }
    // An event is pending: the vcore is ready and nobody else has won it, unless another core did.
    let word = vcore.word();
    if word.state() == State::Ready && vcore.change(word, word.in_state(State::Running)).is_ok() {
        x.fill(0);
        x[1] = vcore.take(word.pending() & mask);
        return Ok(Outcome::Return);
    }
    Ok(slice::schedule(m))
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
    let vcore = m.vcore(caller);
    let mut word = vcore.word();
    for _ in 0..64 {
        if word.state() != State::Calling || VcoreRef(vcore.callee.load(Acquire)) != me {
            return None;
        }
        let new = if direct { word.in_state(State::Running) } else { word.in_state(State::Held) };
        match vcore.change(word, new) {
            Ok(()) => {
                vcore.alarm.store(0, Relaxed);
                vcore.callee.store(0, Relaxed);
                let arrived = hand_over(m, caller, travels);
                if !direct {
                    let control = vcore::control(m, vcore);
                    control.result(0).store(0, Relaxed);
                    (1..8).for_each(|index| control.result(index).store(x[index], Relaxed));
                    control.result(8).store(arrived, Relaxed);
                    become_ready(m, caller, vcore);
                }
                return Some(arrived);
            }
            Err(seen) => word = seen,
        }
    }
    None
}

/// The results are written: a vcore held meanwhile is ready. Only events change its word.
fn become_ready(m: &impl Machine, reference: VcoreRef, vcore: &Vcore) {
    let mut word = vcore.word();
    for _ in 0..64 {
        match vcore.change(word, word.ready(Resume::Result)) {
            Ok(()) => return event::make_runnable(m, reference),
            Err(seen) => word = seen,
        }
    }
}

/// Opens the gate, unless an event of the mask is pending: then the vcore is ready.
fn open_gate(vcore: &Vcore, mask: u64) -> bool {
    let mut word = vcore.word();
    for _ in 0..64 {
        if word.state() != State::Running {
            return true;
        }
        let pending = word.pending() & mask != 0;
        let new = if pending { word.ready(Resume::Events) } else { word.in_state(State::Gate) };
        match vcore.change(word, new) {
            Ok(()) => return !pending,
            Err(seen) => word = seen,
        }
    }
    true
}

/// Ends a call with a refusal, if `caller` still waits for this very call.
fn fail(m: &impl Machine, callee: VcoreRef, caller: VcoreRef, refusal: Refusal) -> bool {
    let vcore = m.vcore(caller);
    let mut word = vcore.word();
    for _ in 0..64 {
        if word.state() != State::Calling || VcoreRef(vcore.callee.load(Acquire)) != callee {
            return false;
        }
        // Held while the results are written: no core may run it yet, and nobody can end its call a second time.
        match vcore.change(word, word.in_state(State::Held)) {
            Ok(()) => {
                vcore.alarm.store(0, Relaxed);
                let control = vcore::control(m, vcore);
                (0..9).for_each(|index| control.result(index).store(0, Relaxed));
                control.result(0).store(refusal as u64, Relaxed);
                return true;
            }
            Err(seen) => word = seen,
        }
    }
    false
}

/// The callee died or stopped: who called it is told.
pub fn fail_caller(m: &impl Machine, reference: VcoreRef, vcore: &Vcore, refusal: Refusal) {
    let word = vcore.caller.load(Acquire);
    let caller = VcoreRef::from_word(word);
    if caller.exists() && fail(m, reference, caller, refusal) {
        m.vcore(caller).callee.store(0, Relaxed);
        become_ready(m, caller, m.vcore(caller));
    }
    vcore.caller.store(word & SEQUENCE, Release);
}

/// The caller is gone, or waits no longer: the link is cleared and the callee told by CUT. The chain's FP/SIMD registers stay with the part that goes on working.
pub fn abandon_callee(m: &impl Machine, reference: VcoreRef, vcore: &Vcore) {
    let callee_reference = VcoreRef(vcore.callee.swap(0, AcqRel));
    if !callee_reference.exists() {
        return;
    }
    let callee = m.vcore(callee_reference);
    let word = callee.caller.load(Acquire);
    if VcoreRef::from_word(word) != reference {
        return;
    }
    let root = root(m, reference);
    let core = m.core();
    let from = m.vcore(root).control_frame();
    if core.fp.load(Relaxed) == root.0 {
        m.save_fp(from);
        core.fp.store(0, Relaxed);
    }
    if callee.caller.compare_exchange(word, word & SEQUENCE, AcqRel, Relaxed).is_err() {
        return;
    }
    let (from, to) = (m.words(from), m.words(callee.control_frame()));
    let fp = core::mem::offset_of!(exo_abi::control_page::ControlPage, fp) / 8;
    for index in fp..fp + size_of::<exo_abi::control_page::FloatingPoint>() / 8 {
        to[index].store(from[index].load(Relaxed), Relaxed);
    }
    let _ = event::raise(m, callee_reference, 1 << exo_abi::event::CUT);
    core.reschedule.store(1, Relaxed);
    slice::arm(m);
}

/// The deadline of a call passed.
pub fn miss_deadline(m: &impl Machine, reference: VcoreRef, vcore: &Vcore) {
    let callee = VcoreRef(vcore.callee.load(Acquire));
    if fail(m, callee, reference, Refusal::DeadlineMissed) {
        abandon_callee(m, reference, vcore);
        become_ready(m, reference, vcore);
    }
}
