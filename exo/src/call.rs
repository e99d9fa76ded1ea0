//! The dispatcher: each call decodes and checks everything, then acts; after the first change nothing refuses.

use crate::binding::{self, Binding};
use crate::environment::{self, Environment, Parts};
use crate::frame::{self, Kind, Word};
use crate::machine::{Machine, Power, Trigger};
use crate::vcore::{self, Control, FRAME_WORDS, Link, State, Vcore, VcoreRef};
use crate::word;
use crate::{address_space, audit, destroy, event, gate, interrupt, pool, slice};
use core::sync::atomic::{Ordering::*, fence};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::{frame_kind, power, slice_flag, stop_reason};
use exo_abi::event::FIRST_OF_KERNEL;
use exo_abi::{
    BATCH_ENTRIES, Call, DEFAULT_SLICE_US, Handle, MAX_ENVIRONMENTS, MAX_POOLS, MAX_SLICE_US, MIN_SLICE_US, PAGE_BYTES,
    Pfn, Refusal, SLICES_PER_CORE, ZEROED_PER_CALL,
};

/// Exit code of a machine whose first environment has stopped.
pub const FIRST_STOPPED: u64 = 100;

/// What follows a call or an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome {
    /// The caller goes on; x0 to x2 are in the registers.
    Return,
    /// The caller goes on with x0 = 0 and these events in x1.
    Events(u64),
    /// The caller goes on with x0 = why not.
    Refused(Refusal),
    /// The caller goes on with x0 = 0, but an event may have come that it wants as an upcall.
    ReturnOrUpcall,
    /// A vcore has been won and goes on as its state word says.
    Enter(VcoreRef),
    /// The same, behind a wait that ended with the events in [`slice::Core::events`].
    Waited(VcoreRef),
    /// The running vcore goes on with all its registers, from the control page's `preempted`.
    Resume(VcoreRef),
    /// Another vcore has been won, and goes on behind its call with the registers x0 to x8.
    Deliver(VcoreRef),
    /// There is nothing to run.
    Idle,
}

/// `reply_wait`: its refusal is in x2, for x0 = 0 and x1 = 0 are an empty set of events.
pub fn reply_wait(m: &impl Machine, x: &mut [u64; 11]) -> Outcome {
    gate::reply_wait(m, own_environment(m), x).unwrap_or_else(|refusal| {
        (x[0], x[1], x[2]) = (0, 0, refusal as u64);
        Outcome::Return
    })
}

/// `call`.
pub fn call(m: &impl Machine, x: &mut [u64; 11]) -> Outcome {
    gate::call(m, own_environment(m), x).unwrap_or_else(Outcome::Refused)
}

/// The event that a handle names.
pub fn event(m: &impl Machine, handle: u64) -> Result<u64, Refusal> {
    binding::find(m, own_environment(m), handle, BindingKind::Event, Rights::EVENT_NOTIFY).map(|found| found.object)
}

/// Call `number`, one of those that go on with the caller, or `halt`: with x0 to x10 in `x`, where the results are left.
pub fn plain<M: Machine>(m: &M, number: u64, x: &mut [u64; 11]) -> Outcome {
    let Some(call) = Call::from_number(number) else { return Outcome::Refused(Refusal::NoSuchCall) };
    if call == Call::Halt {
        return halt(m, stop_reason::HALTED, x[0]);
    }
    if call == Call::Map {
        let (refusal, progress) = map(m, x[0], x[1]);
        (x[0], x[1], x[2]) = (refusal, progress & 0xffff_ffff, progress >> 32);
        return Outcome::Return;
    }
    let mut request = Request { m, environment: own_environment(m), x, results: [0; 2] };
    let refusal = request.run(call).err().map_or(0, |refusal| refusal as u64);
    (x[0], x[1], x[2]) = (refusal, request.results[0], request.results[1]);
    Outcome::Return
}

/// `yield_to`.
#[inline(never)]
pub fn yield_to(m: &impl Machine, handle: u64, index: u64) -> Outcome {
    match lent_to(m, handle, index) {
        Ok(target) => slice::yield_to(m, target),
        Err(refusal) => Outcome::Refused(refusal),
    }
}

