//! The client's end of a gate.

use super::Words;
use crate::sys::{self, CallMessage, Received};
use crate::time::Instant;
use core::time::Duration;
use exo_abi::{Handle, Refusal};

/// How long a patient caller sleeps when lending its slice does not help.
const PAUSE: Duration = Duration::from_millis(1);

/// The client's end of a gate: its handle, as wide as the register that a call takes it from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate(u64);

impl Gate {
    /// The gate that a binding of ours names.
    pub const fn new(handle: Handle) -> Gate {
        Gate(handle.0 as u64)
    }

    /// Its binding.
    pub const fn handle(self) -> Handle {
        Handle(self.0 as u16)
    }

    /// Calls without words, and waits for the reply: the other side finds what happens to be in the registers, and its words are dropped.
    #[inline(always)]
    pub fn knock(self) -> Result<(), Refusal> {
        sys::call_empty(self.0)
    }

    /// Calls, and waits for the reply.
    #[inline(always)]
    pub fn call(self, words: Words) -> Result<Words, Refusal> {
        sys::call_words(self.0, words)
    }

    /// Calls; the reply must come before `deadline`.
    #[inline(always)]
    pub fn call_until(self, words: Words, deadline: Instant) -> Result<Words, Refusal> {
        sys::call_words_until(self.handle(), words, deadline.0)
    }

    /// Calls with everything a message can carry.
    pub fn call_with(self, message: &CallMessage) -> Result<Received, Refusal> {
        sys::call(self.handle(), message)
    }

    /// Calls; while the gate is shut it lends its slice to who works behind it, or sleeps, until `deadline`, which is the call's too.
    pub fn call_patiently(self, message: &CallMessage, deadline: Instant) -> Result<Received, Refusal> {
        let message = CallMessage { deadline: Some(deadline.0), ..*message };
        loop {
            match self.call_with(&message) {
                Err(Refusal::Busy) if Instant::now() < deadline => {
                    if sys::yield_to(self.handle(), 0).is_err() {
                        crate::time::sleep(PAUSE);
                    }
                }
                answer => return answer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patient_caller_gives_up_on_what_patience_does_not_mend() {
        let refused = Gate::new(Handle(3)).call_patiently(&CallMessage::default(), Instant(u64::MAX));
        assert_eq!(refused, Err(Refusal::NoSuchCall));
    }
}
