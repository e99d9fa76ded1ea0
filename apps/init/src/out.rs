//! What init says: to the debug UART, and when a driver has claimed that, through the driver's console.
//!
//! Nothing here waits for a driver. What cannot be said now is kept, up to a bound, for the next turn.

use alloc::string::String;
use core::fmt;
use exo_abi::binding::first;
use exo_abi::{Handle, Refusal};
use libos::protocol::{MAX_BYTES, Message, console, status};
use libos::sys;
use libos::time::Instant;

/// Bytes kept at most.
const MOST_PENDING: usize = 6 * 1024;
/// How long a driver may take over a few bytes. When it takes longer nobody knows whether it took them, and they are said again: 2 ms were too
/// little for a driver that just begins.
const PATIENCE_US: u64 = 10_000;
/// Turns of draining before the machine is switched off anyway.
const MOST_DRAINING: u32 = 500;
/// Calls of one turn.
const MOST_CALLS: usize = 256;

/// Text on its way.
#[derive(Debug, Default)]
pub struct Out {
    pending: String,
    lost: usize,
    /// Gate of the console's driver.
    console: Option<Handle>,
}

/// What a turn achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// All of it.
    Everything,
    /// Some is kept for later.
    NotAll,
}

impl Out {
    /// Nothing to say.
    pub const fn new() -> Out {
        Out { pending: String::new(), lost: 0, console: None }
    }

    /// The gate to use while a driver has the UART; `None`: it is down.
    pub fn set_console(&mut self, gate: Option<Handle>) {
        self.console = gate;
    }

    /// Says as much as can be said now.
    pub fn pump(&mut self) -> Said {
        if self.lost > 0 && self.pending.len() < MOST_PENDING / 2 {
            let lost = core::mem::take(&mut self.lost);
            let _ = fmt::Write::write_fmt(self, format_args!("init: {lost} bytes of messages were lost\n"));
        }
        let mut said = 0;
        for _ in 0..MOST_CALLS {
            let rest = &self.pending.as_bytes()[said..];
            if rest.is_empty() {
                break;
            }
            let (line, taken) = for_a_terminal(rest);
            match sys::debug_write(first::DEVICES, line.as_bytes()) {
                Ok(()) => said += taken,
                Err(Refusal::Claimed) => match self.write_to_driver(&rest[..rest.len().min(MAX_BYTES)]) {
                    0 => break,
                    taken => said += taken,
                },
                // There is no UART: nobody will ever hear it.
                Err(_) => said += taken,
            }
        }
        self.pending.drain(..said);
        if self.pending.is_empty() { Said::Everything } else { Said::NotAll }
    }

    /// Says everything and waits until it is on the line, within bounds.
    pub fn drain(&mut self) {
        for _ in 0..MOST_DRAINING {
            let nothing_left = self.pump() == Said::Everything;
            if nothing_left && self.driver_is_done() {
                return;
            }
            let _ = sys::wait(0, (Instant::now() + core::time::Duration::from_millis(1)).0);
        }
    }

    /// Bytes the driver took.
    fn write_to_driver(&self, bytes: &[u8]) -> usize {
        let flags = if bytes.ends_with(b"\n") { 0 } else { console::flag::FLUSH };
        let reply = self.ask(Message::new(console::WRITE).with_bytes(bytes).with_flags(flags));
        reply.map_or(0, |reply| (reply.number as usize).min(bytes.len()))
    }

    fn driver_is_done(&self) -> bool {
        self.console.is_none() || self.ask(Message::new(console::DRAIN)).is_some_and(|reply| reply.number == 0)
    }

    fn ask(&self, request: Message) -> Option<Message> {
        let deadline = Instant::now() + core::time::Duration::from_micros(PATIENCE_US);
        let message = sys::CallMessage { words: request.to_words(), deadline: Some(deadline.0), ..Default::default() };
        let received = sys::call(self.console?, &message).ok()?;
        Some(Message::from_words(&received.words)).filter(|reply| reply.code == status::OK)
    }
}

/// The beginning of `text` as the bare UART needs it, each line feed after a carriage return; and how much of `text` that is.
fn for_a_terminal(text: &[u8]) -> (Message, usize) {
    let mut bytes = [0; MAX_BYTES];
    let (mut len, mut taken) = (0, 0);
    for &byte in text {
        let needed = if byte == b'\n' { 2 } else { 1 };
        if len + needed > MAX_BYTES {
            break;
        }
        bytes[len] = b'\r';
        bytes[len + needed - 1] = byte;
        len += needed;
        taken += 1;
    }
    (Message::new(0).with_bytes(&bytes[..len]), taken)
}

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.pending.len() + text.len() <= MOST_PENDING {
            self.pending.push_str(text);
        } else {
            self.lost += text.len();
        }
        Ok(())
    }
}

/// Says a line: `init: ` and what is formatted.
#[macro_export]
macro_rules! say {
    ($out:expr, $($text:tt)*) => {{
        let _ = core::fmt::Write::write_fmt(&mut $out, format_args!("init: {}\n", format_args!($($text)*)));
    }};
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;

    #[test]
    fn line_feeds_get_their_carriage_return_and_nothing_is_split() {
        let (line, taken) = for_a_terminal(b"one\ntwo\n");
        assert_eq!((line.as_bytes(), taken), (&b"one\r\ntwo\r\n"[..], 8));
        let (line, taken) = for_a_terminal(&[b'x'; 60]);
        assert_eq!((line.as_bytes().len(), taken), (48, 48));
        let mut text = [b'x'; 60];
        text[47] = b'\n';
        assert_eq!(for_a_terminal(&text).1, 47);
    }

    #[test]
    fn what_is_too_much_is_counted_not_kept() {
        let mut out = Out::new();
        for _ in 0..1000 {
            let _ = out.write_str("0123456789");
        }
        assert!(out.pending.len() <= MOST_PENDING);
        assert_eq!(out.pending.len() + out.lost, 10_000);
    }
}
