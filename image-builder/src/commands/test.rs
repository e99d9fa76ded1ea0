//! `cargo image test`: the images that are tests, each on its machines.

use super::doctor;
use crate::{Error, Result, cases};
use clap::Args;

/// What can be said after `test`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this image.
    image: Option<String>,
}

/// Runs them one after the other; the exit code is 1 if one failed.
pub fn test(arguments: &Arguments) -> Result<i32> {
    doctor::ensure()?;
    let wanted = |case: &cases::Case| arguments.image.as_ref().is_none_or(|image| *image == case.image);
    let cases: Vec<cases::Case> = cases::all().into_iter().filter(wanted).collect();
    if cases.is_empty() {
        return Err(Error::new("no test runs this image").remedy("choose demo, tiny, trial or rogue"));
    }
    let mut failed = 0;
    for case in &cases {
        match case.run() {
            Ok(_) => println!("ok      {}", case.name()),
            Err(error) => {
                failed += 1;
                println!("FAILED  {error}");
            }
        }
    }
    println!("{} passed, {failed} failed", cases.len() - failed);
    Ok(i32::from(failed > 0))
}
