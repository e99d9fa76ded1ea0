//! Editing of one input line for clients that read lines: echo, backspace, and the end of input.

use crate::ring::Ring;
use libos::protocol::console::END_OF_INPUT;

/// Longest line; what goes beyond is not taken and not echoed.
pub const MOST_LINE_BYTES: usize = 256;

/// How a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By Enter.
    Line,
    /// By Ctrl-D with nothing on the line.
    Input,
}

/// The line being typed, then being fetched.
#[derive(Debug)]
pub struct Line {
    bytes: Ring<MOST_LINE_BYTES>,
    end: Option<End>,
    /// The last byte was a carriage return: a line feed after it belongs to it.
    after_return: bool,
}

const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
const CANCEL_LINE: u8 = 0x15;

impl Line {
    /// Nothing typed.
    pub const fn new() -> Line {
        Line { bytes: Ring::new(), end: None, after_return: false }
    }

    /// How the line ended, if it did: then it is to be fetched before more is typed.
    pub const fn end(&self) -> Option<End> {
        self.end
    }

    /// A byte is typed; `echo` gets what the terminal is to show.
    pub fn typed(&mut self, byte: u8, mut echo: impl FnMut(u8)) {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => {
                self.end = Some(End::Line);
                echo(b'\n');
            }
            END_OF_INPUT if self.bytes.is_empty() => self.end = Some(End::Input),
            BACKSPACE | DELETE => self.rub_out(&mut echo),
            CANCEL_LINE => {
                for _ in 0..MOST_LINE_BYTES {
                    if self.bytes.is_empty() {
                        break;
                    }
                    self.rub_out(&mut echo);
                }
            }
            b'\t' | b' '.. => self.take(byte, &mut echo),
            _ => {}
        }
    }

    /// Fetches as many bytes of the ended line as fit. The end with them: nothing is left, and the next line may be typed.
    pub fn fetch(&mut self, into: &mut [u8]) -> (usize, Option<End>) {
        let Some(end) = self.end else {
            return (0, None);
        };
        let mut count = 0;
        while count < into.len()
            && let Some(byte) = self.bytes.pop()
        {
            into[count] = byte;
            count += 1;
        }
        if !self.bytes.is_empty() {
            return (count, None);
        }
        self.end = None;
        (count, Some(end))
    }

    /// Forgets what was typed: the reader went away.
    pub fn forget(&mut self) {
        self.bytes.clear();
        self.end = None;
    }

    fn take(&mut self, byte: u8, echo: &mut impl FnMut(u8)) {
        if self.bytes.push(byte) {
            echo(byte);
        }
    }

    /// Takes the last character back: one byte, and the bytes that continue it in UTF-8.
    fn rub_out(&mut self, echo: &mut impl FnMut(u8)) {
        let mut keep = self.bytes.len();
        while keep > 0 {
            keep -= 1;
            if self.bytes.peek(keep).is_some_and(|byte| byte & 0xc0 != 0x80) {
                break;
            }
        }
        if keep < self.bytes.len() {
            self.bytes.cut(keep);
            for byte in *b"\x08 \x08" {
                echo(byte);
            }
        }
    }
}

impl Default for Line {
    fn default() -> Line {
        Line::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn line(input: &[u8]) -> (Line, Vec<u8>) {
        let (mut line, mut echoed) = (Line::new(), Vec::new());
        for &byte in input {
            line.typed(byte, |byte| echoed.push(byte));
        }
        (line, echoed)
    }

    fn fetched(mut line: Line) -> (Vec<u8>, Option<End>) {
        let mut bytes = [0; 64];
        let (count, end) = line.fetch(&mut bytes);
        (bytes[..count].to_vec(), end)
    }

    #[test]
    fn a_line_is_echoed_and_fetched_without_its_end() {
        let (line, echoed) = line(b"hello\r");
        assert_eq!(echoed, b"hello\n");
        assert_eq!(fetched(line), (b"hello".to_vec(), Some(End::Line)));
    }

    #[test]
    fn backspace_takes_back_whole_characters() {
        let (mut typed, _) = line("aé".as_bytes());
        typed.typed(DELETE, |_| {});
        typed.typed(b'\r', |_| {});
        assert_eq!(fetched(typed).0, b"a");
        let (nothing, echoed) = line(&[BACKSPACE, BACKSPACE]);
        assert!(echoed.is_empty() && nothing.end().is_none());
        let (cancelled, _) = line(b"abc\x15d\n");
        assert_eq!(fetched(cancelled).0, b"d");
    }

    #[test]
    fn carriage_return_and_line_feed_are_one_end() {
        let (mut both, _) = line(b"a\r\n");
        let mut bytes = [0; 8];
        assert_eq!(both.fetch(&mut bytes), (1, Some(End::Line)));
        both.typed(b'b', |_| {});
        assert_eq!(both.end(), None);
    }

    #[test]
    fn control_d_ends_the_input_only_on_an_empty_line() {
        assert_eq!(line(&[END_OF_INPUT]).0.end(), Some(End::Input));
        assert_eq!(line(&[b'a', END_OF_INPUT]).0.end(), None);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let (mut long, echoed) = line(&[b'x'; 300]);
        assert_eq!(echoed.len(), MOST_LINE_BYTES);
        long.typed(b'\r', |_| {});
        let mut bytes = [0; 200];
        assert_eq!(long.fetch(&mut bytes), (200, None));
        assert_eq!(long.fetch(&mut bytes), (56, Some(End::Line)));
    }
}
