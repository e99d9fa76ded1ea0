//! Vcores: contexts that a core can run.
//!
//! State and pending events are one word: every claim, wait and wake is one atomic on it. Whoever runs a vcore has first won
//! [`State::Ready`], [`State::Gate`] or [`State::Waiting`] → [`State::Running`].
//!
//! ```text
//! 63     56 55    52 51   48 47                                   0
//! |   0    | resume | state | pending events                        |
//! ```
//! An open gate behind which nothing is pending is 0.

use crate::environment::Environment;
use crate::machine::{MAX_SPAN, Machine, Words, linear, numbers};
use crate::{event, frame, gate, remote};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::calls::stop_reason;
use exo_abi::control_page::Frame;
use exo_abi::{EVENTS, Pfn, Refusal};

/// Names a vcore: its kernel address. The first vcore of an environment lies 512 bytes into its frame.
///
/// In words that hold more, the low six bits are a number of an event, and the top byte, which the processor ignores in addresses (TCR_EL1.TBI1), is
/// what [`Link`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcoreRef(pub u64);

impl VcoreRef {
    /// No vcore.
    pub const NONE: VcoreRef = VcoreRef(0);

    /// Vcore `index` of the environment in a frame.
    pub const fn new(environment: Pfn, index: u64) -> VcoreRef {
        VcoreRef(linear(environment) | (index + 8) << 6)
    }
    /// The reference in a word that holds more.
    pub const fn from_word(word: u64) -> VcoreRef {
        if word == 0 { VcoreRef::NONE } else { VcoreRef::from_link(word) }
    }
    /// The same for a word that is not 0.
    pub const fn from_link(word: u64) -> VcoreRef {
        VcoreRef((word | !0 << LINK_SHIFT) & !63)
    }
    /// The frame of its environment, modulo the span of the linear map: for [`Machine::environment`].
    pub const fn environment(self) -> Pfn {
        Pfn((self.0 & (MAX_SPAN - 1)) >> 12)
    }
    /// It is one of the environment in this frame.
    pub const fn is_of(self, environment: Pfn) -> bool {
        self.0 & !0xfff == linear(environment)
    }
    /// Its place in the environment's frame.
    const fn place(self) -> usize {
        (self.0 >> 6 & 63) as usize
    }
    /// Its index in the environment.
    pub const fn index(self) -> u64 {
        self.place() as u64 - 8
    }
    /// Not [`VcoreRef::NONE`].
    pub const fn exists(self) -> bool {
        self.0 != 0
    }
}

/// Where the top byte of an address begins.
const LINK_SHIFT: u32 = 56;

/// A vcore in its chain: what [`crate::slice::Core::link`] and [`Vcore::caller`] hold. In the top byte: calls above it (2:0),
/// [`Link::DEEP`], [`Link::OWN`], [`Link::PLAIN`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link(pub u64);

impl Link {
    /// One call.
    const ONE: u64 = 1 << LINK_SHIFT;
    /// The calls above.
    pub const DEPTH: u64 = 7 << LINK_SHIFT;
    /// The bit of: there are as many calls above as a chain can have.
    pub const DEEP: u32 = LINK_SHIFT + 3;
    /// The bit of: it runs by its own claim, and who calls it waits.
    pub const OWN: u32 = LINK_SHIFT + 6;
    /// The bit of: when its call ends it runs on there, and nothing else is to be done (a deadline to be forgotten, a binding to be taken).
    pub const PLAIN: u32 = LINK_SHIFT + 7;

