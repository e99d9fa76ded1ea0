//! Where things lie: the repository, what is built, the images.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The repository.
pub fn repository() -> PathBuf {
    let mine = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let is_mine = |folder: &PathBuf| folder.ends_with("image-builder") && folder.join("images").is_dir();
    let folder = mine.filter(is_mine).unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    folder.parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// The images that come with Velvet.
pub fn images() -> PathBuf {
    repository().join("image-builder/images")
}

/// The folder that cargo builds kernel and applications in: one of its own, since they get flags of their own.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(&folder).unwrap_or_else(|_| PathBuf::from(folder)),
        None => repository().join("target"),
    }
    .join("image")
}

/// A folder for what is made here, which exists.
pub fn output(name: &str) -> Result<PathBuf> {
    let folder = target().join("velvet").join(name);
    fs::create_dir_all(&folder).map_err(|cause| Error::io("make", &folder, &cause))?;
    Ok(folder)
}

/// A name next to `file` that nobody else uses, to be renamed to `file` when it is complete.
pub fn scratch_name(file: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.{}.{count}", std::process::id()))
}

/// Writes a file so that nobody sees half of it.
pub fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = scratch_name(file);
    fs::write(&fresh, bytes).map_err(|cause| Error::io("write", &fresh, &cause))?;
    fs::rename(&fresh, file).map_err(|cause| Error::io("write", file, &cause))
}
