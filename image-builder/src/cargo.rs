//! Cargo, asked to build kernel and programs for the machine.

use crate::error::{Error, Place, Result};
use crate::folders;
use crate::progress::Progress;
use crate::tools;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The kernel's target: it keeps its hands off FP/SIMD registers.
pub const KERNEL_TARGET: &str = "aarch64-unknown-none-softfloat";
/// The programs' target.
pub const PROGRAM_TARGET: &str = "aarch64-unknown-none";

/// Atomics are calls that choose at run time between FEAT_LSE and load-exclusive: one image for both kinds of core. It is given here and not
/// in .cargo/config.toml because rustc warns of it at each crate ([`NOISE`]), and plain builds of a target need not be that image.
const ATOMICS: &str = "-Ctarget-feature=+outline-atomics";
/// For programs also: bytes are loaded and stored in words wherever they lie, which the kernel permits in memory that is mapped for EL0 (SCTLR_EL1.A is 0).
/// The target's own setting is for code that may run without an MMU, as the kernel's does at first: there each copy of a few bytes is a call,
/// and encoding four `u64` takes 413 instructions instead of 239.
const UNALIGNED: &str = ",-strict-align";
/// The compiler's warning of [`ATOMICS`] and [`UNALIGNED`]. No other switch does the same: LLVM's `-mattr` is ignored by rustc, no core's model has the feature.
const NOISE: &str = "unstable feature specified for `-Ctarget-feature`";

/// A binary to build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wish {
    /// The crate's folder.
    pub folder: PathBuf,
    /// Which of its binaries, if it has several.
    pub bin: Option<String>,
}

/// Which way calls take through the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paths {
    /// What is plain is done in the vectors.
    #[default]
    Short,
    /// All of them go through Rust: the twin, for comparison.
    General,
}

/// Builds the kernel and says where its ELF is.
pub fn kernel(paths: Paths, progress: &Progress) -> Result<PathBuf> {
    let folder = folders::repository().join("exo");
    progress.step("building the kernel");
    // The twin has a folder of its own: the name of the file is the same, and others may be reading it.
    let (features, target) = match paths {
        Paths::Short => ("kernel", folders::target()),
        Paths::General => ("kernel,general-paths", folders::target().join("general")),
    };
    let arguments = ["--package", "exo", "--features", features, "--target", KERNEL_TARGET];
    let built = build(&arguments, &target, progress)?;
    binary(&built, &Wish { folder, bin: None })
}

/// Builds programs and says where their ELFs are, in the same order. A refusal names the place of the program.
pub fn programs(wishes: &[(Wish, Place)], progress: &Progress) -> Result<Vec<PathBuf>> {
    // What this process has built before: many images share programs, and asking cargo again takes its time.
    static BUILT: Mutex<Option<HashMap<Wish, PathBuf>>> = Mutex::new(None);
    let mut known = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    let missing: Vec<&(Wish, Place)> = wishes.iter().filter(|(wish, _)| !known.contains_key(wish)).collect();
    let (inside, outside): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(wish, _)| is_member(&wish.folder));
    let mut groups: Vec<Vec<&(Wish, Place)>> = outside.into_iter().map(|one| vec![one]).collect();
    groups.extend((!inside.is_empty()).then_some(inside));
    for group in groups {
        let mut names: Vec<String> =
            group.iter().map(|(wish, place)| package_name(&wish.folder, place)).collect::<Result<_>>()?;
        names.dedup();
        progress.step(&format!("building {}", names.join(", ")));
        let mut arguments = vec!["--target".to_string(), PROGRAM_TARGET.to_string()];
        match group.as_slice() {
            [(wish, _)] if !is_member(&wish.folder) => {
                arguments.extend(["--manifest-path".to_string(), wish.folder.join("Cargo.toml").display().to_string()]);
            }
            _ => arguments.extend(names.iter().flat_map(|name| ["--package".to_string(), name.clone()])),
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let built = build(&arguments, &folders::target(), progress).map_err(|error| error.at(&group[0].1))?;
        for (wish, place) in group {
            known.insert(wish.clone(), binary(&built, wish).map_err(|error| error.at(place))?);
        }
    }
    Ok(wishes.iter().map(|(wish, _)| known[wish].clone()).collect())
}

/// A binary that cargo made.
struct Made {
    manifest: PathBuf,
    name: String,
    file: PathBuf,
}

