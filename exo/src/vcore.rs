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
use crate::machine::{Machine, Words};
use crate::{event, frame, gate};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::calls::stop_reason;
use exo_abi::control_page::{ControlPage, Frame};
use exo_abi::{EVENTS, MAX_VCORES, Pfn, Refusal};

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

/// What a vcore is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum State {
    /// It does not exist.
    None = 0,
    /// New, halted, faulted or stopped.
    Stopped = 1,
    /// Could run.
    Ready = 2,
    /// A core runs it.
    Running = 3,
    /// In `wait`.
    Waiting = 4,
    /// In `reply_wait` with its gate open.
    Gate = 5,
    /// In `call`.
    Calling = 6,
    /// Its call has ended and its results are being written.
    Held = 7,
}

/// How a ready vcore goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Resume {
    /// With all registers, from the control page's `preempted`.
    Full = 0,
    /// Behind a call, with x0 to x8 from the control page's `result`.
    Result = 1,
    /// Behind `wait` or `reply_wait`, with the events it waited for.
    Events = 2,
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
        match (self.0 >> 48) & 0xf {
            1 => State::Stopped,
            2 => State::Ready,
            3 => State::Running,
            4 => State::Waiting,
            5 => State::Gate,
            6 => State::Calling,
            7 => State::Held,
            _ => State::None,
        }
    }
    /// How it goes on when it is ready.
    pub const fn resume(self) -> Resume {
        match (self.0 >> 52) & 0xf {
            0 => Resume::Full,
            1 => Resume::Result,
            _ => Resume::Events,
        }
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
    /// Who is being served: a [`VcoreRef`] in 43:0, how often in 55:44, calls above in the chain in 63:56.
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
    /// Replaces the state word if it still is what the caller saw.
    pub fn change(&self, old: StateWord, new: StateWord) -> Result<(), StateWord> {
        self.state.compare_exchange(old.0, new.0, AcqRel, Acquire).map(|_| ()).map_err(StateWord)
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
    pub fn take(&self, set: u64) -> u64 {
        let set = set & PENDING;
        self.state.fetch_and(!set, AcqRel) & set
    }
}

/// Words of a control page, by their place in [`ControlPage`].
#[derive(Clone, Copy)]
pub struct Control<'a>(pub &'a Words);

macro_rules! field {
    ($name:ident, $($path:tt)+) => {
        /// The word of this name in the control page.
        pub fn $name(self) -> &'a AtomicU64 {
            &self.0[core::mem::offset_of!(ControlPage, $($path)+) / 8]
        }
    };
}

impl<'a> Control<'a> {
    field!(upcall_entry, upcall_entry);
    field!(upcall_events, upcall_events);
    field!(masked, masked);
    field!(pc, pc);
    field!(sp, sp);
    /// x0 to x8 for [`Resume::Result`].
    pub fn result(self, index: usize) -> &'a AtomicU64 {
        &self.0[core::mem::offset_of!(ControlPage, result) / 8 + index]
    }
    /// The batch buffer.
    pub fn batch(self, entry: u64) -> &'a [AtomicU64] {
        &self.0[core::mem::offset_of!(ControlPage, batch) / 8 + (entry as usize % 64) * 2..][..2]
    }
    /// The interrupted program of an upcall.
    pub fn upcall(self) -> &'a [AtomicU64] {
        &self.0[core::mem::offset_of!(ControlPage, upcall) / 8..][..FRAME_WORDS]
    }
    /// The suspended program.
    pub fn preempted(self) -> &'a [AtomicU64] {
        &self.0[core::mem::offset_of!(ControlPage, preempted) / 8..][..FRAME_WORDS]
    }
}

/// Words of a [`Frame`].
pub const FRAME_WORDS: usize = size_of::<Frame>() / 8;
/// Places of its fields, in words.
pub mod frame_word {
    use super::Frame;
    use core::mem::offset_of;
    /// `cause`.
    pub const CAUSE: usize = offset_of!(Frame, cause) / 8;
    /// `address`.
    pub const ADDRESS: usize = offset_of!(Frame, address) / 8;
    /// `pc`.
    pub const PC: usize = offset_of!(Frame, pc) / 8;
    /// `flags`.
    pub const FLAGS: usize = offset_of!(Frame, flags) / 8;
    /// `events`.
    pub const EVENTS: usize = offset_of!(Frame, events) / 8;
    /// `x[0]`.
    pub const X0: usize = offset_of!(Frame, x) / 8;
    /// `sp`.
    pub const SP: usize = offset_of!(Frame, sp) / 8;
    /// `thread`.
    pub const THREAD: usize = offset_of!(Frame, thread) / 8;
}

/// The control page of a vcore.
pub fn control<'m>(m: &'m impl Machine, vcore: &Vcore) -> Control<'m> {
    Control(m.words(vcore.control_frame()))
}

/// A vcore of an environment that was created.
pub fn of(environment: &Environment, index: u64) -> Result<(VcoreRef, &Vcore), Refusal> {
    let vcore = environment.vcores.get(index as usize).ok_or(Refusal::BadArgument)?;
    if vcore.word().state() == State::None {
        return Err(Refusal::WrongState);
    }
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
    page.pc().store(start.pc, Relaxed);
    page.sp().store(start.sp, Relaxed);
    page.masked().store(0, Relaxed);
    for index in 0..9 {
        page.result(index).store(if index == 0 { start.argument } else { 0 }, Relaxed);
    }
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
    debug_assert!(index < MAX_VCORES);
    let old = vcore.word();
    if old.state() != State::None {
        return Err(Refusal::WrongState);
    }
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
    let old = vcore.word();
    if old.state() != State::Stopped || (anew.is_none() && vcore.mask.load(Relaxed) != stop_reason::NEW) {
        return Err(Refusal::WrongState);
    }
    if let Some(start) = anew {
        set_start(m, vcore, start);
    }
    vcore.alarm.store(0, Relaxed);
    vcore.mask.store(0, Relaxed);
    let result = vcore.change(old, StateWord(old.0 & !PENDING).ready(Resume::Result));
    if result.is_err() {
        return Err(Refusal::WrongState);
    }
    event::make_runnable(m, reference);
    Ok(())
}

/// Stops a vcore that does not run on another core; who called it, and whom it called, are told. `Again` if it runs on another core, which is interrupted.
pub fn stop(m: &impl Machine, reference: VcoreRef, vcore: &Vcore, reason: u64, code: u64) -> Result<(), Refusal> {
    let running_here = m.core().running() == reference;
    let mut word = vcore.word();
    // A word changes under us only by events, of which each can come once, and by its own progress on another core.
    for _ in 0..EVENTS + 8 {
        match word.state() {
            State::None | State::Stopped => return Err(Refusal::WrongState),
            State::Running if !running_here => {
                m.interrupt_core(vcore.home());
                return Err(Refusal::Again);
            }
            State::Held => return Err(Refusal::Again),
            _ => {}
        }
        match vcore.change(word, word.in_state(State::Stopped)) {
            Ok(()) => {
                vcore.mask.store(reason, Relaxed);
                vcore.alarm.store(code, Relaxed);
                if word.state() == State::Calling {
                    gate::abandon_callee(m, reference, vcore);
                }
                gate::fail_caller(m, reference, vcore, Refusal::Died);
                return Ok(());
            }
            Err(seen) => word = seen,
        }
    }
    Err(Refusal::Again)
}
