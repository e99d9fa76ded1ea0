//! `cargo image doctor`: what of the tools is there; what is missing is installed where that is allowed.

use crate::cargo::{KERNEL_TARGET, PROGRAM_TARGET};
use crate::error::{Error, Result};
use crate::tools::{self, output};
use crate::{emulator, folders};
use std::process::{Command, Stdio};

/// The linker that comes with Rust's bare-metal targets.
const LINKER: &str = "rust-lld";

/// A tool, and what was found of it.
struct Tool {
    name: String,
    found: Option<String>,
    cure: Cure,
}

/// What puts a missing tool right.
enum Cure {
    /// A target of the toolchain.
    Target(&'static str),
    /// The system's package of QEMU.
    Qemu,
    /// The toolchain itself.
    Toolchain,
}

/// Says of each tool what was found, installs what is missing; 1 if something still is.
pub fn doctor() -> Result<i32> {
    for tool in tools() {
        println!("{:<40}{}", tool.name, tool.found.as_deref().unwrap_or("missing"));
    }
    match cure_all() {
        Ok(()) => {
            println!("everything is there");
            Ok(0)
        }
        Err(error) => {
            println!("{error}");
            Ok(1)
        }
    }
}

/// Installs what is missing, or says how a person can.
pub fn ensure() -> Result<()> {
    if tools().iter().all(|tool| tool.found.is_some()) {
        return Ok(());
    }
    cure_all()
}

fn cure_all() -> Result<()> {
    for tool in tools().iter().filter(|tool| tool.found.is_none()) {
        eprintln!("image-builder: {} is missing", tool.name);
        match tool.cure {
            Cure::Target(target) => add_target(target)?,
            Cure::Qemu => install_qemu()?,
            Cure::Toolchain => {
                return Err(by_hand("reinstall the toolchain: `rustup toolchain install 1.95.0`"));
            }
        }
    }
    match tools().into_iter().find(|tool| tool.found.is_none()) {
        None => Ok(()),
        Some(tool) => Err(by_hand(&format!("{} is still missing", tool.name))),
    }
}

fn tools() -> Vec<Tool> {
    let sysroot = tools::sysroot();
    let host = output("rustc", &["-vV"])
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("host: ").map(str::to_string)));
    let library = |target: &str| sysroot.as_ref().map(|root| root.join("lib/rustlib").join(target));
    let mut list =
        vec![Tool { name: "rustc".to_string(), found: output("rustc", &["--version"]), cure: Cure::Toolchain }];
    for target in [KERNEL_TARGET, PROGRAM_TARGET] {
        let found = library(target).filter(|folder| folder.join("lib").is_dir());
        list.push(Tool {
            name: format!("target {target}"),
            found: found.map(|folder| folder.display().to_string()),
            cure: Cure::Target(target),
        });
    }
    let linker = host.and_then(|host| library(&host)).map(|folder| folder.join("bin").join(LINKER));
    list.push(Tool {
        name: format!("linker {LINKER}"),
        found: linker.filter(|file| file.is_file()).map(|file| file.display().to_string()),
        cure: Cure::Toolchain,
    });
    let version = output(emulator::PROGRAM, &["--version"]);
    let qemu = version.and_then(|text| text.lines().next().map(str::to_string));
    list.push(Tool { name: emulator::PROGRAM.to_string(), found: qemu.filter(|_| knows_machine()), cure: Cure::Qemu });
    list
}

/// An older QEMU lacks the version of the machine that images are made for.
fn knows_machine() -> bool {
    output(emulator::PROGRAM, &["-M", "help"]).is_some_and(|list| list.contains("virt-7.2"))
}

fn add_target(target: &'static str) -> Result<()> {
    let command = format!("rustup target add {target}");
    if shown(&command, "rustup", &["target", "add", target]) {
        return Ok(());
    }
    Err(by_hand(&command))
}

/// A system's package manager, and what it calls QEMU.
const PACKAGES: [(&str, &[&str], bool); 4] = [
    ("apt-get", &["install", "-y", "qemu-system-arm"], true),
    ("dnf", &["install", "-y", "qemu-system-aarch64"], true),
    ("pacman", &["-S", "--noconfirm", "qemu-system-aarch64"], true),
    ("brew", &["install", "qemu"], false),
];

fn install_qemu() -> Result<()> {
    for (manager, arguments, needs_root) in PACKAGES {
        if output(manager, &["--version"]).is_none() {
            continue;
        }
        let mut words: Vec<&str> = vec![manager];
        words.extend(arguments);
        if needs_root && !rustix::process::geteuid().is_root() {
            if output("sudo", &["-n", "true"]).is_none() {
                break;
            }
            words.splice(0..0, ["sudo", "-n"]);
        }
        if manager == "apt-get" {
            let update: Vec<&str> =
                words.iter().copied().take_while(|word| *word != "install").chain(["update"]).collect();
            shown(&update.join(" "), update[0], &update[1..]);
        }
        if shown(&words.join(" "), words[0], &words[1..]) {
            return Ok(());
        }
    }
    Err(by_hand("QEMU 7.2 or later with its aarch64 system emulator is needed"))
}

fn by_hand(what: &str) -> Error {
    Error::new(format!("something is missing that cannot be installed from here: {what}")).remedy(format!(
        "as it suits the system:
    Debian:  sudo apt-get install qemu-system-arm
    Fedora:  sudo dnf install qemu-system-aarch64
    Arch:    sudo pacman -S qemu-system-aarch64
    macOS:   brew install qemu
    and everywhere, in {}:
             rustup target add {KERNEL_TARGET} {PROGRAM_TARGET}",
        folders::repository().display()
    ))
}

/// Runs a command that a person may watch, its output on standard error: standard output is the guest's.
fn shown(line: &str, program: &str, arguments: &[&str]) -> bool {
    eprintln!("image-builder: {line}");
    let child = Command::new(program)
        .args(arguments)
        .current_dir(folders::repository())
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status();
    child.is_ok_and(|status| status.success())
}
