//! What the shell says of a machine that is made up.

use super::*;
use libos::protocol::Name;
use libos::protocol::name_to_words;
use libos::protocol::supervisor::State;
use std::string::String;
use std::vec::Vec;

/// Two programs, one failure; whatever changes something is written down.
#[derive(Default)]
struct Fake {
    asked: Vec<(u8, String, u32)>,
    mute: bool,
}

fn name(text: &str) -> Name {
    Name::from_words(&name_to_words(text))
}

impl Machine for Fake {
    fn ask(&mut self, words: Words) -> Option<Words> {
        if self.mute {
            return None;
        }
        let (code, number) = head(&words);
        let refused = |code: u8| [code as u64, 0, 0, 0, 0, 0, 0];
        Some(match (code, number) {
            (LIST, 0 | 1) => Program {
                name: name(["init", "pl011"][number as usize]),
                state: State::Running,
                environment: number as u8 + 1,
                restarts: 2,
                failures: 3,
                code: 0,
                cpu_us: 12_345,
            }
            .to_words(),
            (MEMORY, _) => {
                Memory { ram: 256, free: 100, kernel: 40, archive: 50, promised: 60, machine_info: 7 }.to_words()
            }
            (BINDINGS, 1) if words[1] == 0 => Given {
                name: name("arm,pl011"),
                handle: 4,
                kind: BindingKind::Device as u8,
                rights: 3,
                first: 0x9000,
                count: 1,
            }
            .to_words(),
            (FAULTS, 0) => Failure {
                program: 1,
                reason: 2,
                region: Region::Null,
                at_ms: 1234,
                cause: 0x9200_0047,
                address: 8,
                pc: 0x20_1000,
                code: 0,
                total: 1,
            }
            .to_words(),
            (START | KILL, _) if Name::from_words(&words[1..4]).as_str() != "pl011" => refused(status::NOT_FOUND),
            (START | KILL | POWER, _) => {
                self.asked.push((code, String::from(Name::from_words(&words[1..4]).as_str()), number));
                refused(status::OK)
            }
            _ => refused(status::NOT_FOUND),
        })
    }

    fn cores(&self) -> u64 {
        1
    }

    fn slice(&self, _: u64, position: u64) -> Option<Slice> {
        let owner = if position == 3 { SLICE_CLAIMED | 2 << 8 } else { 0 };
        Some(Slice { owner, length: 1000, used: 2500, starts: 9 })
    }

    fn micros(&self, ticks: u64) -> u64 {
        ticks
    }

    fn idle_micros(&self, _: u64) -> u64 {
        5000
    }

    fn boot_nanos(&self) -> u64 {
        123_456
    }
}

fn said(line: &str) -> String {
    let mut out = String::new();
    run(line, &mut Fake::default(), &mut out).unwrap();
    out
}

#[test]
fn ps_lists_every_program() {
    let text = said("ps");
    assert_eq!(text.lines().count(), 3);
    assert!(text.contains("          2 pl011        running           2        3     12.3          0"), "{text}");
}

#[test]
fn mem_says_frames_and_kibibytes() {
    let text = said("mem");
    assert!(text.contains("ram            256 frames      1024 KiB"), "{text}");
    assert!(text.contains("free           100 frames       400 KiB"), "{text}");
    assert!(text.contains("boot 123456 ns"), "{text}");
}

#[test]
fn bindings_are_listed_by_program() {
    let text = said("bindings");
    assert!(text.contains("pl011\n    4 Device arm,pl011                read write, 0x9000\n"), "{text}");
    assert!(!said("bindings init").contains("Device"));
    assert_eq!(said("bindings nobody"), "nobody: there is nothing of that name\n");
}

#[test]
fn slices_name_their_owners() {
    let text = said("slices");
    assert_eq!(text, "core 0: idle 5 ms\n   3 environment 2 vcore 0: 1000 us a round, used 2.5 ms in 9 starts\n");
}

#[test]
fn faults_are_told_in_words() {
    let text = said("faults");
    let expected = "pl011: it wrote where nothing is mapped (translation fault, level 3) at 0x8 in the first page: a null pointer, pc 0x201000";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn what_changes_something_is_asked_of_init() {
    let mut fake = Fake::default();
    let mut out = String::new();
    for line in ["kill pl011", "start pl011", "reboot", "off"] {
        run(line, &mut fake, &mut out).unwrap();
    }
    switch_off(&mut fake);
    let asked: Vec<_> = fake.asked.iter().map(|(code, name, number)| (*code, name.as_str(), *number)).collect();
    let off = power::OFF as u32;
    assert_eq!(
        asked,
        [(KILL, "pl011", 0), (START, "pl011", 0), (POWER, "", power::RESET as u32), (POWER, "", off), (POWER, "", off)]
    );
    assert_eq!(out, "");
}

#[test]
fn refusals_are_said() {
    assert_eq!(said("kill nobody"), "kill nobody: there is nothing of that name\n");
    assert_eq!(said("kill"), "usage: kill NAME\n");
    assert!(said("what").starts_with("what: there is no such command; there are: help ps mem"));
    assert_eq!(said("echo a b"), "a b\n");
    assert!(said("help").contains("kill NAME"));
}

#[test]
fn without_init_every_command_says_so() {
    for line in ["ps", "mem", "bindings", "faults", "kill pl011", "off"] {
        let mut out = String::new();
        run(line, &mut Fake { mute: true, ..Fake::default() }, &mut out).unwrap();
        assert!(out.contains("init cannot be reached"), "{line}: {out}");
    }
}
