//! Calls that make, watch and end kernel objects: pools, environments, vcores, gates, events, slices, interrupts, the machine.

use super::{Progress, check, svc};
use crate::control::{frame_in_batch, with_batch};
use exo_abi::calls::{name_kind, stop_reason};
use exo_abi::control_page::Frame;
use exo_abi::{Call, Handle, Pfn, Refusal};

fn progress([x0, x1, _]: [u64; 3]) -> Result<Progress, Refusal> {
    match check(x0) {
        Ok(()) => Ok(Progress::Done),
        Err(Refusal::Again) => Ok(Progress::Again(x1)),
        Err(refusal) => Err(refusal),
    }
}

/// [`Call::PoolCreate`]: carves pool `number` with `cell` and `quota` from `parent`; its root binding goes to `slot`.
pub fn pool_create(
    parent: Handle,
    number: u64,
    cell: u64,
    quota: u64,
    minimum: u64,
    slot: Handle,
) -> Result<(), Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    let [x0, ..] = unsafe {
        svc::plain_8::<{ Call::PoolCreate as u64 }>([
            u64::from(parent.0),
            number,
            cell,
            quota,
            minimum,
            u64::from(slot.0),
            0,
            0,
        ])
    };
    check(x0)
}

/// [`Call::PoolDestroy`], one step from `cursor` (first 0). What was mapped of it faults from then on.
pub fn pool_destroy(pool: Handle, cursor: u64) -> Result<Progress, Refusal> {
    // SAFETY: mappings vanish, which is a fault at the next access and never other memory.
    progress(unsafe { svc::plain_3::<{ Call::PoolDestroy as u64 }>(u64::from(pool.0), cursor, 0) })
}

/// The frames of a new environment.
#[derive(Clone, Copy, Debug)]
pub struct EnvFrames {
    /// The environment itself.
    pub environment: Pfn,
    /// Its root table.
    pub root: Pfn,
    /// The first frame of its binding table.
    pub bindings: Pfn,
}

/// [`Call::EnvCreate`]: makes environment `number` with own pool `pool`; its root binding goes to `slot`.
pub fn env_create(pool: Handle, number: u64, cell: u64, frames: EnvFrames, slot: Handle) -> Result<(), Refusal> {
    // SAFETY: the frames are unmapped data of the new environment's pool: the kernel checks it.
    let [x0, ..] = unsafe {
        svc::plain_8::<{ Call::EnvCreate as u64 }>([
            u64::from(pool.0),
            number,
            cell,
            frames.environment.0,
            frames.root.0,
            frames.bindings.0,
            u64::from(slot.0),
            0,
        ])
    };
    check(x0)
}

/// [`Call::EnvDestroy`], one step from `cursor` (first 0).
pub fn env_destroy(environment: Handle, cursor: u64) -> Result<Progress, Refusal> {
    // SAFETY: the kernel refuses the caller's own environment.
    progress(unsafe { svc::plain_3::<{ Call::EnvDestroy as u64 }>(u64::from(environment.0), cursor, 0) })
}

/// [`Call::BindingsAdd`]: adds a frame to a binding table; answers with the frames it has now.
pub fn bindings_add(environment: Handle, frame: Pfn) -> Result<u64, Refusal> {
    // SAFETY: the frame is unmapped data: the kernel checks it.
    let [x0, x1, _] = unsafe { svc::plain_3::<{ Call::BindingsAdd as u64 }>(u64::from(environment.0), frame.0, 0) };
    check(x0).map(|()| x1)
}

/// Numbers that [`names_give`] hands over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum NameKind {
    /// Environment numbers.
    Environments = name_kind::ENVIRONMENTS,
    /// Pool numbers.
    Pools = name_kind::POOLS,
    /// Revocation cells.
    Cells = name_kind::CELLS,
}

/// [`Call::NamesGive`]: gives `count` (1 to 64) unused numbers from `first` on to `environment`.
pub fn names_give(environment: Handle, kind: NameKind, first: u64, count: u64) -> Result<(), Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    let [x0, ..] =
        unsafe { svc::plain_5::<{ Call::NamesGive as u64 }>(u64::from(environment.0), kind as u64, first, count, 0) };
    check(x0)
}

