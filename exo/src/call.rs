//! The dispatcher: each call decodes and checks everything, then acts; after the first change nothing refuses.

use crate::binding::{self, Binding, Copy};
use crate::environment::{self, Environment, Parts};
use crate::frame::{self, Allocated, Kind, Zero};
use crate::machine::{Machine, Power, Trigger};
use crate::vcore::{self, Control, FRAME_WORDS, Resume, Start, State, VcoreRef};
use crate::{address_space, audit, destroy, event, gate, interrupt, pool, slice};
use core::sync::atomic::Ordering::*;
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::{alloc_flag, frame_kind, power, slice_flag, stop_reason};
use exo_abi::page::MAPPABLE_END;
use exo_abi::{
    BATCH_ENTRIES, Call, DEFAULT_SLICE_US, EVENTS, Handle, MAX_CELLS, MAX_ENVIRONMENTS, MAX_POOLS, MAX_SLICE_US,
    MIN_SLICE_US, Pfn, Refusal, SLICES_PER_CORE, ZEROED_PER_CALL,
};

/// What follows a call or an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome {
    /// The caller goes on; x0 to x8 are in the registers.
    Return,
    /// The same, but an event may have come that it wants as an upcall.
    ReturnOrUpcall,
    /// A vcore has been won and goes on as its state word says.
    Enter(VcoreRef),
    /// The running vcore goes on with all its registers, from the control page's `preempted`.
    Resume(VcoreRef),
    /// Another vcore has been won, and goes on behind its call with the registers x0 to x8.
    Deliver(VcoreRef),
    /// There is nothing to run.
    Idle,
}

/// Runs call `number` of the running vcore with x0 to x10 in `x`, where the results are left.
pub fn dispatch<M: Machine>(m: &M, number: u64, x: &mut [u64; 11]) -> Outcome {
    let me = m.core().running();
    let environment = m.environment(me.environment());
    let Some(call) = Call::from_number(number) else {
        x[0] = Refusal::NoSuchCall as u64;
        return Outcome::Return;
    };
    let result = match call {
        Call::Call => gate::call(m, environment, x),
        Call::Notify => notify(m, environment, x),
        Call::ReplyWait => {
            let result = gate::reply_wait(m, environment, x);
            if let Err(refusal) = result {
                // x0 = 0 and x1 = 0 would be an empty set of events: x2 tells.
                x.fill(0);
                x[2] = refusal as u64;
                return Outcome::Return;
            }
            result
        }
        Call::Wait => event::wait(m, x[0], x[1], x),
        Call::YieldTo => yield_to(m, environment, x),
        Call::Halt => Ok(halt(m, me, stop_reason::HALTED, x[0])),
        Call::Map => map(m, environment, x),
        _ => plain(m, call, environment, x).map(|()| Outcome::Return),
    };
    match result {
        Ok(outcome) => outcome,
        Err(refusal) => {
            x[0] = refusal as u64;
            Outcome::Return
        }
    }
}

