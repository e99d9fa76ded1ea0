//! What programs see of the console, and what the terminal shows.

use super::*;
use libos::protocol::console::END_OF_INPUT;
use std::string::String;
use std::vec::Vec;

const A: u64 = 1;
const B: u64 = 2;

fn write(console: &mut Console, badge: u64, text: &str) -> usize {
    console.request(badge, &Message::new(WRITE).with_bytes(text.as_bytes())).number as usize
}

fn prompt(console: &mut Console, badge: u64, text: &str) {
    console.request(badge, &Message::new(WRITE).with_bytes(text.as_bytes()).with_flags(flag::FLUSH));
}

fn read(console: &mut Console, badge: u64) -> Vec<u8> {
    console.request(badge, &Message::new(READ).with_number(48)).as_bytes().to_vec()
}

fn shown(console: &mut Console) -> String {
    let bytes: Vec<u8> = core::iter::from_fn(|| console.take_output()).collect();
    console.output_moved();
    String::from_utf8(bytes).unwrap()
}

fn all_shown(console: &mut Console) -> String {
    let mut text = String::new();
    while console.has_output() {
        text += &shown(console);
    }
    text
}

fn type_in(console: &mut Console, bytes: &[u8]) {
    for &byte in bytes {
        assert!(console.typed(byte));
    }
}

fn notified(console: &mut Console) -> Vec<usize> {
    core::iter::from_fn(|| console.take_notification()).map(|place| place.0).collect()
}

#[test]
fn lines_of_two_programs_do_not_mix() {
    let mut console = Console::new(INPUT_BYTES);
    write(&mut console, A, "one ");
    write(&mut console, B, "two ");
    write(&mut console, A, "more\n");
    write(&mut console, B, "more\n");
    assert_eq!(shown(&mut console), "one more\r\ntwo more\r\n");
}

#[test]
fn a_prompt_is_shown_at_once_and_comes_back_after_others_while_its_program_reads() {
    let mut console = Console::new(INPUT_BYTES);
    prompt(&mut console, A, "velvet> ");
    assert_eq!(shown(&mut console), "velvet> ");
    write(&mut console, B, "news\n");
    assert_eq!(shown(&mut console), "\r\nnews\r\n");
    prompt(&mut console, A, "velvet> ");
    read(&mut console, A);
    write(&mut console, B, "news\n");
    assert_eq!(shown(&mut console), "velvet> \r\x1b[Knews\r\nvelvet> ");
}

#[test]
fn an_unfinished_line_is_shown_when_its_program_reads() {
    let mut console = Console::new(INPUT_BYTES);
    write(&mut console, A, "name? ");
    assert_eq!(shown(&mut console), "");
    assert!(read(&mut console, A).is_empty());
    assert_eq!(shown(&mut console), "name? ");
}

#[test]
fn input_goes_to_who_asked_last_and_wakes_it_once() {
    let mut console = Console::new(INPUT_BYTES);
    assert!(read(&mut console, A).is_empty());
    assert!(read(&mut console, B).is_empty());
    type_in(&mut console, b"xy");
    assert_eq!(notified(&mut console), [console.place(B).0]);
    assert_eq!(read(&mut console, B), b"xy");
    assert!(notified(&mut console).is_empty());
}

#[test]
fn what_was_typed_before_anybody_asked_is_kept() {
    let mut console = Console::new(INPUT_BYTES);
    type_in(&mut console, b"ps\n");
    assert_eq!(read(&mut console, A), b"ps\n");
}

#[test]
fn input_without_room_stays_in_the_device() {
    let mut console = Console::new(INPUT_BYTES);
    type_in(&mut console, &[b'x'; INPUT_BYTES]);
    assert!(!console.has_room_for_input());
    assert!(!console.typed(b'y'));
    assert_eq!(read(&mut console, A).len(), MAX_BYTES);
    assert!(console.has_room_for_input());
}

#[test]
fn input_that_nobody_wants_stays_in_the_device() {
    let mut console = Console::new(0);
    assert!(!console.has_room_for_input());
    console.request(A, &Message::new(READ).with_number(2));
    assert!(console.has_room_for_input());
    type_in(&mut console, b"ab");
    assert!(!console.has_room_for_input(), "two were wanted");
    assert_eq!(read(&mut console, A), b"ab");
    assert!(!console.has_room_for_input());
    assert!(notified(&mut console).is_empty(), "it has what it asked for");
}

