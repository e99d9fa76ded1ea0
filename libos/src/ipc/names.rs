//! Services by name: the supervisor sends the gate of a service to whom the manifest lets call it.

use crate::protocol::{status, supervisor};
use crate::sys::{self, CallMessage};
use crate::time::{Instant, sleep};
use crate::{ipc::Gate, start};
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Refusal};

/// The pause before a service that is not there is asked for again.
const PAUSE: Duration = Duration::from_millis(5);

/// Why a service was not found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotFound {
    /// The manifest does not let this program call it, or there is no such service.
    NotPermitted,
    /// It is down.
    Down,
    /// The supervisor could not be asked.
    Refused(Refusal),
}

/// The gate of a service as it was handed over at the start; it may be down or gone. `None`: the manifest does not name it.
pub fn gate(name: &str) -> Option<Gate> {
    start::service(name)
}

/// Asks the supervisor once for the gate of a service, which then lies in `slot` in place of what was there.
pub fn resolve(name: &str, slot: Handle, until: Instant) -> Result<(), NotFound> {
    let supervisor = gate("init").ok_or(NotFound::NotPermitted)?;
    // The slot must be empty to accept another binding. It may be so already.
    let _ = sys::restrict(slot, Rights::empty());
    let words = supervisor::request_named(supervisor::RESOLVE, name);
    let call = CallMessage { words, accept: Some(slot), ..CallMessage::default() };
    let reply = supervisor.call_patiently(&call, until).map_err(NotFound::Refused)?;
    match (supervisor::head(&reply.words).0, reply.binding) {
        (status::OK, true) => Ok(()),
        (status::FORBIDDEN, _) => Err(NotFound::NotPermitted),
        _ => Err(NotFound::Down),
    }
}

/// [`resolve`], again and again until the service is there.
pub fn await_service(name: &str, slot: Handle, until: Instant) -> Result<(), NotFound> {
    let mut last = Ok(());
    loop {
        match (resolve(name, slot, until), last) {
            // The moment passed on the way to the supervisor: what it said before counts.
            (Err(NotFound::Refused(Refusal::DeadlineMissed)), Err(NotFound::Down)) => return last,
            (Err(NotFound::Down), _) if Instant::now() < until => {
                last = Err(NotFound::Down);
                sleep(PAUSE);
            }
            (found, _) => return found,
        }
    }
}
