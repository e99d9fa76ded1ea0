//! Why a typed call has no result.

use super::message::Version;
use core::fmt;
use exo_abi::Refusal;
use serde::{Deserialize, Serialize};

/// Why a call has no result: what the service says, or what befell the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error<E = NoError> {
    /// The service did it and failed.
    Service(E),
    /// The service did not say anything of the kind.
    Call(CallError),
}

impl<E> From<CallError> for Error<E> {
    fn from(error: CallError) -> Error<E> {
        Error::Call(error)
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Service(error) => error.fmt(out),
            Error::Call(error) => error.fmt(out),
        }
    }
}

impl<E: fmt::Display + fmt::Debug> core::error::Error for Error<E> {}

/// What befell a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallError {
    /// The manifest does not let this program call the service. Nothing was done.
    NotPermitted,
    /// The server is down, or was restarted since the last call; the next call looks for the new one. Nothing was done.
    Gone,
    /// The server died before it answered: who knows what it did. The next call looks for the new one.
    Died,
    /// The server was busy until the deadline. Nothing was done.
    Busy,
    /// No answer came before the deadline: who knows what was done.
    Timeout,
    /// The kernel refused the call otherwise. Nothing was done.
    Refused(Refusal),
    /// The two sides were built for different declarations of the interface. Nothing was done.
    Version {
        /// The client's.
        ours: Version,
        /// The server's.
        theirs: Version,
    },
    /// The server says that the request makes no sense to it. Nothing was done.
    BadRequest,
    /// The server's answer makes no sense. Who knows what it did.
    BadAnswer,
    /// The arguments are longer than the interface's frames. Nothing was done.
    RequestTooLong,
    /// The answer is longer than the interface's frames. It was done.
    AnswerTooLong,
    /// The arguments need shared frames, which this program cannot make (its manifest gives no `pools`, or its quota is used up). Nothing was done.
    NoPages(Refusal),
    /// The arguments need shared frames, which the server does not take. Nothing was done.
    NoRoom,
}

impl CallError {
    /// Why a gate refused a call.
    pub(super) fn of_gate(refusal: Refusal) -> CallError {
        match refusal {
            Refusal::Busy => CallError::Busy,
            Refusal::DeadlineMissed => CallError::Timeout,
            Refusal::Died => CallError::Died,
            Refusal::Stale | Refusal::BadHandle => CallError::Gone,
            refusal => CallError::Refused(refusal),
        }
    }

    /// Another server may stand where this one was.
    pub(super) fn ends_server(self) -> bool {
        matches!(self, CallError::Gone | CallError::Died)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let text = match self {
            CallError::Refused(refusal) => return write!(out, "the call was refused: {refusal}"),
            CallError::NoPages(refusal) => return write!(out, "no frames can be shared with the service: {refusal}"),
            CallError::Version { ours, theirs } => {
                return write!(out, "the service speaks version {theirs} of the interface, this program {ours}");
            }
            CallError::NotPermitted => "the manifest does not let this program call the service",
            CallError::Gone => "the service is down or was restarted",
            CallError::Died => "the service died before it answered",
            CallError::Busy => "the service is busy",
            CallError::Timeout => "the service did not answer in time",
            CallError::BadRequest => "the service does not understand the request",
            CallError::BadAnswer => "the service's answer makes no sense",
            CallError::RequestTooLong => "the arguments are longer than the interface permits",
            CallError::AnswerTooLong => "the answer is longer than the interface permits",
            CallError::NoRoom => "the service takes no shared frames",
        };
        out.write_str(text)
    }
}

impl core::error::Error for CallError {}

/// The error of methods that have none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NoError {}

impl fmt::Display for NoError {
    fn fmt(&self, _: &mut fmt::Formatter) -> fmt::Result {
        match *self {}
    }
}
