//! What a person sees while an image is built.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// A line that moves on a terminal, plain lines elsewhere, or nothing.
#[derive(Debug)]
pub enum Progress {
    /// A line that moves.
    Bar(ProgressBar),
    /// A line for each step.
    Lines,
    /// Nothing: for tests.
    Silent,
}

impl Progress {
    /// What suits standard error.
    pub fn shown() -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress::Lines;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {prefix} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message("looking at what is there");
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress::Bar(bar)
    }

    /// Something new begins.
    pub fn step(&self, what: &str) {
        match self {
            Progress::Bar(bar) => {
                bar.set_prefix("");
                bar.set_message(what.to_string());
            }
            Progress::Lines => eprintln!("image-builder: {what}"),
            Progress::Silent => {}
        }
    }

    /// Something that a person may want to read, though it goes on.
    pub fn say(&self, text: &str) {
        let text = text.trim_end();
        match self {
            _ if text.is_empty() => {}
            Progress::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            Progress::Lines => eprintln!("{text}"),
            Progress::Silent => {}
        }
    }

    /// A crate is done.
    pub fn built(&self, name: &str) {
        if let Progress::Bar(bar) = self {
            bar.set_prefix(format!("({name})"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
