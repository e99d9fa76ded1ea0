//! What goes to the device, line by line: whose line the cursor stands in, and the prompt that comes back after an interruption.

use crate::clients::{CLIENT_BYTES, Place};
use crate::ring::Ring;

/// Bytes on their way to the device.
const OUTPUT_BYTES: usize = 1024;
/// What a line needs at most besides itself: the erasure of another one.
const ERASE: &[u8] = b"\r\x1b[K";

const _: () =
    assert!(OUTPUT_BYTES >= 2 * CLIENT_BYTES + ERASE.len(), "a client's longest line, all line feeds, must fit");

/// The queue to the device, and what the terminal shows in its last line.
#[derive(Debug)]
pub struct Screen {
    output: Ring<OUTPUT_BYTES>,
    /// Whose unfinished line the cursor stands in.
    unfinished: Option<Place>,
    /// The text of an unfinished line.
    text: Ring<CLIENT_BYTES>,
    /// All of it is in `text`.
    whole: bool,
    /// Whose unfinished line was erased and is to come back.
    erased: Option<Place>,
}

impl Screen {
    /// Nothing to show.
    pub const fn new() -> Screen {
        Screen { output: Ring::new(), unfinished: None, text: Ring::new(), whole: true, erased: None }
    }

    /// Bytes on their way.
    pub const fn len(&self) -> usize {
        self.output.len()
    }

    /// No bytes are on their way.
    pub const fn is_empty(&self) -> bool {
        self.output.is_empty()
    }

    /// The next byte for the device.
    pub fn pop(&mut self) -> Option<u8> {
        self.output.pop()
    }

    /// Whether bytes that `expand` to so many fit now.
    pub fn has_room(&self, expanded: usize) -> bool {
        expanded + ERASE.len() <= self.output.room()
    }

    /// Puts out bytes of the program at `place`: a line, or the part of one. An unfinished line of another program gives
    /// way: that of `focus`, who waits for input, is erased until [`Screen::restore`], any other is ended.
    pub fn put(&mut self, place: Place, focus: Option<Place>, bytes: impl Iterator<Item = u8>) {
        self.make_way(place, focus);
        let mut last = b'\n';
        for byte in bytes {
            self.emit(byte);
            self.remember(byte);
            last = byte;
        }
        self.unfinished = (last != b'\n').then_some(place);
        if self.unfinished.is_some() && self.erased.take().is_some() {
            // Two unfinished lines: the erased one does not come back, and the other was not remembered.
            self.text.clear();
            self.whole = false;
        }
    }

    /// Shows the erased line again, when the cursor is at the beginning of a line and there is room.
    pub fn restore(&mut self) {
        if self.unfinished.is_some() || self.output.room() < self.text.len() {
            return;
        }
        if let Some(place) = self.erased.take() {
            for index in 0..self.text.len() {
                self.emit(self.text.peek(index).unwrap_or(b' '));
            }
            self.unfinished = Some(place);
        }
    }

    fn make_way(&mut self, place: Place, focus: Option<Place>) {
        if self.erased == Some(place) {
            self.restore();
        }
        let Some(other) = self.unfinished.filter(|other| *other != place) else {
            return;
        };
        if Some(other) == focus && self.whole {
            ERASE.iter().for_each(|byte| self.emit(*byte));
            self.erased = Some(other);
        } else {
            self.emit(b'\n');
            self.text.clear();
        }
        self.unfinished = None;
    }

    /// Keeps the text of the line, unless another one is being kept. A carriage return begins it anew.
    fn remember(&mut self, byte: u8) {
        if self.erased.is_some() {
            return;
        }
        if byte == b'\n' || byte == b'\r' {
            self.text.clear();
            self.whole = true;
        } else if !self.text.push(byte) {
            self.whole = false;
        }
    }

    /// A line feed becomes the two bytes a terminal wants. What has no room is lost: who puts asks first.
    fn emit(&mut self, byte: u8) {
        let room = byte != b'\n' || self.output.push(b'\r');
        let _ = room && self.output.push(byte);
    }
}

impl Default for Screen {
    fn default() -> Screen {
        Screen::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    const SHELL: Place = Place(1);
    const OTHER: Place = Place(2);
    const THIRD: Place = Place(3);

    fn put(screen: &mut Screen, place: Place, text: &str) {
        screen.put(place, Some(SHELL), text.bytes());
    }

    fn shown(screen: &mut Screen) -> String {
        core::iter::from_fn(|| screen.pop()).map(char::from).collect()
    }

    #[test]
    fn the_prompt_comes_back_after_an_interruption() {
        let mut screen = Screen::new();
        put(&mut screen, SHELL, "velvet> ");
        put(&mut screen, SHELL, "p");
        put(&mut screen, OTHER, "news\n");
        put(&mut screen, THIRD, "more\n");
        screen.restore();
        assert_eq!(shown(&mut screen), "velvet> p\r\x1b[Knews\r\nmore\r\nvelvet> p");
        put(&mut screen, SHELL, "s\n");
        assert_eq!(shown(&mut screen), "s\r\n");
        screen.restore();
        assert_eq!(shown(&mut screen), "");
    }

    #[test]
    fn an_edited_line_comes_back_as_it_was_drawn_last() {
        let mut screen = Screen::new();
        put(&mut screen, SHELL, "> ab");
        put(&mut screen, SHELL, "\r> aXb\x1b[1D");
        put(&mut screen, OTHER, "news\n");
        screen.restore();
        assert!(shown(&mut screen).ends_with("news\r\n> aXb\x1b[1D"));
    }

    #[test]
    fn the_line_of_who_does_not_read_is_ended() {
        let mut screen = Screen::new();
        put(&mut screen, OTHER, "half");
        put(&mut screen, THIRD, "news\n");
        screen.restore();
        assert_eq!(shown(&mut screen), "half\r\nnews\r\n");
    }

    #[test]
    fn who_writes_while_its_line_is_erased_goes_on_in_it() {
        let mut screen = Screen::new();
        put(&mut screen, SHELL, "> ");
        put(&mut screen, OTHER, "news\n");
        put(&mut screen, SHELL, "x");
        assert_eq!(shown(&mut screen), "> \r\x1b[Knews\r\n> x");
    }

    #[test]
    fn of_two_unfinished_lines_the_last_one_stays() {
        let mut screen = Screen::new();
        put(&mut screen, SHELL, "> ");
        put(&mut screen, OTHER, "half");
        screen.restore();
        put(&mut screen, SHELL, "x\n");
        assert_eq!(shown(&mut screen), "> \r\x1b[Khalf\r\nx\r\n");
    }

    #[test]
    fn a_line_too_long_to_be_kept_is_ended_like_any_other() {
        let mut screen = Screen::new();
        put(&mut screen, SHELL, &"x".repeat(CLIENT_BYTES + 1));
        put(&mut screen, OTHER, "news\n");
        screen.restore();
        assert!(shown(&mut screen).ends_with("x\r\nnews\r\n"));
    }
}
