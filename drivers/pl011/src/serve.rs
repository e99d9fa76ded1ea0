//! The driver at work: interrupts and calls in, bytes and notifications out.

use crate::clients::MOST_CLIENTS;
use crate::console::Console;
use crate::uart::{Registers, Uart};
use core::time::Duration;
use exo_abi::Handle;
use libos::device::{self, Device, Interrupt};
use libos::event::{self, Event};
use libos::ipc::{Incoming, Outgoing, Server};
use libos::protocol::Message;
use libos::protocol::console::{OPEN, READ, READ_LINE};
use libos::time::Instant;
use libos::{slots, start};

/// The device, by its `compatible` string.
const DEVICE: &str = "arm,pl011";
/// How often a watched driver gives a sign of life.
const SIGN_EVERY: Duration = Duration::from_millis(100);

impl Registers for device::Registers {
    fn read(&mut self, offset: usize) -> u32 {
        self.read32(offset as u64)
    }

    fn write(&mut self, offset: usize, value: u32) {
        self.write32(offset as u64, value);
    }
}

/// Claims the UART and serves until the end. The code says what was missing.
pub fn main() -> Result<(), &'static str> {
    let device = Device::named(DEVICE).ok_or("the manifest gives the driver no arm,pl011")?;
    let line = device.interrupt(0).ok_or("the UART has no interrupt line")?;
    let registers = device.registers().map_err(|_| "the UART's registers cannot be mapped")?;
    let bit = event::take_bit().ok_or("no event is left")?;
    let mut driver = Driver {
        uart: Uart::claim(registers),
        console: Console::new(ahead()),
        wakes: [None; MOST_CLIENTS],
        accept: slots::take(),
        line,
        watchdog: start::handle("watchdog").map(Event::new),
    };
    line.bind(bit).map_err(|_| "the UART's interrupt cannot be bound")?;
    driver.turn();
    driver.serve(1 << bit)
}

/// How many bytes to fetch before anybody asks: the manifest's first argument.
fn ahead() -> usize {
    start::args().next().and_then(|arg| arg.parse().ok()).unwrap_or(0)
}

/// The event a client is notified by. The badge says whose it is: the client's place may belong to another by now.
#[derive(Clone, Copy)]
struct Wake {
    badge: u64,
    event: Handle,
}

struct Driver {
    uart: Uart<device::Registers>,
    console: Console,
    /// By the clients' places.
    wakes: [Option<Wake>; MOST_CLIENTS],
    /// Where the next event binding arrives; `None`: no slot is left, and clients look again by themselves.
    accept: Option<Handle>,
    line: Interrupt,
    watchdog: Option<Event>,
}

impl Driver {
    fn serve(&mut self, interrupt: u64) -> ! {
        let server = Server::new().events(interrupt | event::CUT);
        let mut outgoing = Outgoing::default();
        let mut sign_due = Instant::now();
        loop {
            if self.watchdog.is_some() && Instant::now() >= sign_due {
                sign_due = Instant::after(SIGN_EVERY);
                let _ = self.watchdog.map(Event::notify);
            }
            outgoing.alarm = self.watchdog.map(|_| sign_due);
            outgoing.accept = self.accept;
            let incoming = server.turn(&outgoing);
            outgoing = Outgoing::default();
            match incoming {
                Incoming::Call { badge, words, binding } => {
                    let request = Message::from_words(&words);
                    outgoing.words = self.answer(badge, &request).to_words();
                    self.keep(badge, &request, binding);
                    self.turn();
                }
                Incoming::Events(events) if events & interrupt != 0 => {
                    self.turn();
                    // The device no longer asserts what was handled: only then may the line interrupt again.
                    let _ = self.line.acknowledge();
                }
                Incoming::Events(_) | Incoming::Refused(_) => {}
            }
        }
    }

    fn answer(&mut self, badge: u64, request: &Message) -> Message {
        let reply = self.console.request(badge, request);
        if !matches!(request.code, READ | READ_LINE) || reply.len > 0 || reply.flags != 0 {
            return reply;
        }
        // It may lie in the device already: bytes are fetched when somebody wants them.
        self.uart.turn(&mut self.console);
        self.console.request(badge, request)
    }

    /// Moves bytes both ways and tells who waits for them.
    fn turn(&mut self) {
        self.uart.turn(&mut self.console);
        while let Some(place) = self.console.take_notification() {
            let badge = self.console.badge(place);
            if let Some(wake) = self.wakes[place.0].filter(|wake| Some(wake.badge) == badge) {
                // Who is dead is not there to be told.
                let _ = Event::new(wake.event).notify();
            }
        }
    }

    /// Keeps the event that came with an OPEN, in place of a former one; any other binding is dropped.
    fn keep(&mut self, badge: u64, request: &Message, binding: Option<Handle>) {
        let Some(event) = binding else { return };
        if request.code != OPEN {
            let _ = libos::sys::restrict(event, exo_abi::binding::Rights::empty());
            return;
        }
        let place = self.console.place(badge);
        let former = self.wakes[place.0].replace(Wake { badge, event });
        self.accept = match former {
            Some(former) => {
                let _ = libos::sys::restrict(former.event, exo_abi::binding::Rights::empty());
                Some(former.event)
            }
            None => slots::take(),
        };
    }
}