/// The calls that always go on with the caller: x0 = 0, further results in x1 and x2.
#[inline(never)]
fn plain<M: Machine>(m: &M, call: Call, environment: &Environment, x: &mut [u64; 11]) -> Result<(), Refusal> {
    let request = *x;
    x[1..].fill(0);
    let done = match call {
        Call::FrameAlloc => frame_alloc(m, environment, &request, x),
        Call::FrameFree => frame_free(m, environment, &request, x),
        Call::FrameKind => change_kind(m, environment, &request, x),
        Call::PoolCreate => pool_create(m, environment, &request),
        Call::PoolDestroy => pool_destroy(m, environment, &request),
        Call::EnvCreate => env_create(m, environment, &request),
        Call::EnvDestroy => env_destroy(m, environment, &request),
        Call::BindingsAdd => {
            let target = environment::look_up(m, environment, request[0], Rights::ENV_MAP)?;
            environment::add_bindings(m, target, Pfn(request[1])).map(|frames| x[1] = frames)
        }
        Call::NamesGive => {
            let target = environment::look_up(m, environment, request[0], Rights::ENV_MAP)?;
            environment::give_names(m, environment.number(), target.number(), request[1], request[2], request[3])
        }
        Call::VcoreCreate => vcore_create(m, environment, &request),
        Call::VcoreStart => vcore_start(m, environment, &request),
        Call::VcoreStop => vcore_stop(m, environment, &request),
        Call::VcoreReport => vcore_report(m, environment, &request, x),
        Call::GateBind => bind(m, environment, &request, BindingKind::Gate),
        Call::EventBind => bind(m, environment, &request, BindingKind::Event),
        Call::Grant => grant(m, environment, &request),
        Call::TakeBack => take_back(m, environment, &request),
        Call::Restrict => binding::restrict(m, environment, request[0], request[1]),
        Call::SliceClaim => slice_claim(m, environment, &request),
        Call::SliceRelease => slice_release(m, environment, &request),
        Call::IrqBind => irq_bind(m, environment, &request),
        Call::IrqAck => {
            line(m, environment, &request)?;
            interrupt::acknowledge(m, environment, request[1])
        }
        Call::DebugWrite => debug_write(m, environment, &request),
        Call::Power => switch_power(m, environment, &request),
        Call::Audit => {
            binding::look_up(m, environment, request[0], BindingKind::Power, Rights::POWER_AUDIT)?;
            audit::frame(m, Pfn(request[1])).map(|found| x[1] = found)
        }
        // Null and Resume never get here: the vectors serve them.
        _ => Ok(()),
    };
    if done.is_ok() {
        x[0] = 0;
    }
    done
}

/// A bounded argument.
fn below(value: u64, end: u64) -> Result<u64, Refusal> {
    if value < end { Ok(value) } else { Err(Refusal::BadArgument) }
}

fn own_control<'m>(m: &'m impl Machine) -> Control<'m> {
    vcore::control(m, m.vcore(m.core().running()))
}

/// A pool and the number of entries of the batch buffer, 1 to 64.
fn batch_of(m: &impl Machine, environment: &Environment, x: &[u64; 11], rights: Rights) -> Result<(u64, u64), Refusal> {
    let pool = binding::look_up(m, environment, x[0], BindingKind::Pool, rights)?.object;
    if x[1] == 0 || x[1] > BATCH_ENTRIES { Err(Refusal::BadArgument) } else { Ok((pool, x[1])) }
}

fn notify(m: &impl Machine, environment: &Environment, x: &mut [u64; 11]) -> Result<Outcome, Refusal> {
    let target = binding::look_up(m, environment, x[0], BindingKind::Event, Rights::EVENT_NOTIFY)?;
    Ok(event::notify(m, target.object, x))
}

