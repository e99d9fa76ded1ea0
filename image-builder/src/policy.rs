//! The image file a person writes: which programs, and what each may do.
//!
//! This module knows its grammar only; [`crate::check`] knows what is sensible.

use crate::error::{Error, Place, Result};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// An image file, read but not yet checked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The image's name: the file's stem.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// Its text, to find lines in.
    text: String,
    /// What it says.
    pub image: ImageToml,
}

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageToml {
    /// The programs; the first is the first environment.
    #[serde(default, rename = "program")]
    pub programs: Vec<Spanned<ProgramToml>>,
    /// Files for programs.
    #[serde(default, rename = "file")]
    pub files: Vec<Spanned<FileToml>>,
}

/// A program. What the fields mean stands in `image-builder/README.md` and in [`velvet_manifest::Program`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramToml {
    /// Unique name.
    pub name: Spanned<String>,
    /// A name in `apps/` or `drivers/`, or a path from the image file; by default the program's name.
    #[serde(rename = "crate")]
    pub crate_: Option<Spanned<String>>,
    /// Which binary, if the crate has several.
    pub bin: Option<Spanned<String>>,
    /// Quota in frames.
    pub frames: Spanned<u64>,
    /// Frames never reclaimed.
    pub minimum: Option<Spanned<u64>>,
    /// Time; by default one slice on core 0.
    pub slices: Option<Spanned<Vec<Spanned<SlicesToml>>>>,
    /// Devices.
    #[serde(default)]
    pub devices: Vec<Spanned<DeviceToml>>,
    /// Services it may call.
    #[serde(default)]
    pub calls: Vec<Spanned<String>>,
    /// Services it offers; by default its name.
    pub offers: Option<Vec<Spanned<String>>>,
    /// What happens when it ends.
    pub restart: Option<Spanned<RestartToml>>,
    /// How long it may give no sign of life.
    pub watchdog_ms: Option<Spanned<u32>>,
    /// Arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Files it gets.
    #[serde(default)]
    pub files: Vec<Spanned<String>>,
    /// `boot` or `demand`.
    #[serde(default)]
    pub start: StartToml,
    /// Pages of stack.
    pub stack_pages: Option<Spanned<u32>>,
    /// Environment numbers it may use.
    pub environments: Option<Spanned<u32>>,
    /// Pool numbers it may use.
    pub pools: Option<Spanned<u32>>,
    /// Revocation cells it may use.
    pub cells: Option<Spanned<u32>>,
    /// Its end is the machine's.
    #[serde(default)]
    pub ends_machine: bool,
    /// May be debugged.
    #[serde(default)]
    pub debug: bool,
    /// May switch the machine off.
    #[serde(default)]
    pub power: bool,
    /// May have the kernel checked.
    #[serde(default)]
    pub audit: bool,
}

/// Positions of a core's slice vector.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlicesToml {
    /// The core.
    #[serde(default)]
    pub core: u32,
    /// How many; one unless it says otherwise.
    pub count: Option<u32>,
    /// Every position of this core and of all above it, if the machine has any.
    #[serde(default)]
    pub whole: bool,
    /// How long each.
    #[serde(default = "default_slice")]
    pub micros: u32,
    /// Lend nothing, borrow nothing.
    #[serde(default)]
    pub exact: bool,
}

fn default_slice() -> u32 {
    exo_abi::DEFAULT_SLICE_US as u32
}

/// A device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceToml {
    /// As the device tree calls its kind.
    pub compatible: String,
    /// Which one, if there are several: the address of its registers.
    pub at: Option<u64>,
    /// `full`, or `debug`: only the kernel's debug output through it.
    #[serde(default)]
    pub access: AccessToml,
}

/// What a program may do with a device.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum AccessToml {
    /// Map its registers, take its interrupts, and write by the kernel if it is the debug UART.
    #[default]
    Full,
    /// Only write by the kernel to the debug UART.
    Debug,
}

/// What happens when a program ends.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartToml {
    /// Which ends are answered.
    pub when: WhenToml,
    /// First pause.
    #[serde(default = "default_base")]
    pub base_ms: u32,
    /// Longest pause.
    #[serde(default = "default_cap")]
    pub cap_ms: u32,
    /// Restarts in a row; 0: for ever.
    #[serde(default)]
    pub tries: u32,
}

fn default_base() -> u32 {
    10
}

fn default_cap() -> u32 {
    5000
}

/// Which ends of a program are answered by a new start.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum WhenToml {
    /// None.
    Never,
    /// Faults, the watchdog, exit codes that are not 0.
    OnFailure,
    /// All.
    Always,
}

/// When a program starts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum StartToml {
    /// With the machine.
    #[default]
    Boot,
    /// When somebody asks.
    Demand,
}

/// A file for programs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileToml {
    /// Unique name.
    pub name: Spanned<String>,
    /// Where it lies, from the image file.
    pub path: Spanned<String>,
}

impl Policy {
    /// Reads an image file.
    pub fn read(file: &Path) -> Result<Policy> {
        let text = fs::read_to_string(file).map_err(|cause| Error::io("read", file, &cause))?;
        Policy::parse(file, text)
    }

    /// Reads the text of an image file that lies (or could lie) at `file`.
    pub fn parse(file: &Path, text: String) -> Result<Policy> {
        let image: ImageToml = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            Error::new(error.message().trim())
                .at(&place(file, &text, at))
                .remedy("image-builder/README.md lists the keys, their values and their defaults")
        })?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Policy { name, file: file.to_path_buf(), text, image })
    }

    /// Where in the file a value stands.
    pub fn place<T>(&self, value: &Spanned<T>) -> Place {
        place(&self.file, &self.text, value.span().start)
    }

    /// The file's first line, for what is wrong with all of it.
    pub fn top(&self) -> Place {
        Place { file: self.file.clone(), line: 1 }
    }
}

fn place(file: &Path, text: &str, at: usize) -> Place {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    Place { file: file.to_path_buf(), line: 1 + before.iter().filter(|byte| **byte == b'\n').count() }
}
