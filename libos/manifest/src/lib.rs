//! The manifest in the archive: what the image-builder decided, in the words the first environment acts on.
//!
//! A person writes `image-builder/images/NAME.toml`. The image-builder checks it against the machine and resolves every name: a
//! device becomes frames and lines, a service becomes a program, an ELF becomes page-aligned [`Segment`]s. What is left,
//! a [`Manifest`], leaves nothing to interpret. The [`archive`] module says where it lies.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod archive;

use alloc::string::String;
use alloc::vec::Vec;
use exo_abi::page::Prot;
use serde::{Deserialize, Serialize};

/// Where [`HandedFile`]s are mapped in a program that has any: the first page of the first file.
pub const FILES_VA: u64 = 0x10_0000_0000;

/// Everything the first environment needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The image's name: the TOML file's stem.
    pub image: String,
    /// The programs. Number [`Manifest::FIRST`] is the first environment itself: it runs already, from segments mapped in place.
    pub programs: Vec<Program>,
    /// The files that programs are handed.
    pub files: Vec<File>,
    /// Pages of the whole archive.
    pub archive_pages: u32,
}

impl Manifest {
    /// The index of the first environment in [`Manifest::programs`].
    pub const FIRST: usize = 0;

    /// The index of the program called `name`.
    pub fn program(&self, name: &str) -> Option<usize> {
        self.programs.iter().position(|program| program.name == name)
    }
}

/// An environment to be: what it runs, what it may use, whom it may call, what happens when it dies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name, unique in the image: letters, digits, `-` and `_`.
    pub name: String,
    /// The [`exo_abi::ABI_VERSION`] it was built for. Refused when it is not the reader's own.
    pub abi_version: u32,
    /// Its first instruction. Lies in an executable segment.
    pub entry: u64,
    /// What it consists of, by ascending address, without overlap, all below [`exo_abi::page::MAPPABLE_END`].
    pub segments: Vec<Segment>,
    /// Pages of its first thread's stack.
    pub stack_pages: u32,
    /// The quota of its own pool, in frames: everything it has but segments in place.
    pub frames: u64,
    /// Frames of that quota that `reclaim` never takes.
    pub minimum: u64,
    /// Numbers of environments, pools and cells it may use for objects of its own.
    pub names: Names,
    /// Its time. One vcore begins on the core of the first; never empty.
    pub slices: Vec<Slices>,
    /// Its devices.
    pub devices: Vec<Device>,
    /// The services it may call. Nothing else is reachable for it.
    pub calls: Vec<Peer>,
    /// The services it offers; by default one of its own name.
    pub services: Vec<String>,
    /// What happens when it ends.
    pub restart: Restart,
    /// It is taken for hung, stopped and restarted when it gives no sign of life for so long.
    pub watchdog_ms: Option<u32>,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Files it finds mapped, read-only.
    pub files: Vec<HandedFile>,
    /// When it starts.
    pub start: Start,
    /// When it ends, the machine is switched off with its exit code.
    pub ends_machine: bool,
    /// It may be read and changed from outside for debugging: its maker keeps MAP, READ and the binding of its pool.
    pub debug: bool,
    /// It may switch the machine off and reset it: Power with POWER_OFF.
    pub power: bool,
    /// It may have the kernel check its invariants: Power with POWER_AUDIT.
    pub audit: bool,
}

/// A page-aligned stretch of a program's address space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// First address, page-aligned.
    pub va: u64,
    /// First page in the archive, counted from the archive's first.
    pub archive_page: u32,
    /// Pages in the archive.
    pub archive_pages: u32,
    /// Pages in memory, at least `archive_pages`; what goes beyond is zeros.
    pub memory_pages: u32,
    /// [`Prot`] bits: READ, READ|WRITE or READ|EXECUTE.
    pub prot: u8,
    /// Shared with the archive, or copied.
    pub placement: Placement,
    /// [`archive::Crc32`] of its pages in the archive, padding included.
    pub crc32: u32,
}

impl Segment {
    /// Its permissions as the kernel spells them.
    pub fn prot(&self) -> Prot {
        Prot::from_bits_truncate(self.prot)
    }

    /// First address beyond it.
    pub fn end(&self) -> u64 {
        self.va + u64::from(self.memory_pages) * exo_abi::PAGE_BYTES
    }
}

/// Where the frames of a segment come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// The archive's own frames are mapped; `memory_pages` equals `archive_pages`. Never writable, but for the first environment.
    InPlace,
    /// Frames of the program's own pool, filled from the archive.
    Copy,
}

/// Numbers that a program may use for environments, pools and cells of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Environment numbers.
    pub environments: u32,
    /// Pool numbers.
    pub pools: u32,
    /// Revocation cells.
    pub cells: u32,
}

/// Positions of a core's slice vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slices {
    /// The core.
    pub core: u32,
    /// How many positions; the reader chooses which. More than a core has: every one of this core and those above it, as far as the number goes.
    pub count: u32,
    /// How long each lasts, in microseconds.
    pub micros: u32,
    /// They lend nothing and borrow nothing.
    pub exact: bool,
}

impl Slices {
    /// Positions it takes of a core.
    pub fn of_core(&self, core: u32) -> u64 {
        let before = core.checked_sub(self.core).map(|cores| u64::from(cores) * exo_abi::SLICES_PER_CORE);
        let left = before.map_or(0, |before| u64::from(self.count).saturating_sub(before));
        left.min(exo_abi::SLICES_PER_CORE)
    }
}

/// A device of the machine, as its device tree describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The `compatible` string it was asked for by.
    pub compatible: String,
    /// The path of its node in the device tree.
    pub name: String,
    /// First frame of its registers.
    pub first_frame: u64,
    /// Frames of its registers.
    pub frames: u64,
    /// Offset of the first register in the first frame.
    pub offset: u32,
    /// Rights on the registers: DEVICE_READ, DEVICE_WRITE, DEVICE_DEBUG of [`exo_abi::binding::Rights`].
    pub rights: u8,
    /// Its interrupt lines; none when only DEVICE_DEBUG was asked for.
    pub lines: Vec<Line>,
}

/// An interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its number, 32 or more.
    pub number: u32,
    /// It is edge-triggered.
    pub edge: bool,
}

/// A service and the program behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The service's name.
    pub service: String,
    /// Index into [`Manifest::programs`] of who offers it.
    pub program: u32,
}

/// What happens when a program ends, and how patiently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Which ends are answered by a new start.
    pub when: RestartWhen,
    /// The pause before the first restart, in milliseconds; it doubles with each.
    pub base_ms: u32,
    /// The longest pause, in milliseconds.
    pub cap_ms: u32,
    /// Restarts in a row before the program is given up; 0: never given up.
    pub tries: u32,
}

/// Which ends of a program are answered by a new start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartWhen {
    /// None.
    #[default]
    Never,
    /// A fault, the watchdog, or an exit code that is not 0.
    OnFailure,
    /// Every one.
    Always,
}

/// When a program starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// With the machine.
    #[default]
    AtBoot,
    /// When somebody asks for it.
    OnDemand,
}

/// A file in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name.
    pub name: String,
    /// First page in the archive, counted from the archive's first.
    pub archive_page: u32,
    /// Pages in the archive.
    pub pages: u32,
    /// Its bytes; zeros follow to the end of the last page.
    pub bytes: u64,
    /// [`archive::Crc32`] of its pages, padding included.
    pub crc32: u32,
}

/// A file a program finds mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedFile {
    /// Index into [`Manifest::files`].
    pub file: u32,
    /// Where: page-aligned, from [`FILES_VA`] on.
    pub va: u64,
}