/// Whom the caller may lend its slice to.
fn lent_to(m: &impl Machine, handle: u64, index: u64) -> Result<VcoreRef, Refusal> {
    match env(m, handle, Rights::ENV_RUN) {
        Err(Refusal::WrongKind) => {
            let gate = binding::find(m, own_environment(m), handle, BindingKind::Gate, Rights::GATE_CALL)?;
            below(index, 1)?;
            Ok(VcoreRef::from_word(gate.object))
        }
        target => Ok(vcore::of(target?, index)?.0),
    }
}

/// The environment of the running vcore.
fn own_environment<M: Machine>(m: &M) -> &Environment {
    m.environment_of(m.core().me())
}

/// Stops the running vcore and tells the supervisor. After a fault that cannot be an upcall, the registers are in the control page's `preempted`.
#[inline(never)]
pub fn halt(m: &impl Machine, reason: u64, code: u64) -> Outcome {
    let me = m.core().me();
    if reason == stop_reason::HALTED {
        gate::suspend(m, me);
    }
    let _ = vcore::stop(m, me, m.vcore(me), reason, code);
    tell_supervisor(m, m.environment_of(me));
    slice::schedule(m)
}

/// Stops the running vcore because another core asks for it: what follows is [`slice::after_interrupt`]'s matter.
pub fn stop_running(m: &impl Machine) {
    let me = m.core().me();
    let environment = m.environment(me.environment());
    if vcore::stop(m, me, m.vcore(me), stop_reason::STOPPED, 0).is_err() {
        return;
    }
    // From here it is somebody else's, who may start it elsewhere, or destroy it: nothing here refers to it any more.
    m.core().set_link(Link(0));
    m.core().won.store(0, Relaxed);
    if !environment.is_dying() {
        tell_supervisor(m, environment);
    }
}

/// A vcore of the environment stopped. When it was the first environment's last one, nobody is left to decide anything.
fn tell_supervisor(m: &impl Machine, environment: &Environment) {
    let supervisor = VcoreRef(environment.supervisor.load(Relaxed));
    let ended = |vcore: &Vcore| vcore.word().is(State::None) || vcore.word().is(State::Stopped);
    if supervisor.exists() {
        event::raise(m, supervisor, 1 << exo_abi::event::CHILD);
    } else if environment.vcores.iter().all(ended) {
        m.reset_uart();
        m.write_uart(b"\r\nexo: the first environment has stopped\r\n");
        m.power(Power::Off(FIRST_STOPPED));
    }
}

/// EL0 used FP/SIMD: the registers of who runs come in. Whom it calls finds them as they are, and so does it what it is replied.
pub fn use_fp(m: &impl Machine) {
    let core = m.core();
    m.load_fp(m.vcore(core.running()).control_frame());
    core.fp.store(1, Relaxed);
}

/// Who runs is preempted: its FP/SIMD registers go to its own control page, before another core can win it.
#[inline(always)]
pub fn keep_fp(m: &impl Machine) {
    if m.core().fp.load(Relaxed) != 0 {
        m.core().fp.store(0, Relaxed);
        m.save_fp(m.vcore(m.core().running()).control_frame());
    }
}

/// Who ran gave up the core in a call, in which FP/SIMD registers are lost.
#[inline(always)]
pub fn lose_fp(m: &impl Machine) {
    if m.core().fp.load(Relaxed) != 0 {
        m.core().fp.store(0, Relaxed);
        m.drop_fp();
    }
}

/// Events that a vcore wants as an upcall now; they are taken.
#[inline(always)]
pub fn upcall_events(m: &impl Machine, vcore: &Vcore, control: Control<'_>) -> u64 {
    let wanted = vcore.word().pending() & control.get(word!(upcall_events));
    if wanted == 0 || control.get(word!(masked)) != 0 || control.get(word!(upcall_entry)) == 0 {
        return 0;
    }
    vcore.take(m, wanted)
}

/// `map`. Answers the refusal's number, and how far [`address_space::apply`] got.
pub fn map<M: Machine>(m: &M, handle: u64, count: u64) -> (u64, u64) {
    apply(m, env(m, handle, Rights::ENV_MAP), count)
}

/// The batch of a `resume`: the same as `map` on the own tables.
pub fn resume_batch<M: Machine>(m: &M, count: u64) -> (u64, u64) {
    let environment = own_environment(m);
    let target = env(m, Handle::SELF.0 as u64, Rights::ENV_MAP);
    // Whoever may fill the slot may have put another environment's binding there: that permits nothing here.
    let own = |target: &&Environment| target.frame() == environment.frame();
    apply(m, target.and_then(|target| Some(target).filter(own).ok_or(Refusal::WrongKind)), count)
}

