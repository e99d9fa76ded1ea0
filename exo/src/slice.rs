//! Slices: who runs on a core, and for how long.
//!
//! A core runs the positions of its vector in order. One word of ready positions a core and one word of positions a vcore: waking is an OR,
//! the next slice a rotate and a count of zeros. A ready bit is a hint; what decides is winning the vcore's state word.
//!
//! **Borrow.** A woken vcore with time left in a later slice of this round runs at once and pays with that slice; the end of the slice it interrupts moves. One at a time.

use crate::binding;
use crate::gate;
use crate::machine::{Machine, Words};
use crate::vcore::{self, Resume, State, StateWord, Vcore, VcoreRef};
use crate::{call::Outcome, event};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::exposed::{SLICE_CLAIMED, SLICE_EXACT, Slice, SliceVector};
use exo_abi::{MAP_PAGES_PER_CALL, MAX_CHAIN_CALLS, MIN_SLICE_US, Pfn, Refusal, SLICES_PER_CORE};

/// No position: the core is idle.
pub const IDLE: u64 = SLICES_PER_CORE;

/// The kernel's side of a position of the slice vector.
#[derive(Default)]
pub struct Slot {
    /// The vcore; 0: free.
    pub owner: AtomicU64,
    /// The cell of the Core binding that claimed it.
    cell: AtomicU64,
    /// What the cell must hold.
    expected: AtomicU64,
    /// Ticks that were used before its turn in a round: round in bits 63:32, ticks in 31:0.
    spent: AtomicU64,
}

/// A core. Only the core itself changes it, but for `ready`, `alarm` and the slots.
#[repr(C)]
pub struct Core {
    /// Kernel address of the running vcore's control page, for the vectors.
    pub control: AtomicU64,
    /// Kernel address of the running vcore's state word, for the vectors.
    pub state: AtomicU64,
    /// Its id.
    pub id: AtomicU64,
    /// The vcore that runs; 0: none.
    running: AtomicU64,
    /// Positions whose vcore may be able to run.
    pub ready: AtomicU64,
    /// The frame with its [`SliceVector`].
    pub vector: AtomicU64,
    position: AtomicU64,
    slice_end: AtomicU64,
    /// Time up to which use has been charged.
    charged: AtomicU64,
    /// The vcore whose claim began this run: a slice's owner or the end of its chain, a borrower, or who was yielded to.
    base: AtomicU64,
    /// The earliest alarm of the vcores that live here; `u64::MAX`: none.
    alarm: AtomicU64,
    /// What the timer is set to.
    timer: AtomicU64,
    /// The slot that pays for a borrow; [`IDLE`]: none.
    loan: AtomicU64,
    loan_end: AtomicU64,
    round: AtomicU64,
    /// The chain whose FP/SIMD registers are in the core: its first vcore.
    pub fp: AtomicU64,
    /// The owner of the position gave the rest of it to who runs, and wants it back at its end.
    lent: AtomicU64,
    /// Something happened after which the running vcore must not simply go on.
    pub reschedule: AtomicU64,
    /// The vcore that was woken last, until somebody looked whether it may borrow.
    pub woken: AtomicU64,
    /// The kernel's side of the vector.
    pub slots: [Slot; SLICES_PER_CORE as usize],
    /// Scratch of a `map` batch: the address of each page that must be invalidated.
    pub stale: [AtomicU64; MAP_PAGES_PER_CALL as usize],
}

