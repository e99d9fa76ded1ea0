//! Slices: who runs on a core, and for how long.
//!
//! A core runs the positions of its vector in order. One word of ready positions a core and one word of positions a vcore: waking is an OR,
//! the next slice a rotate and a count of zeros. A ready bit is a hint; what decides is winning the vcore's state word.
//!
//! **Borrow.** A woken vcore with time left in a later slice of this round runs at once and pays with that slice; the end of the slice it interrupts moves. One at a time.

use crate::binding::Binding;
use crate::call::{self, Outcome};
use crate::machine::{Machine, Words};
use crate::remote::Requests;
use crate::vcore::{self, Link, PENDING, Resume, State, StateWord, Vcore, VcoreRef};
use crate::{binding, event, gate};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::exposed::{SLICE_CLAIMED, SLICE_EXACT, Slice, SliceVector};
use exo_abi::{MAP_PAGES_PER_CALL, MAX_CHAIN_CALLS, MIN_SLICE_US, Pfn, Refusal, SLICES_PER_CORE};

/// No position: the core is idle.
pub const IDLE: u64 = SLICES_PER_CORE;

/// The kernel's side of a position of the slice vector.
#[repr(align(32))]
pub struct Slot {
    /// The vcore; 0: free; all ones: it is coming or going.
    pub owner: AtomicU64,
    /// [`binding::stamp`] of the Core binding that claimed it.
    stamp: AtomicU64,
    /// Ticks that were used before its turn in a round: round in bits 63:32, ticks in 31:0.
    spent: AtomicU64,
}

/// An owner is coming or going: nobody else touches the slot.
const CHANGING: u64 = u64::MAX;

impl Slot {
    fn owner(&self) -> VcoreRef {
        VcoreRef(Some(self.owner.load(Acquire)).filter(|owner| *owner != CHANGING).unwrap_or_default())
    }
}

/// A core. Only the core itself changes it, but for `ready`, `alarm`, the slots, what is asked of it, and the end of a slice whose owner loses it.
#[repr(C)]
pub struct Core {
    /// The [`Link`] of the vcore that runs; 0: none.
    pub link: AtomicU64,
    /// Kernel address of its control page, for the vectors.
    pub control: AtomicU64,
    /// Always 0: from here the vectors clear two registers at once.
    pub zeros: [AtomicU64; 2],
    /// EL0 may use FP/SIMD: the registers are those of who runs.
    pub fp: AtomicU64,
    /// Its id.
    pub id: AtomicU64,
    /// The frame with its [`SliceVector`].
    vector: AtomicU64,
    /// The position that runs, or [`IDLE`].
    pub position: AtomicU64,
    /// When its slice ends.
    pub slice_end: AtomicU64,
    /// Time up to which use has been charged.
    charged: AtomicU64,
    /// What the timer is set to.
    pub timer: AtomicU64,
    /// The slot that pays for a borrow; [`IDLE`]: none.
    pub loan: AtomicU64,
    loan_end: AtomicU64,
    round: AtomicU64,
    /// Ticks of [`MIN_SLICE_US`]: with less left a slice does not begin, and nobody borrows from it.
    shortest: AtomicU64,
    /// The owner of the position gave the rest of it to who runs, and wants it back at its end.
    pub lent: AtomicU64,
    /// Something happened after which the running vcore must not simply go on.
    pub reschedule: AtomicU64,
    /// The running vcore was won by an interrupt, in its wait, and has not gone on yet.
    pub won: AtomicU64,
    /// What a vcore won in its wait finds.
    pub events: AtomicU64,
    /// Positions whose vcore may be able to run.
    pub ready: AtomicU64,
    /// The earliest alarm of the vcores that live here; `u64::MAX`: none.
    pub alarm: AtomicU64,
    /// What other cores ask of it.
    pub requests: Requests,
    /// The kernel's side of the vector.
    pub slots: [Slot; SLICES_PER_CORE as usize],
    /// Scratch of a `map` batch: the address of each page that must be invalidated.
    pub stale: [AtomicU64; MAP_PAGES_PER_CALL as usize],
}

