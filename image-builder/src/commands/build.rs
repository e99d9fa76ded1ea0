//! `cargo image build`: builds an image and says where it is.

use super::{MachineArguments, doctor};
use crate::progress::Progress;
use crate::{Result, build as builder, folders};
use clap::Args;
use std::path::PathBuf;

/// What can be said after `build`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A name in image-builder/images, a .toml file, or the folder of an application's crate.
    #[arg(default_value = "demo")]
    image: String,
    #[command(flatten)]
    machine: MachineArguments,
    /// Where to put the image.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Prints the image's file, alone on a line of standard output.
pub fn build(arguments: &Arguments) -> Result<i32> {
    doctor::ensure()?;
    let progress = Progress::shown();
    let built = builder::build(&builder::find(&arguments.image)?, &arguments.machine.options(), &progress)?;
    drop(progress);
    let file = match &arguments.output {
        Some(file) => {
            folders::write(file, &built.image.bytes)?;
            file.clone()
        }
        None => built.image_file,
    };
    println!("{}", file.display());
    Ok(0)
}
