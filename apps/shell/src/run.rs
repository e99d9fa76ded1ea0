//! The shell at work: lines from the console, answers from init.

use crate::editor::{Editor, Event};
use crate::report::{self, Machine};
use alloc::string::String;
use core::time::Duration;
use exo_abi::exposed::Slice;
use libos::ipc::Gate;
use libos::protocol::Words;
use libos::sys::CallMessage;
use libos::time::{self, Instant};
use libos::{console, machine, print, start};

/// How long init may take. It builds a program in less, and switches off within it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause of a shell without a console.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads lines and does what they say, until the input ends.
pub fn main() {
    let mut asker = Asker { init: start::service("init") };
    let mut editor = Editor::new("velvet> ");
    let mut screen = String::new();
    editor.begin(&mut screen);
    // One at a time: what it has not read is still there for its next life.
    let mut bytes = [0; 1];
    loop {
        show(&mut screen);
        let count = console::read(&mut bytes);
        if count == 0 {
            time::sleep(PAUSE);
        }
        for &byte in &bytes[..count] {
            match editor.typed(byte, &mut screen) {
                Event::Editing => {}
                Event::Cancelled => editor.begin(&mut screen),
                Event::EndOfInput => {
                    show(&mut screen);
                    report::switch_off(&mut asker);
                }
                Event::Line(line) => {
                    show(&mut screen);
                    // Writing to a string is never refused.
                    let _ = report::run(&line, &mut asker, &mut screen);
                    editor.begin(&mut screen);
                    show(&mut screen);
                }
            }
        }
    }
}

/// Prints what is to be shown, whole lines and the rest.
fn show(screen: &mut String) {
    if !screen.is_empty() {
        print!("{screen}");
        screen.clear();
    }
}

/// The machine, as init and the kernel's pages tell of it.
struct Asker {
    init: Option<Gate>,
}

impl Machine for Asker {
    fn ask(&mut self, words: Words) -> Option<Words> {
        let message = CallMessage { words, ..CallMessage::default() };
        let answer = self.init?.call_patiently(&message, Instant::after(PATIENCE));
        answer.ok().map(|received| received.words)
    }

    fn cores(&self) -> u64 {
        machine::info().cores
    }

    fn slice(&self, core: u64, position: u64) -> Option<Slice> {
        machine::slice(core, position)
    }

    fn micros(&self, ticks: u64) -> u64 {
        time::duration(ticks).as_micros() as u64
    }

    fn idle_micros(&self, core: u64) -> u64 {
        machine::idle(core).map_or(0, |(ticks, _)| self.micros(ticks))
    }

    fn boot_nanos(&self) -> u64 {
        let info = machine::info();
        time::duration(info.first_user_ticks.saturating_sub(info.entry_ticks)).as_nanos() as u64
    }
}
