//! `cargo image run`: builds an image and gives the terminal to it.

use super::{MachineArguments, doctor};
use crate::progress::Progress;
use crate::{Result, build, emulator};
use clap::Args;
use std::time::Duration;

/// What can be said after `run`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A name in image-builder/images, a .toml file, or the folder of an application's crate.
    #[arg(default_value = "demo")]
    image: String,
    #[command(flatten)]
    machine: MachineArguments,
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
    doctor::ensure()?;
    let options = arguments.machine.options();
    let progress = Progress::shown();
    let built = build::build(&build::find(&arguments.image)?, &options, &progress)?;
    drop(progress);
    let qemu = emulator::arguments(&built, &options, &arguments.more);
    if arguments.print_qemu {
        eprintln!("{}", emulator::shown(&qemu));
    }
    let end = emulator::interactive(&qemu, arguments.timeout.map(Duration::from_secs))?;
    if end == emulator::End::TimedOut {
        eprintln!("image-builder: the time was up");
    }
    Ok(end.exit_code())
}