    /// A vcore whose caller has this link (0: none) runs by its own claim.
    pub const fn own(vcore: VcoreRef, caller: u64) -> Link {
        let depth = if caller == 0 { 0 } else { (caller & Link::DEPTH) + Link::ONE };
        Link(vcore.0 & !(!0 << LINK_SHIFT) | 1 << Link::PLAIN | 1 << Link::OWN | depth)
    }
    /// What a gate's binding names: the first call's.
    pub const fn first(vcore: VcoreRef) -> Link {
        Link(vcore.0 & !(!0 << LINK_SHIFT) | 1 << Link::PLAIN | Link::ONE)
    }
    /// Whom this one calls, by a gate of this object.
    pub const fn call(self, object: u64) -> Link {
        Link(object + (self.0 & Link::DEPTH))
    }
    /// One of the bits.
    pub const fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }
    /// The same, plain or not.
    pub const fn plain(self, plain: bool) -> Link {
        Link(self.0 & !(1 << Link::PLAIN) | (plain as u64) << Link::PLAIN)
    }
}

numbers! {
    /// What a vcore is doing.
    State {
        /// In `reply_wait` with its gate open.
        Gate = 0,
        /// In `wait`.
        Waiting = 1,
        /// A core runs it, or it is in a call.
        Running = 2,
        /// New, halted, faulted or stopped. (From here on whoever raises an event has nobody to wake or interrupt.)
        Stopped = 4,
        /// Could run.
        Ready = 5,
        /// It is being started.
        Held = 6,
        /// It does not exist.
        None = 7,
    }
}

numbers! {
    /// How a ready vcore goes on.
    Resume {
        /// With all registers, from the control page's `preempted`.
        Full = 0,
        /// Behind a call, with x0 to x8 from the control page's `result`.
        Result = 1,
        /// Behind `wait` or `reply_wait`, with the events it waited for.
        Events = 2,
    }
}

/// The value of a vcore's state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateWord(pub u64);

/// The bits of pending events.
pub const PENDING: u64 = (1 << EVENTS) - 1;
const STATE: u64 = 0xf << 48;
const RESUME: u64 = 0xf << 52;

impl StateWord {
    /// What the vcore is doing.
    pub const fn state(self) -> State {
        State::from_bits(self.0 >> 48 & 0xf)
    }
    /// It goes on so when it is ready.
    pub const fn resumes(self, resume: Resume) -> bool {
        self.0 & RESUME == (resume as u64) << 52
    }
    /// How it goes on when it is ready.
    pub const fn resume(self) -> Resume {
        Resume::from_bits(self.0 >> 52 & 0xf)
    }
    /// It is doing this.
    pub const fn is(self, state: State) -> bool {
        self.0 & STATE == (state as u64) << 48
    }
    /// The events that are pending.
    pub const fn pending(self) -> u64 {
        self.0 & PENDING
    }
    /// The same, in another state.
    pub const fn in_state(self, state: State) -> StateWord {
        StateWord(self.0 & !STATE | (state as u64) << 48)
    }
    /// Ready to go on so.
    pub const fn ready(self, resume: Resume) -> StateWord {
        StateWord(self.0 & !(STATE | RESUME) | (State::Ready as u64) << 48 | (resume as u64) << 52)
    }
    /// It is in `wait` or `reply_wait`.
    pub const fn waits(self) -> bool {
        self.0 & STATE <= (State::Waiting as u64) << 48
    }
}

/// A vcore: 64 bytes, one cache line, in its environment's frame.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Vcore {
    /// [`StateWord`].
    pub state: AtomicU64,
    /// Kernel address of the control page.
    pub control: AtomicU64,
    /// User address of the control page.
    pub control_address: AtomicU64,
    /// Who is being served: its [`Link`], or 0. Whoever takes it out ends the call: a reply, a death, a deadline.
    pub caller: AtomicU64,
    /// Whom it calls: a [`Link`], or 0.
    pub callee: AtomicU64,
    /// While waiting: the events that end it. In a call: [`DEADLINE`]. In both: [`ACCEPTS`]. While stopped: the reason.
    pub mask: AtomicU64,
    /// When to wake it, or when its call must have been answered; 0: never. While stopped: the code of `halt`.
    pub alarm: AtomicU64,
    /// Its positions in its home core's slice vector.
    pub slots: AtomicU64,
}

