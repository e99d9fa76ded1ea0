//! A machine without QEMU: it is installed where that is allowed, else a person is told how.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder that holds the tools of Rust and nothing else.
fn bare_path(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("velvet-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let places = std::env::var_os("PATH").unwrap_or_default();
    for tool in ["rustc", "cargo", "rustup"] {
        let mut files = std::env::split_paths(&places).map(|place| place.join(tool));
        if let Some(file) = files.find(|file| file.is_file()) {
            symlink(file, folder.join(tool)).unwrap();
        }
    }
    folder
}

fn script(folder: &Path, name: &str, text: &str) {
    let file = folder.join(name);
    fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

fn image(path: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_image-builder"))
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn without_a_package_manager_the_commands_for_each_system_are_printed() {
    let folder = bare_path("no-manager");
    for arguments in [["doctor"].as_slice(), &["run", "tiny"]] {
        let (code, text) = image(&folder, arguments);
        assert_eq!(code, Some(1), "{text}");
        for command in ["apt-get install", "dnf install", "pacman -S", "brew install", "rustup target add"] {
            assert!(text.contains(command), "{command}\n{text}");
        }
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn with_a_package_manager_it_is_installed() {
    let folder = bare_path("manager");
    let qemu = folder.join("qemu-system-aarch64");
    let install = "printf '#!/bin/sh\\necho QEMU virt-7.2\\n' > QEMU; /bin/chmod +x QEMU";
    let install = install.replace("> QEMU", &format!("> {}", qemu.display()));
    let install = install.replace("+x QEMU", &format!("+x {}", qemu.display()));
    // Not every user that runs this test is root; the real sudo is not asked.
    script(&folder, "sudo", "shift; exec \"$@\"");
    script(&folder, "apt-get", &format!("case $1 in install) {install};; esac"));
    let (code, text) = image(&folder, &["doctor"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("apt-get install -y qemu-system-arm"), "{text}");
    assert!(text.contains("everything is there"), "{text}");
    fs::remove_dir_all(folder).unwrap();
}
