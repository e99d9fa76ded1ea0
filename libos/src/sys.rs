//! The kernel's calls: one function for each, under the names of [`exo_abi::calls`], with typed arguments.
//!
//! What a call needs and why it may be refused stands at [`exo_abi::Call`]. A function is `unsafe` exactly when the call can
//! change memory that the caller itself runs on; each such function has a safe twin for *other* environments, which refuses
//! [`Handle::SELF`]. Entries of batches are passed as slices of at most 64; the library carries them to the batch buffer.

#[cfg(not(target_os = "none"))]
#[path = "sys/host.rs"]
mod svc;
#[cfg(target_os = "none")]
mod svc;

mod message;
mod objects;
mod raw;

pub use message::{
    CallMessage, Received, ReplyMessage, call, call_empty, call_words, call_words_until, reply_wait, reply_wait_words,
};
pub use objects::*;
pub use raw::{raw, raw_resume};

use crate::control::{batch_is_free, with_batch, with_own_batch};
use exo_abi::binding::Rights;
use exo_abi::page::MapEntry;
use exo_abi::refusal::check;
use exo_abi::{BATCH_ENTRIES, Call, Handle, Pfn, Refusal};

/// A batch that stopped before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// Entries done; the entry with this index was refused.
    pub done: u64,
    /// Pages done of the entry after those ([`map`] only).
    pub pages: u64,
    /// Why.
    pub refusal: Refusal,
}

impl From<Stopped> for Refusal {
    fn from(stopped: Stopped) -> Refusal {
        stopped.refusal
    }
}

impl Stopped {
    const TOO_LONG: Stopped = Stopped { done: 0, pages: 0, refusal: Refusal::BadArgument };
}

/// What a long call answers: it is done, or goes on from a cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// All of it is done.
    Done,
    /// Call again with this cursor.
    Again(u64),
}

/// How [`frame_alloc`] hands frames over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// Zeroed where they come from another pool; else with what they held in this pool before.
    AsTheyAre,
    /// All zeroed.
    Zeroed,
}

/// What [`frame_kind`] makes of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum FrameKind {
    /// Readable and writable, never executable.
    Data = exo_abi::calls::frame_kind::DATA,
    /// Readable and executable, nowhere writable.
    Code = exo_abi::calls::frame_kind::CODE,
}

fn done_or_stopped([x0, x1, x2]: [u64; 3]) -> Result<u64, Stopped> {
    // One comparison; the kernel answers with no other numbers.
    match x0 {
        0 => Ok(x1),
        _ => Err(Stopped { done: x1, pages: x2, refusal: Refusal::from_number(x0).unwrap_or(Refusal::NoSuchCall) }),
    }
}

fn frames_call(frames: &[Pfn], call: impl FnOnce(u64) -> [u64; 3]) -> Result<u64, Stopped> {
    if frames.is_empty() || frames.len() > BATCH_ENTRIES as usize {
        return Err(Stopped::TOO_LONG);
    }
    with_batch(frames.len(), |index| [frames[index].0, 0], || done_or_stopped(call(frames.len() as u64)))
}

/// The generic timer's count.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_os = "none")]
    {
        let ticks;
        // SAFETY: reading the counter changes nothing. The barrier keeps it from being read early (Arm ARM D12.1.2).
        unsafe {
            core::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags))
        }
        ticks
    }
    #[cfg(not(target_os = "none"))]
    0
}

/// [`Call::Null`]: the price of a crossing.
#[inline(always)]
pub fn null() {
    // SAFETY: the call does nothing.
    let _ = unsafe { svc::plain_0::<{ Call::Null as u64 }>() };
}

/// [`Call::FrameAlloc`]: takes free frames into `pool`; answers with how many.
pub fn frame_alloc(pool: Handle, frames: &[Pfn], fill: Fill) -> Result<u64, Stopped> {
    let flags = match fill {
        Fill::AsTheyAre => 0,
        Fill::Zeroed => exo_abi::calls::alloc_flag::ZERO,
    };
    frames_call(frames, |count| {
        // SAFETY: only free frames, which nobody has mapped, change.
        unsafe { svc::plain_3::<{ Call::FrameAlloc as u64 }>(u64::from(pool.0), count, flags) }
    })
}

