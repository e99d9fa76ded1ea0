//! Links: how two environments come to share memory, and to wake each other, by two calls through a gate.
//!
//! ```text
//! client                                      server
//!   call: frames, purpose, Pool binding   ->    maps the frames
//!                                         <-  reply: number, its Event binding
//!   call: number, its Event binding       ->    the link is open
//!                                         <-  reply
//! ```
//!
//! The client brings the pool and the memory. The server needs the Pool binding for a moment only: what is mapped stays mapped.
//! Everything a client says is checked, and what half-open links cost the server is bounded by [`MAX_HALF_OPEN`].

use super::shared::{Access, Area, Bit, Frames, SharedPool, SharedWords, Slot, Wake, rights};
use super::{Gate, Outgoing, Words};
use crate::event::Event;
use crate::protocol::status;
#[cfg(doc)]
use crate::slots;
use crate::sys::{self, CallMessage, Received};
use crate::time::Instant;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Refusal};

/// Links that a server keeps half open at most; who opens another one makes it forget the oldest.
pub const MAX_HALF_OPEN: usize = 4;

/// First words of the two calls: a version of this protocol and the step.
const HELLO: u64 = u64::from_le_bytes(*b"VLINK1-H");
const FINISH: u64 = u64::from_le_bytes(*b"VLINK1-F");
/// In the second word of a reply.
const OK: u64 = status::OK as u64;

/// Memory shared with a peer, and how each wakes the other.
#[derive(Clone, Debug)]
pub struct Link {
    memory: Arc<SharedWords>,
    wake: Arc<Wake>,
}

/// Why a link was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// The kernel refused.
    Refused(Refusal),
    /// The server declined, with a status ([`status`]) or a reply that makes no sense.
    Declined(u64),
    /// No event bit or no slot is left.
    Full,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Failed {
        Failed::Refused(refusal)
    }
}

impl core::fmt::Display for Failed {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Failed::Refused(refusal) => refusal.fmt(out),
            Failed::Declined(code) => out.write_str(status::text(u8::try_from(*code).unwrap_or(u8::MAX))),
            Failed::Full => out.write_str("no event or no slot is left"),
        }
    }
}

impl core::error::Error for Failed {}

impl Link {
    /// Opens a link to the server behind `gate`, which gets `access` to `memory`, frames of `pool`. What `purpose` means is between the two.
    /// The calling vcore is the one that can wait with it.
    pub fn open(
        gate: Gate,
        pool: &SharedPool,
        memory: &Arc<SharedWords>,
        access: Access,
        purpose: u64,
        deadline: Instant,
    ) -> Result<Link, Failed> {
        let (peer, bit) = (Slot::take().ok_or(Failed::Full)?, Bit::take().ok_or(Failed::Full)?);
        let mine = Slot(Event::of_self(bit.0)?.handle());
        let [a, b, c, d] = memory.frames()?.words();
        let hello = CallMessage {
            words: [HELLO, a, b, c, d, purpose, access as u64],
            send: Some((pool.handle(), rights(access))),
            accept: Some(peer.0),
            ..CallMessage::default()
        };
        let [_, number, ..] = accepted(gate.call_patiently(&hello, deadline)?, true)?;
        let finish = CallMessage {
            words: [FINISH, number, 0, 0, 0, 0, 0],
            send: Some((mine.0, Rights::EVENT_NOTIFY)),
            ..CallMessage::default()
        };
        accepted(gate.call_patiently(&finish, deadline)?, false)?;
        Ok(Link { memory: memory.clone(), wake: Arc::new(Wake::of(bit, peer)) })
    }

    /// The memory.
    pub const fn memory(&self) -> &Arc<SharedWords> {
        &self.memory
    }

    /// Part of the memory; `None`: it has not so many pages.
    pub fn area(&self, first: u64, pages: u64) -> Option<Area> {
        Area::new(&self.memory, first, pages)
    }

    /// How each side wakes the other: the bell of everything that stands on this link.
    pub fn bell(&self) -> Arc<Wake> {
        self.wake.clone()
    }
}

/// The words of a reply that accepts, with a binding where one is wanted.
fn accepted(reply: Received, binding: bool) -> Result<Words, Failed> {
    if reply.words[0] != OK || reply.binding != binding {
        return Err(Failed::Declined(reply.words[0]));
    }
    Ok(reply.words)
}

/// A link whose client has not sent its event yet.
struct HalfOpen {
    badge: u64,
    number: u64,
    purpose: u64,
    memory: SharedWords,
    bit: Bit,
    mine: Slot,
}