impl Core {
    /// Zeroed memory becomes a core that has nothing to run: it is too large to be moved.
    pub fn begin(&self, id: u64, vector: Pfn) {
        self.id.store(id, Relaxed);
        self.vector.store(vector.0, Relaxed);
        [&self.position, &self.loan].iter().for_each(|word| word.store(IDLE, Relaxed));
        [&self.alarm, &self.timer].iter().for_each(|word| word.store(u64::MAX, Relaxed));
        self.requests.sleeps();
    }
    /// Its id.
    pub fn id(&self) -> u64 {
        self.id.load(Relaxed)
    }
    /// The vcore that runs.
    pub fn running(&self) -> VcoreRef {
        VcoreRef::from_word(self.link.load(Relaxed))
    }
    /// The same where it is certain that one runs.
    #[inline(always)]
    pub fn me(&self) -> VcoreRef {
        VcoreRef::from_link(self.link.load(Relaxed))
    }
    /// The same, in its chain.
    pub fn link(&self) -> Link {
        Link(self.link.load(Relaxed))
    }
    /// Says which vcore runs.
    pub fn set_link(&self, link: Link) {
        self.link.store(link.0, Relaxed);
    }
    /// A vcore runs by its own claim: a slice's owner or the end of its chain, a borrower, or who was yielded to.
    fn begin_run(&self, m: &impl Machine, vcore: VcoreRef) {
        let caller = &m.vcore(vcore).caller;
        // Nothing plain about the reply to who called it before: the caller does not run on here.
        let link = if caller.load(Relaxed) == 0 { 0 } else { caller.fetch_and(!(1 << Link::PLAIN), AcqRel) };
        self.set_link(Link::own(vcore, link));
    }
    fn position(&self) -> u64 {
        self.position.load(Relaxed)
    }
    fn slot(&self, position: u64) -> &Slot {
        &self.slots[position as usize % 64]
    }
    /// At the end of the slice in `position` somebody else could run: the owner of another one, or who lent it.
    fn contended(&self, position: u64) -> bool {
        self.ready.load(Relaxed) & !(1u64 << (position & 63)) | self.lent.load(Relaxed) != 0
    }
    /// When who runs must end: with its loan, or with its slice when somebody else could run.
    #[inline(always)]
    fn end(&self) -> u64 {
        if self.loan.load(Relaxed) != IDLE {
            self.loan_end.load(Relaxed)
        } else if self.position() != IDLE && self.contended(self.position()) {
            self.slice_end.load(Relaxed)
        } else {
            u64::MAX
        }
    }
    /// Ticks that a position used before its turn in this round.
    fn spent(&self, position: u64) -> u64 {
        let spent = self.slot(position).spent.load(Relaxed);
        if spent >> 32 == self.round.load(Relaxed) & 0xffff_ffff { spent & 0xffff_ffff } else { 0 }
    }
    /// Notes what a position used before its turn in a round.
    fn set_spent(&self, position: u64, round: u64, ticks: u64) {
        self.slot(position).spent.store(round << 32 | ticks.min(u32::MAX as u64), Relaxed);
    }
}

/// Words of the exposed vector.
fn vector<'m>(m: &'m impl Machine, core: &Core) -> &'m Words {
    m.words(Pfn(core.vector.load(Relaxed)))
}

const OWNER: usize = offset_of!(Slice, owner) / 8;
const LENGTH: usize = offset_of!(Slice, length) / 8;
const USED: usize = offset_of!(Slice, used) / 8;
const POSITION: usize = offset_of!(SliceVector, position) / 8;

/// A word of a position in the exposed vector.
fn exposed(words: &Words, position: u64, field: usize) -> &AtomicU64 {
    &words[position as usize % 64 * (size_of::<Slice>() / 8) + field]
}

