//! Vcores: contexts that a core can run.
//!
//! State and pending events are one word: every claim, wait and wake is one atomic on it. Whoever runs a vcore has first won
//! [`State::Ready`] → [`State::Running`]; whoever answers a caller has first won its [`State::Calling`].
//!
//! ```text
//! 63     56 55    52 51   48 47                                   0
//! | calls  | resume | state | pending events                        |
//! ```
//! `calls` counts the calls a vcore began, so that an answer to an earlier one finds the word changed.

use crate::environment::Environment;
use crate::machine::{Machine, Words, numbers};
use crate::{event, frame, gate, remote};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::calls::stop_reason;
use exo_abi::control_page::Frame;
use exo_abi::{EVENTS, Pfn, Refusal};

/// Names a vcore: its physical address / 64. The first vcore of an environment lies 512 bytes into its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcoreRef(pub u64);

impl VcoreRef {
    /// No vcore.
    pub const NONE: VcoreRef = VcoreRef(0);
    const MASK: u64 = (1 << 44) - 1;

    /// Vcore `index` of the environment in a frame.
    pub const fn new(environment: Pfn, index: u64) -> VcoreRef {
        VcoreRef(environment.0 << 6 | (index + 8))
    }
    /// The reference in the low bits of a word that holds more.
    pub const fn from_word(word: u64) -> VcoreRef {
        VcoreRef(word & Self::MASK)
    }
    /// The frame of its environment.
    pub const fn environment(self) -> Pfn {
        Pfn(self.0 >> 6)
    }
    /// Its index in the environment.
    pub const fn index(self) -> u64 {
        (self.0 & 63) - 8
    }
    /// Not [`VcoreRef::NONE`].
    pub const fn exists(self) -> bool {
        self.0 != 0
    }
}

numbers! {
    /// What a vcore is doing.
    State {
        /// It does not exist.
        None = 0,
        /// New, halted, faulted or stopped.
        Stopped = 1,
        /// Could run.
        Ready = 2,
        /// Its call has ended and its results are being written.
        Held = 3,
        /// A core runs it.
        Running = 4,
        /// In `reply_wait` with its gate open. (One bit from running, so that the vectors change it by one instruction; so is the next.)
        Gate = 5,
        /// In `call`.
        Calling = 6,
        /// In `wait`.
        Waiting = 7,
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
/// One call more.
pub const ONE_CALL: u64 = 1 << 56;

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
    /// It is in `wait` or `reply_wait`: the only states with both of these bits.
    pub const fn waits(self) -> bool {
        const BITS: u64 = (State::Waiting as u64 & State::Gate as u64) << 48;
        self.0 & BITS == BITS
    }
}

/// A vcore: 64 bytes, one cache line, in its environment's frame.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Vcore {
    /// [`StateWord`].
    pub state: AtomicU64,
    /// Frame of the control page in bits 39:0, home core in 63:48.
    pub control: AtomicU64,
    /// While waiting: the events that end it. While stopped: the reason.
    pub mask: AtomicU64,
    /// Who is being served: a [`VcoreRef`] in 43:0, calls above in the chain in 63:56.
    pub caller: AtomicU64,
    /// Whom it calls.
    pub callee: AtomicU64,
    /// When to wake it, or when its call must have been answered; 0: never. While stopped: the code of `halt`.
    pub alarm: AtomicU64,
    /// Its positions in its home core's slice vector.
    pub slots: AtomicU64,
    /// User address of the control page; below bit 12: the slot in which it accepts a binding, with [`ACCEPTS`].
    pub control_address: AtomicU64,
}

