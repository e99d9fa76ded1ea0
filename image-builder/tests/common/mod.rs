//! ELF files made by hand, and a machine to check images against.
#![allow(dead_code, reason = "each test file uses a part")]

use image_builder::check::{self, Plan};
use image_builder::commands::doctor;
use image_builder::machine::{Machine, MachineOptions};
use image_builder::policy::Policy;
use image_builder::{Error, Result, folders};
use std::sync::OnceLock;

pub const READ: u32 = 4;
pub const WRITE: u32 = 2;
pub const EXECUTE: u32 = 1;

/// What a test wants an ELF to be.
#[derive(Clone, Debug)]
pub struct Elf {
    pub machine: u16,
    pub kind: u16,
    pub entry: u64,
    pub segments: Vec<Segment>,
    /// Contents of the section `.velvet.abi`.
    pub abi: Option<Vec<u8>>,
}

/// A program header.
#[derive(Clone, Debug)]
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub va: u64,
    pub bytes: Vec<u8>,
    pub memory: u64,
}

impl Segment {
    pub fn load(va: u64, flags: u32, bytes: Vec<u8>) -> Segment {
        let memory = bytes.len() as u64;
        Segment { kind: 1, flags, va, bytes, memory }
    }
}

impl Elf {
    /// Text, constants and data where lld puts them; nothing wrong with it.
    pub fn good() -> Elf {
        Elf {
            machine: 183,
            kind: 2,
            entry: 0x20_1010,
            segments: vec![
                Segment::load(0x20_0000, READ, vec![1; 100]),
                Segment::load(0x20_1010, READ | EXECUTE, vec![2; 5000]),
                Segment { memory: 10_000, ..Segment::load(0x20_4020, READ | WRITE, vec![3; 200]) },
            ],
            abi: Some(exo_abi::ABI_VERSION.to_le_bytes().to_vec()),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut contents = vec![0u8; 64 + 56 * self.segments.len()];
        let mut headers = Vec::new();
        for segment in &self.segments {
            let offset = contents.len() as u64;
            contents.extend_from_slice(&segment.bytes);
            headers.extend_from_slice(&segment.kind.to_le_bytes());
            headers.extend_from_slice(&segment.flags.to_le_bytes());
            for word in [offset, segment.va, segment.va, segment.bytes.len() as u64, segment.memory, 4096] {
                headers.extend_from_slice(&word.to_le_bytes());
            }
        }
        contents[64..64 + headers.len()].copy_from_slice(&headers);
        let names = b"\0.velvet.abi\0.names\0";
        let names_at = contents.len() as u64;
        contents.extend_from_slice(names);
        let abi = self.abi.clone().unwrap_or_default();
        let abi_at = contents.len() as u64;
        contents.extend_from_slice(&abi);
        let sections_at = contents.len() as u64;
        contents.extend_from_slice(&section(0, 0, 0, 0));
        contents.extend_from_slice(&section(13, 3, names_at, names.len() as u64));
        if self.abi.is_some() {
            contents.extend_from_slice(&section(1, 1, abi_at, abi.len() as u64));
        }
        let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        head.extend_from_slice(&self.kind.to_le_bytes());
        head.extend_from_slice(&self.machine.to_le_bytes());
        head.extend_from_slice(&1u32.to_le_bytes());
        for word in [self.entry, 64, sections_at] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        head.extend_from_slice(&0u32.to_le_bytes());
        let sections = 2 + u16::from(self.abi.is_some());
        for half in [64, 56, self.segments.len() as u16, 64, sections, 1] {
            head.extend_from_slice(&half.to_le_bytes());
        }
        contents[..64].copy_from_slice(&head);
        contents
    }

    /// A kernel: its Image header in front, and room for the boot header.
    pub fn kernel() -> Elf {
        let mut text = vec![0u8; 0x1100];
        text[56..60].copy_from_slice(b"ARM\x64");
        text[0x1000] = 0x42;
        let base = 0xffff_ff80_0000_0000;
        Elf {
            machine: 183,
            kind: 2,
            entry: base,
            segments: vec![
                Segment::load(base, READ | EXECUTE, text),
                Segment { memory: 0x1800, ..Segment::load(base + 0x2000, READ | WRITE, vec![7; 16]) },
            ],
            abi: None,
        }
    }
}

fn section(name: u32, kind: u32, offset: u64, size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [name, kind] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for word in [0, 0, offset, size] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&[0; 8]);
    for word in [1u64, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out
}

/// QEMU's machine as `cargo image run` chooses it.
pub fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| {
        doctor::ensure().expect("the tools are there, or can be installed");
        Machine::describe(&MachineOptions::default()).expect("QEMU describes its machine")
    })
}

/// The text of an image file, as if it lay among the others, checked.
pub fn checked(text: &str) -> Result<Plan> {
    let policy = Policy::parse(&folders::images().join("test.toml"), text.to_string())?;
    check::check(&policy, machine())
}

/// What is wrong with the text of an image file.
pub fn wrong(text: &str) -> Error {
    match checked(text) {
        Ok(_) => panic!("this image file was accepted:\n{text}"),
        Err(error) => error,
    }
}