fn yield_to(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<Outcome, Refusal> {
    let binding = binding::read(m, environment, x[0])?;
    let target = match binding.kind {
        BindingKind::Env => {
            let target = environment::look_up(m, environment, x[0], Rights::ENV_RUN)?;
            vcore::of(target, x[1])?.0
        }
        BindingKind::Gate => {
            binding::check(m, &binding, Rights::GATE_CALL)?;
            below(x[1], 1)?;
            VcoreRef::from_word(binding.object)
        }
        _ => return Err(Refusal::WrongKind),
    };
    slice::yield_to(m, target)
}

/// Stops the running vcore and tells the supervisor.
pub fn halt(m: &impl Machine, me: VcoreRef, reason: u64, code: u64) -> Outcome {
    let vcore = m.vcore(me);
    let control = vcore::control(m, vcore);
    if reason == stop_reason::HALTED {
        gate::suspend(m, control, 0);
    }
    let _ = vcore::stop(m, me, vcore, reason, code);
    let supervisor = VcoreRef(m.environment(me.environment()).supervisor.load(Relaxed));
    if supervisor.exists() {
        let _ = event::raise(m, supervisor, 1 << exo_abi::event::CHILD);
    }
    slice::schedule(m)
}

/// A fault that cannot be an upcall; the registers are in the control page's `preempted`.
pub fn fault(m: &impl Machine) -> Outcome {
    halt(m, m.core().running(), stop_reason::FAULTED, 0)
}

/// EL0 used FP/SIMD: the registers of its chain come in, those of the chain before have been saved when it was left.
pub fn use_fp(m: &impl Machine) {
    let core = m.core();
    let root = gate::root(m, core.running());
    m.load_fp(m.vcore(root).control_frame());
    core.fp.store(root.0, Relaxed);
}

/// Before `next` runs: another chain's FP/SIMD registers leave the core.
pub fn leave_fp(m: &impl Machine, next: VcoreRef) {
    let core = m.core();
    let owner = VcoreRef(core.fp.load(Relaxed));
    if owner.exists() && (!next.exists() || gate::root(m, next) != owner) {
        core.fp.store(0, Relaxed);
        m.save_fp(m.vcore(owner).control_frame());
    }
}

/// How a won vcore goes on; x0 to x8 are left in `x` unless it is [`Resume::Full`]. Events that it wants as an upcall are put in its way.
pub fn prepare(m: &impl Machine, reference: VcoreRef, x: &mut [u64; 11]) -> Resume {
    let vcore = m.vcore(reference);
    let control = vcore::control(m, vcore);
    let word = vcore.word();
    x.fill(0);
    match word.resume() {
        Resume::Full => {}
        Resume::Result => (0..9).for_each(|index| x[index] = control.result(index).load(Relaxed)),
        Resume::Events => x[1] = vcore.take(word.pending() & vcore.mask.load(Relaxed)),
    }
    word.resume()
}

/// Events that a vcore wants as an upcall now; they are taken.
pub fn upcall_events(m: &impl Machine, reference: VcoreRef) -> u64 {
    let vcore = m.vcore(reference);
    let pending = vcore.word().pending();
    if pending == 0 {
        return 0;
    }
    let control = vcore::control(m, vcore);
    let wanted = pending & control.upcall_events().load(Relaxed);
    if wanted == 0 || control.masked().load(Relaxed) != 0 || control.upcall_entry().load(Relaxed) == 0 {
        return 0;
    }
    vcore.take(wanted)
}

fn map<M: Machine>(m: &M, environment: &Environment, x: &mut [u64; 11]) -> Result<Outcome, Refusal> {
    let target = environment::look_up(m, environment, x[0], Rights::ENV_MAP)?;
    if x[1] == 0 || x[1] > BATCH_ENTRIES {
        return Err(Refusal::BadArgument);
    }
    let (result, progress) = address_space::apply(m, environment, target, own_control(m), x[1]);
    x.fill(0);
    x[0] = result.err().map_or(0, |refusal| refusal as u64);
    (x[1], x[2]) = (progress.entries, progress.pages);
    Ok(Outcome::Return)
}

/// The batch of a `resume`: the same as `map` on the own tables. Answers the refusal's number and the entries done.
pub fn resume_batch<M: Machine>(m: &M, count: u64) -> (u64, u64) {
    let environment = m.environment(m.core().running().environment());
    // Whoever may fill the slot may have put another environment's binding there: that permits nothing here.
    let allowed = binding::look_up(m, environment, Handle::SELF.0 as u64, BindingKind::Env, Rights::ENV_MAP)
        .and_then(|own| if own.object == environment.frame().0 { Ok(()) } else { Err(Refusal::WrongKind) });
    if count > BATCH_ENTRIES {
        return (Refusal::BadArgument as u64, 0);
    }
    if let Err(refusal) = allowed {
        return (refusal as u64, 0);
    }
    let (result, progress) = address_space::apply(m, environment, environment, own_control(m), count);
    (result.err().map_or(0, |refusal| refusal as u64), progress.entries)
}

fn frame_alloc(
    m: &impl Machine,
    environment: &Environment,
    x: &[u64; 11],
    results: &mut [u64; 11],
) -> Result<(), Refusal> {
    let (number, count) = batch_of(m, environment, x, Rights::POOL_ALLOC)?;
    let flags = below(x[2], alloc_flag::ZERO + 1)?;
    let pool = pool::pool(m, number);
    let control = own_control(m);
    let mut zeroed = 0;
    // Charged as a whole first: one atomic instead of one a frame, and what was not taken is given back.
    pool.charge(count)?;
    for done in 0..count {
        let pfn = Pfn(control.batch(done)[0].load(Relaxed));
        let zero = match () {
            _ if zeroed == ZEROED_PER_CALL && flags != 0 => {
                pool.uncharge(count - done);
                return Err(Refusal::Again);
            }
            _ if zeroed == ZEROED_PER_CALL => Zero::Never,
            _ if flags != 0 => Zero::Always,
            _ => Zero::WhenNew,
        };
        match frame::allocate(m, number, pfn, zero) {
            Ok(Allocated::Zeroed) => zeroed += 1,
            Ok(Allocated::AsItWas) => {}
            Err(refusal) => {
                pool.uncharge(count - done);
                return Err(refusal);
            }
        }
        results[1] = done + 1;
    }
    Ok(())
}

fn frame_free(
    m: &impl Machine,
    environment: &Environment,
    x: &[u64; 11],
    results: &mut [u64; 11],
) -> Result<(), Refusal> {
    let (number, count) = batch_of(m, environment, x, Rights::POOL_ALLOC)?;
    let control = own_control(m);
    let mut result = Ok(());
    while result.is_ok() && results[1] < count {
        result = frame::free(m, number, Pfn(control.batch(results[1])[0].load(Relaxed)));
        results[1] += result.is_ok() as u64;
    }
    pool::pool(m, number).uncharge(results[1]);
    result
}

fn change_kind(
    m: &impl Machine,
    environment: &Environment,
    x: &[u64; 11],
    results: &mut [u64; 11],
) -> Result<(), Refusal> {
    let (number, count) = batch_of(m, environment, x, Rights::POOL_EXECUTE)?;
    let kind = if below(x[2], frame_kind::CODE + 1)? == frame_kind::CODE { Kind::Code } else { Kind::Data };
    let control = own_control(m);
    let mut result = Ok(());
    while result.is_ok() && results[1] < count {
        let pfn = Pfn(control.batch(results[1])[0].load(Relaxed));
        result = frame::unmapped(m, number, pfn).and_then(|old| {
            m.frames().change(pfn, old, frame::Word::new(number, Kind::Busy, 0))?;
            if kind == Kind::Code {
                m.clean_code(pfn);
            }
            m.frames().set(pfn, frame::Word::new(number, kind, 0));
            Ok(())
        });
        results[1] += result.is_ok() as u64;
    }
    if kind == Kind::Code {
        // Before any of them can be executed: mapping comes later than this call.
        m.invalidate_instructions();
    }
    result
}

fn pool_create(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let parent = binding::look_up(m, environment, x[0], BindingKind::Pool, Rights::POOL_CARVE)?.object;
    let (number, cell, quota, minimum) =
        (below(x[1], MAX_POOLS)?, below(x[2], MAX_CELLS)?, below(x[3], 1 << 31)?, x[4]);
    if number == 0 || minimum > quota {
        return Err(Refusal::BadArgument);
    }
    binding::check_cell(m, cell, environment.number())?;
    binding::check_empty(m, environment, x[5])?;
    pool::create(m, environment.number(), parent, number, cell, quota, minimum)?;
    binding::claim_cell(m, cell, environment.number())?;
    binding::write(m, environment, x[5], &Binding::new(m, BindingKind::Pool, Rights::EVERYTHING, cell, number))
}

fn pool_destroy(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let root = binding::look_up(m, environment, x[0], BindingKind::Pool, Rights::POOL_REVOKE)?;
    if !root.root {
        return Err(Refusal::NotRoot);
    }
    match pool::pool(m, root.object).identity().state() {
        pool::State::Shared if pool::has_children(m, root.object) => Err(Refusal::InUse),
        pool::State::Shared => {
            below(x[1], 1)?;
            destroy::begin_pool(m, root.object);
            // All its bindings are dead, this one lives on with nothing but the right to finish.
            let last = Binding {
                rights: Rights::POOL_REVOKE,
                ..Binding::new(m, BindingKind::Pool, Rights::empty(), root.cell, root.object)
            };
            binding::replace(m, environment, x[0], &last)?;
            Err(Refusal::Again)
        }
        pool::State::Dying => {
            destroy::shared_pool(m, root.object)?;
            binding::restrict(m, environment, x[0], 0)
        }
        _ => Err(Refusal::InUse),
    }
}

fn env_create(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let pool = binding::look_up(m, environment, x[0], BindingKind::Pool, Rights::POOL_ALLOC | Rights::POOL_CARVE)?;
    if !pool.root {
        return Err(Refusal::NotRoot);
    }
    let parts = Parts {
        number: below(x[1], MAX_ENVIRONMENTS)?,
        cell: below(x[2], MAX_CELLS)?,
        pool: pool.object,
        frame: Pfn(x[3]),
        root: Pfn(x[4]),
        bindings: Pfn(x[5]),
        supervisor: m.core().running(),
    };
    environment::create(m, environment, parts.supervisor, &parts, x[6])
}

fn env_destroy(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let binding = binding::look_up(m, environment, x[0], BindingKind::Env, Rights::ENV_DESTROY)?;
    if binding.object == environment.frame().0 {
        return Err(Refusal::BadArgument);
    }
    destroy::environment(m, environment, m.environment(Pfn(binding.object)))?;
    binding::restrict(m, environment, x[0], 0)
}

fn vcore_create(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let target = environment::look_up(m, environment, x[0], Rights::ENV_MAP)?;
    let address = below(x[3], MAPPABLE_END)?;
    if address % exo_abi::PAGE_BYTES != 0 || m.core_at(x[7]).is_none() {
        return Err(Refusal::BadArgument);
    }
    let _guard = target.lock.lock();
    vcore::create(m, target, x[1], Pfn(x[2]), address, x[7], &Start { pc: x[4], sp: x[5], argument: x[6] })
}

fn vcore_start(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let target = environment::look_up(m, environment, x[0], Rights::ENV_RUN)?;
    let (reference, vcore) = vcore::of(target, x[1])?;
    let anew = (x[2] != 0).then_some(Start { pc: x[2], sp: x[3], argument: x[4] });
    vcore::start(m, reference, vcore, anew.as_ref())
}

fn vcore_stop(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let target = environment::look_up(m, environment, x[0], Rights::ENV_DESTROY)?;
    let (reference, vcore) = vcore::of(target, x[1])?;
    if reference == m.core().running() {
        return Err(Refusal::WrongState);
    }
    vcore::stop(m, reference, vcore, stop_reason::STOPPED, 0)
}

fn vcore_report(
    m: &impl Machine,
    environment: &Environment,
    x: &[u64; 11],
    results: &mut [u64; 11],
) -> Result<(), Refusal> {
    let target = environment::look_up(m, environment, x[0], Rights::ENV_DESTROY)?;
    let (_, vcore) = vcore::of(target, x[1])?;
    if vcore.word().state() != State::Stopped {
        return Err(Refusal::WrongState);
    }
    let reason = vcore.mask.load(Relaxed);
    let control = vcore::control(m, vcore);
    // What the library caught and gave up on is in its upcall frame; what the kernel stopped is in the other.
    let from = if reason == stop_reason::HALTED { control.upcall() } else { control.preempted() };
    let to = own_control(m);
    for (index, word) in from.iter().enumerate().take(FRAME_WORDS) {
        to.batch(index as u64 / 2)[index % 2].store(word.load(Relaxed), Relaxed);
    }
    results[1] = reason;
    results[2] = if reason == stop_reason::HALTED { vcore.alarm.load(Relaxed) } else { 0 };
    Ok(())
}

/// `gate_bind` and `event_bind`.
fn bind(m: &impl Machine, environment: &Environment, x: &[u64; 11], kind: BindingKind) -> Result<(), Refusal> {
    let target = environment::look_up(m, environment, x[0], Rights::ENV_MAP)?;
    let (reference, _) = vcore::of(target, x[1])?;
    binding::check_cell(m, below(x[2], MAX_CELLS)?, target.number())?;
    let mut made = Binding::new(m, kind, Rights::GATE_CALL | Rights::GRANT, x[2], reference.0);
    if kind == BindingKind::Gate {
        if x[4] == 0 {
            return Err(Refusal::BadArgument);
        }
        made.badge = x[4];
    } else {
        made.object |= below(x[4], event_end())? << 44;
    }
    binding::write(m, environment, x[3], &made)
}

const fn event_end() -> u64 {
    exo_abi::event::FIRST_OF_KERNEL
}

fn grant(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let source = binding::read(m, environment, x[0])?;
    let target = environment::look_up(m, environment, x[1], Rights::ENV_MAP)?;
    let copy = Copy { rights: x[3], cell: below(x[4], MAX_CELLS)?, first: x[5], count: x[6] };
    let derived = binding::derive(m, environment.number(), &source, &copy)?;
    binding::write(m, target, x[2], &derived)
}

fn take_back(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let cell = below(x[0], MAX_CELLS)?;
    binding::check_cell(m, cell, environment.number())?;
    binding::bump(m, cell, environment.number());
    Ok(())
}

/// The Core binding x0 covers position x2 of core x1.
fn position<'m>(
    m: &'m impl Machine,
    environment: &Environment,
    x: &[u64; 11],
) -> Result<(&'m slice::Core, Binding), Refusal> {
    let binding = binding::look_up(m, environment, x[0], BindingKind::Core, Rights::CORE_CLAIM)?;
    let core = m.core_at(x[1]).ok_or(Refusal::BadArgument)?;
    below(x[2], SLICES_PER_CORE)?;
    if !binding.covers(x[1].saturating_mul(SLICES_PER_CORE) + x[2], 1) {
        return Err(Refusal::NoRight);
    }
    Ok((core, binding))
}

