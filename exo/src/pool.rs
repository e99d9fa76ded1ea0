//! Pools: frames under a quota; quotas form a tree.
//!
//! A child's quota is carved from its parent's when it is made: it counts there as use. Quota and use share one
//! word, so that one compare-and-swap keeps `use <= quota` whatever other cores do.

use crate::machine::{Machine, numbers};
use crate::remote;
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo_abi::{MAX_POOL_DEPTH, MAX_POOLS, Refusal};

/// Frames of a unit of [`Pool::span`].
pub const UNIT: u64 = 128;
/// The largest number of a unit: RAM spans no more than 256 GiB.
const UNITS: u64 = (1 << 19) - 1;
const PROGRESS: u64 = (1 << 26) - 1;
/// Progress of a pool that waits for nothing but other cores.
pub const ENDED: u64 = PROGRESS;

/// A pool.
#[derive(Default)]
pub struct Pool {
    /// Use in bits 63:32, quota in 31:0, in frames.
    account: AtomicU64,
    /// [`State`] in 63:48, parent in 47:32, revocation cell in 31:16, owner of the number in 15:0.
    pub identity: AtomicU64,
    /// Where its frames are: from unit 63:45 of [`UNIT`] frames to unit 44:26, counted from the first of RAM. In 25:0 how far its destruction is. At the end of that in 63:26 a ticket.
    extent: AtomicU64,
}

numbers! {
    /// What a pool's number stands for.
    State {
        /// Nothing.
        Unused = 0,
        /// Memory shared by whom its holders grant it.
        Shared = 1,
        /// An environment's own.
        Own = 2,
        /// Shared memory on its way out.
        Dying = 3,
        /// That of an environment on its way out: it ends with that. Or shared memory of which the last step is being done.
        DyingOwn = 4,
    }
}

/// The value of a pool's identity word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity(u64);

impl Identity {
    /// All fields.
    pub const fn new(owner: u64, parent: u64, cell: u64, state: State) -> Identity {
        Identity((state as u64) << 48 | parent << 32 | cell << 16 | owner)
    }
    /// The environment that may use the number.
    pub const fn owner(self) -> u64 {
        self.0 & 0xffff
    }
    /// The pool its quota was carved from; 0: none.
    pub const fn parent(self) -> u64 {
        self.0 >> 32 & 0xffff
    }
    /// Its revocation cell.
    pub const fn cell(self) -> u64 {
        self.0 >> 16 & 0xffff
    }
    /// What it is.
    pub const fn state(self) -> State {
        State::from_bits(self.0 >> 48)
    }
    /// The same pool in another state.
    pub const fn in_state(self, state: State) -> Identity {
        Identity(self.0 << 16 >> 16 | (state as u64) << 48)
    }
}

impl Pool {
    /// Unused, its number owned by an environment.
    pub const fn new(owner: u64) -> Pool {
        let identity = Identity::new(owner, 0, 0, State::Unused);
        Pool { account: AtomicU64::new(0), identity: AtomicU64::new(identity.0), extent: AtomicU64::new(0) }
    }

    /// Who it is.
    pub fn identity(&self) -> Identity {
        Identity(self.identity.load(Acquire))
    }

    /// Frames used, child quotas included, and quota.
    pub fn account(&self) -> (u64, u64) {
        let word = self.account.load(Relaxed);
        (word >> 32, word & 0xffff_ffff)
    }

    /// Replaces the identity if it still is what the caller saw.
    pub fn change(&self, old: Identity, new: Identity) -> Result<(), Refusal> {
        self.identity.compare_exchange(old.0, new.0, AcqRel, Relaxed).map(|_| ()).map_err(|_| Refusal::InUse)
    }

    /// Begins a life with a quota. The identity has been claimed.
    pub fn begin(&self, quota: u64) {
        self.extent.store(UNITS << 45, Relaxed);
        self.account.store(quota, Release);
    }

    /// It takes frame `index`, counted from the first of RAM. Mostly nothing changes.
    #[inline(never)]
    pub fn note(&self, index: u64) {
        let _ = self.extent.fetch_update(AcqRel, Relaxed, |extent| {
            let (first, last) = ((extent >> 45).min(index / UNIT), (extent >> 26 & UNITS).max(index / UNIT));
            let wide = first << 45 | last << 26 | extent & PROGRESS;
            (wide != extent).then_some(wide)
        });
    }

    /// All frames that carry its number lie from the first of these to before the second.
    pub fn span(&self) -> (u64, u64) {
        let extent = self.extent.load(Relaxed);
        ((extent >> 45) * UNIT, ((extent >> 26 & UNITS) + 1) * UNIT)
    }

