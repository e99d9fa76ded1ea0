//! What a person types: one file for each command.

pub mod bench;
pub mod build;
pub mod doctor;
pub mod run;
pub mod sizes;
pub mod soak;
pub mod test;

use crate::build::{self as builder, Built};
use crate::cargo::Paths;
use crate::machine::{MachineOptions, parse_memory};
use crate::progress::Progress;
use clap::{Args, Parser, Subcommand};

/// Builds Velvet images and runs them in QEMU.
#[derive(Debug, Parser)]
#[command(name = "cargo image", bin_name = "cargo image")]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image and run it in QEMU (Ctrl-C ends QEMU).
    Run(run::Arguments),
    /// Build an image and say where it is.
    Build(build::Arguments),
    /// Run the images that are tests.
    Test(test::Arguments),
    /// Measure the kernel in instructions, and compare with image-builder/budgets.toml.
    Bench(bench::Arguments),
    /// Run long tests with random choices that a seed repeats.
    Soak(soak::Arguments),
    /// Say what of the tools is there, and install what is missing.
    Doctor,
    /// Say where each byte of an image goes.
    Sizes(sizes::Arguments),
}

/// An image, and choices about the machine it is for.
#[derive(Clone, Debug, Args)]
pub struct ImageArguments {
    /// A name in image-builder/images, a .toml file, or the folder of an application's crate.
    #[arg(default_value = "demo")]
    pub image: String,
    /// Model of the cores, as QEMU calls it.
    #[arg(long, default_value = "cortex-a76")]
    pub cpu: String,
    /// Cores.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub smp: u32,
    /// RAM: 256M, 1G, 512K.
    #[arg(long, default_value = "256M", value_parser = parse_memory)]
    pub memory: u64,
    /// Version of the interrupt controller: 2 or 3.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=3))]
    pub gic: u32,
    /// Exception level the kernel is entered at: 1 or 2.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    pub el: u32,
    /// One instruction is one nanosecond; every run is the same.
    #[arg(long)]
    pub icount: bool,
    /// With a kernel in which no call takes the short path: for comparison.
    #[arg(long, hide = true)]
    pub general_paths: bool,
}

impl ImageArguments {
    /// The machine, as the rest of the program calls it.
    pub fn machine(&self) -> MachineOptions {
        MachineOptions {
            cpu: self.cpu.clone(),
            smp: self.smp,
            memory_kib: self.memory,
            gic: self.gic,
            el: self.el,
            icount: self.icount.then_some(0),
        }
    }

    /// Builds the image while a person watches.
    pub fn build(&self) -> crate::Result<Built> {
        doctor::ensure()?;
        let paths = if self.general_paths { Paths::General } else { Paths::Short };
        builder::build_with(&builder::find(&self.image)?, &self.machine(), paths, &Progress::shown())
    }
}

/// Does what was typed; answers the exit code.
pub fn perform(command: &Command) -> crate::Result<i32> {
    match command {
        Command::Run(arguments) => run::run(arguments),
        Command::Build(arguments) => build::build(arguments),
        Command::Test(arguments) => test::test(arguments),
        Command::Bench(arguments) => bench::bench(arguments),
        Command::Soak(arguments) => soak::soak(arguments),
        Command::Doctor => doctor::doctor(),
        Command::Sizes(arguments) => sizes::sizes(arguments),
    }
}
