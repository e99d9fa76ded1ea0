//! The commands as a person types them.

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn image(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image-builder"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn said(arguments: &[&str]) -> (Output, String) {
    let output = image(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    (output, text)
}

#[test]
fn help_names_every_command() {
    for help in ["--help", "help"] {
        let (output, text) = said(&[help]);
        assert!(output.status.success());
        for command in ["run", "build", "test", "bench", "soak", "doctor", "sizes"] {
            assert!(text.contains(&format!("  {command} ")), "{command}\n{text}");
        }
    }
}

#[test]
fn nonsense_is_refused_with_a_reason() {
    for (arguments, reason) in [
        (vec!["run", "--gic", "4"], "4 is not in 2..=3"),
        (vec!["run", "--memory", "lots"], "not an amount of memory"),
        (vec!["run", "nothing"], "there is no image `nothing`"),
        (vec!["run", "--cpu", "z80"], "QEMU has no such machine"),
        (vec!["run", "--cpu", "cortex-a15"], "`cortex-a15` is not a 64-bit core"),
        (vec!["fly"], "unrecognized subcommand"),
    ] {
        let (output, text) = said(&arguments);
        assert!(!output.status.success() && text.contains(reason), "{arguments:?}\n{text}");
    }
}

#[test]
fn doctor_finds_everything() {
    let (output, text) = said(&["doctor"]);
    assert!(output.status.success(), "{text}");
    for tool in ["rustc", "aarch64-unknown-none-softfloat", "rust-lld", "QEMU emulator version"] {
        assert!(text.contains(tool), "{tool}\n{text}");
    }
}

/// A run of `demo` whose prompt waits for input that never comes: the pipe stays open. QEMU writes its process number to the file.
fn waiting(name: &str, arguments: &[&str]) -> (Child, PathBuf) {
    let file = std::env::temp_dir().join(format!("velvet-{name}-{}", std::process::id()));
    let mut command = image(&["run"]);
    command.args(arguments).args(["--", "-pidfile"]).arg(&file);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    (child, file)
}

#[test]
fn a_run_ends_when_its_time_is_up_and_leaves_nothing_behind() {
    let (mut child, qemu) = waiting("timeout", &["--timeout", "2"]);
    let input = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(124));
    drop(input);
    assert!(!is_running(&qemu));
}

#[test]
fn a_signal_ends_qemu_too() {
    let (mut child, qemu) = waiting("signal", &[]);
    let input = child.stdin.take();
    wait_until(|| is_running(&qemu), "QEMU did not start");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(input);
    assert!(!is_running(&qemu));
}

#[cfg(target_os = "linux")]
#[test]
fn even_a_killed_run_leaves_no_qemu_behind() {
    let (mut child, qemu) = waiting("killed", &[]);
    wait_until(|| is_running(&qemu), "QEMU did not start");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(|| !is_running(&qemu), "QEMU outlived the image-builder");
}

fn wait_until(condition: impl Fn() -> bool, otherwise: &str) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(300), "{otherwise}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The QEMU that wrote this file, which it removes when it ends in good order.
fn is_running(file: &Path) -> bool {
    let number = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    number.and_then(Pid::from_raw).is_some_and(|pid| test_kill_process(pid).is_ok())
}