    /// How far its destruction is.
    pub fn progress(&self) -> u64 {
        self.extent.load(Acquire) & PROGRESS
    }

    /// All its frames are free, but who looked its binding up before it was dying may still work with its number: true when nobody can any more.
    pub fn is_left(&self, m: &impl Machine) -> bool {
        if self.progress() != ENDED {
            self.extent.store(remote::draw(m) << 26 | ENDED, Relaxed);
        }
        remote::all_left(m, self.extent.load(Relaxed) >> 26)
    }

    /// Keeps how far its destruction is.
    pub fn set_progress(&self, progress: u64) {
        // Another core may still take a frame by a binding that it looked up before.
        let _ = self.extent.fetch_update(AcqRel, Relaxed, |extent| Some(extent & !PROGRESS | progress));
    }

    /// Charges `frames` more. Bounded: who loses a race eight times is told that the quota does not suffice now.
    pub fn charge(&self, frames: u64) -> Result<(), Refusal> {
        let mut old = self.account.load(Relaxed);
        for _ in 0..8 {
            let (used, quota) = (old >> 32, old & 0xffff_ffff);
            Refusal::QuotaExceeded.when(used + frames > quota)?;
            match self.account.compare_exchange(old, old + (frames << 32), AcqRel, Relaxed) {
                Ok(_) => return Ok(()),
                Err(seen) => old = seen,
            }
        }
        Err(Refusal::QuotaExceeded)
    }

    /// Takes `frames` off the use.
    pub fn uncharge(&self, frames: u64) {
        self.account.fetch_sub(frames << 32, AcqRel);
    }
}

/// Pool by its number.
#[inline(never)]
pub fn pool(m: &impl Machine, number: u64) -> &Pool {
    &m.tables().pools[(number % MAX_POOLS) as usize]
}

/// Levels down to a pool, itself included.
fn depth(m: &impl Machine, number: u64) -> u64 {
    let up = core::iter::successors(Some(number), |number| Some(pool(m, *number).identity().parent()));
    up.take(MAX_POOL_DEPTH as usize + 1).take_while(|number| *number != 0).count() as u64
}

/// Creates pool `number` under `parent`. The caller checked cell and slot.
pub fn create(m: &impl Machine, caller: u64, parent: u64, number: u64, cell: u64, quota: u64) -> Result<(), Refusal> {
    let new = pool(m, number);
    let old = new.identity();
    Refusal::NotYours.when(old.owner() != caller)?;
    Refusal::InUse.when(old.state() != State::Unused)?;
    Refusal::Stale.when(!matches!(pool(m, parent).identity().state(), State::Shared | State::Own))?;
    Refusal::TooDeep.when(depth(m, parent) >= MAX_POOL_DEPTH)?;
    pool(m, parent).charge(quota)?;
    let claimed = new.change(old, Identity::new(caller, parent, cell, State::Shared));
    claimed.inspect_err(|_| pool(m, parent).uncharge(quota))?;
    new.begin(quota);
    Ok(())
}

/// The child pools of a pool.
pub fn children(m: &impl Machine, number: u64) -> impl Iterator<Item = &Pool> {
    m.tables().pools.iter().filter(move |pool| pool.identity().parent() == number)
}

/// Child pools of a dying pool become its parent's, quota and all.
pub fn pass_children_on(m: &impl Machine, number: u64) {
    let dying = pool(m, number);
    for child in children(m, number) {
        let old = child.identity();
        let moved = Identity::new(old.owner(), dying.identity().parent(), old.cell(), old.state());
        if child.change(old, moved).is_ok() {
            // The parent goes on paying for it: what it pays for the dying pool falls by the same amount at the end.
            let quota = child.account().1;
            dying.account.fetch_sub(quota << 32 | quota, AcqRel);
        }
    }
}

/// Ends a dying pool that has no frames any more: its number is unused, its quota is the parent's again.
pub fn end(m: &impl Machine, number: u64) {
    let dying = pool(m, number);
    let (_, quota) = dying.account();
    dying.begin(0);
    // Its parent may end meanwhile, and pass it on to its own: once for each above it.
    for _ in 0..=MAX_POOL_DEPTH {
        let identity = dying.identity();
        if dying.change(identity, Identity::new(identity.owner(), 0, 0, State::Unused)).is_ok() {
            if identity.parent() != 0 {
                pool(m, identity.parent()).uncharge(quota);
            }
            return;
        }
    }
}
