//! What the attacks work with: raw calls, and bad bindings of each kind.

use exo_abi::binding::{BindingKind, Rights, first};
use exo_abi::refusal::check;
use exo_abi::{Call, Handle, Refusal};
use libos::{slots, sys};
use workshop::{Child, Common, Ground};

/// Bindings of one kind, good and bad.
#[derive(Clone, Copy, Debug)]
pub struct Bindings {
    /// The kind.
    pub kind: BindingKind,
    /// Live, with every right.
    pub good: Handle,
    /// Live, with GRANT only.
    pub weak: Handle,
    /// Taken back.
    pub stale: Handle,
    /// Live, with every right but GRANT.
    pub kept: Handle,
}

/// The bindings and objects that refusals are provoked with.
pub struct World {
    /// A child with data pages and one vcore that was never started.
    pub child: Child,
    /// A shared pool.
    pub pool: Handle,
    /// Its number and its cell.
    pub pool_number: u64,
    /// Its cell.
    pub pool_cell: u64,
    /// Bindings of each kind.
    pub bindings: [Bindings; 8],
    /// A slot that stays empty.
    pub empty: Handle,
}

impl World {
    /// Makes everything.
    pub fn new(ground: &Ground) -> Result<World, Refusal> {
        let mut child = Child::build(ground, 16)?;
        child.vcore(Common::Halt.va(), 0, 0)?;
        let (pool, pool_number, pool_cell) = shared_pool(ground, 64)?;
        let gate = own(ground, |cell, slot| sys::gate_bind(Handle::SELF, 0, cell, slot, 7))?;
        let event = own(ground, |cell, slot| sys::event_bind(Handle::SELF, 0, cell, slot, 3))?;
        let of = |kind, good| bad_ones(ground, kind, good);
        Ok(World {
            bindings: [
                of(BindingKind::Pool, pool)?,
                of(BindingKind::Env, child.env)?,
                of(BindingKind::Gate, gate)?,
                of(BindingKind::Event, event)?,
                of(BindingKind::Core, first::CORES)?,
                of(BindingKind::Irq, first::INTERRUPTS)?,
                of(BindingKind::Device, first::DEVICES)?,
                of(BindingKind::Power, first::POWER)?,
            ],
            child,
            pool,
            pool_number,
            pool_cell,
            empty: ground.take_slot()?,
        })
    }

    /// The bindings of a kind.
    pub fn of(&self, kind: BindingKind) -> &Bindings {
        self.bindings.iter().find(|bindings| bindings.kind == kind).expect("there are bindings of each kind but Dma")
    }

    /// Ends everything.
    pub fn end(self, ground: &Ground) -> Result<(), Refusal> {
        for bindings in self.bindings {
            for handle in [bindings.weak, bindings.stale, bindings.kept] {
                slots::empty(handle);
            }
            if matches!(bindings.kind, BindingKind::Gate | BindingKind::Event) {
                slots::empty(bindings.good);
            }
        }
        slots::give_back(self.empty);
        end_pool(ground, self.pool, self.pool_number, self.pool_cell)?;
        self.child.destroy(ground)
    }
}

/// A weak, a stale and a kept copy of a binding that is good.
fn bad_ones(ground: &Ground, kind: BindingKind, good: Handle) -> Result<Bindings, Refusal> {
    let (weak, kept) = (ground.take_slot()?, ground.take_slot()?);
    sys::grant(good, Handle::SELF, weak, Rights::GRANT, 0, None)?;
    let all = match kind {
        BindingKind::Gate | BindingKind::Event | BindingKind::Core | BindingKind::Irq => Rights::from_bits_retain(1),
        _ => Rights::from_bits_retain(0x7f),
    };
    sys::grant(good, Handle::SELF, kept, all, 0, None)?;
    let stale = match kind {
        BindingKind::Gate => own_for_a_while(ground, |cell, slot| sys::gate_bind(Handle::SELF, 0, cell, slot, 7))?,
        BindingKind::Event => own_for_a_while(ground, |cell, slot| sys::event_bind(Handle::SELF, 0, cell, slot, 3))?,
        _ => {
            let everything = if matches!(kind, BindingKind::Core | BindingKind::Irq) {
                Rights::from_bits_retain(0x81)
            } else {
                Rights::EVERYTHING
            };
            own_for_a_while(ground, |cell, slot| sys::grant(good, Handle::SELF, slot, everything, cell, None))?
        }
    };
    Ok(Bindings { kind, good, weak, stale, kept })
}

/// A binding made with a cell of this program's.
fn own(ground: &Ground, make: impl FnOnce(u64, Handle) -> Result<(), Refusal>) -> Result<Handle, Refusal> {
    let (cell, slot) = (ground.take_cell()?, ground.take_slot()?);
    make(cell, slot).map(|()| slot)
}

/// The same, taken back at once.
fn own_for_a_while(ground: &Ground, make: impl FnOnce(u64, Handle) -> Result<(), Refusal>) -> Result<Handle, Refusal> {
    let (cell, slot) = (ground.take_cell()?, ground.take_slot()?);
    make(cell, slot)?;
    sys::take_back(cell)?;
    ground.give_back_cell(cell);
    Ok(slot)
}

/// A new shared pool: handle, number, cell.
pub fn shared_pool(ground: &Ground, quota: u64) -> Result<(Handle, u64, u64), Refusal> {
    let (number, cell, slot) = (ground.pools.take()?, ground.take_cell()?, ground.take_slot()?);
    sys::pool_create(Handle::POOL, number, cell, quota, 0, slot)?;
    Ok((slot, number, cell))
}

/// Destroys a shared pool.
pub fn end_pool(ground: &Ground, pool: Handle, number: u64, cell: u64) -> Result<(), Refusal> {
    let mut cursor = 0;
    while let sys::Progress::Again(next) = sys::pool_destroy(pool, cursor)? {
        cursor = next;
    }
    slots::empty(pool);
    ground.pools.give_back(number);
    ground.give_back_cell(cell);
    Ok(())
}

/// A call with any registers: x0 to x8 afterwards. Not for what reads the batch buffer, which the library keeps.
#[expect(unsafe_code, reason = "attacks make calls that no stub makes")]
pub fn raw(call: Call, arguments: &[u64]) -> [u64; 9] {
    let mut x = [0; 11];
    x[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: what the kernel refuses changes nothing; what it does not refuse here concerns other environments, or is the bug being looked for.
    unsafe { sys::raw(call as u64 as u16, x) }
}

/// What a raw call answers.
pub fn refusal_of(call: Call, arguments: &[u64]) -> Result<(), Refusal> {
    let x = raw(call, arguments);
    // This one says x0 = 0 and x1 = 0, and the refusal in x2.
    check(if call == Call::ReplyWait { x[2] } else { x[0] })
}
