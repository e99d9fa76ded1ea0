//! The server's end of a gate.

use super::Words;
use crate::event::ALARM;
use crate::sys::{self, ReplyMessage};
use crate::time::Instant;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Refusal};

/// What a server hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Somebody calls.
    Call {
        /// Which of its callers: the badge of the binding it used.
        badge: u64,
        /// What it says.
        words: Words,
        /// The binding it sent, now in the slot set aside for that.
        binding: Option<Handle>,
    },
    /// Events came: a set of bits.
    Events(u64),
    /// The last reply was refused, and went nowhere yet: say something else.
    Refused(Refusal),
}

/// What a server answers. After events the words go nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The words of the reply.
    pub words: Words,
    /// A binding to send along, and the rights that arrive.
    pub send: Option<(Handle, Rights)>,
    /// The slot for a binding that comes with the next call, when it is not the one of [`Server::accept`].
    pub accept: Option<Handle>,
    /// When to be woken by [`ALARM`].
    pub alarm: Option<Instant>,
}

impl From<Words> for Outgoing {
    fn from(words: Words) -> Outgoing {
        Outgoing { words, ..Outgoing::default() }
    }
}

/// The server's end of this vcore's gate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Server {
    events: u64,
    accept: Option<Handle>,
}

impl Server {
    /// Serves calls only.
    pub const fn new() -> Server {
        Server { events: 0, accept: None }
    }

    /// Hears these events too.
    pub const fn events(mut self, mask: u64) -> Server {
        self.events |= mask;
        self
    }

    /// Sets a slot aside for bindings that callers send. The server empties it, or names another, before the next.
    pub const fn accept(mut self, slot: Handle) -> Server {
        self.accept = Some(slot);
        self
    }

    /// Answers and hears, once.
    pub fn turn(&self, outgoing: &Outgoing) -> Incoming {
        let accept = outgoing.accept.or(self.accept);
        let alarm = outgoing.alarm.map(|alarm| alarm.0);
        if alarm.is_none() && accept.is_none() && outgoing.send.is_none() {
            return incoming(sys::reply_wait_words(self.events, outgoing.words), None);
        }
        let mask = if alarm.is_some() { self.events | ALARM } else { self.events };
        let message = ReplyMessage { words: outgoing.words, mask, alarm, send: outgoing.send, accept };
        incoming(sys::reply_wait(&message), accept)
    }

    /// Answers and hears for ever.
    pub fn serve(&self, mut answer: impl FnMut(Incoming) -> Outgoing) -> ! {
        let mut outgoing = Outgoing::default();
        loop {
            outgoing = answer(self.turn(&outgoing));
        }
    }
}

/// What the registers after `reply_wait` say.
#[inline(always)]
fn incoming(x: [u64; 9], accept: Option<Handle>) -> Incoming {
    let [badge, x1, x2, x3, x4, x5, x6, x7, x8] = x;
    if badge != 0 {
        let binding = if x8 == 1 { accept } else { None };
        return Incoming::Call { badge, words: [x1, x2, x3, x4, x5, x6, x7], binding };
    }
    match Refusal::from_number(x2) {
        Some(refusal) if x1 == 0 => Incoming::Refused(refusal),
        _ => Incoming::Events(x1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_an_event_and_a_refusal_are_told_apart() {
        let slot = Some(Handle(9));
        assert_eq!(
            incoming([5, 1, 2, 3, 4, 5, 6, 7, 1], slot),
            Incoming::Call { badge: 5, words: [1, 2, 3, 4, 5, 6, 7], binding: slot }
        );
        assert_eq!(
            incoming([5, 1, 2, 3, 4, 5, 6, 7, 0], slot),
            Incoming::Call { badge: 5, words: [1, 2, 3, 4, 5, 6, 7], binding: None }
        );
        assert_eq!(incoming([0, 0b101, 0, 0, 0, 0, 0, 0, 0], slot), Incoming::Events(0b101));
        assert_eq!(incoming([0, 0, 19, 0, 0, 0, 0, 0, 0], slot), Incoming::Refused(Refusal::SlotTaken));
        assert_eq!(incoming([0; 9], slot), Incoming::Events(0));
    }
}
