//! From an image's name to files that QEMU runs.

use crate::archive::{self, Archive};
use crate::cargo::{self, Paths, Wish};
use crate::check::{self, Plan};
use crate::elf::{self, Executable};
use crate::error::{Error, Place, Result};
use crate::folders;
use crate::image::{self, Image};
use crate::kernel::{self, Kernel};
use crate::machine::{Machine, MachineOptions};
use crate::policy::Policy;
use crate::progress::Progress;
use std::fs;
use std::path::{Path, PathBuf};
use velvet_manifest::Manifest;

/// Frames for a program that is given as a crate's folder, without a policy of its own.
const FRAMES_WITHOUT_POLICY: u64 = 1024;

/// A built image, with everything it came from.
#[derive(Clone, Debug)]
pub struct Built {
    /// What was asked for, checked.
    pub plan: Plan,
    /// The kernel.
    pub kernel: Kernel,
    /// The archive.
    pub archive: Archive,
    /// The whole.
    pub image: Image,
    /// For QEMU's `-kernel`.
    pub image_file: PathBuf,
    /// For QEMU's `-dtb`.
    pub device_tree_file: Option<PathBuf>,
}

/// Finds an image: the name of one in `image-builder/images`, a `.toml` file, or the folder of an application's crate.
pub fn find(name: &str) -> Result<Policy> {
    let path = Path::new(name);
    if path.join("Cargo.toml").is_file() {
        return around_crate(path);
    }
    if path.extension().is_some_and(|extension| extension == "toml") {
        return Policy::read(path);
    }
    let file = folders::images().join(format!("{name}.toml"));
    if !name.contains('/') && file.is_file() {
        return Policy::read(&file);
    }
    Err(Error::new(format!("there is no image `{name}`")).remedy(format!(
        "choose one of {}, a .toml file, or the folder of an application's crate",
        names()?.join(", ")
    )))
}

/// The images that come with Velvet.
pub fn names() -> Result<Vec<String>> {
    let folder = folders::images();
    let entries = fs::read_dir(&folder).map_err(|cause| Error::io("read", &folder, &cause))?;
    let files = entries.filter_map(std::result::Result::ok).map(|entry| entry.path());
    let mut names: Vec<String> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|file| Some(file.file_stem()?.to_str()?.to_string()))
        .collect();
    names.sort();
    Ok(names)
}

/// The image `tiny` with another crate in the place of its last program.
fn around_crate(folder: &Path) -> Result<Policy> {
    let folder = folder.canonicalize().map_err(|cause| Error::io("find", folder, &cause))?;
    let mut policy = Policy::read(&folders::images().join("tiny.toml"))?;
    let name = cargo::package_name(&folder, &Place { file: folder.join("Cargo.toml"), line: 1 })?;
    policy.name = name.clone();
    if let Some(program) = policy.image.programs.last_mut() {
        let span = program.span();
        let program = program.get_mut();
        *program.name.get_mut() = name;
        program.crate_ = Some(toml::Spanned::new(span, format!("{}/", folder.display())));
        *program.frames.get_mut() = FRAMES_WITHOUT_POLICY;
    }
    Ok(policy)
}

/// Builds the image of a policy for a machine.
pub fn build(policy: &Policy, options: &MachineOptions, progress: &Progress) -> Result<Built> {
    build_with(policy, options, Paths::Short, progress)
}

/// The same with a kernel whose calls take these paths.
pub fn build_with(policy: &Policy, options: &MachineOptions, paths: Paths, progress: &Progress) -> Result<Built> {
    let machine = Machine::describe(options)?;
    let plan = check::check(policy, &machine)?;
    let wishes: Vec<(Wish, Place)> = plan
        .programs
        .iter()
        .map(|planned| (Wish { folder: planned.folder.clone(), bin: planned.bin.clone() }, planned.place.clone()))
        .collect();
    let files = cargo::programs(&wishes, progress)?;
    let kernel = kernel::flatten(&read(&cargo::kernel(paths, progress)?)?)?;
    progress.step("laying out the image");
    let mut executables = Vec::new();
    for (index, (planned, file)) in plan.programs.iter().zip(&files).enumerate() {
        let loaded = elf::load(&planned.program.name, &read(file)?)
            .and_then(|executable| in_its_place(&planned.program.name, executable, index == Manifest::FIRST));
        executables.push(loaded.map_err(|error| error.at(&planned.place))?);
    }
    let archive = archive::lay_out(&plan, &executables)?;
    let image = image::assemble(&kernel, &archive, &machine)?;
    check::quota_fits(&plan, &machine, image.pages)?;
    let stem = folders::output("images")?.join(format!("{}-{}", plan.name, hex(&image.build_id)));
    let image_file = stem.with_extension(if image.device_tree.is_some() { "elf" } else { "img" });
    folders::write(&image_file, &image.bytes)?;
    // The same image runs on several machines at once, each with its own tree.
    let tree_file = || format!("{}-{}", stem.display(), options.file_name());
    let device_tree_file = image.device_tree.as_ref().map(|_| std::path::PathBuf::from(tree_file()));
    if let (Some(file), Some(bytes)) = (&device_tree_file, &image.device_tree) {
        folders::write(file, bytes)?;
    }
    Ok(Built { plan, kernel, archive, image, image_file, device_tree_file })
}

/// The kernel starts the first program, which is told nothing; every other one is told much by who starts it.
fn in_its_place(name: &str, executable: Executable, first: bool) -> Result<Executable> {
    match (executable.first, first) {
        (false, true) => {
            Err(Error::new(format!("`{name}` cannot be the first program: it was built to be started by another"))
                .remedy("put `init` first, or another program with `libos::main!(main, First)`"))
        }
        (true, false) => {
            Err(Error::new(format!("`{name}` can only be the first program: it was built to be started by the kernel"))
                .remedy("put it first, or build it with `libos::main!(main)`"))
        }
        _ => Ok(executable),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|cause| Error::io("read", file, &cause))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