fn slice_claim(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let (core, binding) = position(m, environment, x)?;
    let target = environment::look_up(m, environment, x[3], Rights::ENV_RUN)?;
    let (reference, vcore) = vcore::of(target, x[4])?;
    let microseconds = if x[5] == 0 { DEFAULT_SLICE_US } else { x[5] };
    let exact =
        if below(x[6], slice_flag::EXACT + 1)? == slice_flag::EXACT { slice::Exact::Yes } else { slice::Exact::No };
    if !(MIN_SLICE_US..=MAX_SLICE_US).contains(&microseconds) {
        return Err(Refusal::BadArgument);
    }
    if vcore.home() != x[1] {
        return Err(Refusal::WrongState);
    }
    let claim = slice::Claim {
        owner: reference,
        environment: target.number(),
        cell: (binding.cell, binding.expected),
        length: m.ticks(microseconds),
        exact,
    };
    slice::claim(m, core, x[2], &claim)
}

fn slice_release(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let (core, _) = position(m, environment, x)?;
    slice::release(m, core, x[2])
}

/// The Irq binding x0 covers line x1.
fn line(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let binding = binding::look_up(m, environment, x[0], BindingKind::Irq, Rights::IRQ_BIND)?;
    if binding.covers(x[1], 1) { Ok(()) } else { Err(Refusal::BadArgument) }
}