/// [`Call::FrameFree`]: gives unmapped frames back; answers with how many.
pub fn frame_free(pool: Handle, frames: &[Pfn]) -> Result<u64, Stopped> {
    frames_call(frames, |count| {
        // SAFETY: the kernel refuses frames that are mapped.
        unsafe { svc::plain_3::<{ Call::FrameFree as u64 }>(u64::from(pool.0), count, 0) }
    })
}

/// [`Call::FrameKind`]: makes unmapped frames data or code; answers with how many.
pub fn frame_kind(pool: Handle, frames: &[Pfn], kind: FrameKind) -> Result<u64, Stopped> {
    frames_call(frames, |count| {
        // SAFETY: the kernel refuses frames that are mapped.
        unsafe { svc::plain_3::<{ Call::FrameKind as u64 }>(u64::from(pool.0), count, kind as u64) }
    })
}

/// [`Call::Map`]: applies entries to the tables of `environment`.
///
/// # Safety
/// When that is the caller's own environment: nothing that Rust believes to be memory may change under it.
#[inline(always)]
pub unsafe fn map(environment: Handle, entries: &[MapEntry]) -> Result<u64, Stopped> {
    if entries.is_empty() || entries.len() > BATCH_ENTRIES as usize {
        return Err(Stopped::TOO_LONG);
    }
    if !batch_is_free() {
        // SAFETY: the caller's promise.
        return unsafe { map_in_between(environment, entries) };
    }
    let entry = |index: usize| [entries[index].first, entries[index].second];
    // SAFETY: the caller's promise.
    with_own_batch(entries.len(), entry, || unsafe { map_batch(environment, entries.len()) })
}

/// [`map`] in an upcall that came while the program was using the buffer.
///
/// # Safety
/// As for [`map`].
#[cold]
#[inline(never)]
unsafe fn map_in_between(environment: Handle, entries: &[MapEntry]) -> Result<u64, Stopped> {
    let entry = |index: usize| [entries[index].first, entries[index].second];
    // SAFETY: the caller's promise.
    with_batch(entries.len(), entry, || unsafe { map_batch(environment, entries.len()) })
}

/// The call itself.
///
/// # Safety
/// As for [`map`].
#[inline(always)]
unsafe fn map_batch(environment: Handle, count: usize) -> Result<u64, Stopped> {
    // SAFETY: the caller's promise.
    done_or_stopped(unsafe { svc::plain_2::<{ Call::Map as u64 }>(u64::from(environment.0), count as u64) })
}

/// [`map`] for another environment's tables; refuses [`Handle::SELF`] as a bad argument.
#[inline(never)]
pub fn map_other(environment: Handle, entries: &[MapEntry]) -> Result<u64, Stopped> {
    if environment == Handle::SELF {
        return Err(Stopped::TOO_LONG);
    }
    // SAFETY: another environment's memory is not ours; who granted itself a second binding of itself is told by `map`.
    unsafe { map(environment, entries) }
}

/// [`Call::Notify`]: raises an event.
#[inline(always)]
pub fn notify(event: Handle) -> Result<(), Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    check(unsafe { svc::switching_2::<{ Call::Notify as u64 }>(u64::from(event.0), 0) }[0])
}

/// [`Call::Wait`]: waits for events of `mask` until the timer passes `alarm` (0: never); answers with the events, perhaps none.
#[inline(always)]
pub fn wait(mask: u64, alarm: u64) -> Result<u64, Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    let [x0, x1] = unsafe { svc::switching_2::<{ Call::Wait as u64 }>(mask, alarm) };
    check(x0).map(|()| x1)
}

/// [`Call::YieldTo`]: gives the rest of the slice to a vcore of an environment, or (`vcore` 0) to who works behind a gate.
#[inline(always)]
pub fn yield_to(environment_or_gate: Handle, vcore: u64) -> Result<(), Refusal> {
    // SAFETY: nothing of the caller's memory changes.
    check(unsafe { svc::switching_2::<{ Call::YieldTo as u64 }>(u64::from(environment_or_gate.0), vcore) }[0])
}

/// [`Call::Halt`]: stops this vcore. Who starts it again at the same place finds it stopping again.
pub fn halt(code: u64) -> ! {
    loop {
        // SAFETY: nothing of the caller's memory changes.
        let _ = unsafe { svc::switching_2::<{ Call::Halt as u64 }>(code, 0) };
    }
}