/// Bit of [`Vcore::mask`]: a binding may come with the next message, into the slot in the bits from [`ACCEPT_SHIFT`] on.
pub const ACCEPTS: u64 = 1 << 63;
/// Where that slot stands.
pub const ACCEPT_SHIFT: u32 = 48;
/// Bit of [`Vcore::mask`]: the alarm is the deadline of its call.
pub const DEADLINE: u64 = 1 << 62;

impl Vcore {
    /// The current state word.
    pub fn word(&self) -> StateWord {
        StateWord(self.state.load(Acquire))
    }
    /// Replaces the state word by `next` of it, which may decline; answers what it was. The word changes meanwhile only by events, each of which comes once,
    /// and by what another core does with the vcore: who loses that often gives up.
    #[inline(always)]
    pub fn update(&self, m: &impl Machine, next: impl Fn(StateWord) -> Option<StateWord>) -> Option<StateWord> {
        let (mut word, mut losses) = (self.word(), 0);
        while let Err(seen) = m.exchange(&self.state, word.0, next(word)?.0) {
            (word, losses) = (StateWord(seen), losses + 1);
            if losses == EVENTS + 16 {
                return None;
            }
        }
        Some(word)
    }
    /// Goes from a state to another one, if it is in it.
    #[inline(always)]
    pub fn go(&self, m: &impl Machine, from: State, to: impl Fn(StateWord) -> StateWord) -> bool {
        self.update(m, |word| word.is(from).then(|| to(word))).is_some()
    }
    /// The frame of its control page, modulo the span of the linear map: for [`Machine::words`].
    pub fn control_frame(&self) -> Pfn {
        VcoreRef(self.control.load(Relaxed)).environment()
    }
    /// Whom it calls.
    pub fn calls(&self) -> VcoreRef {
        VcoreRef::from_word(self.callee.load(Acquire))
    }
    /// Whom it serves.
    pub fn serves(&self) -> VcoreRef {
        VcoreRef::from_word(self.caller.load(Acquire))
    }
    /// The slot in which it accepts a binding.
    pub fn accepts(&self) -> Option<u64> {
        let mask = self.mask.load(Relaxed);
        (mask & ACCEPTS != 0).then_some(mask >> ACCEPT_SHIFT & 0x3ff)
    }
    /// Takes pending events of a set.
    #[inline(always)]
    pub fn take(&self, m: &impl Machine, set: u64) -> u64 {
        let old = if set == 0 { None } else { self.update(m, |word| Some(StateWord(word.0 & !(set & PENDING)))) };
        old.map_or(0, |word| word.0 & set)
    }
}

/// The place of a field of [`exo_abi::control_page::ControlPage`], in words.
#[macro_export]
macro_rules! word {
    ($($field:tt)+) => { core::mem::offset_of!(exo_abi::control_page::ControlPage, $($field)+) / 8 };
}

/// The words of a control page. What is there the application may have written.
#[derive(Clone, Copy)]
pub struct Control<'a>(pub &'a Words);

impl<'a> Control<'a> {
    /// Reads a word, once.
    pub fn get(self, word: usize) -> u64 {
        self.0[word % 512].load(Relaxed)
    }
    /// Writes a word.
    pub fn set(self, word: usize, value: u64) {
        self.0[word % 512].store(value, Relaxed);
    }
    /// Copies words within the page.
    pub fn copy(self, from: usize, to: usize, count: usize) {
        (0..count).for_each(|index| self.set(to + index, self.get(from + index)));
    }
    /// An entry of the batch buffer.
    pub fn batch(self, entry: u64) -> &'a [AtomicU64] {
        &self.0[word!(batch) + (entry as usize % 64) * 2..][..2]
    }
}

/// The core whose slices a vcore may own.
pub fn home(m: &impl Machine, vcore: VcoreRef) -> u64 {
    m.environment_of(vcore).homes[vcore.place()].load(Relaxed).into()
}

/// Words of a [`Frame`].
pub const FRAME_WORDS: usize = size_of::<Frame>() / 8;

/// The control page of a vcore.
pub fn control<'m>(m: &'m impl Machine, vcore: &Vcore) -> Control<'m> {
    Control(m.control_page(vcore))
}