fn build(arguments: &[&str], target: &Path, progress: &Progress) -> Result<Vec<Made>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--release", "--message-format", "json"])
        .args(arguments)
        .arg("--target-dir")
        .arg(target)
        .current_dir(folders::repository())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (target, features) in [(KERNEL_TARGET, ATOMICS.to_string()), (PROGRAM_TARGET, format!("{ATOMICS}{UNALIGNED}"))]
    {
        command.arg("--config").arg(format!("target.{target}.rustflags={}", flags(features)));
    }
    // These would replace the flags of .cargo/config.toml, and with them what the image consists of.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(variable);
    }
    let mut child = command.spawn().map_err(|cause| {
        Error::new(format!("cannot start cargo: {cause}")).remedy("install Rust from https://rustup.rs")
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.map(|mut stderr| stderr.read_to_string(&mut said));
        said
    });
    let (mut made, mut diagnostics) = (Vec::new(), String::new());
    for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()).map_while(std::io::Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        made.extend(read_artifact(&message, progress));
        diagnostics.extend(read_diagnostic(&message));
    }
    let status = child.wait().map_err(|cause| Error::new(format!("cannot wait for cargo: {cause}")))?;
    let said = said.join().unwrap_or_default();
    if status.success() {
        progress.say(&diagnostics);
        return Ok(made);
    }
    Err(Error::new(format!("cargo build {} failed\n{diagnostics}{}", arguments.join(" "), said.trim_end())))
}

/// What the compiler says to a person.
fn read_diagnostic(message: &Value) -> Option<String> {
    let diagnostic = &message["message"];
    let noise = diagnostic["message"].as_str()?.contains(NOISE);
    diagnostic["rendered"].as_str().filter(|_| !noise).map(str::to_string)
}

fn read_artifact(message: &Value, progress: &Progress) -> Option<Made> {
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let name = message["target"]["name"].as_str()?.to_string();
    progress.built(&name);
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let file = PathBuf::from(message["executable"].as_str()?);
    Some(Made { manifest, name, file })
}

/// What the compiler is told besides the flags of .cargo/config.toml. Local folders are replaced in what it writes down, so that every machine
/// builds the same bytes.
fn flags(features: String) -> String {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_else(|| PathBuf::from("/.cargo"));
    let mut folders = vec![(folders::repository(), "velvet".to_string()), (home, "cargo".to_string())];
    // With the component rust-src the compiler names the standard library's files where they lie, else by its commit.
    let said = tools::output("rustc", &["-vV"]).unwrap_or_default();
    let commit = said.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    if let (Some(root), Some(commit)) = (tools::sysroot(), commit) {
        folders.push((root.join("lib/rustlib/src/rust"), format!("/rustc/{commit}")));
    }
    let flag = |(folder, name): &(PathBuf, String)| format!("--remap-path-prefix={}={name}", folder.display());
    let flags: Vec<String> = folders.iter().map(flag).chain([features]).collect();
    Value::from(flags).to_string()
}

fn binary(built: &[Made], wish: &Wish) -> Result<PathBuf> {
    let manifest = wish.folder.join("Cargo.toml");
    let manifest = manifest.canonicalize().unwrap_or(manifest);
    let of_crate = |made: &&Made| made.manifest.canonicalize().is_ok_and(|path| path == manifest);
    let candidates: Vec<&Made> = built.iter().filter(of_crate).collect();
    let names = || candidates.iter().map(|made| made.name.as_str()).collect::<Vec<_>>().join(", ");
    match (&wish.bin, candidates.as_slice()) {
        (_, []) => Err(Error::new(format!("the crate {} has no binary", wish.folder.display()))
            .remedy("name the crate of an application: one with a src/main.rs")),
        (None, [only]) => Ok(only.file.clone()),
        (None, _) => Err(Error::new(format!("the crate {} has several binaries", wish.folder.display()))
            .remedy(format!("say which by `bin`: {}", names()))),
        (Some(bin), list) => match list.iter().find(|made| made.name == *bin) {
            Some(made) => Ok(made.file.clone()),
            None => Err(Error::new(format!("the crate {} has no binary `{bin}`", wish.folder.display()))
                .remedy(format!("it has {}", names()))),
        },
    }
}

fn is_member(folder: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let (folder, repository) = (canonical(folder), canonical(&folders::repository()));
    folder.parent() == Some(&repository.join("apps")) || folder.parent() == Some(&repository.join("drivers"))
}

/// The name of the package whose Cargo.toml lies in `folder`.
pub fn package_name(folder: &Path, place: &Place) -> Result<String> {
    let file = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&file).map_err(|cause| Error::io("read", &file, &cause).at(place))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| Error::new(format!("{}: {}", file.display(), error.message())).at(place))?;
    let name = table.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    name.map(str::to_string).ok_or_else(|| {
        Error::new(format!("{} describes no package", file.display()))
            .at(place)
            .remedy("name the crate of an application")
    })
}