impl Core {
    /// Zeros: [`Core::begin`] makes a core of them, in place: it is too large for the stack.
    pub const fn zeroed() -> Core {
        Core {
            control: AtomicU64::new(0),
            state: AtomicU64::new(0),
            id: AtomicU64::new(0),
            running: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            vector: AtomicU64::new(0),
            position: AtomicU64::new(0),
            slice_end: AtomicU64::new(0),
            charged: AtomicU64::new(0),
            base: AtomicU64::new(0),
            alarm: AtomicU64::new(0),
            timer: AtomicU64::new(0),
            loan: AtomicU64::new(0),
            loan_end: AtomicU64::new(0),
            round: AtomicU64::new(0),
            fp: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            reschedule: AtomicU64::new(0),
            woken: AtomicU64::new(0),
            slots: [const {
                Slot {
                    owner: AtomicU64::new(0),
                    cell: AtomicU64::new(0),
                    expected: AtomicU64::new(0),
                    spent: AtomicU64::new(0),
                }
            }; SLICES_PER_CORE as usize],
            stale: [const { AtomicU64::new(0) }; MAP_PAGES_PER_CALL as usize],
        }
    }
    /// A core that has nothing to run.
    pub fn new(id: u64, vector: Pfn) -> Core {
        let core = Core::zeroed();
        core.begin(id, vector);
        core
    }
    /// Zeroed memory becomes a core that has nothing to run.
    pub fn begin(&self, id: u64, vector: Pfn) {
        self.id.store(id, Relaxed);
        self.vector.store(vector.0, Relaxed);
        self.position.store(IDLE, Relaxed);
        self.loan.store(IDLE, Relaxed);
        self.alarm.store(u64::MAX, Relaxed);
        self.timer.store(u64::MAX, Relaxed);
    }
    /// Its id.
    pub fn id(&self) -> u64 {
        self.id.load(Relaxed)
    }
    /// The vcore that runs.
    pub fn running(&self) -> VcoreRef {
        VcoreRef(self.running.load(Relaxed))
    }
    /// Says which vcore runs.
    pub fn set_running(&self, vcore: VcoreRef) {
        self.running.store(vcore.0, Relaxed);
    }
    /// The vcore whose claim began this run.
    pub fn base(&self) -> VcoreRef {
        VcoreRef(self.base.load(Relaxed))
    }
    /// The same vcore's claim now carries another one.
    pub fn set_base(&self, vcore: VcoreRef) {
        self.base.store(vcore.0, Relaxed);
    }
    fn idle(&self) -> bool {
        self.running.load(Relaxed) == 0
    }
    /// At the end of the slice in `position` somebody else could run: the owner of another one, or who lent it.
    fn contended(&self, position: u64) -> bool {
        let own = 1u64.checked_shl(position as u32).unwrap_or(0);
        self.ready.load(Relaxed) & !own != 0 || self.lent.load(Relaxed) != 0
    }
}

/// Words of the exposed vector.
fn vector<'m>(m: &'m impl Machine, core: &Core) -> &'m Words {
    m.words(Pfn(core.vector.load(Relaxed)))
}

const SLICE_WORDS: usize = size_of::<Slice>() / 8;
const OWNER: usize = core::mem::offset_of!(Slice, owner) / 8;
const LENGTH: usize = core::mem::offset_of!(Slice, length) / 8;
const USED: usize = core::mem::offset_of!(Slice, used) / 8;
const STARTS: usize = core::mem::offset_of!(Slice, starts) / 8;
const IDLE_TICKS: usize = core::mem::offset_of!(SliceVector, idle) / 8;
const ROUNDS: usize = core::mem::offset_of!(SliceVector, rounds) / 8;
const POSITION: usize = core::mem::offset_of!(SliceVector, position) / 8;

fn exposed(words: &Words, position: u64, field: usize) -> &AtomicU64 {
    &words[position as usize % 64 * SLICE_WORDS + field]
}

/// Adds to a word that only this core writes.
fn add(word: &AtomicU64, value: u64) {
    word.store(word.load(Relaxed).wrapping_add(value), Relaxed);
}

/// Who claims a position, by which binding, for how long.
pub struct Claim {
    /// The vcore.
    pub owner: VcoreRef,
    /// Its environment's number.
    pub environment: u64,
    /// The Core binding's cell, and what it holds.
    pub cell: (u64, u64),
    /// Ticks a round.
    pub length: u64,
    /// It neither lends nor borrows.
    pub exact: Exact,
}