#[test]
fn a_line_is_fetched_up_to_its_end() {
    let mut console = Console::new(0);
    let ask = Message::new(READ_LINE);
    console.request(A, &ask);
    for &byte in b"ls\n" {
        assert!(console.has_room_for_input() && console.typed(byte));
    }
    assert!(!console.has_room_for_input());
    assert_eq!(console.request(A, &ask).as_bytes(), b"ls");
    assert!(!console.has_room_for_input());
}

#[test]
fn lines_are_edited_echoed_and_fetched_in_pieces() {
    let mut console = Console::new(INPUT_BYTES);
    let ask = Message::new(READ_LINE);
    assert_eq!(console.request(A, &ask), Message::new(status::OK));
    type_in(&mut console, b"helo\x7flo\r");
    assert_eq!(notified(&mut console).len(), 1);
    let reply = console.request(A, &ask);
    assert_eq!((reply.as_bytes(), reply.flags), (&b"hello"[..], flag::END));
    assert_eq!(shown(&mut console), "helo\x08 \x08lo\r\n");
    type_in(&mut console, &[b'z'; 50]);
    type_in(&mut console, b"\r");
    assert_eq!(console.request(A, &ask).flags, 0);
    assert_eq!(console.request(A, &ask).flags, flag::END);
    type_in(&mut console, &[END_OF_INPUT]);
    assert_eq!(console.request(A, &ask).flags, flag::END | flag::END_OF_INPUT);
}

#[test]
fn several_lines_typed_ahead_come_one_by_one() {
    let mut console = Console::new(INPUT_BYTES);
    type_in(&mut console, b"one\ntwo\n");
    let ask = Message::new(READ_LINE);
    assert_eq!(console.request(A, &ask).as_bytes(), b"one");
    assert_eq!(console.request(A, &ask).as_bytes(), b"two");
    assert_eq!(console.request(A, &ask).flags, 0);
}

#[test]
fn who_cannot_put_everything_in_is_told_and_notified() {
    let mut console = Console::new(INPUT_BYTES);
    let mut taken = 0;
    for _ in 0..100 {
        taken += write(&mut console, A, "0123456789012345678901234567890123456789012345\n");
    }
    assert!(taken < 4700 && taken > 900);
    assert!(write(&mut console, B, "b\n") == 2, "others still have their own place");
    let before = all_shown(&mut console);
    assert!(notified(&mut console).contains(&console.place(A).0));
    assert_eq!(before.matches("b\r\n").count(), 1);
}

#[test]
fn a_line_longer_than_a_place_goes_out_in_parts() {
    let mut console = Console::new(INPUT_BYTES);
    let mut left = 400;
    while left > 0 {
        left -= write(&mut console, A, &"x".repeat(left.min(48)));
    }
    assert_eq!(shown(&mut console).len(), CLIENT_BYTES);
}

#[test]
fn draining_counts_what_is_on_its_way() {
    let mut console = Console::new(INPUT_BYTES);
    write(&mut console, A, "bye");
    let ask = Message::new(DRAIN);
    assert_eq!(console.request(A, &ask).number, 3);
    assert_eq!(shown(&mut console), "bye");
    assert_eq!(notified(&mut console).len(), 1);
    assert_eq!(console.request(A, &ask).number, 0);
}

#[test]
fn opening_shows_what_was_written_and_gives_up_the_focus() {
    let mut console = Console::new(INPUT_BYTES);
    prompt(&mut console, A, "half a li");
    assert!(read(&mut console, A).is_empty());
    write(&mut console, A, "ne");
    console.request(A, &Message::new(OPEN));
    assert_eq!(shown(&mut console), "half a line");
    type_in(&mut console, b"x");
    assert!(notified(&mut console).is_empty());
    assert_eq!(read(&mut console, A), b"x");
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let mut console = Console::new(INPUT_BYTES);
    for code in [0, 6, 255] {
        let hostile = Message { code, len: 255, flags: u16::MAX, number: u32::MAX, bytes: [0xff; MAX_BYTES] };
        assert_eq!(console.request(A, &hostile).code, status::UNKNOWN);
    }
    assert!(!console.has_output());
}

#[test]
fn a_crowd_that_never_reads_costs_bounded_room() {
    let mut console = Console::new(INPUT_BYTES);
    for badge in 1..=1000 {
        write(&mut console, badge, "never finished");
        read(&mut console, badge);
    }
    write(&mut console, 5000, "still works\n");
    assert!(all_shown(&mut console).contains("\r\nstill works\r\n"));
}
