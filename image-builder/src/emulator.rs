//! QEMU: started, fed, watched, and ended.

#[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "pre_exec: a system call between fork and exec"))]
mod leash;

use crate::build::Built;
use crate::error::{Error, Result};
use crate::machine::MachineOptions;
use rustix::termios;
use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The emulator.
pub const PROGRAM: &str = "qemu-system-aarch64";
/// How long QEMU gets to end in good order before it is ended.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a running QEMU is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// What the guest reads at the end of piped input: Ctrl-D.
const END_OF_INPUT: u8 = 4;
/// Bytes of output that are kept of a guest that never stops talking.
const MAX_OUTPUT: u64 = 16 << 20;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest, or QEMU, ended with this code.
    Code(i32),
    /// The time was up.
    TimedOut,
    /// A signal ended the image-builder.
    Interrupted,
}

impl End {
    /// The exit code of a program whose run ended so: as `timeout` and shells do it.
    pub fn exit_code(self) -> i32 {
        match self {
            End::Code(code) => code,
            End::TimedOut => 124,
            End::Interrupted => 130,
        }
    }
}

/// A run whose output was kept.
#[derive(Clone, Debug)]
pub struct Captured {
    /// How it ended.
    pub end: End,
    /// What the guest said, and behind it what QEMU itself said.
    pub output: String,
}

/// The arguments that run an image; `more` goes to QEMU as it is.
pub fn arguments(built: &Built, options: &MachineOptions, more: &[String]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = options.qemu_arguments().into_iter().map(OsString::from).collect();
    // signal=on: Ctrl-C ends QEMU. No multiplexer: every other key, Ctrl-A too, is the guest's.
    arguments.extend(
        [
            "-display",
            "none",
            "-monitor",
            "none",
            "-chardev",
            "stdio,id=console,signal=on",
            "-serial",
            "chardev:console",
            "-semihosting-config",
            "enable=on,target=native",
            "-kernel",
        ]
        .map(OsString::from),
    );
    arguments.push(built.image_file.clone().into());
    if let Some(file) = &built.device_tree_file {
        arguments.extend(["-dtb".into(), file.clone().into()]);
    }
    arguments.extend(more.iter().map(OsString::from));
    arguments
}

/// The command line as a person could type it.
pub fn shown(arguments: &[OsString]) -> String {
    let quoted = arguments.iter().map(|argument| {
        let text = argument.to_string_lossy();
        let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=,:+".contains(c));
        if plain && !text.is_empty() { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
    });
    std::iter::once(PROGRAM.to_string()).chain(quoted).collect::<Vec<_>>().join(" ")
}

/// Runs QEMU on this terminal, or with what standard input holds.
pub fn interactive(arguments: &[OsString], limit: Option<Duration>) -> Result<End> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(|cause| Error::new(format!("cannot watch for signals: {cause}")))?;
    }
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal();
    let settings = terminal.then(|| termios::tcgetattr(&stdin).ok()).flatten();
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(if terminal { Stdio::inherit() } else { Stdio::piped() });
    let mut child = start(&mut command)?;
    if let Some(mut pipe) = child.stdin.take() {
        std::thread::spawn(move || {
            // The guest may end before its input does: then nobody is left to tell.
            let copied = std::io::copy(&mut std::io::stdin().lock(), &mut pipe);
            if copied.is_ok() && pipe.write_all(&[END_OF_INPUT]).and_then(|()| pipe.flush()).is_ok() {
                // An open pipe without contents: closing it would end the guest's serial line.
                std::mem::forget(pipe);
            }
        });
    }
    let end = watch(&mut child, limit, &interrupted);
    if let Some(settings) = settings {
        // QEMU restores the terminal itself, unless it had to be killed.
        let _ = termios::tcsetattr(&stdin, termios::OptionalActions::Now, &settings);
    }
    end
}

/// Runs QEMU with `input`, then end of input, and keeps what it says.
pub fn captured(arguments: &[OsString], input: &[u8], limit: Duration) -> Result<Captured> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(&mut command)?;
    let pipe = child.stdin.take();
    let mut bytes = input.to_vec();
    bytes.push(END_OF_INPUT);
    let writer = std::thread::spawn(move || {
        let mut pipe = pipe?;
        // A guest that ended early does not read its input: that shows in its output.
        let _ = pipe.write_all(&bytes).and_then(|()| pipe.flush());
        Some(pipe)
    });
    let stdout = keep(child.stdout.take());
    let stderr = keep(child.stderr.take());
    let end = watch(&mut child, Some(limit), &AtomicBool::new(false));
    let mut output = stdout.join().unwrap_or_default();
    output.extend(stderr.join().unwrap_or_default());
    drop(writer.join());
    Ok(Captured { end: end?, output: String::from_utf8_lossy(&output).replace('\r', "") })
}

fn keep(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut pipe) = pipe {
            // Whatever is lost by an error is missing in the output, which is looked at.
            let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut kept);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        kept
    })
}

fn start(command: &mut Command) -> Result<Child> {
    leash::die_with_parent(command);
    command.spawn().map_err(|cause| Error::new(format!("cannot start {PROGRAM}: {cause}")).remedy("cargo image doctor"))
}

fn watch(child: &mut Child, limit: Option<Duration>, interrupted: &AtomicBool) -> Result<End> {
    let begin = Instant::now();
    loop {
        let waited = child.try_wait().map_err(|cause| Error::new(format!("cannot wait for QEMU: {cause}")))?;
        let interrupted = interrupted.load(Ordering::Relaxed);
        match waited {
            Some(_) if interrupted => return Ok(End::Interrupted),
            Some(status) => return Ok(End::Code(status.code().unwrap_or(128))),
            None if interrupted => {
                stop(child);
                return Ok(End::Interrupted);
            }
            None => {}
        }
        if limit.is_some_and(|limit| begin.elapsed() >= limit) {
            stop(child);
            return Ok(End::TimedOut);
        }
        std::thread::sleep(LOOK);
    }
}

/// Ends QEMU: asked first, so that it restores the terminal, then killed.
fn stop(child: &mut Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
        // It may have ended meanwhile; it is not reaped yet, so the number is still its own.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_shown_so_that_a_shell_reads_the_same_words() {
        let words = ["-M", "virt-7.2,gic-version=3", "a b", "it's", "", "$HOME"].map(OsString::from);
        assert_eq!(shown(&words), format!(r"{PROGRAM} -M virt-7.2,gic-version=3 'a b' 'it'\''s' '' '$HOME'"));
    }

    #[test]
    fn ends_have_the_exit_codes_that_shells_give_them() {
        assert_eq!([End::Code(7), End::TimedOut, End::Interrupted].map(End::exit_code), [7, 124, 130]);
    }
}
