//! An application that is not what it should be is refused by name.

mod common;

use common::{EXECUTE, Elf, READ, Segment, WRITE};
use exo_abi::page::{MAPPABLE_END, Prot};
use image_builder::elf::load;
use image_builder::kernel::flatten;

#[track_caller]
fn refused(file: &[u8], what: &str) {
    let said = load("app", file).expect_err("it was accepted").to_string();
    assert!(said.contains("`app` is refused") && said.contains(what), "{said}");
}

#[test]
fn a_good_one_is_cut_into_pages() {
    let loaded = load("app", &Elf::good().bytes()).unwrap();
    assert_eq!(loaded.entry, 0x20_1010);
    let shape: Vec<_> = loaded.segments.iter().map(|s| (s.va, s.bytes.len(), s.memory_pages, s.prot)).collect();
    assert_eq!(
        shape,
        [
            (0x20_0000, 4096, 1, Prot::READ),
            (0x20_1000, 8192, 2, Prot::READ | Prot::EXECUTE),
            (0x20_4000, 4096, 3, Prot::READ | Prot::WRITE),
        ]
    );
    assert_eq!(loaded.segments[1].bytes[..0x11], [[0; 0x10].as_slice(), &[2]].concat());
}

#[test]
fn what_is_no_elf_is_refused() {
    refused(b"#!/bin/sh\n", "not an ELF64");
    refused(&[], "not an ELF64");
    let mut narrow = Elf::good().bytes();
    narrow[4] = 1;
    refused(&narrow, "not an ELF64");
    let mut big = Elf::good().bytes();
    big[5] = 2;
    refused(&big, "not little-endian");
}

#[test]
fn one_for_another_machine_is_refused() {
    refused(&Elf { machine: 62, ..Elf::good() }.bytes(), "for another machine (ELF machine 62)");
}

#[test]
fn one_without_fixed_addresses_is_refused() {
    refused(&Elf { kind: 3, ..Elf::good() }.bytes(), "fixed addresses");
}

#[test]
fn another_abi_version_is_refused_and_both_are_named() {
    let other = exo_abi::ABI_VERSION + 7;
    let file = Elf { abi: Some(other.to_le_bytes().to_vec()), ..Elf::good() }.bytes();
    refused(&file, &format!("ABI version {other}, this is version {}", exo_abi::ABI_VERSION));
    refused(&Elf { abi: None, ..Elf::good() }.bytes(), "does not say for which ABI version");
    refused(&Elf { abi: Some(vec![1]), ..Elf::good() }.bytes(), "does not say for which ABI version");
}

#[test]
fn a_first_environment_says_so() {
    let version = exo_abi::ABI_VERSION.to_le_bytes();
    for (first, said) in [(0u32, false), (1, true)] {
        let file = Elf { abi: Some([version, first.to_le_bytes()].concat()), ..Elf::good() }.bytes();
        assert_eq!(load("app", &file).unwrap().first, said);
    }
    assert!(!load("app", &Elf::good().bytes()).unwrap().first);
}

#[test]
fn an_entry_outside_of_executable_segments_is_refused() {
    for entry in [0, 0x20_0010, 0x20_4020, 0x50_0000] {
        refused(&Elf { entry, ..Elf::good() }.bytes(), "does not lie in an executable segment");
    }
}

fn with(segment: Segment) -> Vec<u8> {
    let mut elf = Elf::good();
    elf.segments.push(segment);
    elf.bytes()
}

#[test]
fn overlapping_segments_are_refused() {
    refused(&with(Segment::load(0x20_1800, READ, vec![0; 8])), "overlap");
    refused(&with(Segment::load(0x20_6000, READ, vec![0; 8])), "overlap");
}

#[test]
fn segments_that_share_a_page_are_refused() {
    refused(&with(Segment::load(0x20_0800, READ | EXECUTE, vec![0; 8])), "overlap");
}

#[test]
fn a_writable_and_executable_segment_is_refused() {
    refused(&with(Segment::load(0x30_0000, READ | WRITE | EXECUTE, vec![0; 8])), "writable and executable");
}

#[test]
fn segments_beyond_what_can_be_mapped_are_refused() {
    refused(&with(Segment::load(MAPPABLE_END - 4, READ, vec![0; 8])), "does not lie below");
    refused(&with(Segment::load(u64::MAX - 4, READ, vec![0; 8])), "does not lie below");
    refused(&with(Segment { memory: u64::MAX, ..Segment::load(0x30_0000, READ, vec![0; 8]) }), "does not lie below");
}

#[test]
fn page_zero_is_refused() {
    refused(&with(Segment::load(0x10, READ, vec![0; 8])), "address 0");
}

#[test]
fn damaged_segments_are_refused() {
    refused(&with(Segment { memory: 4, ..Segment::load(0x30_0000, READ, vec![0; 8]) }), "larger in the file");
    let mut cut = Elf::good().bytes();
    cut[64 + 32..64 + 40].copy_from_slice(&0x10_0000u64.to_le_bytes());
    cut[64 + 40..64 + 48].copy_from_slice(&0x10_0000u64.to_le_bytes());
    refused(&cut, "cut short");
}

#[test]
fn thread_local_data_is_refused() {
    refused(&with(Segment { kind: 7, ..Segment::load(0x30_0000, READ, vec![0; 8]) }), "thread-local");
}

#[test]
fn every_cut_is_refused_or_read_but_never_a_panic() {
    let whole = Elf::good().bytes();
    for length in 0..whole.len() {
        assert!(load("app", &whole[..length]).is_err(), "cut to {length}");
    }
}

#[test]
fn changed_bytes_never_make_a_panic_or_an_unsafe_program() {
    let whole = Elf::good().bytes();
    for at in 0..64 + 56 * 3 {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            if let Ok(loaded) = load("app", &changed) {
                for segment in &loaded.segments {
                    assert!(!segment.prot.contains(Prot::WRITE | Prot::EXECUTE) && segment.end() <= MAPPABLE_END);
                }
            }
        }
    }
}

#[test]
fn a_kernel_is_flattened_with_its_zeros() {
    let kernel = flatten(&Elf::kernel().bytes()).unwrap();
    assert_eq!(kernel.bytes.len(), 0x4000);
    assert_eq!(
        (kernel.bytes[0x1000], kernel.bytes[0x1101], kernel.bytes[0x2000], kernel.bytes[0x2010]),
        (0x42, 0, 7, 0)
    );
}

#[test]
fn a_kernel_without_its_header_is_refused() {
    let mut elf = Elf::kernel();
    elf.segments[0].bytes[56] = 0;
    assert!(flatten(&elf.bytes()).unwrap_err().to_string().contains("Image header"));
    let mut elf = Elf::kernel();
    elf.segments[0].bytes[100] = 1;
    assert!(flatten(&elf.bytes()).unwrap_err().to_string().contains("boot header"));
    assert!(flatten(b"no kernel").unwrap_err().to_string().contains("not an ELF64"));
    assert!(
        flatten(&Elf { machine: 62, ..Elf::kernel() }.bytes()).unwrap_err().to_string().contains("another machine")
    );
}