/// What a new vcore is made of.
#[derive(Clone, Copy, Debug)]
pub struct VcoreStart {
    /// The frame that becomes its control page.
    pub control_frame: Pfn,
    /// Where the environment sees it.
    pub control_va: u64,
    /// Its first instruction.
    pub pc: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// Its x0.
    pub x0: u64,
    /// Its home core.
    pub core: u64,
}

/// [`Call::VcoreCreate`]: makes vcore `index` of `environment`.
///
/// # Safety
/// When that is the caller's own environment: code at `pc` may run on that stack with that x0, beside everything else.
pub unsafe fn vcore_create(environment: Handle, index: u64, start: &VcoreStart) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    let [x0, ..] = unsafe {
        svc::plain_8::<{ Call::VcoreCreate as u64 }>([
            u64::from(environment.0),
            index,
            start.control_frame.0,
            start.control_va,
            start.pc,
            start.sp,
            start.x0,
            start.core,
        ])
    };
    check(x0)
}

/// [`vcore_create`] for another environment; refuses [`Handle::SELF`] as a bad argument.
pub fn vcore_create_other(environment: Handle, index: u64, start: &VcoreStart) -> Result<(), Refusal> {
    if environment == Handle::SELF {
        return Err(Refusal::BadArgument);
    }
    // SAFETY: it runs in another protection domain.
    unsafe { vcore_create(environment, index, start) }
}

/// [`Call::VcoreStart`]: makes a new vcore runnable where it was told to begin.
pub fn vcore_start(environment: Handle, vcore: u64) -> Result<(), Refusal> {
    // SAFETY: where it begins was promised at its creation; the kernel refuses to go on with one that stopped.
    let [x0, ..] = unsafe { svc::plain_5::<{ Call::VcoreStart as u64 }>(u64::from(environment.0), vcore, 0, 0, 0) };
    check(x0)
}

/// [`Call::VcoreStart`] for one that stopped, at a new place.
///
/// # Safety
/// As [`vcore_create`].
pub unsafe fn vcore_restart(environment: Handle, vcore: u64, pc: u64, sp: u64, first: u64) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    let [x0, ..] =
        unsafe { svc::plain_5::<{ Call::VcoreStart as u64 }>(u64::from(environment.0), vcore, pc, sp, first) };
    check(x0)
}

/// [`Call::VcoreStop`]: stops a vcore; `Again` means that it is on another core, and on its way.
pub fn vcore_stop(environment: Handle, vcore: u64) -> Result<(), Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    check(unsafe { svc::plain_3::<{ Call::VcoreStop as u64 }>(u64::from(environment.0), vcore, 0) }[0])
}

/// Why a vcore does not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// It was never started.
    New,
    /// It called `halt` with this code.
    Halted(u64),
    /// It faulted and nobody could answer for it.
    Faulted,
    /// `vcore_stop`.
    Stopped,
}

/// What a stopped vcore leaves behind.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Why it stopped.
    pub reason: StopReason,
    /// Its registers.
    pub frame: Frame,
}

/// [`Call::VcoreReport`]: why a vcore stopped, and its registers. `WrongState`: it did not.
pub fn vcore_report(environment: Handle, vcore: u64) -> Result<Report, Refusal> {
    with_batch(
        0,
        |_| [0, 0],
        || {
            // SAFETY: the kernel writes the batch buffer, which is set aside for this.
            let [x0, x1, x2] =
                unsafe { svc::plain_3::<{ Call::VcoreReport as u64 }>(u64::from(environment.0), vcore, 0) };
            check(x0)?;
            let reason = match x1 {
                stop_reason::NEW => StopReason::New,
                stop_reason::HALTED => StopReason::Halted(x2),
                stop_reason::FAULTED => StopReason::Faulted,
                _ => StopReason::Stopped,
            };
            Ok(Report { reason, frame: frame_in_batch() })
        },
    )
}