/// A vcore of an environment that was created.
pub fn of(environment: &Environment, index: u64) -> Result<(VcoreRef, &Vcore), Refusal> {
    let vcore = environment.vcores.get(index as usize).ok_or(Refusal::BadArgument)?;
    Refusal::WrongState.when(vcore.word().is(State::None))?;
    Ok((VcoreRef::new(environment.frame(), index), vcore))
}

/// How a vcore begins: program counter, stack pointer, x0.
pub type Start = [u64; 3];

/// Writes that into its control page.
fn set_start(m: &impl Machine, vcore: &Vcore, [pc, sp, argument]: Start) {
    let page = control(m, vcore);
    page.set(word!(pc), pc);
    page.set(word!(sp), sp);
    page.set(word!(masked), 0);
    (0..9).for_each(|index| page.set(word!(result) + index, 0));
    page.set(word!(result), argument);
}

/// Creates vcore `index`; the frame is data of the environment's own pool.
pub fn create(
    m: &impl Machine,
    environment: &Environment,
    index: u64,
    page: Pfn,
    address: u64,
    home: u64,
    start: Start,
) -> Result<(), Refusal> {
    let vcore = environment.vcores.get(index as usize).ok_or(Refusal::BadArgument)?;
    Refusal::WrongState.when(!vcore.word().is(State::None))?;
    let pool = environment.pool();
    frame::turn_into(m, page, frame::Word::new(pool, frame::Kind::Control, 0))?;
    vcore.control.store(linear(page), Relaxed);
    environment.homes[VcoreRef::new(page, index).place()].store(home as u16, Relaxed);
    vcore.control_address.store(address, Relaxed);
    vcore.mask.store(stop_reason::NEW, Relaxed);
    set_start(m, vcore, start);
    vcore.state.store(StateWord(0).in_state(State::Stopped).0, Release);
    Ok(())
}

/// Makes a stopped vcore ready.
pub fn start(m: &impl Machine, reference: VcoreRef, vcore: &Vcore, anew: Option<Start>) -> Result<(), Refusal> {
    let new = vcore.mask.load(Relaxed) == stop_reason::NEW;
    // Held meanwhile, so that two starts do not mix.
    Refusal::WrongState
        .when((anew.is_none() && !new) || !vcore.go(m, State::Stopped, |word| word.in_state(State::Held)))?;
    if let Some(start) = anew {
        set_start(m, vcore, start);
    }
    vcore.alarm.store(0, Relaxed);
    vcore.mask.store(0, Relaxed);
    vcore.take(m, PENDING);
    event::go_on(m, reference, Resume::Result);
    Ok(())
}

/// Stops a vcore that does not run on another core; who called it, and whom it called, are told. `Again` if it runs on another core, which stops it.
pub fn stop(m: &impl Machine, reference: VcoreRef, vcore: &Vcore, reason: u64, code: u64) -> Result<(), Refusal> {
    // Who is in a call runs nowhere once the call has been ended here.
    let mine = m.core().running() == reference || gate::abandon_callee(m, reference, vcore);
    let stopped = vcore.update(m, |word| match word.state() {
        State::None | State::Stopped | State::Held => None,
        State::Running if !mine => None,
        _ => Some(word.in_state(State::Held)),
    });
    if stopped.is_none() {
        return match vcore.word().state() {
            State::None | State::Stopped => Err(Refusal::WrongState),
            State::Running => {
                remote::stop(m, reference);
                Err(Refusal::Again)
            }
            _ => Err(Refusal::Again),
        };
    }
    // Held until the reason stands there: who finds it stopped may report, or start it anew.
    vcore.mask.store(reason, Relaxed);
    vcore.alarm.store(code, Relaxed);
    remote::forget(m, reference);
    // While it is held: once it can be started anew, the next call may stand there.
    gate::fail_caller(m, vcore, Refusal::Died);
    vcore.update(m, |word| Some(word.in_state(State::Stopped)));
    Ok(())
}
