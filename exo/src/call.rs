//! The dispatcher: each call decodes and checks everything, then acts; after the first change nothing refuses.

use crate::binding::{self, Binding, Copy};
use crate::environment::{self, Environment, Parts};
use crate::frame::{self, Kind, Zero};
use crate::machine::{Machine, Power, Trigger};
use crate::vcore::{self, Control, FRAME_WORDS, Start, State, Vcore, VcoreRef};
use crate::word;
use crate::{address_space, audit, destroy, event, gate, interrupt, pool, slice};
use core::sync::atomic::{Ordering::*, fence};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::{alloc_flag, frame_kind, power, slice_flag, stop_reason};
use exo_abi::event::FIRST_OF_KERNEL;
use exo_abi::exposed::SLICE_EXACT;
use exo_abi::page::MAPPABLE_END;
use exo_abi::{
    BATCH_ENTRIES, Call, DEFAULT_SLICE_US, Handle, MAX_CELLS, MAX_ENVIRONMENTS, MAX_POOLS, MAX_SLICE_US, MIN_SLICE_US,
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
        return halt(m, m.core().running(), stop_reason::HALTED, x[0]);
    }
    if call == Call::Map {
        let (refusal, progress) = map(m, x[0], x[1]);
        (x[0], x[1], x[2]) = (refusal, progress & 0xffff_ffff, progress >> 32);
        return Outcome::Return;
    }
    let mut request = Request { m, environment: own_environment(m), x, results: [0; 2] };
    let refusal = status(request.run(call));
    (x[1], x[2]) = (request.results[0], request.results[1]);
    x[0] = refusal;
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
    let binding = binding::read(m, own_environment(m), handle)?;
    if binding.is(BindingKind::Env) {
        binding.check(m, Rights::ENV_RUN)?;
        Ok(vcore::of(environment::living(m, binding.object)?, index)?.0)
    } else if binding.is(BindingKind::Gate) {
        binding.check(m, Rights::GATE_CALL)?;
        below(index, 1)?;
        Ok(VcoreRef::from_word(binding.object))
    } else {
        Err(Refusal::WrongKind)
    }
}

/// The environment of the running vcore.
fn own_environment<M: Machine>(m: &M) -> &Environment {
    m.environment(m.core().running().environment())
}

/// Stops the running vcore and tells the supervisor.
#[inline(never)]
pub fn halt(m: &impl Machine, me: VcoreRef, reason: u64, code: u64) -> Outcome {
    if reason == stop_reason::HALTED {
        gate::suspend(m, me);
    }
    let _ = vcore::stop(m, me, m.vcore(me), reason, code);
    tell_supervisor(m, m.environment(me.environment()));
    slice::schedule(m)
}