/// Adds to a word that only this core writes.
fn add(word: &AtomicU64, value: u64) {
    word.store(word.load(Relaxed).wrapping_add(value), Relaxed);
}

/// Who claims a position, by which binding, for how long.
pub struct Claim<'a> {
    /// The vcore.
    pub owner: VcoreRef,
    /// The Core binding.
    pub by: &'a Binding,
    /// Ticks a round.
    pub length: u64,
    /// [`SLICE_EXACT`] if it neither lends nor borrows, or 0.
    pub exact: u64,
}

/// Claims a free position of a core.
pub fn claim(m: &impl Machine, core: &Core, position: u64, claim: &Claim<'_>) -> Result<(), Refusal> {
    // Whose binding was taken back holds the position no longer, even if nobody has looked since.
    live_owner(m, core, position);
    let slot = core.slot(position);
    slot.owner.compare_exchange(0, CHANGING, AcqRel, Relaxed).map_err(|_| Refusal::InUse)?;
    slot.stamp.store(binding::stamp(claim.by), Relaxed);
    slot.spent.store(0, Relaxed);
    let words = vector(m, core);
    let owner = SLICE_CLAIMED | claim.exact | m.environment_of(claim.owner).number() << 8 | claim.owner.index();
    exposed(words, position, LENGTH).store(claim.length, Relaxed);
    exposed(words, position, OWNER).store(owner, Release);
    slot.owner.store(claim.owner.0, Release);
    let vcore = m.vcore(claim.owner);
    vcore.slots.fetch_or(1 << position, AcqRel);
    core.ready.fetch_or(1 << position, AcqRel);
    // Only alarms of owners of positions are kept: its own may have been passed over until now.
    let alarm = vcore.alarm.load(Relaxed);
    if alarm != 0 && !vcore.word().is(State::Stopped) {
        core.alarm.fetch_min(alarm, Relaxed);
    }
    core.shortest.store(m.ticks(MIN_SLICE_US), Relaxed);
    kick(m, core, 0);
    Ok(())
}

/// Frees a position; who runs in it goes on until the core next chooses.
#[inline(never)]
pub fn release(m: &impl Machine, core: &Core, position: u64) -> Result<(), Refusal> {
    let slot = core.slot(position);
    let owner = slot.owner();
    let mine = owner.exists() && slot.owner.compare_exchange(owner.0, CHANGING, AcqRel, Relaxed).is_ok();
    Refusal::WrongState.when(!mine)?;
    m.vcore(owner).slots.fetch_and(!(1 << position), AcqRel);
    exposed(vector(m, core), position, OWNER).store(0, Release);
    core.ready.fetch_and(!(1 << position), AcqRel);
    slot.owner.store(0, Release);
    if core.position() == position {
        core.reschedule.store(1, Relaxed);
        core.slice_end.store(0, Relaxed);
    }
    kick(m, core, 0);
    Ok(())
}

/// A core's positions changed: its timer may have to stand elsewhere, or it sleeps. Positions besides those in `ready` became so (0: another change):
/// a core with two of those looks again by itself, for what it runs is one at most, so its timer stands at the end of a slice.
pub fn kick(m: &impl Machine, core: &Core, ready: u64) {
    if core.id() == m.core().id() {
        arm(m);
    } else if ready & ready.wrapping_sub(1) == 0 {
        m.interrupt_core(core.id());
    }
}

/// Sets the timer to the earliest of alarm, end of loan, and end of slice when somebody else could run; at once when who runs must not simply go on.
pub fn arm(m: &impl Machine) {
    arm_core(m, m.core());
}

#[inline(always)]
fn arm_core(m: &impl Machine, core: &Core) {
    set_timer(m, core, core.alarm.load(Relaxed).min(core.end()));
}

/// Sets the timer, unless it stands there already; at once when who runs must not simply go on.
#[inline(always)]
fn set_timer(m: &impl Machine, core: &Core, at: u64) {
    let at = if core.reschedule.load(Relaxed) != 0 { 0 } else { at };
    if at != core.timer.load(Relaxed) {
        core.timer.store(at, Relaxed);
        m.set_timer(at);
    }
}