/// Whether a slice stands at the same instants every round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exact {
    /// It does.
    Yes,
    /// It lends and borrows.
    No,
}

/// Claims a free position of a core.
pub fn claim(m: &impl Machine, core: &Core, position: u64, claim: &Claim) -> Result<(), Refusal> {
    // Whose binding was taken back holds the position no longer, even if nobody has looked since.
    let _ = live_owner(m, core, position);
    let slot = &core.slots[position as usize % 64];
    slot.owner.compare_exchange(0, claim.owner.0, AcqRel, Relaxed).map_err(|_| Refusal::InUse)?;
    slot.cell.store(claim.cell.0, Relaxed);
    slot.expected.store(claim.cell.1, Relaxed);
    slot.spent.store(0, Relaxed);
    let words = vector(m, core);
    let exact = if claim.exact == Exact::Yes { SLICE_EXACT } else { 0 };
    exposed(words, position, LENGTH).store(claim.length, Relaxed);
    exposed(words, position, OWNER)
        .store(SLICE_CLAIMED | exact | claim.environment << 8 | claim.owner.index(), Release);
    m.vcore(claim.owner).slots.fetch_or(1 << position, AcqRel);
    core.ready.fetch_or(1 << position, AcqRel);
    // Only alarms of owners of positions are kept: its own may have been passed over until now.
    let vcore = m.vcore(claim.owner);
    let alarm = vcore.alarm.load(Relaxed);
    if alarm != 0 && vcore.word().state() != State::Stopped {
        core.alarm.fetch_min(alarm, Relaxed);
    }
    kick(m, core);
    Ok(())
}

/// Frees a position; who runs in it goes on until the core next chooses.
pub fn release(m: &impl Machine, core: &Core, position: u64) -> Result<(), Refusal> {
    let slot = &core.slots[position as usize % 64];
    let owner = VcoreRef(slot.owner.load(Acquire));
    if !owner.exists() {
        return Err(Refusal::WrongState);
    }
    m.vcore(owner).slots.fetch_and(!(1 << position), AcqRel);
    exposed(vector(m, core), position, OWNER).store(0, Release);
    core.ready.fetch_and(!(1 << position), AcqRel);
    slot.owner.store(0, Release);
    if core.position.load(Relaxed) == position {
        core.reschedule.store(1, Relaxed);
        core.slice_end.store(0, Relaxed);
    }
    kick(m, core);
    Ok(())
}

/// A core's ready positions changed: its timer may have to stand elsewhere, or it sleeps.
pub fn kick(m: &impl Machine, core: &Core) {
    if core.id() == m.core().id() {
        arm(m);
    } else {
        m.interrupt_core(core.id());
    }
}

/// Sets the timer to the earliest of alarm, end of loan, and end of slice when somebody else could run; at once when who runs must not simply go on.
pub fn arm(m: &impl Machine) {
    let core = m.core();
    let position = core.position.load(Relaxed);
    let mut at = core.alarm.load(Relaxed);
    if core.loan.load(Relaxed) != IDLE {
        at = at.min(core.loan_end.load(Relaxed));
    } else if position < IDLE && core.contended(position) {
        at = at.min(core.slice_end.load(Relaxed));
    }
    if core.reschedule.load(Relaxed) != 0 {
        at = 0;
    }
    if at != core.timer.load(Relaxed) {
        core.timer.store(at, Relaxed);
        m.set_timer(at);
    }
}

/// Keeps the earliest alarm: here, where the chain runs, and at the vcore's home, where its positions are. The vcore has it already.
pub fn note_alarm(m: &impl Machine, vcore: &Vcore, at: u64) {
    let core = m.core();
    if at == 0 {
        return;
    }
    if at < core.alarm.load(Relaxed) {
        core.alarm.fetch_min(at, AcqRel);
        arm(m);
    }
    if vcore.home() != core.id()
        && let Some(home) = m.core_at(vcore.home())
        && at < home.alarm.fetch_min(at, AcqRel)
    {
        m.interrupt_core(home.id());
    }
}