/// [`Call::GateBind`]: makes a binding to the gate of a vcore, with a badge that is not 0.
pub fn gate_bind(environment: Handle, vcore: u64, cell: u64, slot: Handle, badge: u64) -> Result<(), Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    let [x0, ..] = unsafe {
        svc::plain_5::<{ Call::GateBind as u64 }>(u64::from(environment.0), vcore, cell, u64::from(slot.0), badge)
    };
    check(x0)
}

/// [`Call::EventBind`]: makes a binding to event `bit` of a vcore.
pub fn event_bind(environment: Handle, vcore: u64, cell: u64, slot: Handle, bit: u64) -> Result<(), Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    let [x0, ..] = unsafe {
        svc::plain_5::<{ Call::EventBind as u64 }>(u64::from(environment.0), vcore, cell, u64::from(slot.0), bit)
    };
    check(x0)
}

/// How a slice is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SliceTerms {
    /// Microseconds a round; 0: the default.
    pub micros: u64,
    /// It lends nothing and borrows nothing.
    pub exact: bool,
}

/// [`Call::SliceClaim`]: claims a position of a core for a vcore.
pub fn slice_claim(
    cores: Handle,
    core: u64,
    position: u64,
    environment: Handle,
    vcore: u64,
    terms: SliceTerms,
) -> Result<(), Refusal> {
    let flags = if terms.exact { exo_abi::calls::slice_flag::EXACT } else { 0 };
    // SAFETY: nothing of the caller's memory changes.
    let [x0, ..] = unsafe {
        svc::plain_8::<{ Call::SliceClaim as u64 }>([
            u64::from(cores.0),
            core,
            position,
            u64::from(environment.0),
            vcore,
            terms.micros,
            flags,
            0,
        ])
    };
    check(x0)
}

/// [`Call::SliceRelease`]: releases a position of a core.
pub fn slice_release(cores: Handle, core: u64, position: u64) -> Result<(), Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    check(unsafe { svc::plain_3::<{ Call::SliceRelease as u64 }>(u64::from(cores.0), core, position) }[0])
}

/// When a line interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// While the device asserts it.
    Level,
    /// When the device begins to.
    Edge,
}

/// [`Call::IrqBind`]: routes a line to an event of an own vcore, and unmasks it.
pub fn irq_bind(lines: Handle, line: u64, vcore: u64, bit: u64, trigger: Trigger) -> Result<(), Refusal> {
    let edge = u64::from(trigger == Trigger::Edge);
    // SAFETY: nothing of the caller's memory changes.
    let [x0, ..] = unsafe { svc::plain_5::<{ Call::IrqBind as u64 }>(u64::from(lines.0), line, vcore, bit, edge) };
    check(x0)
}

/// [`Call::IrqAck`]: unmasks a line.
#[inline(always)]
pub fn irq_ack(lines: Handle, line: u64) -> Result<(), Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    check(unsafe { svc::plain_3::<{ Call::IrqAck as u64 }>(u64::from(lines.0), line, 0) }[0])
}

/// [`Call::Power`], off: ends the machine, with an exit code for an emulator.
pub fn power_off(power: Handle, code: u64) -> Result<(), Refusal> {
    // SAFETY: afterwards nothing runs.
    check(unsafe { svc::plain_3::<{ Call::Power as u64 }>(u64::from(power.0), exo_abi::calls::power::OFF, code) }[0])
}

/// [`Call::Power`], reset: starts the machine anew.
pub fn power_reset(power: Handle) -> Result<(), Refusal> {
    // SAFETY: afterwards nothing runs.
    check(unsafe { svc::plain_3::<{ Call::Power as u64 }>(u64::from(power.0), exo_abi::calls::power::RESET, 0) }[0])
}

/// [`Call::Audit`]: the kernel checks its invariants of one frame; answers with what [`exo_abi::exposed::audit`] says.
pub fn audit(power: Handle, frame: Pfn) -> Result<u64, Refusal> {
    // SAFETY: nothing changes.
    let [x0, x1, _] = unsafe { svc::plain_3::<{ Call::Audit as u64 }>(u64::from(power.0), frame.0, 0) };
    check(x0).map(|()| x1)
}