/// Keeps the earliest alarm (0: none): here, where the chain runs, and at the vcore's home, where its positions are. The vcore has it already.
#[inline(never)]
pub fn note_alarm(m: &impl Machine, vcore: VcoreRef, at: u64) {
    let core = m.core();
    if at == 0 {
        return;
    }
    if at < core.alarm.load(Relaxed) {
        core.alarm.fetch_min(at, AcqRel);
        arm(m);
    }
    let home = vcore::home(m, vcore);
    if home != core.id()
        && let Some(home) = m.core_at(home)
        && at < home.alarm.fetch_min(at, AcqRel)
    {
        m.interrupt_core(home.id());
    }
}

/// Wins a ready vcore.
fn win(m: &impl Machine, vcore: &Vcore) -> bool {
    vcore.go(m, State::Ready, |word| word.in_state(State::Running))
}

/// Wins the vcore at the end of the chain that begins at `owner`.
#[inline(never)]
pub fn claim_chain(m: &impl Machine, owner: VcoreRef) -> Option<VcoreRef> {
    let mut end = owner;
    // Claimed first, then checked to lead back.
    for _ in 0..=MAX_CHAIN_CALLS {
        let vcore = m.vcore(end);
        if win(m, vcore) {
            if gate::leads_back(m, end, owner) {
                return Some(end);
            }
            // The chain was cut in between: it runs by its own slices.
            event::go_on(m, end, vcore.word().resume());
            return None;
        }
        end = vcore.calls();
        if !end.exists() {
            return None;
        }
    }
    None
}

/// The owner of a position, unless the binding that claimed it was taken back.
#[inline(always)]
fn live_owner(m: &impl Machine, core: &Core, position: u64) -> Option<VcoreRef> {
    let slot = core.slot(position);
    let owner = slot.owner();
    if owner.exists() && !binding::stamped(m, slot.stamp.load(Relaxed)) {
        let _ = release(m, core, position);
        return None;
    }
    owner.exists().then_some(owner)
}

/// Ticks of a position that are left in this round.
#[inline(always)]
fn left(core: &Core, words: &Words, position: u64) -> u64 {
    exposed(words, position, LENGTH).load(Relaxed).saturating_sub(core.spent(position))
}

/// Charges the time since the last charge to who pays for it.
#[inline(always)]
fn charge(core: &Core, words: &Words, now: u64) {
    let elapsed = now.wrapping_sub(core.charged.load(Relaxed));
    core.charged.store(now, Relaxed);
    let (position, loan) = (core.position(), core.loan.load(Relaxed));
    let payer = if loan != IDLE {
        // At least what a borrow must have: who is woken again and again pays for what that costs the lender.
        let cost = elapsed.max(core.shortest.load(Relaxed));
        core.set_spent(loan, core.round.load(Relaxed), core.spent(loan) + cost);
        add(&core.slice_end, elapsed);
        exposed(words, loan, USED)
    } else if position != IDLE {
        exposed(words, position, USED)
    } else {
        &words[offset_of!(SliceVector, idle) / 8]
    };
    add(payer, elapsed);
}

/// Chooses who runs next on this core and wins it. Nobody runs here when this is called.
pub fn schedule(m: &impl Machine) -> Outcome {
    let (core, now) = (m.core(), m.now());
    core.set_link(Link(0));
    core.reschedule.store(0, Relaxed);
    let words = vector(m, core);
    charge(core, words, now);
    core.loan.store(IDLE, Relaxed);
    let (position, end) = (core.position(), core.slice_end.load(Relaxed));
    if position != IDLE && now < end {
        if let Some(vcore) = claim_position(m, core, position) {
            return run(m, core, vcore);
        }
    } else if position != IDLE && core.contended(position) && end != 0 {
        // What was overrun is taken from the next slice. Without anybody else waiting there was no end to overrun.
        core.set_spent(position, core.round.load(Relaxed) + 1, now - end);
    }
    next_slice(m, core, words, now)
}

