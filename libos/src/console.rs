//! The console: `print!` and lines of input, through whoever drives it.
//!
//! Where the text goes: to the service `console`; without one to the kernel's debug UART, if this program has a binding to
//! it and no driver has claimed it; else nowhere. A console that died is asked for again at the supervisor. All of it is bounded: what
//! cannot be written within [`PATIENCE`] is dropped.

use crate::event::{CONSOLE_BIT, Event};
use crate::ipc::Gate;
use crate::ipc::names::{self, NotFound};
use crate::protocol::console::{DRAIN, OPEN, READ, READ_LINE, WRITE, flag};
use crate::protocol::{MAX_BYTES, Message, status};
use crate::sys::CallMessage;
use crate::time::{Instant, sleep};
use crate::{start, sys};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Refusal};

/// How long text waits for the console before it is dropped.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How often a reader looks without having been told that there is something: in case that the teller died.
const DOUBT: Duration = Duration::from_millis(500);
/// The pause before a console that is not there is asked for again.
const PAUSE: Duration = Duration::from_millis(5);
/// How long one call may take.
const CALL: Duration = Duration::from_millis(1000);

/// Prints, as `std::print!` does.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => { $crate::console::print(format_args!($($arguments)*)) };
}

/// Prints a line, as `std::println!` does.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arguments:tt)*) => { $crate::console::print_line(format_args!($($arguments)*)) };
}

/// Marks a handle that was not chosen by hand.
const BY_NAME: u64 = !0;

static GATE: AtomicU64 = AtomicU64::new(BY_NAME);
static DEBUG_UART: AtomicU64 = AtomicU64::new(BY_NAME);
/// The Event binding that the console notifies, made at the first read.
static EVENT: AtomicU64 = AtomicU64::new(BY_NAME);
/// Something was printed, and not drained since.
static PRINTED: AtomicBool = AtomicBool::new(false);
/// The console of today knows our event.
static OPENED: AtomicBool = AtomicBool::new(false);

/// Prints to the debug UART by this binding where there is no console service.
pub fn use_debug_uart(device: Handle) {
    DEBUG_UART.store(u64::from(device.0), Relaxed);
}

/// Prints to this gate, whatever was told at the start.
pub fn use_gate(gate: Gate) {
    GATE.store(u64::from(gate.handle().0), Relaxed);
    OPENED.store(false, Relaxed);
}

fn gate() -> Option<Gate> {
    match GATE.load(Relaxed) {
        BY_NAME => start::service("console"),
        handle => Some(Gate::new(Handle(handle as u16))),
    }
}

fn debug_uart() -> Option<Handle> {
    match DEBUG_UART.load(Relaxed) {
        BY_NAME => {
            start::handle("debug").or_else(|| crate::device::Device::named("arm,pl011").map(|device| device.handle()))
        }
        handle => Some(Handle(handle as u16)),
    }
}

/// Prints text.
pub fn print(text: fmt::Arguments) {
    let mut out = Out { bytes: [0; MAX_BYTES], len: 0 };
    let _ = out.write_fmt(text);
    out.send(flag::FLUSH);
}

/// Prints a line.
pub fn print_line(text: fmt::Arguments) {
    let mut out = Out { bytes: [0; MAX_BYTES], len: 0 };
    let _ = out.write_fmt(text);
    let _ = out.write_str("\n");
    out.send(0);
}

/// Waits until everything printed is out, or [`PATIENCE`] ends.
pub fn flush() {
    if !PRINTED.swap(false, Relaxed) {
        return;
    }
    let Some(gate) = gate() else { return };
    let until = Instant::after(PATIENCE);
    while let Ok(reply) = ask(gate, &Message::new(DRAIN), until) {
        if reply.code != status::OK || reply.number == 0 || Instant::now() >= until {
            return;
        }
        sleep(PAUSE);
    }
}

/// Text on its way, in messages.
struct Out {
    bytes: [u8; MAX_BYTES],
    len: usize,
}

impl Out {
    fn send(&mut self, flags: u16) {
        if self.len > 0 {
            let flags = if self.bytes[self.len - 1] == b'\n' { 0 } else { flags };
            send_bytes(&self.bytes[..self.len], flags);
            self.len = 0;
        }
    }
}

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            if self.len == MAX_BYTES {
                self.send(0);
            }
            let part = rest.len().min(MAX_BYTES - self.len);
            self.bytes[self.len..self.len + part].copy_from_slice(&rest[..part]);
            self.len += part;
            rest = &rest[part..];
        }
        Ok(())
    }
}