/// Wins the vcore at the end of the chain that begins at `owner`: claimed first, then checked to lead back.
pub fn claim_chain(m: &impl Machine, owner: VcoreRef) -> Option<VcoreRef> {
    let mut end = owner;
    for _ in 0..=MAX_CHAIN_CALLS {
        let vcore = m.vcore(end);
        let word = vcore.word();
        match word.state() {
            State::Ready => {
                // A lost race with an event must be tried again: the event woke nobody, and the caller has cleared the ready bit.
                if !win(vcore, word) {
                    return None;
                }
                if gate::leads_back(m, end, owner) {
                    return Some(end);
                }
                // The chain was cut in between: it runs by its own slices.
                unclaim(m, end, word.resume());
                return None;
            }
            State::Calling => {
                let callee = VcoreRef(vcore.callee.load(Acquire));
                if !callee.exists() {
                    return None;
                }
                end = callee;
            }
            _ => return None,
        }
    }
    None
}

/// Wins a ready vcore. Its word changes meanwhile only by events, each of which comes once, or because somebody else won it.
fn win(vcore: &Vcore, mut word: StateWord) -> bool {
    for _ in 0..64 {
        if word.state() != State::Ready {
            return false;
        }
        match vcore.change(word, word.in_state(State::Running)) {
            Ok(()) => return true,
            Err(seen) => word = seen,
        }
    }
    false
}

/// A running vcore is ready again. Its word changes meanwhile only by events, each of which comes once.
pub fn unclaim(m: &impl Machine, reference: VcoreRef, resume: Resume) {
    let vcore = m.vcore(reference);
    let mut word = vcore.word();
    for _ in 0..64 {
        if word.state() != State::Running {
            return;
        }
        match vcore.change(word, word.ready(resume)) {
            Ok(()) => return event::make_runnable(m, reference),
            Err(seen) => word = seen,
        }
    }
}

/// The owner of a position, unless the binding that claimed it was taken back.
fn live_owner(m: &impl Machine, core: &Core, position: u64) -> Option<VcoreRef> {
    let slot = &core.slots[position as usize % 64];
    let owner = VcoreRef(slot.owner.load(Acquire));
    if !owner.exists() {
        return None;
    }
    if !binding::same(binding::value(m, slot.cell.load(Relaxed)), slot.expected.load(Relaxed)) {
        let _ = release(m, core, position);
        return None;
    }
    Some(owner)
}

/// Ticks of a position that are left in this round.
fn left(m: &impl Machine, core: &Core, position: u64) -> u64 {
    let length = exposed(vector(m, core), position, LENGTH).load(Relaxed);
    let spent = core.slots[position as usize % 64].spent.load(Relaxed);
    let spent = if spent >> 32 == core.round.load(Relaxed) & 0xffff_ffff { spent & 0xffff_ffff } else { 0 };
    length.saturating_sub(spent)
}

/// Charges the time since the last charge to who pays for it.
fn charge(m: &impl Machine, core: &Core, now: u64) {
    let elapsed = now.wrapping_sub(core.charged.load(Relaxed));
    core.charged.store(now, Relaxed);
    let words = vector(m, core);
    let position = core.position.load(Relaxed);
    let loan = core.loan.load(Relaxed);
    if loan != IDLE {
        let round = core.round.load(Relaxed) & 0xffff_ffff;
        let length = exposed(words, loan, LENGTH).load(Relaxed);
        let spent = (length - left(m, core, loan).min(length) + elapsed).min(u32::MAX as u64);
        core.slots[loan as usize % 64].spent.store(round << 32 | spent, Relaxed);
        add(exposed(words, loan, USED), elapsed);
        add(&core.slice_end, elapsed);
    } else if position < IDLE {
        add(exposed(words, position, USED), elapsed);
    } else {
        add(&words[IDLE_TICKS], elapsed);
    }
}