/// Begins the next slice, or leaves the core idle.
#[inline(never)]
fn next_slice(m: &impl Machine, core: &Core, words: &Words, now: u64) -> Outcome {
    // Each turn clears a ready bit, passes a spent slice, or ends the search: one round looks at each position once, the second finds those whose turn was spent.
    for _ in 0..2 * SLICES_PER_CORE + 2 {
        let position = core.position();
        let Some(next) = next_ready(core.ready.load(Acquire), position) else { break };
        if position == IDLE || next <= position {
            add(&core.round, 1);
            add(&words[offset_of!(SliceVector, rounds) / 8], 1);
        }
        core.position.store(next, Relaxed);
        let left = left(core, words, next);
        if left < core.shortest.load(Relaxed) {
            continue;
        }
        if let Some(vcore) = claim_position(m, core, next) {
            words[POSITION].store(next, Relaxed);
            add(exposed(words, next, offset_of!(Slice, starts) / 8), 1);
            core.slice_end.store(now + left, Relaxed);
            event::slice_began(m, m.vcore(vcore));
            return run(m, core, vcore);
        }
    }
    core.position.store(IDLE, Relaxed);
    words[POSITION].store(IDLE, Relaxed);
    // A stale position released on the way set it: nobody goes on.
    core.reschedule.store(0, Relaxed);
    arm(m);
    Outcome::Idle
}

/// The next set bit after `position`, cyclically.
fn next_ready(ready: u64, position: u64) -> Option<u64> {
    let start = if position == IDLE { 0 } else { (position + 1) % 64 };
    (ready != 0).then(|| (ready.rotate_right(start as u32).trailing_zeros() as u64 + start) % 64)
}

/// Wins who runs in a position; if nobody can, the position is worth no look until somebody is woken.
fn claim_position(m: &impl Machine, core: &Core, position: u64) -> Option<VcoreRef> {
    let owner = live_owner(m, core, position);
    owner.filter(|owner| win(m, m.vcore(*owner))).or_else(|| claim_again(m, core, position, owner))
}

/// Looks at the chain of a position, and once more when its bit is cleared: who is woken later sets it again.
#[inline(never)]
fn claim_again(m: &impl Machine, core: &Core, position: u64, owner: Option<VcoreRef>) -> Option<VcoreRef> {
    if let Some(vcore) = owner.and_then(|owner| claim_chain(m, owner)) {
        return Some(vcore);
    }
    core.ready.fetch_and(!(1 << position), AcqRel);
    let vcore = claim_chain(m, owner?)?;
    core.ready.fetch_or(1 << position, AcqRel);
    Some(vcore)
}

/// The won vcore becomes the running one.
fn run(m: &impl Machine, core: &Core, vcore: VcoreRef) -> Outcome {
    core.begin_run(m, vcore);
    core.lent.store(0, Relaxed);
    core.reschedule.store(0, Relaxed);
    arm_core(m, core);
    Outcome::Enter(vcore)
}

