//! `cargo image run`: builds an image and gives the terminal to it.

use super::ImageArguments;
use crate::{Result, emulator};
use clap::Args;
use std::time::Duration;

/// What can be said after `run`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    image: ImageArguments,
    /// End after so many seconds, with exit code 124.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Say on standard error how QEMU is called.
    #[arg(long)]
    print_qemu: bool,
    /// For QEMU, as it is.
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    more: Vec<String>,
}

/// Ends with the guest's exit code.
pub fn run(arguments: &Arguments) -> Result<i32> {
    let built = arguments.image.build()?;
    let qemu = emulator::arguments(&built, &arguments.image.machine(), &arguments.more);
    if arguments.print_qemu {
        eprintln!("{}", emulator::shown(&qemu));
    }
    let end = emulator::interactive(&qemu, arguments.timeout.map(Duration::from_secs))?;
    if end == emulator::End::TimedOut {
        eprintln!("image-builder: the time was up");
    }
    Ok(end.exit_code())
}
