//! Who calls an interface: sends requests, checks answers, finds the server again after its restart.

use super::codec;
use super::error::{CallError, Error};
use super::lent::Lent;
use super::message::{self, Version, answer, flag, request};
use crate::ipc::names::{self, NotFound};
use crate::ipc::{Gate, Words};
use crate::protocol::Message;
use crate::slots;
use crate::sys::CallMessage;
use crate::time::{self, Instant};
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Refusal};
use serde::{Deserialize, Serialize};

/// How long a call may take unless [`Client::set_patience`] says otherwise, a restart of the server included.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How often one call is begun anew at most: after a restart of the server, or when that has forgotten the shared frames.
const MOST_TRIES: u32 = 8;

/// Ticks of a deadline that never comes.
const FOR_EVER: u64 = u64::MAX;

/// Whether a call may be made again when nobody knows if it was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// Doing it twice is doing it once: it is made again after a restart of the server.
    Idempotent,
    /// It fails when the server is not the one of the call before, or dies.
    Never,
}

/// The client's side of an interface. [`interface!`](crate::interface) puts typed methods around it.
pub struct Client {
    gate: Gate,
    /// What the supervisor knows the service by, whose gate lies in a slot of this client's own; empty: it cannot be found again.
    name: &'static str,
    version: Version,
    /// Ticks of the timer, or [`FOR_EVER`].
    patience: u64,
    /// The last answer.
    pub(super) received: Message,
    /// The server is not the one that the gate leads to.
    lost: bool,
    pages: usize,
    /// What is lent to whatever server there is.
    lent: Option<Lent>,
    /// The number under which the present server knows what is lent; 0: it does not.
    connection: u8,
    /// Frames cannot be lent: not tried again for what does not need them.
    unlendable: bool,
}

impl Client {
    /// A client of the service of this name, which the manifest must let this program call. The first call looks for it.
    pub fn named(version: Version, pages: usize, name: &str) -> Result<Client, CallError> {
        let name = crate::start::named(name).ok_or(CallError::NotPermitted)?.name;
        // A slot of its own: another client that finds the service again after a restart must not hide that from this one.
        let slot = slots::take().ok_or(CallError::Refused(Refusal::SlotTaken))?;
        let gate = Gate::new(slot);
        let mut client = Client::over(version, pages, gate);
        (client.name, client.lost) = (name, true);
        Ok(client)
    }

    /// A client of whoever is behind a gate. When that dies nobody else is looked for.
    pub fn over(version: Version, pages: usize, gate: Gate) -> Client {
        Client {
            gate,
            name: "",
            version,
            patience: time::ticks(PATIENCE),
            received: message::new(answer::DONE, version),
            lost: false,
            pages,
            lent: None,
            connection: 0,
            unlendable: false,
        }
    }

    /// Trusts the server to answer: calls have no deadline from now on, which makes them cheaper.
    pub fn trust(&mut self) {
        self.patience = FOR_EVER;
    }

