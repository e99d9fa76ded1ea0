//! A child process that cannot outlive this one, however this one ends.

use std::process::Command;

/// Has the child ended by the system when the thread that starts it ends, even by SIGKILL.
#[cfg(target_os = "linux")]
pub fn die_with_parent(command: &mut Command) {
    use rustix::process::{Signal, set_parent_process_death_signal};
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec the closure makes one system call; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from));
    }
}

/// Elsewhere there is no such service: signals that can be caught end the child in [`super::interactive`].
#[cfg(not(target_os = "linux"))]
pub fn die_with_parent(_command: &mut Command) {}