#[inline(never)]
fn apply<M: Machine>(m: &M, target: Result<&Environment, Refusal>, count: u64) -> (u64, u64) {
    let counted = target.and_then(|target| below(count.wrapping_sub(1), BATCH_ENTRIES).map(|_| target));
    let entries = own_control(m).0[word!(batch)..].as_chunks().0.get(..count as usize);
    match counted {
        Ok(target) => address_space::apply(m, own_environment(m), target, entries.unwrap_or_default()),
        Err(refusal) => (refusal as u64, 0),
    }
}

/// The living environment that a handle of the caller's names.
fn env<M: Machine>(m: &M, handle: u64, rights: Rights) -> Result<&Environment, Refusal> {
    environment::living(m, binding::find(m, own_environment(m), handle, BindingKind::Env, rights)?.object)
}

/// A bounded argument.
fn below(value: u64, end: u64) -> Result<u64, Refusal> {
    if value < end { Ok(value) } else { Err(Refusal::BadArgument) }
}

/// The control page of the running vcore.
pub fn own_control<M: Machine>(m: &M) -> Control<'_> {
    vcore::control(m, m.vcore(m.core().me()))
}

/// A call that always goes on with the caller, at work.
struct Request<'m, 'x, M: Machine> {
    m: &'m M,
    /// The caller's.
    environment: &'m Environment,
    /// x0 to x10.
    x: &'x [u64; 11],
    /// x1 and x2 of the answer, also of a refusal.
    results: [u64; 2],
}

