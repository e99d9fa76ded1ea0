//! The two calls that carry words from one environment to another.

use super::svc;
use exo_abi::binding::Rights;
use exo_abi::calls::{call_flag, reply_flag};
use exo_abi::refusal::check;
use exo_abi::{Call, Handle, Refusal};

/// What goes to the other side of a gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallMessage {
    /// x1 to x7.
    pub words: [u64; 7],
    /// When to give up, in timer ticks.
    pub deadline: Option<u64>,
    /// A binding to send along, which needs GRANT, and the rights that arrive.
    pub send: Option<(Handle, Rights)>,
    /// An empty slot for a binding that comes with the reply.
    pub accept: Option<Handle>,
}

/// What comes back: the words, and whether a binding arrived in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// x1 to x7.
    pub words: [u64; 7],
    /// A binding arrived in the accept slot.
    pub binding: bool,
}

/// [`Call::Call`] with nothing but words; `gate` is the handle, as wide as the register.
#[inline(always)]
pub fn call_words(gate: u64, words: [u64; 7]) -> Result<[u64; 7], Refusal> {
    // SAFETY: the callee is another protection domain; nothing of the caller's memory changes.
    let [x0, x1, x2, x3, x4, x5, x6, x7, _] = unsafe { svc::switching_8::<{ Call::Call as u64 }>(gate, words) };
    check(x0).map(|()| [x1, x2, x3, x4, x5, x6, x7])
}

/// [`Call::Call`] without words: the other side finds what happens to be in the registers, and its words are dropped.
#[inline(always)]
pub fn call_empty(gate: u64) -> Result<(), Refusal> {
    // SAFETY: as above.
    check(unsafe { svc::switching_0::<{ Call::Call as u64 }>(gate) })
}

/// [`Call::Call`] with words and a deadline in timer ticks.
#[inline(always)]
pub fn call_words_until(gate: Handle, words: [u64; 7], deadline: u64) -> Result<[u64; 7], Refusal> {
    let x0 = u64::from(gate.0) | call_flag::DEADLINE;
    // SAFETY: as above.
    let [x0, x1, x2, x3, x4, x5, x6, x7, _] =
        unsafe { svc::switching_11::<{ Call::Call as u64 }>(x0, words, deadline, 0, 0) };
    check(x0).map(|()| [x1, x2, x3, x4, x5, x6, x7])
}

/// [`Call::Call`] with everything it can carry.
pub fn call(gate: Handle, message: &CallMessage) -> Result<Received, Refusal> {
    let mut x0 = u64::from(gate.0);
    for (there, flag) in [
        (message.deadline.is_some(), call_flag::DEADLINE),
        (message.send.is_some(), call_flag::SEND),
        (message.accept.is_some(), call_flag::ACCEPT),
    ] {
        if there {
            x0 |= flag;
        }
    }
    // SAFETY: as above.
    let [x0, x1, x2, x3, x4, x5, x6, x7, x8] = unsafe {
        svc::switching_11::<{ Call::Call as u64 }>(
            x0,
            message.words,
            message.deadline.unwrap_or(0),
            sent(message.send),
            message.accept.map_or(0, |handle| u64::from(handle.0)),
        )
    };
    check(x0).map(|()| Received { words: [x1, x2, x3, x4, x5, x6, x7], binding: x8 == 1 })
}

/// What answers a caller, and what is waited for then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyMessage {
    /// x1 to x7 for the caller; unused when there is none.
    pub words: [u64; 7],
    /// Events that end the wait.
    pub mask: u64,
    /// When event ALARM is raised, in timer ticks; it ends the wait when the mask has it.
    pub alarm: Option<u64>,
    /// A binding to send along, which needs GRANT, and the rights that arrive.
    pub send: Option<(Handle, Rights)>,
    /// An empty slot for a binding that comes with the next call.
    pub accept: Option<Handle>,
}

/// [`Call::ReplyWait`] with words only: x0 to x8 as the kernel returns them.
#[inline(always)]
pub fn reply_wait_words(mask: u64, words: [u64; 7]) -> [u64; 9] {
    // SAFETY: the callers are other protection domains; nothing of the caller's memory changes.
    unsafe { svc::switching_8::<{ Call::ReplyWait as u64 }>(mask, words) }
}

/// [`Call::ReplyWait`] with everything it can carry: x0 to x8 as the kernel returns them.
pub fn reply_wait(message: &ReplyMessage) -> [u64; 9] {
    let mut x0 = message.mask;
    for (there, flag) in [
        (message.alarm.is_some(), reply_flag::ALARM),
        (message.send.is_some(), reply_flag::SEND),
        (message.accept.is_some(), reply_flag::ACCEPT),
    ] {
        if there {
            x0 |= flag;
        }
    }
    // SAFETY: as above.
    unsafe {
        svc::switching_11::<{ Call::ReplyWait as u64 }>(
            x0,
            message.words,
            message.alarm.unwrap_or(0),
            sent(message.send),
            message.accept.map_or(0, |handle| u64::from(handle.0)),
        )
    }
}

fn sent(send: Option<(Handle, Rights)>) -> u64 {
    send.map_or(0, |(handle, rights)| u64::from(handle.0) | u64::from(rights.bits()) << 16)
}