/// Chooses who runs next on this core and wins it. Nobody runs here when this is called.
pub fn schedule(m: &impl Machine) -> Outcome {
    let core = m.core();
    core.set_running(VcoreRef::NONE);
    core.reschedule.store(0, Relaxed);
    core.woken.store(0, Relaxed);
    let now = m.now();
    charge(m, core, now);
    core.loan.store(IDLE, Relaxed);
    let position = core.position.load(Relaxed);
    if position < IDLE {
        let end = core.slice_end.load(Relaxed);
        if now < end {
            if let Some(vcore) = claim_position(m, core, position) {
                return run(m, core, vcore);
            }
        } else if core.contended(position) && end != 0 {
            // What was overrun is taken from the next slice. Without anybody else waiting there was no end to overrun.
            let round = (core.round.load(Relaxed) + 1) & 0xffff_ffff;
            core.slots[position as usize].spent.store(round << 32 | (now - end).min(u32::MAX as u64), Relaxed);
        }
    }
    // Each turn clears a ready bit, passes a spent slice, or ends the search: one round looks at each position once, the second finds those whose turn was spent.
    for _ in 0..2 * SLICES_PER_CORE + 2 {
        let position = core.position.load(Relaxed);
        let Some(next) = next_ready(core.ready.load(Acquire), position) else { break };
        if position >= IDLE || next <= position {
            add(&core.round, 1);
            add(&vector(m, core)[ROUNDS], 1);
        }
        core.position.store(next, Relaxed);
        let left = left(m, core, next);
        if left < m.ticks(MIN_SLICE_US) {
            continue;
        }
        if let Some(vcore) = claim_position(m, core, next) {
            let words = vector(m, core);
            words[POSITION].store(next, Relaxed);
            add(exposed(words, next, STARTS), 1);
            core.slice_end.store(now + left, Relaxed);
            event::slice_began(m, vcore);
            return run(m, core, vcore);
        }
    }
    core.position.store(IDLE, Relaxed);
    vector(m, core)[POSITION].store(IDLE, Relaxed);
    // A stale position released on the way set it: nobody goes on.
    core.reschedule.store(0, Relaxed);
    arm(m);
    Outcome::Idle
}

/// The next set bit after `position`, cyclically.
fn next_ready(ready: u64, position: u64) -> Option<u64> {
    if ready == 0 {
        return None;
    }
    let start = if position >= IDLE { 0 } else { (position + 1) % 64 };
    Some((ready.rotate_right(start as u32).trailing_zeros() as u64 + start) % 64)
}

fn claim_position(m: &impl Machine, core: &Core, position: u64) -> Option<VcoreRef> {
    // Cleared before the look: a wake after the look sets it again.
    core.ready.fetch_and(!(1 << position), AcqRel);
    let owner = live_owner(m, core, position)?;
    let vcore = claim_chain(m, owner)?;
    core.ready.fetch_or(1 << position, AcqRel);
    Some(vcore)
}

/// The won vcore becomes the running one.
fn run(m: &impl Machine, core: &Core, vcore: VcoreRef) -> Outcome {
    core.set_running(vcore);
    core.set_base(vcore);
    core.lent.store(0, Relaxed);
    core.reschedule.store(0, Relaxed);
    arm(m);
    Outcome::Enter(vcore)
}

