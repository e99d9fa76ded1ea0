//! `cargo image build`: builds an image and says where it is.

use super::ImageArguments;
use crate::{Result, folders};
use clap::Args;
use std::path::PathBuf;

/// What can be said after `build`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    image: ImageArguments,
    /// Where to put the image.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Prints the image's file, alone on a line of standard output.
pub fn build(arguments: &Arguments) -> Result<i32> {
    let built = arguments.image.build()?;
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