/// Lets a vcore that waits for an event (0: the alarm of a `wait`) run at once, at the cost of its own next slice in this round; who runs now resumes so.
/// False: nothing has changed, for it does not wait for that, or the rules of borrowing forbid it.
#[inline(always)]
pub fn wake(m: &impl Machine, target: VcoreRef, event: u64, lender_resumes: Resume) -> bool {
    let (core, vcore) = (m.core(), m.vcore(target));
    let mask = vcore.mask.load(Relaxed) & PENDING;
    let ends = |word: StateWord| word.waits() && (mask & event != 0 || event == 0 && word.is(State::Waiting));
    let position = core.position();
    if !ends(vcore.word())
        || position >= 63
        || core.link.load(Relaxed) == 0
        || core.loan.load(Relaxed) != IDLE
        || vcore::home(m, target) != core.id()
    {
        return false;
    }
    let later = vcore.slots.load(Relaxed) & !0 << (position + 1);
    if later == 0 {
        return false;
    }
    let loan = later.trailing_zeros() as u64;
    let words = vector(m, core);
    let exact = exposed(words, position, OWNER).load(Relaxed) | exposed(words, loan, OWNER).load(Relaxed);
    let left = left(core, words, loan);
    let allowed = exact & SLICE_EXACT == 0 && left >= core.shortest.load(Relaxed);
    if !allowed || live_owner(m, core, loan) != Some(target) {
        return false;
    }
    // Won at once: nobody needs to know that it was ready, nor that these events were pending.
    let runs = |word: StateWord| StateWord(word.0 & !mask).in_state(State::Running);
    let Some(word) = vcore.update(m, |word| ends(word).then(|| runs(word))) else { return false };
    core.events.store((word.0 | event) & mask, Relaxed);
    let (lender, now) = (core.me(), m.now());
    match lender_resumes {
        Resume::Full => call::keep_fp(m),
        _ => gate::suspend(m, lender),
    }
    charge(core, words, now);
    core.loan.store(loan, Relaxed);
    core.loan_end.store(now + left, Relaxed);
    core.begin_run(m, target);
    event::go_on(m, lender, lender_resumes);
    set_timer(m, core, core.alarm.load(Relaxed).min(now + left));
    true
}

/// What an interrupt of the running vcore leads to; its registers are saved in full.
pub fn after_interrupt(m: &impl Machine) -> Outcome {
    let core = m.core();
    // Who stops it meanwhile forgets that it was won.
    if core.won.load(Relaxed) != 0 {
        core.won.store(0, Relaxed);
        // Should its loan have passed already, the timer interrupts at once: unless it fired on the way, or an earlier alarm came.
        if core.timer.load(Relaxed) > core.alarm.load(Relaxed).min(core.loan_end.load(Relaxed)) {
            arm(m);
        }
        return Outcome::Waited(core.me());
    }
    let running = core.running();
    if !running.exists() {
        return schedule(m);
    }
    if m.now() >= core.end() || core.reschedule.load(Relaxed) != 0 || !m.vcore(running).word().is(State::Running) {
        call::keep_fp(m);
        core.set_link(Link(0));
        event::go_on(m, running, Resume::Full);
        return schedule(m);
    }
    arm(m);
    Outcome::Resume(running)
}

/// The timer passed: alarms and deadlines that are due.
#[inline(never)]
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
        let mut reference = slot.owner();
        // The owner, and the chain it waits for: a callee without slices has its alarms looked at here too.
        for _ in 0..=MAX_CHAIN_CALLS {
            if !reference.exists() {
                break;
            }
            let vcore = m.vcore(reference);
            let callee = vcore.calls();
            match vcore.alarm.load(Relaxed) {
                0 => {}
                _ if matches!(vcore.word().state(), State::Stopped | State::None) => {}
                alarm if alarm <= now => event::alarm_passed(m, reference, vcore, alarm),
                alarm => next = next.min(alarm),
            }
            reference = callee;
        }
    }
    core.alarm.fetch_min(next, AcqRel);
    // Who was won on the way runs with a timer that knew nothing of the others' alarms.
    arm(m);
}

/// Gives the rest of the slice to `target`'s chain; the caller goes on when the core comes back to its slice.
pub fn yield_to(m: &impl Machine, target: VcoreRef) -> Outcome {
    let core = m.core();
    let me = core.me();
    // Who runs is not ready: that includes the caller.
    let Some(vcore) = claim_chain(m, target) else { return Outcome::Refused(Refusal::Busy) };
    gate::suspend(m, me);
    core.begin_run(m, vcore);
    core.lent.store(1, Relaxed);
    event::go_on(m, me, Resume::Events);
    arm(m);
    Outcome::Enter(vcore)
}
