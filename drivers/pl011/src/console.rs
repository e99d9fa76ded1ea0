//! The console behind the gate: lines of several programs go out whole, input goes to the program that asked last.
//!
//! Nothing here waits. Who gets nothing, or cannot put everything in, is notified when that changes; who never comes back
//! for it keeps one place of a bounded table until somebody needs it.

use crate::clients::{CLIENT_BYTES, Clients, MOST_CLIENTS, Place};
use crate::line::{End, Line};
use crate::ring::Ring;
use crate::screen::Screen;
use libos::protocol::console::{DRAIN, OPEN, READ, READ_LINE, WRITE, flag};
use libos::protocol::{MAX_BYTES, Message, status};

/// Bytes that came from the device and nobody fetched.
const INPUT_BYTES: usize = 256;

/// Who asked for input last, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Focus {
    place: Place,
    badge: u64,
    lines: Lines,
}

/// Whether a reader reads lines that the driver edits and echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    Edited,
    Raw,
}

/// All that the driver knows besides its device.
#[derive(Debug)]
pub struct Console {
    clients: Clients,
    screen: Screen,
    input: Ring<INPUT_BYTES>,
    line: Line,
    focus: Option<Focus>,
    /// Bytes that the focus asked for and waits for.
    wanted: usize,
    /// Bytes fetched from the device before anybody asks.
    ahead: usize,
    /// Who put a line out last: the others come first.
    turn: usize,
    /// Places to notify.
    notify: u32,
}

const _: () = assert!(MOST_CLIENTS <= 32, "a bit of `notify` for each place");

impl Console {
    /// Nobody called, nothing typed. At most `ahead` bytes are fetched from the device before anybody asks: they are lost
    /// when the driver dies, while those in the device are not; but a real line does not wait when the device is full.
    pub const fn new(ahead: usize) -> Console {
        Console {
            clients: Clients::new(),
            screen: Screen::new(),
            input: Ring::new(),
            line: Line::new(),
            focus: None,
            wanted: 0,
            ahead,
            turn: 0,
            notify: 0,
        }
    }

    /// A request of the program behind `badge`, and the reply.
    pub fn request(&mut self, badge: u64, request: &Message) -> Message {
        let place = self.clients.place(badge, self.focus.map(|focus| focus.place));
        match request.code {
            OPEN => self.open(place),
            WRITE => self.write(place, request.as_bytes(), request.flags & flag::FLUSH != 0),
            READ => self.read(place, badge, request.number as usize),
            READ_LINE => self.read_line(place, badge),
            DRAIN => self.drain(place),
            _ => Message::new(status::UNKNOWN),
        }
    }

    /// The place of `badge`, for what the driver keeps beside the console.
    pub fn place(&mut self, badge: u64) -> Place {
        self.clients.place(badge, self.focus.map(|focus| focus.place))
    }

    /// The badge of the program at `place`.
    pub fn badge(&mut self, place: Place) -> Option<u64> {
        self.clients.get(place).map(|client| client.badge)
    }

    /// A byte was typed. `false`: there is no room and it is not taken.
    #[must_use]
    pub fn typed(&mut self, byte: u8) -> bool {
        let taken = self.input.push(byte);
        self.edit();
        self.input_came();
        taken
    }

    /// Whether a byte is to be fetched from the device: somebody waits for it, or it may be fetched ahead.
    pub fn has_room_for_input(&self) -> bool {
        let wanted = match self.focus {
            Some(focus) if focus.lines == Lines::Edited => usize::from(self.wanted > 0 && self.line.end().is_none()),
            _ => self.wanted,
        };
        self.input.len() < wanted.max(self.ahead).min(INPUT_BYTES)
    }

    /// The next byte for the device.
    pub fn take_output(&mut self) -> Option<u8> {
        self.screen.pop()
    }

    /// Whether bytes wait for the device.
    pub fn has_output(&self) -> bool {
        !self.screen.is_empty()
    }

    /// The device took bytes: lines that waited for room move up.
    pub fn output_moved(&mut self) {
        self.collect();
        for place in self.clients.from(0) {
            let Some(client) = self.clients.get(place) else {
                continue;
            };
            let roomy = client.output.room() >= client.output.len();
            if client.wants_space && roomy && (self.screen.is_empty() || !client.output.is_empty()) {
                client.wants_space = false;
                self.notify |= 1 << place.0;
            }
        }
    }

    /// A place whose program is to be notified; each is named once.
    pub fn take_notification(&mut self) -> Option<Place> {
        let place = self.notify.trailing_zeros();
        if place as usize >= MOST_CLIENTS {
            return None;
        }
        self.notify &= !(1 << place);
        Some(Place(place as usize))
    }

    fn open(&mut self, place: Place) -> Message {
        self.flush(place);
        if let Some(client) = self.clients.get(place) {
            client.wants_input = false;
            client.wants_space = false;
        }
        if self.focus.is_some_and(|focus| focus.place == place) {
            self.line.forget();
            self.focus = None;
            self.wanted = 0;
        }
        Message::new(status::OK)
    }

