//! A small manifest for tests.

use alloc::{string::ToString, vec, vec::Vec};
use exo_abi::page::Prot;
use velvet_manifest::{
    FILES_VA, File, HandedFile, Manifest, Names, Peer, Placement, Program, Restart, RestartWhen, Segment, Slices, Start,
};

/// A console driver, a shell that may call it, and init.
pub fn manifest() -> Manifest {
    let mut driver = program("pl011", &["console"], &[]);
    driver.files = vec![HandedFile { file: 0, va: FILES_VA }];
    let shell = program("shell", &["shell"], &[("console", 1), ("init", 0)]);
    Manifest {
        image: "example".to_string(),
        programs: vec![program("init", &["init"], &[]), driver, shell],
        files: vec![File { name: "motd".to_string(), archive_page: 9, pages: 1, bytes: 5, crc32: 0 }],
        archive_pages: 12,
    }
}

fn program(name: &str, services: &[&str], calls: &[(&str, u32)]) -> Program {
    let segment = |va, archive_page, prot: Prot, placement| Segment {
        va,
        archive_page,
        archive_pages: 1,
        memory_pages: 1,
        prot: prot.bits(),
        placement,
        crc32: 0,
    };
    Program {
        name: name.to_string(),
        abi_version: exo_abi::ABI_VERSION,
        entry: 0x20_1000,
        segments: vec![
            segment(0x20_0000, 1, Prot::READ, Placement::InPlace),
            segment(0x20_1000, 2, Prot::READ | Prot::EXECUTE, Placement::InPlace),
            segment(0x20_3000, 3, Prot::READ | Prot::WRITE, Placement::Copy),
        ],
        stack_pages: 8,
        frames: 64,
        minimum: 32,
        names: Names::default(),
        slices: vec![Slices { core: 0, count: 1, micros: 1000, exact: false }],
        devices: Vec::new(),
        calls: calls.iter().map(|&(service, program)| Peer { service: service.to_string(), program }).collect(),
        services: services.iter().map(ToString::to_string).collect(),
        restart: Restart { when: RestartWhen::OnFailure, base_ms: 10, cap_ms: 1000, tries: 0 },
        watchdog_ms: None,
        args: Vec::new(),
        files: Vec::new(),
        start: Start::AtBoot,
        ends_machine: false,
        debug: false,
        power: false,
        audit: false,
    }
}