/// Stops the running vcore because another core asks for it: what follows is [`slice::after_interrupt`]'s matter.
pub fn stop_running(m: &impl Machine) {
    let me = m.core().running();
    let environment = m.environment(me.environment());
    if vcore::stop(m, me, m.vcore(me), stop_reason::STOPPED, 0).is_ok() && !environment.is_dying() {
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

/// A fault that cannot be an upcall; the registers are in the control page's `preempted`.
pub fn fault(m: &impl Machine) -> Outcome {
    halt(m, m.core().running(), stop_reason::FAULTED, 0)
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
#[inline(never)]
pub fn map<M: Machine>(m: &M, handle: u64, count: u64) -> (u64, u64) {
    let environment = own_environment(m);
    match map_target(m, environment, handle, count) {
        Ok(target) => {
            let (result, progress) = address_space::apply(m, environment, target, own_control(m), count);
            (status(result), progress)
        }
        Err(refusal) => (refusal as u64, 0),
    }
}

/// Whose tables `map` changes: 1 to 64 entries.
#[inline(always)]
fn map_target<'m, M: Machine>(
    m: &'m M,
    environment: &Environment,
    handle: u64,
    count: u64,
) -> Result<&'m Environment, Refusal> {
    let binding = binding::read(m, environment, handle)?;
    Refusal::WrongKind.when(!binding.is(BindingKind::Env))?;
    binding.check(m, Rights::ENV_MAP)?;
    let target = environment::living(m, binding.object)?;
    Refusal::BadArgument.when(count.wrapping_sub(1) >= BATCH_ENTRIES)?;
    Ok(target)
}

/// The batch of a `resume`: the same as `map` on the own tables. Answers the refusal's number and the entries done.
pub fn resume_batch<M: Machine>(m: &M, count: u64) -> (u64, u64) {
    let environment = own_environment(m);
    // Whoever may fill the slot may have put another environment's binding there: that permits nothing here.
    let allowed = binding::find(m, environment, Handle::SELF.0 as u64, BindingKind::Env, Rights::ENV_MAP)
        .and_then(|own| if own.object == environment.frame().0 { Ok(()) } else { Err(Refusal::WrongKind) })
        .and_then(|()| below(count, BATCH_ENTRIES + 1));
    if let Err(refusal) = allowed {
        return (refusal as u64, 0);
    }
    let (result, progress) = address_space::apply(m, environment, environment, own_control(m), count);
    (status(result), progress & 0xffff_ffff)
}

/// What a register says of how it went: 0, or the refusal's number.
fn status(result: Result<(), Refusal>) -> u64 {
    result.err().map_or(0, |refusal| refusal as u64)
}

/// A bounded argument.
fn below(value: u64, end: u64) -> Result<u64, Refusal> {
    if value < end { Ok(value) } else { Err(Refusal::BadArgument) }
}

fn own_control<M: Machine>(m: &M) -> Control<'_> {
    vcore::control(m, m.vcore(m.core().running()))
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

impl<'m, M: Machine> Request<'m, '_, M> {
    #[inline(always)]
    fn run(&mut self, call: Call) -> Result<(), Refusal> {
        match call {
            Call::FrameAlloc => self.frame_alloc(),
            Call::FrameFree => self.frame_free(),
            Call::FrameKind => self.frame_kind(),
            Call::PoolCreate => self.pool_create(),
            Call::PoolDestroy => self.pool_destroy(),
            Call::EnvCreate => self.env_create(),
            Call::EnvDestroy => self.env_destroy(),
            Call::BindingsAdd => self.bindings_add(),
            Call::NamesGive => self.names_give(),
            Call::VcoreCreate => self.vcore_create(),
            Call::VcoreStart => self.vcore_start(),
            Call::VcoreStop => self.vcore_stop(),
            Call::VcoreReport => self.vcore_report(),
            Call::GateBind => self.bind(BindingKind::Gate),
            Call::EventBind => self.bind(BindingKind::Event),
            Call::Grant => self.grant(),
            Call::TakeBack => self.take_back(),
            Call::Restrict => binding::restrict(self.m, self.environment, self.x[0], self.x[1]),
            Call::SliceClaim => self.slice_claim(),
            Call::SliceRelease => self.slice_release(),
            Call::IrqBind => self.irq_bind(),
            Call::IrqAck => {
                let (line, _) = self.line()?;
                interrupt::acknowledge(self.m, self.environment, line)
            }
            Call::DebugWrite => self.debug_write(),
            Call::Power => self.power(),
            Call::Audit => self.audit(),
            // The vectors serve Null and Resume, the others are not this function's.
            _ => Ok(()),
        }
    }

    /// The live binding that argument `index` names.
    #[inline(never)]
    fn binding(&self, index: usize, kind: BindingKind, rights: Rights) -> Result<Binding, Refusal> {
        binding::find(self.m, self.environment, self.x[index], kind, rights)
    }

    /// The object of the live binding that argument 0 names.
    #[inline(never)]
    fn object(&self, kind: BindingKind, rights: Rights) -> Result<u64, Refusal> {
        self.binding(0, kind, rights).map(|found| found.object)
    }

    /// The living environment that argument `index` names.
    #[inline(never)]
    fn env(&self, index: usize, rights: Rights) -> Result<&'m Environment, Refusal> {
        environment::living(self.m, self.binding(index, BindingKind::Env, rights)?.object)
    }

    /// Vcore x1 of Env x0.
    #[inline(never)]
    fn vcore(&self, rights: Rights) -> Result<(VcoreRef, &'m Vcore), Refusal> {
        vcore::of(self.env(0, rights)?, self.x[1])
    }

    /// Argument `index`, which must be below `end`.
    fn below(&self, index: usize, end: u64) -> Result<u64, Refusal> {
        below(self.x[index], end)
    }

    /// x1 entries of the batch buffer: 1 to 64.
    fn batch(&self) -> Result<u64, Refusal> {
        if self.x[1] == 0 { Err(Refusal::BadArgument) } else { self.below(1, BATCH_ENTRIES + 1) }
    }

    /// The frame that entry `index` of the batch buffer names.
    fn batch_frame(&self, index: u64) -> Pfn {
        Pfn(own_control(self.m).batch(index)[0].load(Relaxed))
    }

    fn frame_alloc(&mut self) -> Result<(), Refusal> {
        let binding = self.binding(0, BindingKind::Pool, Rights::POOL_ALLOC)?;
        let number = binding.object;
        let (count, always) = (self.batch()?, self.below(2, alloc_flag::ZERO + 1)? != 0);
        let pool = pool::pool(self.m, number);
        let (mut zeroed, mut result) = (0, Ok(()));
        // Charged as a whole first: one atomic instead of one a frame, and what was not taken is given back.
        pool.charge(count)?;
        // Who ends the pool takes the binding back first, and looks at its use then: one of the two sees the other.
        fence(SeqCst);
        binding.check(self.m, Rights::empty()).inspect_err(|_| pool.uncharge(count))?;
        while result.is_ok() && self.results[0] < count {
            let zero = match zeroed == ZEROED_PER_CALL {
                true if always => {
                    result = Err(Refusal::Again);
                    break;
                }
                true => Zero::Never,
                false if always => Zero::Always,
                false => Zero::WhenNew,
            };
            result = frame::allocate(self.m, number, self.batch_frame(self.results[0]), zero).map(|frames| {
                zeroed += frames;
                self.results[0] += 1;
            });
        }
        pool.uncharge(count - self.results[0]);
        result
    }

    /// Does something to the frames of the batch buffer, until one is refused.
    fn each_frame(&mut self, count: u64, one: impl Fn(&Self, Pfn) -> Result<(), Refusal>) -> Result<(), Refusal> {
        while self.results[0] < count {
            one(self, self.batch_frame(self.results[0]))?;
            self.results[0] += 1;
        }
        Ok(())
    }

    fn frame_free(&mut self) -> Result<(), Refusal> {
        let number = self.object(BindingKind::Pool, Rights::POOL_ALLOC)?;
        let count = self.batch()?;
        let result = self.each_frame(count, |request, pfn| frame::free(request.m, number, pfn));
        pool::pool(self.m, number).uncharge(self.results[0]);
        result
    }

    fn frame_kind(&mut self) -> Result<(), Refusal> {
        let number = self.object(BindingKind::Pool, Rights::POOL_EXECUTE)?;
        let count = self.batch()?;
        let kind = if self.below(2, frame_kind::CODE + 1)? == frame_kind::CODE { Kind::Code } else { Kind::Data };
        let result = self.each_frame(count, |request, pfn| frame::set_kind(request.m, number, pfn, kind));
        if kind == Kind::Code {
            // Before any of them can be executed: mapping comes later than this call.
            self.m.invalidate_instructions();
        }
        result
    }

    fn pool_create(&self) -> Result<(), Refusal> {
        let parent = self.object(BindingKind::Pool, Rights::POOL_CARVE)?;
        let (number, cell) = (self.below(1, MAX_POOLS)?, self.below(2, MAX_CELLS)?);
        let (quota, minimum) = (self.below(3, 1 << 31)?, self.x[4]);
        Refusal::BadArgument.when(number == 0 || minimum > quota)?;
        let me = self.environment.number();
        binding::check_cell(self.m, cell, me)?;
        binding::check_empty(self.m, self.environment, self.x[5])?;
        pool::create(self.m, me, parent, number, cell, quota)?;
        binding::bump(self.m, cell, me | binding::OBJECT);
        let root = Binding::new(self.m, BindingKind::Pool, Rights::EVERYTHING, cell, number);
        binding::write(self.m, self.environment, self.x[5], &root)
    }

    fn pool_destroy(&self) -> Result<(), Refusal> {
        let root = self.binding(0, BindingKind::Pool, Rights::POOL_REVOKE)?;
        Refusal::NotRoot.when(!root.root())?;
        match pool::pool(self.m, root.object).identity().state() {
            pool::State::Shared if pool::children(self.m, root.object).next().is_some() => Err(Refusal::InUse),
            pool::State::Shared => {
                self.below(1, 1)?;
                destroy::begin_pool(self.m, root.object);
                // All its bindings are dead, this one lives on with nothing but the right to finish.
                let last = Binding::new(self.m, BindingKind::Pool, Rights::POOL_REVOKE, root.cell(), root.object);
                binding::put(self.m, self.environment, self.x[0], root.head, &last)?;
                Err(Refusal::Again)
            }
            pool::State::Dying => {
                destroy::shared_pool(self.m, root.object)?;
                binding::restrict(self.m, self.environment, self.x[0], 0)
            }
            _ => Err(Refusal::InUse),
        }
    }

    fn env_create(&self) -> Result<(), Refusal> {
        let pool = self.binding(0, BindingKind::Pool, Rights::POOL_ALLOC | Rights::POOL_CARVE)?;
        Refusal::NotRoot.when(!pool.root())?;
        let parts = Parts {
            number: self.below(1, MAX_ENVIRONMENTS)?,
            cell: self.below(2, MAX_CELLS)?,
            pool: pool.object,
            frame: Pfn(self.x[3]),
            root: Pfn(self.x[4]),
            bindings: Pfn(self.x[5]),
            supervisor: self.m.core().running(),
        };
        environment::create(self.m, self.environment, &parts, self.x[6])
    }

    fn env_destroy(&self) -> Result<(), Refusal> {
        let frame = Pfn(self.object(BindingKind::Env, Rights::ENV_DESTROY)?);
        let dying = self.m.environment(frame);
        Refusal::BadArgument.when(frame == self.environment.frame())?;
        destroy::environment(self.m, self.environment, dying)?;
        binding::restrict(self.m, self.environment, self.x[0], 0)
    }

    fn bindings_add(&mut self) -> Result<(), Refusal> {
        let target = self.env(0, Rights::ENV_MAP)?;
        self.results[0] = environment::add_bindings(self.m, target, Pfn(self.x[1]))?;
        Ok(())
    }

    fn names_give(&self) -> Result<(), Refusal> {
        let target = self.env(0, Rights::ENV_MAP)?;
        environment::give_names(self.m, self.environment.number(), target, self.x[1], self.x[2], self.x[3])
    }

    fn vcore_create(&self) -> Result<(), Refusal> {
        let target = self.env(0, Rights::ENV_MAP)?;
        let address = self.below(3, MAPPABLE_END)?;
        Refusal::BadArgument.when(address % exo_abi::PAGE_BYTES != 0 || self.m.core_at(self.x[7]).is_none())?;
        let start = Start { pc: self.x[4], sp: self.x[5], argument: self.x[6] };
        let _guard = target.lock.lock();
        vcore::create(self.m, target, self.x[1], Pfn(self.x[2]), address, self.x[7], &start)
    }

    fn vcore_start(&self) -> Result<(), Refusal> {
        let (reference, vcore) = self.vcore(Rights::ENV_RUN)?;
        let anew = (self.x[2] != 0).then_some(Start { pc: self.x[2], sp: self.x[3], argument: self.x[4] });
        vcore::start(self.m, reference, vcore, anew.as_ref())
    }

    fn vcore_stop(&self) -> Result<(), Refusal> {
        let (reference, vcore) = self.vcore(Rights::ENV_DESTROY)?;
        Refusal::WrongState.when(reference == self.m.core().running())?;
        vcore::stop(self.m, reference, vcore, stop_reason::STOPPED, 0)?;
        tell_supervisor(self.m, self.m.environment(reference.environment()));
        Ok(())
    }

    fn vcore_report(&mut self) -> Result<(), Refusal> {
        let (_, vcore) = self.vcore(Rights::ENV_DESTROY)?;
        Refusal::WrongState.when(!vcore.word().is(State::Stopped))?;
        let reason = vcore.mask.load(Relaxed);
        let control = vcore::control(self.m, vcore);
        // What the library caught and gave up on is in its upcall frame; what the kernel stopped is in the other.
        let halted = reason == stop_reason::HALTED;
        let (from, to) = (if halted { word!(upcall) } else { word!(preempted) }, own_control(self.m));
        (0..FRAME_WORDS).for_each(|word| to.set(word!(batch) + word, control.get(from + word)));
        self.results = [reason, if halted { vcore.alarm.load(Relaxed) } else { 0 }];
        Ok(())
    }

    /// `gate_bind` and `event_bind`.
    fn bind(&self, kind: BindingKind) -> Result<(), Refusal> {
        let target = self.env(0, Rights::ENV_MAP)?;
        let (reference, _) = vcore::of(target, self.x[1])?;
        binding::check_cell(self.m, self.below(2, MAX_CELLS)?, target.number())?;
        let mut made = Binding::new(self.m, kind, Rights::GATE_CALL | Rights::GRANT, self.x[2], reference.0);
        match kind {
            BindingKind::Gate if self.x[4] == 0 => return Err(Refusal::BadArgument),
            BindingKind::Gate => made.badge = self.x[4],
            _ => made.object |= self.below(4, FIRST_OF_KERNEL)? << 44,
        }
        binding::write(self.m, self.environment, self.x[3], &made)
    }

    fn grant(&self) -> Result<(), Refusal> {
        let source = binding::read(self.m, self.environment, self.x[0])?;
        let target = self.env(1, Rights::ENV_MAP)?;
        let copy = Copy { rights: self.x[3], cell: self.below(4, MAX_CELLS)?, first: self.x[5], count: self.x[6] };
        let derived = binding::derive(self.m, self.environment.number(), &source, &copy)?;
        binding::write(self.m, target, self.x[2], &derived)
    }

    fn take_back(&self) -> Result<(), Refusal> {
        let (cell, me) = (self.below(0, MAX_CELLS)?, self.environment.number());
        binding::check_cell(self.m, cell, me)?;
        binding::bump(self.m, cell, me);
        Ok(())
    }

    /// The Core binding x0 covers position x2 of core x1.
    fn position(&self) -> Result<(&'m slice::Core, Binding), Refusal> {
        let binding = self.binding(0, BindingKind::Core, Rights::CORE_CLAIM)?;
        let core = self.m.core_at(self.x[1]).ok_or(Refusal::BadArgument)?;
        let position = self.below(2, SLICES_PER_CORE)?;
        let covered = binding.covers(core.id() * SLICES_PER_CORE + position, 1);
        if covered { Ok((core, binding)) } else { Err(Refusal::NoRight) }
    }

    fn slice_claim(&self) -> Result<(), Refusal> {
        let (core, binding) = self.position()?;
        let target = self.env(3, Rights::ENV_RUN)?;
        let (owner, vcore) = vcore::of(target, self.x[4])?;
        let microseconds = if self.x[5] == 0 { DEFAULT_SLICE_US } else { self.x[5] };
        let exact = if self.below(6, slice_flag::EXACT + 1)? == 0 { 0 } else { SLICE_EXACT };
        Refusal::BadArgument.when(!(MIN_SLICE_US..=MAX_SLICE_US).contains(&microseconds))?;
        Refusal::WrongState.when(vcore.home() != core.id())?;
        let length = self.m.ticks(microseconds);
        let claim = slice::Claim { owner, environment: target.number(), by: &binding, length, exact };
        slice::claim(self.m, core, self.x[2], &claim)
    }

    fn slice_release(&self) -> Result<(), Refusal> {
        let (core, _) = self.position()?;
        slice::release(self.m, core, self.x[2])
    }

    /// Line x1, which the Irq binding x0 covers.
    fn line(&self) -> Result<(u64, Binding), Refusal> {
        let binding = self.binding(0, BindingKind::Irq, Rights::IRQ_BIND)?;
        if binding.covers(self.x[1], 1) { Ok((self.x[1], binding)) } else { Err(Refusal::BadArgument) }
    }

    fn irq_bind(&self) -> Result<(), Refusal> {
        let ((line, by), event) = (self.line()?, self.below(3, FIRST_OF_KERNEL)?);
        let trigger = if self.below(4, 2)? == 1 { Trigger::Edge } else { Trigger::Level };
        interrupt::bind(self.m, self.environment, &by, line, self.x[2], event, trigger)
    }

    fn debug_write(&self) -> Result<(), Refusal> {
        let binding = self.binding(0, BindingKind::Device, Rights::DEVICE_DEBUG)?;
        let count = self.x[1] as usize;
        let uart = self.m.found().uart.is_some_and(|uart| binding.covers(uart.0, 1));
        Refusal::BadArgument.when(self.x[1] == 0 || self.x[1] > 48 || !uart)?;
        Refusal::Claimed.when(self.m.tables().uart_owner.load(Acquire) != 0)?;
        let bytes = |index: usize| self.x[2 + index / 8].to_le_bytes()[index % 8];
        (0..count).for_each(|index| self.m.write_uart(&[bytes(index)]));
        Ok(())
    }

    fn power(&self) -> Result<(), Refusal> {
        self.object(BindingKind::Power, Rights::POWER_OFF)?;
        self.m.power(match self.x[1] {
            power::OFF => Power::Off(self.x[2]),
            power::RESET => Power::Reset,
            _ => return Err(Refusal::BadArgument),
        });
        Ok(())
    }

    fn audit(&mut self) -> Result<(), Refusal> {
        self.object(BindingKind::Power, Rights::POWER_AUDIT)?;
        self.results[0] = audit::frame(self.m, Pfn(self.x[1]))?;
        Ok(())
    }
}