    fn write(&mut self, place: Place, bytes: &[u8], flush: bool) -> Message {
        let Some(client) = self.clients.get(place) else {
            return Message::new(status::FULL);
        };
        let mut taken = 0;
        for &byte in bytes {
            if !client.output.push(byte) {
                client.wants_space = true;
                break;
            }
            taken += 1;
            if byte == b'\n' {
                client.flush = client.output.len();
            }
        }
        if client.output.room() == 0 || (flush && taken == bytes.len()) {
            client.flush = client.output.len();
        }
        self.collect();
        Message::new(status::OK).with_number(taken as u32)
    }

    fn read(&mut self, place: Place, badge: u64, most: usize) -> Message {
        self.take_focus(place, badge, Lines::Raw);
        let mut bytes = [0; MAX_BYTES];
        let mut count = 0;
        while count < most.min(MAX_BYTES)
            && let Some(byte) = self.input.pop()
        {
            bytes[count] = byte;
            count += 1;
        }
        self.wants_input(place, if count == 0 { most } else { 0 });
        Message::new(status::OK).with_bytes(&bytes[..count])
    }

    fn read_line(&mut self, place: Place, badge: u64) -> Message {
        self.take_focus(place, badge, Lines::Edited);
        self.edit();
        let mut bytes = [0; MAX_BYTES];
        let (count, end) = self.line.fetch(&mut bytes);
        self.wants_input(place, usize::from(count == 0 && end.is_none()));
        let flags = match end {
            None => 0,
            Some(End::Line) => flag::END,
            Some(End::Input) => flag::END | flag::END_OF_INPUT,
        };
        Message::new(status::OK).with_bytes(&bytes[..count]).with_flags(flags)
    }

    fn drain(&mut self, place: Place) -> Message {
        self.flush(place);
        let common = self.screen.len();
        let Some(client) = self.clients.get(place) else {
            return Message::new(status::OK);
        };
        let waiting = client.output.len() + common;
        client.wants_space = waiting > 0;
        Message::new(status::OK).with_number(waiting as u32)
    }

    /// Who asks has the focus from now on, with what it printed on the screen before.
    fn take_focus(&mut self, place: Place, badge: u64, lines: Lines) {
        self.flush(place);
        let focus = Focus { place, badge, lines };
        if self.focus != Some(focus) {
            self.line.forget();
            self.focus = Some(focus);
        }
    }

    /// The focus waits for so many bytes; 0: it has what it asked for, and needs not be told.
    fn wants_input(&mut self, place: Place, wanted: usize) {
        self.wanted = wanted;
        if wanted == 0 {
            self.notify &= !(1 << place.0);
        }
        if let Some(client) = self.clients.get(place) {
            client.wants_input = wanted > 0;
        }
    }

    /// Moves typed bytes into the line that the focus is waiting for; stops at its end.
    fn edit(&mut self) {
        let Some(focus) = self.focus.filter(|focus| focus.lines == Lines::Edited) else {
            return;
        };
        let screen = &mut self.screen;
        while self.line.end().is_none()
            && let Some(byte) = self.input.pop()
        {
            // An echo for which there is no room is lost; the line is not.
            self.line.typed(byte, |shown| {
                if screen.has_room(2) {
                    screen.put(focus.place, Some(focus.place), core::iter::once(shown));
                }
            });
        }
    }

    /// Notifies the focus if it waits and there is something for it now.
    fn input_came(&mut self) {
        let Some(focus) = self.focus else { return };
        let there = match focus.lines {
            Lines::Raw => !self.input.is_empty(),
            Lines::Edited => self.line.end().is_some(),
        };
        let Some(client) = self.clients.get(focus.place).filter(|client| client.badge == focus.badge) else {
            return;
        };
        if there && client.wants_input {
            client.wants_input = false;
            self.notify |= 1 << focus.place.0;
        }
    }

    fn flush(&mut self, place: Place) {
        if let Some(client) = self.clients.get(place) {
            client.flush = client.output.len();
        }
        self.collect();
    }

    /// Moves lines from the clients to the common queue, a line of each in turn, while they have room there.
    fn collect(&mut self) {
        // Each turn moves a byte at least.
        for _ in 0..MOST_CLIENTS * CLIENT_BYTES {
            let mut places = self.clients.from(self.turn);
            let Some(place) = places.find(|&place| self.move_line(place)) else {
                break;
            };
            self.turn = place.0;
        }
        self.screen.restore();
    }

    /// Moves the first line of `place`, or what it flushed of it. `false`: there is none, or no room.
    fn move_line(&mut self, place: Place) -> bool {
        let Some(client) = self.clients.get(place) else {
            return false;
        };
        let (mut len, mut expanded) = (0, 0);
        while len < client.flush {
            let Some(byte) = client.output.peek(len) else {
                break;
            };
            len += 1;
            expanded += if byte == b'\n' { 2 } else { 1 };
            if byte == b'\n' {
                break;
            }
        }
        if len == 0 || !self.screen.has_room(expanded) {
            return false;
        }
        client.flush -= len;
        let focus = self.focus.map(|focus| focus.place);
        self.screen.put(place, focus, (0..len).map_while(|_| client.output.pop()));
        true
    }
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