/// What a call meant to a [`Listener`].
pub enum Heard {
    /// It is none of its calls; the binding that came with it, if any, is the caller's now, in a slot to be emptied by [`slots::empty`].
    NotMine(Option<Handle>),
    /// It is answered with this.
    Answered(Outgoing),
    /// A link is open; the call is answered with this. To decline, drop the link.
    Opened {
        /// The link.
        link: Link,
        /// Who opened it: the badge of its binding.
        badge: u64,
        /// What for.
        purpose: u64,
        /// The answer.
        answer: Outgoing,
    },
}

/// The server's part: it understands the calls that open links.
pub struct Listener {
    accept: Slot,
    half_open: Vec<HalfOpen>,
    next: u64,
}

impl Listener {
    /// Sets a slot aside for the bindings that come with such calls. The links are the calling vcore's.
    pub fn new() -> Result<Listener, Failed> {
        Ok(Listener { accept: Slot::take().ok_or(Failed::Full)?, half_open: Vec::new(), next: 1 })
    }

    /// Where the binding of the next call has to go: [`Outgoing::accept`] of every turn.
    pub const fn slot(&self) -> Handle {
        self.accept.0
    }

    /// Looks at a call, whose binding, if any, came to [`Listener::slot`].
    pub fn hear(&mut self, badge: u64, words: &Words, binding: Option<Handle>) -> Heard {
        let heard = match (words[0], binding) {
            (HELLO, Some(_)) => match self.hello(badge, words) {
                Ok(answer) => Heard::Answered(answer),
                Err(code) => decline(code),
            },
            (FINISH, Some(_)) => self.finish(badge, words),
            (HELLO | FINISH, None) => decline(status::BAD),
            (_, binding) => Heard::NotMine(binding.and_then(|_| self.keep()).map(|kept| ManuallyDrop::new(kept).0)),
        };
        if binding.is_some() {
            // What is left in the slot is of no use.
            let _ = sys::restrict(self.accept.0, Rights::empty());
        }
        heard
    }

    /// Takes the binding that came; the next has another slot to go to. `None`: no slot is left.
    fn keep(&mut self) -> Option<Slot> {
        Slot::take().map(|next| core::mem::replace(&mut self.accept, next))
    }

    fn hello(&mut self, badge: u64, words: &Words) -> Result<Outgoing, u8> {
        let [_, a, b, c, d, purpose, access] = *words;
        let frames = Frames::from_words([a, b, c, d]).ok_or(status::BAD)?;
        let access = match access {
            access if access == Access::Read as u64 => Access::Read,
            access if access == Access::Write as u64 => Access::Write,
            _ => return Err(status::BAD),
        };
        if self.half_open.len() == MAX_HALF_OPEN {
            self.half_open.remove(0);
        }
        let bit = Bit::take().ok_or(status::FULL)?;
        let mine = Slot(Event::of_self(bit.0).map_err(|_| status::FULL)?.handle());
        // The binding is needed for this moment only.
        let binding = ManuallyDrop::new(self.keep().ok_or(status::FULL)?);
        let pool = SharedPool::received(binding.0).map_err(|_| status::BAD)?;
        let memory = SharedWords::map(&pool, frames, access).map_err(|_| status::BAD)?;
        let number = self.next;
        self.next += 1;
        let answer = Outgoing {
            words: [OK, number, 0, 0, 0, 0, 0],
            send: Some((mine.0, Rights::EVENT_NOTIFY)),
            ..Outgoing::default()
        };
        self.half_open.push(HalfOpen { badge, number, purpose, memory, bit, mine });
        Ok(answer)
    }

    fn finish(&mut self, badge: u64, words: &Words) -> Heard {
        let same = |half: &HalfOpen| half.badge == badge && half.number == words[1];
        let Some(index) = self.half_open.iter().position(same) else { return decline(status::NOT_FOUND) };
        let HalfOpen { purpose, memory, bit, mine, .. } = self.half_open.remove(index);
        drop(mine);
        // Raised once, to see that it is an event.
        if Event::new(self.accept.0).notify().is_err() {
            return decline(status::BAD);
        }
        let Some(peer) = self.keep() else { return decline(status::FULL) };
        let link = Link { memory: Arc::new(memory), wake: Arc::new(Wake::of(bit, peer)) };
        Heard::Opened { link, badge, purpose, answer: Outgoing::from([OK, 0, 0, 0, 0, 0, 0]) }
    }
}

fn decline(code: u8) -> Heard {
    Heard::Answered(Outgoing::from([u64::from(code), 0, 0, 0, 0, 0, 0]))
}