    /// How long each call may take from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = time::ticks(patience);
    }

    /// Calls a method. What the arguments and the result are, the interface says; the result may borrow from what the client received.
    #[inline(always)]
    pub fn call<'a, Q, T, E>(&'a mut self, method: u8, repeat: Repeat, arguments: &Q) -> Result<T, Error<E>>
    where
        Q: Serialize,
        T: Deserialize<'a>,
        E: Deserialize<'a>,
    {
        let mut request = message::new(method, self.version);
        match codec::encode(arguments) {
            Some((bytes, len)) => (request.bytes, request.len) = (bytes, len as u8),
            None => self.encode_long(arguments, &mut request)?,
        }
        self.received = self.exchange(request, repeat)?;
        match self.received.code {
            answer::DONE => self.decode(),
            answer::FAILED => Err(Error::Service(self.decode()?)),
            code => Err(failure(code).into()),
        }
    }

    /// The value in the answer. Its bytes are the client's own by now: nobody changes them under the decoder.
    #[inline(always)]
    pub(super) fn decode<'a, T: Deserialize<'a>, E>(&'a mut self) -> Result<T, Error<E>> {
        let value = match message::long(&self.received) {
            None => codec::decode_payload(&self.received.bytes, usize::from(self.received.len)),
            Some(bytes) => self.decode_long(bytes),
        };
        value.map_err(|_| CallError::BadAnswer.into())
    }

    #[cold]
    fn decode_long<'a, T: Deserialize<'a>>(&'a mut self, bytes: usize) -> Result<T, codec::Malformed> {
        let lent = self.lent.as_mut().ok_or(codec::Malformed)?;
        lent.copy_out(bytes).ok_or(codec::Malformed).and_then(codec::decode)
    }

    /// Writes arguments that do not fit into registers into the frames that are lent.
    #[cold]
    fn encode_long<Q: Serialize>(&mut self, arguments: &Q, request: &mut Message) -> Result<(), CallError> {
        request.bytes = [0; message::WORD_BYTES];
        if self.pages == 0 {
            return Err(CallError::RequestTooLong);
        }
        let lent = self.have_lent().map_err(CallError::NoPages)?;
        let len = lent.shared().and_then(|shared| codec::encode_shared(arguments, shared));
        message::set_long(request, len.ok_or(CallError::RequestTooLong)?);
        Ok(())
    }

    fn have_lent(&mut self) -> Result<&mut Lent, Refusal> {
        match &mut self.lent {
            Some(lent) => Ok(lent),
            none => Ok(none.insert(Lent::new(self.pages)?)),
        }
    }

    /// Sends a request and hears the answer.
    #[inline(always)]
    fn exchange(&mut self, mut request: Message, repeat: Repeat) -> Result<Message, CallError> {
        let deadline = match self.patience {
            FOR_EVER => Instant(FOR_EVER),
            patience => Instant(Instant::now().0.saturating_add(patience)),
        };
        // The plain case: the server is known, and everything stands in registers or is lent already.
        if !self.lost && (self.pages == 0 || self.connection != 0) {
            request.flags |= u16::from(self.connection);
            match self.ask(&request, deadline) {
                Ok(reply) if reply.code != answer::NO_PAGES => return Ok(reply),
                Ok(_) => self.connection = 0,
                Err(error) => self.after(error, repeat)?,
            }
        }
        self.exchange_anew(request, repeat, deadline)
    }

    /// Finds the server, lends it frames, and sends the request, until there is an answer or no point in it.
    #[cold]
    fn exchange_anew(&mut self, mut request: Message, repeat: Repeat, deadline: Instant) -> Result<Message, CallError> {
        let mut last = CallError::BadAnswer;
        for _ in 0..MOST_TRIES {
            let attempt = self.prepare(request.flags & flag::LONG != 0, deadline).and_then(|()| {
                request.flags = request.flags & flag::LONG | u16::from(self.connection);
                self.ask(&request, deadline)
            });
            match attempt {
                Ok(reply) if reply.code != answer::NO_PAGES => return Ok(reply),
                // Nothing was done: the server has forgotten this client.
                Ok(_) => self.connection = 0,
                Err(error) => {
                    self.after(error, repeat)?;
                    last = error;
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(last)
    }

    /// What a failed attempt means: nothing if there may be another.
    fn after(&mut self, error: CallError, repeat: Repeat) -> Result<(), CallError> {
        if !error.ends_server() {
            return Err(error);
        }
        self.lost = true;
        self.connection = 0;
        if repeat == Repeat::Never || self.name.is_empty() { Err(error) } else { Ok(()) }
    }

    /// A server is known, and has frames if the interface has any.
    fn prepare(&mut self, long: bool, deadline: Instant) -> Result<(), CallError> {
        if self.lost {
            self.find(deadline)?;
        }
        if self.pages == 0 || self.connection != 0 || self.unlendable && !long {
            return Ok(());
        }
        match self.lend(deadline) {
            // A short request can do without; a long answer to it cannot.
            Err(CallError::NoPages(_) | CallError::NoRoom) if !long => {
                self.unlendable = true;
                Ok(())
            }
            lent => lent,
        }
    }

    /// Asks the supervisor for the server of today.
    fn find(&mut self, deadline: Instant) -> Result<(), CallError> {
        if self.name.is_empty() {
            return Err(CallError::Gone);
        }
        names::await_service(self.name, self.gate.handle(), deadline).map_err(|why| match why {
            NotFound::NotPermitted => CallError::NotPermitted,
            NotFound::Down => CallError::Gone,
            NotFound::Refused(refusal) => CallError::of_gate(refusal),
        })?;
        self.lost = false;
        Ok(())
    }

    /// Lends frames to the server.
    fn lend(&mut self, deadline: Instant) -> Result<(), CallError> {
        let lent = self.have_lent().map_err(CallError::NoPages)?;
        let (pool, frames) = (lent.pool(), *lent.frames());
        let mut offer = message::new(request::LEND, self.version);
        for (bytes, frame) in offer.bytes.chunks_exact_mut(8).zip(frames) {
            bytes.copy_from_slice(&frame.0.to_le_bytes());
        }
        offer.len = message::WORD_BYTES as u8;
        let send = Some((pool, Rights::POOL_READ | Rights::POOL_WRITE));
        for _ in 0..MOST_TRIES {
            match self.ask(&message::new(request::OPEN, self.version), deadline)?.code {
                answer::READY => {}
                code => return Err(failure(code)),
            }
            match self.ask_with(&offer, send, deadline) {
                Ok(reply) if reply.code == answer::READY && reply.flags & flag::CONNECTION != 0 => {
                    self.connection = (reply.flags & flag::CONNECTION) as u8;
                    return Ok(());
                }
                // Somebody else used the slot, or it was shut again.
                Ok(reply) if reply.code == answer::NO_PAGES => {}
                Err(CallError::Refused(Refusal::SlotTaken)) => {}
                Ok(reply) => return Err(failure(reply.code)),
                Err(error) => return Err(error),
            }
        }
        Err(CallError::NoRoom)
    }

    #[inline(always)]
    fn ask(&self, request: &Message, deadline: Instant) -> Result<Message, CallError> {
        self.ask_with(request, None, deadline)
    }

    /// One call; an answer of another version is an error.
    #[inline(always)]
    fn ask_with(
        &self,
        request: &Message,
        send: Option<(Handle, Rights)>,
        deadline: Instant,
    ) -> Result<Message, CallError> {
        let words = request.to_words();
        let reply = match (deadline, send) {
            // The kernel's fast path, which knows no deadlines.
            (Instant(FOR_EVER), None) => self.or_patiently(self.gate.call(words), words, deadline),
            (_, None) => self.or_patiently(self.gate.call_until(words, deadline), words, deadline),
            _ => self.call_patiently(words, send, deadline),
        };
        let reply = Message::from_words(&reply.map_err(CallError::of_gate)?);
        if reply.number != self.version.to_bits() {
            return Err(CallError::Version { ours: self.version, theirs: Version::from_bits(reply.number) });
        }
        Ok(reply)
    }

    /// The answer of a first attempt, or of others while the gate is shut.
    #[inline(always)]
    fn or_patiently(&self, first: Result<Words, Refusal>, words: Words, deadline: Instant) -> Result<Words, Refusal> {
        match first {
            Err(Refusal::Busy) => self.call_patiently(words, None, deadline),
            answer => answer,
        }
    }

    #[cold]
    fn call_patiently(
        &self,
        words: Words,
        send: Option<(Handle, Rights)>,
        deadline: Instant,
    ) -> Result<Words, Refusal> {
        let call = CallMessage { words, send, ..CallMessage::default() };
        self.gate.call_patiently(&call, deadline).map(|reply| reply.words)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            slots::empty(self.gate.handle());
        }
    }
}

/// What an answer without a value means.
#[cold]
fn failure(code: u8) -> CallError {
    match code {
        answer::MALFORMED => CallError::BadRequest,
        answer::TOO_LONG => CallError::AnswerTooLong,
        answer::NO_ROOM => CallError::NoRoom,
        _ => CallError::BadAnswer,
    }
}
