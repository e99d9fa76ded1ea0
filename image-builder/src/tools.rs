//! Other programs, asked what they know.

use crate::folders;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What a command says, if it is there and succeeds.
pub fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folders::repository())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    output.status.success().then_some(text)
}

/// The toolchain's folder.
pub fn sysroot() -> Option<PathBuf> {
    output("rustc", &["--print", "sysroot"]).map(PathBuf::from)
}