/// Bit of [`Vcore::control_address`]: a binding may come with the next message.
pub const ACCEPTS: u64 = 1 << 11;

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
    /// The frame of its control page.
    pub fn control_frame(&self) -> Pfn {
        Pfn(self.control.load(Relaxed) & 0xff_ffff_ffff)
    }
    /// The core whose slices it may own.
    pub fn home(&self) -> u64 {
        self.control.load(Relaxed) >> 48
    }
    /// Takes pending events of a set.
    #[inline(always)]
    pub fn take(&self, m: &impl Machine, set: u64) -> u64 {
        let old = if set == 0 { None } else { self.update(m, |word| Some(StateWord(word.0 & !(set & PENDING)))) };
        old.map_or(0, |word| word.0 & set)
    }
    /// Takes the events that a wait is for.
    #[inline(always)]
    pub fn take_waited(&self, m: &impl Machine, word: StateWord) -> u64 {
        self.take(m, word.pending() & self.mask.load(Relaxed))
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

/// Words of a [`Frame`].
pub const FRAME_WORDS: usize = size_of::<Frame>() / 8;

/// The control page of a vcore.
pub fn control<'m>(m: &'m impl Machine, vcore: &Vcore) -> Control<'m> {
    Control(m.words(vcore.control_frame()))
}

/// A vcore of an environment that was created.
pub fn of(environment: &Environment, index: u64) -> Result<(VcoreRef, &Vcore), Refusal> {
    let vcore = environment.vcores.get(index as usize).ok_or(Refusal::BadArgument)?;
    Refusal::WrongState.when(vcore.word().is(State::None))?;
    Ok((VcoreRef::new(environment.frame(), index), vcore))
}

/// How a new vcore begins.
pub struct Start {
    /// Program counter.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// x0.
    pub argument: u64,
}

/// Writes how a vcore begins into its control page.
fn set_start(m: &impl Machine, vcore: &Vcore, start: &Start) {
    let page = control(m, vcore);
    page.set(word!(pc), start.pc);
    page.set(word!(sp), start.sp);
    page.set(word!(masked), 0);
    (0..9).for_each(|index| page.set(word!(result) + index, 0));
    page.set(word!(result), start.argument);
}

/// Creates vcore `index`; the frame is data of the environment's own pool.
pub fn create(
    m: &impl Machine,
    environment: &Environment,
    index: u64,
    page: Pfn,
    address: u64,
    home: u64,
    start: &Start,
) -> Result<(), Refusal> {
    let vcore = environment.vcores.get(index as usize).ok_or(Refusal::BadArgument)?;
    Refusal::WrongState.when(!vcore.word().is(State::None))?;
    let pool = environment.pool();
    frame::become_object(m, pool, page, frame::Word::new(pool, frame::Kind::Control, 0))?;
    vcore.control.store(page.0 | home << 48, Relaxed);
    vcore.control_address.store(address, Relaxed);
    vcore.mask.store(stop_reason::NEW, Relaxed);
    set_start(m, vcore, start);
    vcore.state.store(StateWord(0).in_state(State::Stopped).0, Release);
    Ok(())
}

/// Makes a stopped vcore ready.
pub fn start(m: &impl Machine, reference: VcoreRef, vcore: &Vcore, anew: Option<&Start>) -> Result<(), Refusal> {
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
    let running_here = m.core().running() == reference;
    let old = vcore.update(m, |word| match word.state() {
        State::None | State::Stopped | State::Held => None,
        State::Running if !running_here => None,
        _ => Some(word.in_state(State::Held)),
    });
    let Some(old) = old else {
        return match vcore.word().state() {
            State::None | State::Stopped => Err(Refusal::WrongState),
            State::Running => {
                remote::stop(m, reference);
                Err(Refusal::Again)
            }
            _ => Err(Refusal::Again),
        };
    };
    // Held until the reason stands there: who finds it stopped may report, or start it anew.
    vcore.mask.store(reason, Relaxed);
    vcore.alarm.store(code, Relaxed);
    vcore.update(m, |word| Some(word.in_state(State::Stopped)));
    if old.is(State::Calling) {
        gate::abandon_callee(m, reference, vcore);
    }
    gate::fail_caller(m, reference, vcore, Refusal::Died);
    Ok(())
}
