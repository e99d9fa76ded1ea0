//! Who serves an interface: takes calls apart, has the service do them, and puts the answers together.

use super::codec::{self, Malformed};
use super::message::{self, Version, answer, flag, request};
use super::pages::Connections;
use crate::ipc::{self, Incoming, Outgoing, Words};
use crate::mem::Shared;
use crate::protocol::Message;
use core::fmt;
use exo_abi::Handle;
use serde::Serialize;

/// Who calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The badge of the gate it used: chosen by who gave it that, never by itself.
    pub badge: u64,
}

/// A service behind its interface. [`interface!`](crate::interface) implements it for `Served`.
pub trait Dispatch {
    /// What both sides compare.
    const VERSION: Version;
    /// Frames of a connection; 0: everything fits into registers.
    const PAGES: usize;

    /// Does method `method` with the arguments in `request`, and answers.
    fn dispatch(&mut self, caller: Caller, method: u8, request: &[u8], reply: &mut Reply) -> Result<(), Refused>;
}

/// Why a request was not done. Its caller is told the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The client was built for another declaration of the interface.
    Version {
        /// The server's.
        ours: Version,
        /// The client's.
        theirs: Version,
    },
    /// There is no such method, or its arguments make no sense.
    Malformed,
    /// It names shared frames that are not known, or gone.
    NoPages,
}

impl From<Malformed> for Refused {
    fn from(_: Malformed) -> Refused {
        Refused::Malformed
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Refused::Version { ours, theirs } => {
                write!(out, "it speaks version {theirs} of the interface, this service {ours}")
            }
            Refused::Malformed => out.write_str("its request makes no sense"),
            Refused::NoPages => out.write_str("its shared frames are not known"),
        }
    }
}

/// An answer in the making.
pub struct Reply<'a> {
    message: Message,
    shared: Option<&'a Shared>,
}

impl Reply<'_> {
    /// Answers with what a method did.
    #[inline(always)]
    pub fn answer<T: Serialize, E: Serialize>(&mut self, result: Result<T, E>) {
        match result {
            Ok(value) => self.put(answer::DONE, &value),
            Err(error) => self.put(answer::FAILED, &error),
        }
    }

    #[inline(always)]
    fn put<T: Serialize>(&mut self, code: u8, value: &T) {
        self.message.code = code;
        match codec::encode(value) {
            Some((bytes, len)) => (self.message.bytes, self.message.len) = (bytes, len as u8),
            None => self.put_long(value),
        }
    }

    #[cold]
    fn put_long<T: Serialize>(&mut self, value: &T) {
        // What was written before the end was reached is nobody's business.
        self.message.bytes = [0; message::WORD_BYTES];
        match self.shared.and_then(|shared| codec::encode_shared(value, shared)) {
            Some(len) => message::set_long(&mut self.message, len),
            None => self.message.code = answer::TOO_LONG,
        }
    }
}

/// A service at work.
pub struct Server<D> {
    /// The service.
    pub service: D,
    connections: Connections,
    refused: fn(Caller, Refused),
}

impl<D: Dispatch> Server<D> {
    /// Nobody has called yet.
    pub const fn new(service: D) -> Server<D> {
        Server { service, connections: Connections::new(D::PAGES), refused: |_, _| {} }
    }

    /// Tells `refused` of each request that was not done: a client of another version, or one that misbehaves.
    pub const fn on_refused(mut self, refused: fn(Caller, Refused)) -> Server<D> {
        self.refused = refused;
        self
    }

    /// Serves calls only, for ever.
    pub fn serve(mut self) -> ! {
        let gate = ipc::Server::new();
        let mut outgoing = Outgoing::default();
        loop {
            match gate.turn(&outgoing) {
                Incoming::Call { badge, words, binding } => outgoing = self.answer(badge, &words, binding),
                Incoming::Events(_) => outgoing = Outgoing::default(),
                // Only the slot can be the reason: the same answer goes without it.
                Incoming::Refused(_) => outgoing.accept = None,
            }
        }
    }

    /// Answers one call: for who hears other things besides, by an [`ipc::Server`] of its own without an `accept`.
    #[inline]
    pub fn answer(&mut self, badge: u64, words: &Words, binding: Option<Handle>) -> Outgoing {
        let request = Message::from_words(words);
        let message = self.reply(Caller { badge }, &request, binding);
        Outgoing { words: message.to_words(), accept: self.connections.accept(), ..Outgoing::default() }
    }

    #[inline(always)]
    fn reply(&mut self, caller: Caller, request: &Message, binding: Option<Handle>) -> Message {
        if binding.is_some() || request.code >= request::FIRST || request.number != D::VERSION.to_bits() {
            return self.reply_unusual(caller, request, binding);
        }
        let mut reply = Reply { message: message::new(answer::DONE, D::VERSION), shared: None };
        let done = if D::PAGES == 0 || request.flags == 0 {
            self.service.dispatch(caller, request.code, request.as_bytes(), &mut reply)
        } else {
            let long = message::long(request);
            match self.connections.request(caller.badge, request, long) {
                Ok((shared, bytes)) => {
                    reply.shared = Some(shared);
                    let bytes = if long.is_some() { bytes } else { request.as_bytes() };
                    self.service.dispatch(caller, request.code, bytes, &mut reply)
                }
                Err(answer::NO_PAGES) => Err(Refused::NoPages),
                Err(_) => Err(Refused::Malformed),
            }
        };
        match done {
            Ok(()) => reply.message,
            Err(why) => self.refuse(caller, why),
        }
    }

    /// What does not go to the service.
    #[cold]
    fn reply_unusual(&mut self, caller: Caller, request: &Message, binding: Option<Handle>) -> Message {
        let theirs = Version::from_bits(request.number);
        let lends = theirs == D::VERSION && request.code == request::LEND && D::PAGES > 0;
        if let Some(binding) = binding.filter(|_| !lends) {
            self.connections.drop_binding(binding);
        }
        if theirs != D::VERSION {
            return self.refuse(caller, Refused::Version { ours: D::VERSION, theirs });
        }
        match request.code {
            request::OPEN => message::new(self.connections.open(), D::VERSION),
            request::LEND if lends => match self.connections.lend(caller.badge, request, binding) {
                Ok(number) => message::new(answer::READY, D::VERSION).with_flags(u16::from(number)),
                Err(code) => message::new(code, D::VERSION),
            },
            code if code < request::FIRST => self.reply(caller, request, None),
            _ => self.refuse(caller, Refused::Malformed),
        }
    }

    #[cold]
    fn refuse(&mut self, caller: Caller, why: Refused) -> Message {
        (self.refused)(caller, why);
        let code = match why {
            Refused::Version { .. } => answer::VERSION,
            Refused::Malformed => answer::MALFORMED,
            Refused::NoPages => answer::NO_PAGES,
        };
        message::new(code, D::VERSION)
    }
}

// A connection's number is all the flags that a request has besides LONG: anything else makes the number or the length one that is refused.
const _: () = assert!(flag::CONNECTION & flag::LONG == 0);
