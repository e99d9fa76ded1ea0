//! Editing a line at a terminal: bytes in, what the terminal is to show out.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Characters of the longest line; more are not taken.
const MOST_CHARACTERS: usize = 256;
/// Lines remembered.
const MOST_HISTORY: usize = 32;

/// What a byte led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The line is not finished.
    Editing,
    /// Enter: the line.
    Line(String),
    /// Ctrl-C: the line is given up.
    Cancelled,
    /// Ctrl-D on an empty line: the input ends.
    EndOfInput,
}

/// How far an escape sequence has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    /// After `ESC [` or `ESC O`, with the number so far.
    Sequence(u8),
}

/// A line being edited, and the lines before it.
#[derive(Debug)]
pub struct Editor {
    prompt: &'static str,
    line: Vec<char>,
    cursor: usize,
    history: VecDeque<Vec<char>>,
    /// How many lines back the line is; 0: it is the new one.
    back: usize,
    /// The new line while older ones are looked at.
    kept: Vec<char>,
    escape: Escape,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
    after_return: bool,
}

impl Editor {
    /// Nothing typed.
    pub const fn new(prompt: &'static str) -> Editor {
        Editor {
            prompt,
            line: Vec::new(),
            cursor: 0,
            history: VecDeque::new(),
            back: 0,
            kept: Vec::new(),
            escape: Escape::None,
            partial: Vec::new(),
            after_return: false,
        }
    }

    /// Begins a line: shows the prompt.
    pub fn begin(&mut self, screen: &mut String) {
        self.line.clear();
        self.kept.clear();
        (self.cursor, self.back) = (0, 0);
        screen.push_str(self.prompt);
    }