/// [`Call::Grant`]: copies a binding with `rights` to `slot` of `environment`; `cell` 0 shares its cell, `range` narrows it.
pub fn grant(
    binding: Handle,
    environment: Handle,
    slot: Handle,
    rights: Rights,
    cell: u64,
    range: Option<(u64, u64)>,
) -> Result<(), Refusal> {
    let (first, count) = range.unwrap_or((0, 0));
    // SAFETY: nothing of the caller's memory changes.
    let [x0, ..] = unsafe {
        svc::plain_8::<{ Call::Grant as u64 }>([
            u64::from(binding.0),
            u64::from(environment.0),
            u64::from(slot.0),
            u64::from(rights.bits()),
            cell,
            first,
            count,
            0,
        ])
    };
    check(x0)
}

/// [`Call::TakeBack`]: makes everything that carries `cell` stale.
pub fn take_back(cell: u64) -> Result<(), Refusal> {
    // SAFETY: bindings change, mapped memory does not.
    check(unsafe { svc::plain_3::<{ Call::TakeBack as u64 }>(cell, 0, 0) }[0])
}

/// [`Call::Restrict`]: reduces the rights of a binding; no rights empty the slot.
pub fn restrict(binding: Handle, rights: Rights) -> Result<(), Refusal> {
    // SAFETY: bindings change, mapped memory does not.
    check(unsafe { svc::plain_3::<{ Call::Restrict as u64 }>(u64::from(binding.0), u64::from(rights.bits()), 0) }[0])
}

/// [`Call::DebugWrite`]: writes 1 to 48 bytes to the debug UART.
pub fn debug_write(device: Handle, bytes: &[u8]) -> Result<(), Refusal> {
    let mut words = [0u64; 6];
    if bytes.is_empty() || bytes.len() > 48 {
        return Err(Refusal::BadArgument);
    }
    for (index, byte) in bytes.iter().enumerate() {
        words[index / 8] |= u64::from(*byte) << (index % 8 * 8);
    }
    let [x2, x3, x4, x5, x6, x7] = words;
    // SAFETY: nothing of the caller's memory changes.
    let [x0, ..] = unsafe {
        svc::plain_8::<{ Call::DebugWrite as u64 }>([u64::from(device.0), bytes.len() as u64, x2, x3, x4, x5, x6, x7])
    };
    check(x0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use exo_abi::calls::CALLS;
    use std::format;

    const SOURCES: &str =
        concat!(include_str!("sys.rs"), include_str!("sys/message.rs"), include_str!("sys/objects.rs"),);

    #[test]
    fn every_call_of_the_table_has_a_function_and_its_own_convention() {
        for info in CALLS {
            // `resume` is the end of an upcall, not a function: it stands in the entry, and for tests in `raw_resume`.
            if info.call == Call::Resume {
                continue;
            }
            let number = format!("Call::{:?} as u64", info.call);
            let stubs: std::vec::Vec<&str> = SOURCES.split("svc::").filter(|text| text.contains(&number)).collect();
            assert!(!stubs.is_empty(), "{} has no function", info.name);
            for stub in stubs {
                assert_eq!(stub.starts_with("switching_"), info.call.switches(), "{}", info.name);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_the_kernel_sees_it() {
        let frames = [Pfn(1); 65];
        assert_eq!(frame_free(Handle::POOL, &frames), Err(Stopped::TOO_LONG));
        assert_eq!(frame_free(Handle::POOL, &[]), Err(Stopped::TOO_LONG));
        assert_eq!(map_other(Handle(9), &[MapEntry::unmap(0, 1); 65]), Err(Stopped::TOO_LONG));
        assert_eq!(debug_write(Handle(9), &[0; 49]), Err(Refusal::BadArgument));
        assert_eq!(debug_write(Handle(9), &[]), Err(Refusal::BadArgument));
    }

    #[test]
    fn the_safe_twins_refuse_oneself() {
        assert_eq!(map_other(Handle::SELF, &[MapEntry::unmap(0, 1)]), Err(Stopped::TOO_LONG));
        let start = VcoreStart { control_frame: Pfn(1), control_va: 0, pc: 0, sp: 0, x0: 0, core: 0 };
        assert_eq!(vcore_create_other(Handle::SELF, 1, &start), Err(Refusal::BadArgument));
    }
}