/// Sends at most [`MAX_BYTES`] bytes.
fn send_bytes(bytes: &[u8], flags: u16) {
    let Some(gate) = gate() else {
        if let Some(device) = debug_uart() {
            let _ = sys::debug_write(device, bytes);
        }
        return;
    };
    PRINTED.store(true, Relaxed);
    let until = Instant::after(PATIENCE);
    let mut rest = bytes;
    while !rest.is_empty() && Instant::now() < until {
        let Ok(reply) = ask(gate, &Message::new(WRITE).with_flags(flags).with_bytes(rest), until) else {
            return;
        };
        let taken = (reply.number as usize).min(rest.len());
        rest = &rest[taken..];
        if taken == 0 && sys::yield_to(gate.handle(), 0).is_err() {
            sleep(PAUSE);
        }
    }
}

/// One request and its reply, over a restart of the console if need be.
fn ask(gate: Gate, message: &Message, until: Instant) -> Result<Message, Refusal> {
    let words = message.to_words();
    loop {
        let call = CallMessage { words, ..CallMessage::default() };
        match gate.call_patiently(&call, until.min(Instant::after(CALL))) {
            Ok(reply) => return Ok(Message::from_words(&reply.words)),
            Err(refusal) if Instant::now() >= until => return Err(refusal),
            Err(Refusal::Stale | Refusal::BadHandle | Refusal::Died) => resolve(gate)?,
            Err(Refusal::Busy | Refusal::DeadlineMissed) => {}
            Err(refusal) => return Err(refusal),
        }
    }
}

/// The console is not there: asks the supervisor for the one that is.
fn resolve(gate: Gate) -> Result<(), Refusal> {
    OPENED.store(false, Relaxed);
    match names::resolve("console", gate.handle(), Instant::after(CALL)) {
        Ok(()) => {}
        Err(NotFound::Down) => sleep(PAUSE),
        Err(NotFound::NotPermitted) => return Err(Refusal::Died),
        Err(NotFound::Refused(refusal)) => return Err(refusal),
    }
    Ok(())
}

/// Waits for input and copies it raw, without echo: at least one byte. Nothing: there is no console to read from.
pub fn read(out: &mut [u8]) -> usize {
    let most = out.len().min(MAX_BYTES);
    let Some(message) = input(&Message::new(READ).with_number(most as u32)) else {
        return 0;
    };
    let bytes = message.as_bytes();
    let count = bytes.len().min(most);
    out[..count].copy_from_slice(&bytes[..count]);
    count
}

/// Waits for a line, which the console echoes and lets be edited; the end of the line is not part of it.
/// `None`: the input ended, or there is no console to read from.
pub fn read_line() -> Option<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let message = input(&Message::new(READ_LINE))?;
        if message.flags & flag::END_OF_INPUT != 0 {
            return None;
        }
        line.extend_from_slice(message.as_bytes());
        if message.flags & flag::END != 0 {
            return Some(line);
        }
    }
}

/// Asks until the reply carries bytes or a flag.
fn input(request: &Message) -> Option<Message> {
    let gate = gate()?;
    loop {
        if !OPENED.load(Relaxed) && open(gate).is_err() {
            sleep(DOUBT);
            continue;
        }
        match ask(gate, request, Instant::after(PATIENCE)) {
            Ok(reply) if reply.code != status::OK => return None,
            Ok(reply) if reply.len > 0 || reply.flags != 0 => return Some(reply),
            Ok(_) if OPENED.load(Relaxed) => {
                crate::event::wait(1 << CONSOLE_BIT, Some(Instant::after(DOUBT)));
            }
            // It is another console than the one we opened, or none for now.
            Ok(_) => {}
            Err(Refusal::Busy | Refusal::DeadlineMissed | Refusal::Died | Refusal::Stale | Refusal::BadHandle) => {
                sleep(PAUSE)
            }
            Err(_) => return None,
        }
    }
}

/// Tells the console which event to notify.
fn open(gate: Gate) -> Result<(), Refusal> {
    let event = match EVENT.load(Relaxed) {
        BY_NAME => {
            let event = Event::of_self(CONSOLE_BIT)?.handle();
            EVENT.store(u64::from(event.0), Relaxed);
            event
        }
        handle => Handle(handle as u16),
    };
    let words = Message::new(OPEN).to_words();
    let call = CallMessage { words, send: Some((event, Rights::EVENT_NOTIFY)), ..CallMessage::default() };
    let answer = gate.call_patiently(&call, Instant::after(CALL));
    match answer {
        Ok(_) => OPENED.store(true, Relaxed),
        Err(Refusal::Stale | Refusal::BadHandle | Refusal::Died) => resolve(gate)?,
        Err(refusal) => return Err(refusal),
    }
    Ok(())
}
