//! The archive and the image, laid out from made-up programs.

mod common;

use common::{Elf, checked, machine};
use exo_abi::PAGE_BYTES;
use exo_abi::boot::{BOOT_MAGIC, END_MAGIC};
use exo_abi::page::Prot;
use image_builder::archive::{Archive, lay_out};
use image_builder::elf::load;
use image_builder::image::assemble;
use image_builder::kernel::flatten;
use image_builder::machine::{Machine, MachineOptions};
use velvet_manifest::archive::{Crc32, read_manifest};
use velvet_manifest::{Manifest, Placement};

const TEXT: &str = r#"
[[program]]
name = "init"
crate = "hello"
frames = 10

[[program]]
name = "one"
crate = "hello"
frames = 10
files = ["policy"]

[[program]]
name = "two"
crate = "hello"
frames = 10

[[file]]
name = "policy"
path = "demo.toml"
"#;

fn archive() -> Archive {
    let executable = load("app", &Elf::good().bytes()).unwrap();
    lay_out(&checked(TEXT).unwrap(), &[executable.clone(), executable.clone(), executable]).unwrap()
}

fn pages(archive: &Archive, first: u32, count: u32) -> &[u8] {
    let page = PAGE_BYTES as usize;
    &archive.bytes[first as usize * page..(first + count) as usize * page]
}

#[test]
fn the_archive_can_be_read_as_it_was_written() {
    let archive = archive();
    assert_eq!(read_manifest(&archive.bytes), Ok(archive.manifest.clone()));
    assert_eq!(archive.bytes.len() as u64, u64::from(archive.manifest.archive_pages) * PAGE_BYTES);
    assert_eq!(archive.bytes[archive.bytes.len() - 8..], END_MAGIC.to_le_bytes());
}

#[test]
fn every_segment_has_its_contents_and_checksum() {
    let archive = archive();
    for program in &archive.manifest.programs {
        for segment in &program.segments {
            let bytes = pages(&archive, segment.archive_page, segment.archive_pages);
            assert_eq!(Crc32::of(bytes), segment.crc32, "{} {:#x}", program.name, segment.va);
        }
    }
    let file = &archive.manifest.files[0];
    let bytes = pages(&archive, file.archive_page, file.pages);
    assert!(bytes.starts_with(b"# The default image"));
    assert_eq!(Crc32::of(bytes), file.crc32);
}

#[test]
fn only_the_first_environment_writes_in_the_archive_and_nobody_shares_that() {
    let archive = archive();
    let mut owners = vec![0; archive.manifest.archive_pages as usize];
    for (index, program) in archive.manifest.programs.iter().enumerate() {
        for segment in &program.segments {
            let in_place = segment.placement == Placement::InPlace;
            let writable = segment.prot().contains(Prot::WRITE);
            assert!(!(writable && in_place) || index == Manifest::FIRST);
            if in_place {
                assert_eq!(segment.archive_pages, segment.memory_pages);
            }
            let pages = segment.archive_page..segment.archive_page + segment.archive_pages;
            for page in pages {
                owners[page as usize] += if writable && in_place { 100 } else { 1 };
            }
        }
    }
    assert!(owners.iter().all(|owners| *owners <= 100), "a page written in place has one user: {owners:?}");
}

#[test]
fn equal_programs_share_their_pages() {
    let archive = archive();
    let [_, one, two] = archive.manifest.programs.as_slice() else { panic!("three programs") };
    assert_eq!(one.segments, two.segments);
}

#[test]
fn the_first_environment_begins_with_everything_mapped() {
    let archive = archive();
    let first = archive.first;
    let runs: Vec<_> = first.runs.iter().filter(|run| run.pages > 0).collect();
    assert_eq!(runs.len(), 4, "constants, text, data, stack");
    for pair in runs.windows(2) {
        assert!(pair[0].va + u64::from(pair[0].pages) * PAGE_BYTES <= pair[1].va);
    }
    let stack = runs[3];
    assert_eq!((stack.pages, stack.prot), (8, u32::from((Prot::READ | Prot::WRITE).bits())));
    assert_eq!(first.stack, stack.va + 8 * PAGE_BYTES);
    assert!(first.control > first.stack && first.control >> 21 == stack.va >> 21);
    assert_eq!(first.entry, 0x20_1010);
}

fn small(memory_kib: u64) -> Machine {
    let options = MachineOptions { memory_kib, ..MachineOptions::default() };
    Machine { frames_of_ram: memory_kib / 4, options, ..machine().clone() }
}

#[test]
fn the_image_carries_its_header_and_archive() {
    let (kernel, archive) = (flatten(&Elf::kernel().bytes()).unwrap(), archive());
    let image = assemble(&kernel, &archive, machine()).unwrap();
    let long = |at: usize| u64::from_le_bytes(image.bytes[at..at + 8].try_into().unwrap());
    assert_eq!(long(16), image.bytes.len() as u64);
    assert_eq!(long(64), BOOT_MAGIC);
    assert_eq!(image.bytes[80..96], image.build_id);
    assert_eq!(long(96), 0x900_0000);
    assert_eq!((long(104), long(112), long(120)), (0, 0x4000, archive.bytes.len() as u64));
    assert_eq!(image.bytes[0x4000..], archive.bytes);
}

#[test]
fn a_small_machine_gets_an_elf_behind_its_device_tree() {
    let (kernel, archive) = (flatten(&Elf::kernel().bytes()).unwrap(), archive());
    let image = assemble(&kernel, &archive, &small(1024)).unwrap();
    let parsed = object::read::elf::ElfFile64::<object::LittleEndian>::parse(image.bytes.as_slice()).unwrap();
    use object::Object;
    assert_eq!(parsed.entry() % 0x10000, 0);
    assert!(parsed.entry() > 0x4000_0000 && parsed.entry() < 0x4008_0000);
    let tree = image.device_tree.unwrap();
    assert!(tree.len() < 0x8000, "{} bytes", tree.len());
    assert_eq!(image.bytes[4096 + 104..4096 + 112], 0x4000_0000u64.to_le_bytes());
}

#[test]
fn an_image_larger_than_the_memory_is_refused() {
    let (kernel, archive) = (flatten(&Elf::kernel().bytes()).unwrap(), archive());
    let said = assemble(&kernel, &archive, &small(128)).unwrap_err().to_string();
    assert!(said.contains("of RAM leave room for") && said.contains("--memory"), "{said}");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let kernel = flatten(&Elf::kernel().bytes()).unwrap();
    let build = || assemble(&kernel, &archive(), machine()).unwrap();
    assert_eq!(build().bytes, build().bytes);
    let mut other = kernel.clone();
    other.bytes[0x1000] ^= 1;
    assert_ne!(assemble(&other, &archive(), machine()).unwrap().build_id, build().build_id);
}