fn irq_bind(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    line(m, environment, x)?;
    below(x[3], event_end().min(EVENTS))?;
    let trigger = if below(x[4], 2)? == 1 { Trigger::Edge } else { Trigger::Level };
    interrupt::bind(m, environment, x[1], x[2], x[3], trigger)
}

fn debug_write(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    let binding = binding::look_up(m, environment, x[0], BindingKind::Device, Rights::DEVICE_DEBUG)?;
    if x[1] == 0 || x[1] > 48 || !m.uart().is_some_and(|uart| binding.covers(uart.0, 1)) {
        return Err(Refusal::BadArgument);
    }
    if m.uart_owner().load(Acquire) != 0 {
        return Err(Refusal::Claimed);
    }
    let mut bytes = [0; 48];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(&x[2..8]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    m.write_uart(&bytes[..x[1] as usize]);
    Ok(())
}

fn switch_power(m: &impl Machine, environment: &Environment, x: &[u64; 11]) -> Result<(), Refusal> {
    binding::look_up(m, environment, x[0], BindingKind::Power, Rights::POWER_OFF)?;
    match x[1] {
        power::OFF => m.power(Power::Off(x[2])),
        power::RESET => m.power(Power::Reset),
        _ => return Err(Refusal::BadArgument),
    }
    Ok(())
}
