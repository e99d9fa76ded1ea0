//! Crates that image files name: in the repository, outside of it, and wrong ones.

use image_builder::cargo::{Wish, programs};
use image_builder::elf::load;
use image_builder::error::Place;
use image_builder::folders;
use image_builder::machine::MachineOptions;
use image_builder::policy::Policy;
use image_builder::progress::Progress;
use std::fs;
use std::path::{Path, PathBuf};

const MAIN: &str = r#"#![no_std]
#![no_main]
#[panic_handler]
fn stop(_: &core::panic::PanicInfo) -> ! { loop {} }
core::arch::global_asm!(
    ".pushsection .velvet.abi,\"aR\",%progbits", ".balign 4", ".word VERSION", ".popsection",
    ".global _start", "_start: b _start"
);
"#;

/// A crate in a folder of its own outside of the repository.
fn outside(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("velvet-{name}-{}", std::process::id()));
    let manifest = format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n[profile.release]\npanic = \"abort\"\n");
    write(&folder.join("Cargo.toml"), &manifest);
    for (file, text) in files {
        write(&folder.join(file), &text.replace("VERSION", &exo_abi::ABI_VERSION.to_string()));
    }
    folder
}

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

fn build(folder: &Path, bin: Option<&str>) -> image_builder::Result<Vec<PathBuf>> {
    let wish = Wish { folder: folder.to_path_buf(), bin: bin.map(str::to_string) };
    programs(&[(wish, Place { file: "test.toml".into(), line: 7 })], &Progress::Silent)
}

#[test]
fn a_crate_outside_of_the_repository_is_built() {
    let folder = outside("app-outside", &[("src/main.rs", MAIN)]);
    let files = build(&folder, None).unwrap();
    let loaded = load("app-outside", &fs::read(&files[0]).unwrap()).unwrap();
    assert!(!loaded.segments.is_empty());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_crate_with_several_binaries_needs_to_say_which() {
    let folder = outside("app-several", &[("src/bin/one.rs", MAIN), ("src/bin/two.rs", MAIN)]);
    let said = build(&folder, None).unwrap_err().to_string();
    assert!(said.contains("test.toml:7") && said.contains("several") && said.contains("one"), "{said}");
    let said = build(&folder, Some("three")).unwrap_err().to_string();
    assert!(said.contains("no binary `three`"), "{said}");
    assert_eq!(build(&folder, Some("two")).unwrap()[0].file_name().unwrap(), "two");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_crate_that_is_no_application_is_refused() {
    let folder = outside("app-library", &[("src/lib.rs", "#![no_std]\n")]);
    let said = build(&folder, None).unwrap_err().to_string();
    assert!(said.contains("test.toml:7") && said.contains("has no binary"), "{said}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_crate_that_does_not_compile_shows_what_the_compiler_says() {
    let folder = outside("app-broken", &[("src/main.rs", "nonsense")]);
    let said = build(&folder, None).unwrap_err().to_string();
    assert!(said.contains("test.toml:7") && said.contains("cargo build") && said.contains("nonsense"), "{said}");
    assert!(!said.contains("outline-atomics"), "a warning of ours stands before what is wrong:\n{said}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_program_in_the_place_of_another_kind_is_refused() {
    let said = |names: [&str; 2]| {
        let program = |name| format!("[[program]]\nname = \"{name}\"\nframes = 64\n");
        let policy = Policy::parse(&folders::images().join("test.toml"), names.map(program).concat()).unwrap();
        image_builder::build::build(&policy, &MachineOptions::default(), &Progress::Silent).unwrap_err().to_string()
    };
    let first = said(["hello", "init"]);
    assert!(first.contains("test.toml:2: `hello` cannot be the first program"), "{first}");
    let second = said(["init", "rogue"]);
    assert!(second.contains("test.toml:5: `rogue` can only be the first program"), "{second}");
}