impl<M: Machine> Request<'_, '_, M> {
    #[inline(never)]
    fn run(&mut self, call: Call) -> Result<(), Refusal> {
        let (m, environment, x) = (self.m, self.environment, self.x);
        let me = environment.number();
        let (kind, rights) = match call {
            Call::Grant => return self.grant(),
            Call::TakeBack => {
                binding::check_cell(m, x[0], me)?;
                binding::bump(m, x[0], me, 0);
                return Ok(());
            }
            Call::Restrict => return binding::restrict(m, environment, x[0], x[1]),
            Call::FrameAlloc | Call::FrameFree => (BindingKind::Pool, Rights::POOL_ALLOC),
            Call::FrameKind => (BindingKind::Pool, Rights::POOL_EXECUTE),
            Call::PoolCreate => (BindingKind::Pool, Rights::POOL_CARVE),
            Call::PoolDestroy => (BindingKind::Pool, Rights::POOL_REVOKE),
            Call::EnvCreate => (BindingKind::Pool, Rights::POOL_ALLOC | Rights::POOL_CARVE),
            Call::EnvDestroy | Call::VcoreStop | Call::VcoreReport => (BindingKind::Env, Rights::ENV_DESTROY),
            Call::BindingsAdd | Call::NamesGive | Call::VcoreCreate => (BindingKind::Env, Rights::ENV_MAP),
            Call::GateBind | Call::EventBind => (BindingKind::Env, Rights::ENV_MAP),
            Call::VcoreStart => (BindingKind::Env, Rights::ENV_RUN),
            Call::SliceClaim | Call::SliceRelease => (BindingKind::Core, Rights::CORE_CLAIM),
            Call::IrqBind | Call::IrqAck => (BindingKind::Irq, Rights::IRQ_BIND),
            Call::DebugWrite => (BindingKind::Device, Rights::DEVICE_DEBUG),
            Call::Power => (BindingKind::Power, Rights::POWER_OFF),
            Call::Audit => (BindingKind::Power, Rights::POWER_AUDIT),
            // The vectors serve Null and Resume, the others are not this function's.
            _ => return Ok(()),
        };
        let by = binding::find(m, environment, x[0], kind, rights)?;
        let of_living = kind == BindingKind::Env && call != Call::EnvDestroy;
        let target = if of_living { environment::living(m, by.object)? } else { environment };
        match call {
            Call::PoolCreate => {
                let (number, cell, quota) = (below(x[1], MAX_POOLS)?, x[2], below(x[3], 1 << 31)?);
                Refusal::BadArgument.when(number == 0 || x[4] > quota)?;
                binding::check_cell(m, cell, me)?;
                binding::check_empty(m, environment, x[5])?;
                pool::create(m, me, by.object, number, cell, quota)?;
                binding::bump(m, cell, me, binding::OBJECT);
                let root = Binding::new(m, kind, Rights::EVERYTHING, cell, number);
                binding::write(m, environment, x[5], &root)
            }
            Call::PoolDestroy => destroy::pool(m, environment, x, &by),
            Call::EnvCreate => {
                Refusal::NotRoot.when(!by.root())?;
                let number = below(x[1], MAX_ENVIRONMENTS)?;
                let (cell, pool, supervisor) = (x[2], by.object, m.core().running());
                let (frame, root, bindings) = (Pfn(x[3]), Pfn(x[4]), Pfn(x[5]));
                let parts = Parts { number, cell, pool, frame, root, bindings, supervisor };
                environment::create(m, environment, &parts, x[6])
            }
            Call::EnvDestroy => {
                Refusal::BadArgument.when(by.object == environment.frame().0)?;
                destroy::environment(m, environment, m.environment(Pfn(by.object)))?;
                binding::restrict(m, environment, x[0], 0)
            }
            Call::BindingsAdd => {
                self.results[0] = environment::add_bindings(m, target, Pfn(x[1]))?;
                Ok(())
            }
            Call::NamesGive => environment::give_names(m, me, target, [x[1], x[2], x[3]]),
            Call::VcoreCreate => {
                let misplaced = x[3] % PAGE_BYTES != 0 || x[3] >= exo_abi::page::MAPPABLE_END;
                Refusal::BadArgument.when(misplaced || m.core_at(x[7]).is_none())?;
                let _guard = target.locked();
                vcore::create(m, target, x[1], Pfn(x[2]), x[3], x[7], [x[4], x[5], x[6]])
            }
            Call::VcoreStart | Call::VcoreStop | Call::VcoreReport | Call::GateBind | Call::EventBind => {
                self.vcore(call, target, vcore::of(target, x[1])?)
            }
            Call::SliceClaim | Call::SliceRelease => self.slice(call, &by),
            Call::IrqBind | Call::IrqAck => {
                Refusal::BadArgument.when(!by.covers(x[1], 1))?;
                if call == Call::IrqAck {
                    return interrupt::acknowledge(m, environment, x[1]);
                }
                let event = below(x[3], FIRST_OF_KERNEL)?;
                let trigger = if below(x[4], 2)? == 1 { Trigger::Edge } else { Trigger::Level };
                interrupt::bind(m, &by, x[1], vcore::of(environment, x[2])?.0, event, trigger)
            }
            Call::DebugWrite => {
                let uart = m.found().uart.is_some_and(|uart| by.covers(uart.0, 1));
                Refusal::BadArgument.when(x[1] == 0 || x[1] > 48 || !uart)?;
                Refusal::Claimed.when(m.tables().uart_owner.load(Acquire) != 0)?;
                let byte = |index: usize| self.x[(2 + index / 8) & 7].to_le_bytes()[index % 8];
                (0..x[1] as usize).for_each(|index| m.write_uart(&[byte(index)]));
                Ok(())
            }
            Call::Power => {
                let what = if below(x[1], 2)? == power::OFF { Power::Off(x[2]) } else { Power::Reset };
                m.power(what);
                Ok(())
            }
            Call::Audit => {
                self.results[0] = audit::frame(m, Pfn(x[1]))?;
                Ok(())
            }
            _ => self.frames(call, &by),
        }
    }

    /// `frame_alloc`, `frame_free` and `frame_kind`: the frames of the batch buffer, until one is refused.
    fn frames(&mut self, call: Call, by: &Binding) -> Result<(), Refusal> {
        let (m, x, number) = (self.m, self.x, by.object);
        let pool = pool::pool(m, number);
        let count = if x[1] == 0 { Err(Refusal::BadArgument) } else { below(x[1], BATCH_ENTRIES + 1) }?;
        let flag = if call == Call::FrameFree { 0 } else { below(x[2], 2)? };
        let kind = if flag == frame_kind::CODE { Kind::Code } else { Kind::Data };
        // Charged as a whole first: one atomic instead of one a frame, and what was not taken is given back.
        if call == Call::FrameAlloc {
            pool.charge(count)?;
            // Who ends the pool takes the binding back first, and looks at its use then: one of the two sees the other.
            fence(SeqCst);
            by.check(m, Rights::empty()).inspect_err(|_| pool.uncharge(count))?;
        }
        let (mut left, mut done, mut result) = (ZEROED_PER_CALL, 0, Ok(()));
        while result.is_ok() && done < count {
            let pfn = Pfn(own_control(m).batch(done)[0].load(Relaxed));
            result = match call {
                Call::FrameAlloc => frame::allocate(m, number, pfn, flag, &mut left),
                Call::FrameFree => frame::free(m, number, pfn),
                _ => frame::turn_into(m, pfn, Word::new(number, kind, 0)),
            };
            done += u64::from(result.is_ok());
        }
        match call {
            Call::FrameAlloc => pool.uncharge(count - done),
            Call::FrameFree => pool.uncharge(done),
            // Before any of them can be executed: mapping comes later than this call.
            _ if kind == Kind::Code => m.invalidate_instructions(),
            _ => {}
        }
        self.results[0] = done;
        result
    }