    /// A byte was typed.
    pub fn typed(&mut self, byte: u8, screen: &mut String) -> Event {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        if self.escape != Escape::None {
            self.escaped(byte, screen);
            return Event::Editing;
        }
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => return self.finish(screen),
            0x01 => self.move_to(0, screen),
            0x02 => self.left(screen),
            0x03 => {
                screen.push_str("^C\n");
                self.line.clear();
                return Event::Cancelled;
            }
            0x04 if self.line.is_empty() => {
                screen.push('\n');
                return Event::EndOfInput;
            }
            0x04 => self.delete(screen),
            0x05 => self.move_to(self.line.len(), screen),
            0x06 => self.right(screen),
            0x08 | 0x7f => self.rub_out(1, screen),
            0x0b => {
                self.line.truncate(self.cursor);
                self.redraw(screen);
            }
            0x0e => self.go_back(self.back.saturating_sub(1), screen),
            0x10 => self.go_back(self.back + 1, screen),
            0x15 => self.rub_out(self.cursor, screen),
            0x17 => self.rub_out(self.word_before(), screen),
            0x1b => self.escape = Escape::Begun,
            b'\t' => self.insert(' ', screen),
            0x20.. => self.part_of_character(byte, screen),
            _ => {}
        }
        Event::Editing
    }

    fn finish(&mut self, screen: &mut String) -> Event {
        screen.push('\n');
        let line = core::mem::take(&mut self.line);
        let text = line.iter().collect();
        if !line.is_empty() && self.history.front() != Some(&line) {
            self.history.truncate(MOST_HISTORY - 1);
            self.history.push_front(line);
        }
        Event::Line(text)
    }

    fn escaped(&mut self, byte: u8, screen: &mut String) {
        self.escape = match (self.escape, byte) {
            (Escape::Begun, b'[' | b'O') => Escape::Sequence(0),
            (Escape::Sequence(number), b'0'..=b'9') => {
                Escape::Sequence(number.wrapping_mul(10).wrapping_add(byte - b'0'))
            }
            // Modifiers: what follows counts alone.
            (Escape::Sequence(_), b';') => Escape::Sequence(0),
            (Escape::Sequence(number), last) => {
                self.key(number, last, screen);
                Escape::None
            }
            _ => Escape::None,
        };
    }

    fn key(&mut self, number: u8, last: u8, screen: &mut String) {
        match (last, number) {
            (b'A', _) => self.go_back(self.back + 1, screen),
            (b'B', _) => self.go_back(self.back.saturating_sub(1), screen),
            (b'C', _) => self.right(screen),
            (b'D', _) => self.left(screen),
            (b'H', _) | (b'~', 1 | 7) => self.move_to(0, screen),
            (b'F', _) | (b'~', 4 | 8) => self.move_to(self.line.len(), screen),
            (b'~', 3) => self.delete(screen),
            _ => {}
        }
    }

    /// Characters come in one to four bytes; what is no UTF-8 is dropped.
    fn part_of_character(&mut self, byte: u8, screen: &mut String) {
        self.partial.push(byte);
        match core::str::from_utf8(&self.partial).map(|text| text.chars().next()) {
            Ok(Some(character)) => {
                self.partial.clear();
                self.insert(character, screen);
            }
            Err(error) if error.error_len().is_none() && self.partial.len() < 4 => {}
            _ => self.partial.clear(),
        }
    }

    fn insert(&mut self, character: char, screen: &mut String) {
        if self.line.len() == MOST_CHARACTERS {
            return;
        }
        self.line.insert(self.cursor, character);
        self.cursor += 1;
        if self.cursor == self.line.len() {
            screen.push(character);
        } else {
            self.redraw(screen);
        }
    }

    fn delete(&mut self, screen: &mut String) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
            self.redraw(screen);
        }
    }

    fn rub_out(&mut self, count: usize, screen: &mut String) {
        let count = count.min(self.cursor);
        if count > 0 {
            self.line.drain(self.cursor - count..self.cursor);
            self.cursor -= count;
            self.redraw(screen);
        }
    }

    /// Characters back to the beginning of the word before the cursor.
    fn word_before(&self) -> usize {
        let before = self.line[..self.cursor].iter().rev();
        let spaces = before.clone().take_while(|c| c.is_whitespace()).count();
        spaces + before.skip(spaces).take_while(|c| !c.is_whitespace()).count()
    }

    fn left(&mut self, screen: &mut String) {
        self.move_to(self.cursor.saturating_sub(1), screen);
    }

    fn right(&mut self, screen: &mut String) {
        self.move_to((self.cursor + 1).min(self.line.len()), screen);
    }

    fn move_to(&mut self, cursor: usize, screen: &mut String) {
        let _ = match (cursor, self.cursor) {
            (to, from) if to < from => write!(screen, "\x1b[{}D", from - to),
            (to, from) if to > from => write!(screen, "\x1b[{}C", to - from),
            _ => Ok(()),
        };
        self.cursor = cursor;
    }

    fn go_back(&mut self, back: usize, screen: &mut String) {
        if back > self.history.len() || back == self.back {
            return;
        }
        if self.back == 0 {
            self.kept.clone_from(&self.line);
        }
        let source = if back == 0 { &self.kept } else { &self.history[back - 1] };
        self.line.clone_from(source);
        self.back = back;
        self.cursor = self.line.len();
        self.redraw(screen);
    }

    /// Shows prompt and line anew, and puts the cursor where it belongs.
    fn redraw(&self, screen: &mut String) {
        screen.push('\r');
        screen.push_str(self.prompt);
        screen.extend(&self.line);
        screen.push_str("\x1b[K");
        let behind = self.line.len() - self.cursor;
        if behind > 0 {
            let _ = write!(screen, "\x1b[{behind}D");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec;

    fn lines(input: &str) -> Vec<Event> {
        lines_of_bytes(input.as_bytes())
    }

    fn lines_of_bytes(input: &[u8]) -> Vec<Event> {
        let mut editor = Editor::new("> ");
        let mut screen = String::new();
        let mut events = Vec::new();
        editor.begin(&mut screen);
        for &byte in input {
            let event = editor.typed(byte, &mut screen);
            if event != Event::Editing {
                events.push(event);
                editor.begin(&mut screen);
            }
        }
        events
    }

    fn line(input: &str) -> String {
        match lines(input).last() {
            Some(Event::Line(line)) => line.clone(),
            other => std::panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_typed_is_shown_and_returned() {
        let mut editor = Editor::new("> ");
        let mut screen = String::new();
        editor.begin(&mut screen);
        for &byte in b"ps\r" {
            let _ = editor.typed(byte, &mut screen);
        }
        assert_eq!(screen, "> ps\n");
        assert_eq!(lines("ps\nmem\r\noff\n").len(), 3);
    }

    #[test]
    fn keys_move_and_change() {
        assert_eq!(line("abc\x1b[D\x1b[DX\r"), "aXbc");
        assert_eq!(line("bc\x1b[Ha\x1b[Fd\r"), "abcd");
        assert_eq!(line("bc\x01a\x05d\x02\x02\x06e\r"), "abced");
        assert_eq!(line("abc\x1b[H\x1b[3~\r"), "bc");
        assert_eq!(line("abc\x7f\x08d\r"), "ad");
        assert_eq!(line("abc\x1bOHx\x1b[4~y\r"), "xabcy");
        assert_eq!(line("abcd\x1b[D\x1b[D\x0b\r"), "ab");
    }

    #[test]
    fn words_and_lines_are_rubbed_out() {
        assert_eq!(line("kill  pl011 \x17x\r"), "kill  x");
        assert_eq!(line("kill pl011\x15ps\r"), "ps");
        assert_eq!(line("\x17\x15\x7fps\r"), "ps");
    }

    #[test]
    fn former_lines_come_back() {
        assert_eq!(line("one\rtwo\r\x1b[A\x1b[A\r"), "one");
        assert_eq!(line("one\rtwo\r\x1b[A\x1b[A\x1b[B\r"), "two");
        assert_eq!(line("one\rnew\x1b[A\x1b[B\r"), "new");
        assert_eq!(line("one\r\x1b[A\x1b[A\x1b[A!\r"), "one!");
        assert_eq!(line("one\r\x10\x0e\x10\r"), "one");
    }

    #[test]
    fn control_c_gives_up_and_control_d_ends() {
        assert_eq!(lines("abc\x03ps\r"), [Event::Cancelled, Event::Line("ps".to_string())]);
        assert_eq!(lines("\x04"), [Event::EndOfInput]);
        assert_eq!(line("abc\x1b[D\x04\r"), "ab");
        assert_eq!(lines("off\n\x04"), [Event::Line("off".to_string()), Event::EndOfInput]);
    }

    #[test]
    fn characters_of_several_bytes_are_one() {
        assert_eq!(line("é\x7fü€\r"), "ü€");
        assert_eq!(lines_of_bytes(b"\xff\xc3(a\r"), vec![Event::Line("a".to_string())]);
    }

    #[test]
    fn nothing_that_is_typed_goes_beyond_the_bounds() {
        let long: String = core::iter::repeat_n('x', 1000).collect();
        assert_eq!(line(&(long + "\r")).len(), MOST_CHARACTERS);
        let mut state = 1u64;
        let noise: Vec<u8> = (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        let _ = lines_of_bytes(&noise);
    }
}