/// The running vcore gives up the core so that `woken`, which is ready, may run at the cost of its own later slice of this round.
/// False, and nothing has changed, if it has none, or the rules of borrowing forbid it.
pub fn borrow(m: &impl Machine, woken: VcoreRef, lender_resumes: Resume) -> bool {
    let core = m.core();
    let position = core.position.load(Relaxed);
    let vcore = m.vcore(woken);
    if position >= IDLE || core.loan.load(Relaxed) != IDLE || vcore.home() != core.id() {
        return false;
    }
    let later = vcore.slots.load(Relaxed) & !((2u64 << position).wrapping_sub(1));
    if later == 0 || position == 63 {
        return false;
    }
    let loan = later.trailing_zeros() as u64;
    let words = vector(m, core);
    let exact = exposed(words, position, OWNER).load(Relaxed) | exposed(words, loan, OWNER).load(Relaxed);
    let left = left(m, core, loan);
    if exact & SLICE_EXACT != 0 || left < m.ticks(MIN_SLICE_US) || live_owner(m, core, loan) != Some(woken) {
        return false;
    }
    if !win(vcore, vcore.word()) {
        return false;
    }
    let now = m.now();
    charge(m, core, now);
    core.loan.store(loan, Relaxed);
    core.loan_end.store(now + left, Relaxed);
    let lender = core.running();
    core.set_running(woken);
    core.set_base(woken);
    unclaim(m, lender, lender_resumes);
    arm(m);
    true
}

/// What an interrupt of the running vcore leads to; its registers are saved in full.
pub fn after_interrupt(m: &impl Machine) -> Outcome {
    let core = m.core();
    let running = core.running();
    if core.idle() {
        return schedule(m);
    }
    let now = m.now();
    let position = core.position.load(Relaxed);
    let loan = core.loan.load(Relaxed) != IDLE;
    let expired = if loan {
        now >= core.loan_end.load(Relaxed)
    } else {
        now >= core.slice_end.load(Relaxed) && core.contended(position)
    };
    if expired || core.reschedule.load(Relaxed) != 0 || m.vcore(running).word().state() != State::Running {
        core.set_running(VcoreRef::NONE);
        unclaim(m, running, Resume::Full);
        return schedule(m);
    }
    let woken = VcoreRef(core.woken.swap(0, Relaxed));
    if woken.exists() && borrow(m, woken, Resume::Full) {
        return Outcome::Enter(woken);
    }
    arm(m);
    Outcome::Resume(running)
}

/// The timer passed: alarms and deadlines that are due.
pub fn timer_fired(m: &impl Machine) {
    let core = m.core();
    core.timer.store(u64::MAX, Relaxed);
    m.set_timer(u64::MAX);
    let now = m.now();
    if now < core.alarm.load(Relaxed) {
        return;
    }
    // Emptied before the look: another core notes an alarm in its vcore first, then here.
    core.alarm.swap(u64::MAX, AcqRel);
    let mut next = u64::MAX;
    for slot in &core.slots {
        let mut reference = VcoreRef(slot.owner.load(Acquire));
        // The owner, and the chain it waits for: a callee without slices has its alarms looked at here too.
        for _ in 0..=MAX_CHAIN_CALLS {
            if !reference.exists() {
                break;
            }
            let vcore = m.vcore(reference);
            let calls = vcore.word().state() == State::Calling;
            let callee = VcoreRef(vcore.callee.load(Acquire));
            let alarm = vcore.alarm.load(Relaxed);
            if alarm != 0 && !matches!(vcore.word().state(), State::Stopped | State::None) {
                if alarm <= now {
                    event::alarm_passed(m, reference, vcore);
                } else {
                    next = next.min(alarm);
                }
            }
            reference = if calls { callee } else { VcoreRef::NONE };
        }
    }
    core.alarm.fetch_min(next, AcqRel);
}

/// Gives the rest of the slice to `target`'s chain; the caller goes on when the core comes back to its slice.
pub fn yield_to(m: &impl Machine, target: VcoreRef) -> Result<Outcome, Refusal> {
    let core = m.core();
    let me = core.running();
    if target == me {
        return Err(Refusal::Busy);
    }
    let Some(vcore) = claim_chain(m, target) else { return Err(Refusal::Busy) };
    let control = vcore::control(m, m.vcore(me));
    gate::suspend(m, control, 0);
    core.set_running(vcore);
    core.set_base(vcore);
    core.lent.store(1, Relaxed);
    unclaim(m, me, Resume::Result);
    arm(m);
    Ok(Outcome::Enter(vcore))
}