    /// Calls that are about a vcore of `target`.
    fn vcore(&mut self, call: Call, target: &Environment, of: (VcoreRef, &Vcore)) -> Result<(), Refusal> {
        let (m, x, (reference, vcore)) = (self.m, self.x, of);
        match call {
            Call::VcoreStart => vcore::start(m, reference, vcore, (x[2] != 0).then_some([x[2], x[3], x[4]])),
            Call::VcoreStop => {
                Refusal::WrongState.when(reference == m.core().running())?;
                vcore::stop(m, reference, vcore, stop_reason::STOPPED, 0)?;
                tell_supervisor(m, target);
                Ok(())
            }
            Call::VcoreReport => {
                Refusal::WrongState.when(!vcore.word().is(State::Stopped))?;
                let reason = vcore.mask.load(Relaxed);
                let control = vcore::control(m, vcore);
                // What the library caught and gave up on is in its upcall frame; what the kernel stopped is in the other.
                let halted = reason == stop_reason::HALTED;
                let (from, to) = (if halted { word!(upcall) } else { word!(preempted) }, own_control(m));
                (0..FRAME_WORDS).for_each(|word| to.set(word!(batch) + word, control.get(from + word)));
                self.results = [reason, if halted { vcore.alarm.load(Relaxed) } else { 0 }];
                Ok(())
            }
            _ => {
                let gate = call == Call::GateBind;
                let kind = if gate { BindingKind::Gate } else { BindingKind::Event };
                Refusal::BadArgument.when(if gate { x[4] == 0 } else { x[4] >= FIRST_OF_KERNEL })?;
                binding::check_cell(m, x[2], target.number())?;
                let object = if gate { Link::first(reference).0 } else { reference.0 | x[4] };
                let made = Binding::new(m, kind, Rights::GATE_CALL | Rights::GRANT, x[2], object);
                let badge = if gate { x[4] } else { made.badge };
                binding::write(m, self.environment, x[3], &Binding { badge, ..made })
            }
        }
    }

    /// `slice_claim` and `slice_release`: position x2 of core x1.
    fn slice(&self, call: Call, by: &Binding) -> Result<(), Refusal> {
        let (m, x) = (self.m, self.x);
        let core = m.core_at(x[1]).ok_or(Refusal::BadArgument)?;
        let position = below(x[2], SLICES_PER_CORE)?;
        Refusal::NoRight.when(!by.covers(core.id() * SLICES_PER_CORE + position, 1))?;
        if call == Call::SliceRelease {
            return slice::release(m, core, position);
        }
        let (owner, _) = vcore::of(env(m, x[3], Rights::ENV_RUN)?, x[4])?;
        let microseconds = if x[5] == 0 { DEFAULT_SLICE_US } else { x[5] };
        let exact = if below(x[6], slice_flag::EXACT + 1)? == 0 { 0 } else { exo_abi::exposed::SLICE_EXACT };
        Refusal::BadArgument.when(!(MIN_SLICE_US..=MAX_SLICE_US).contains(&microseconds))?;
        Refusal::WrongState.when(vcore::home(m, owner) != core.id())?;
        let length = m.ticks(microseconds);
        slice::claim(m, core, position, &slice::Claim { owner, by, length, exact })
    }

    fn grant(&self) -> Result<(), Refusal> {
        let (m, x) = (self.m, self.x);
        let source = binding::read(m, self.environment, x[0])?;
        let target = env(m, x[1], Rights::ENV_MAP)?;
        let derived = binding::derive(m, self.environment.number(), &source, [x[3], x[4], x[5], x[6]])?;
        binding::write(m, target, x[2], &derived)
    }
}
