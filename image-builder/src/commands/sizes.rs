//! `cargo image sizes`: where each byte of an image goes.

use super::ImageArguments;
use crate::build::Built;
use crate::{Result, emulator};
use clap::Args;
use exo_abi::PAGE_BYTES;
use exo_abi::page::Prot;
use std::fmt::Write;
use std::time::Duration;
use velvet_manifest::{Placement, Segment};

/// How long the boot for the figures of frames may take.
const BOOT_LIMIT: Duration = Duration::from_secs(30);

/// What can be said after `sizes`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    image: ImageArguments,
    /// Boot the image, type `mem` and `off`, and show what it says of its frames.
    #[arg(long)]
    boot: bool,
}

/// Prints the table.
pub fn sizes(arguments: &Arguments) -> Result<i32> {
    let (built, options) = (arguments.image.build()?, arguments.image.machine());
    print!("{}", table(&built));
    if arguments.boot {
        let qemu = emulator::arguments(&built, &options, &[]);
        let captured = emulator::captured(&qemu, b"mem\noff\n", BOOT_LIMIT)?;
        println!("\nafter a boot with {}:\n{}", options.summary(), captured.output.trim_end());
    }
    Ok(0)
}

/// The table as text.
pub fn table(built: &Built) -> String {
    let mut rows: Vec<(String, u64, String)> = Vec::new();
    let mut row = |what: String, bytes: u64, note: &str| rows.push((what, bytes, note.to_string()));
    let sizes = built.kernel.sizes;
    let parts = [
        ("text", sizes.text),
        ("rodata", sizes.rodata),
        ("data", sizes.data),
        ("bss", sizes.bss),
        ("per core", sizes.per_core),
        ("tables", sizes.tables),
    ];
    for (part, bytes) in parts {
        row(format!("kernel {part}"), bytes, "");
    }
    let kernel = built.kernel.bytes.len() as u64;
    row("kernel padding".to_string(), kernel - parts.iter().map(|(_, bytes)| bytes).sum::<u64>().min(kernel), "");
    let mut seen = Vec::new();
    let mut contents = 0;
    for program in &built.archive.manifest.programs {
        for segment in &program.segments {
            let shared = seen.contains(&segment.archive_page) && segment.archive_pages > 0;
            let bytes = u64::from(segment.archive_pages) * PAGE_BYTES;
            seen.push(segment.archive_page);
            contents += if shared { 0 } else { bytes };
            row(format!("{} {:#x}", program.name, segment.va), if shared { 0 } else { bytes }, &note(segment, shared));
        }
    }
    for file in &built.archive.manifest.files {
        let bytes = u64::from(file.pages) * PAGE_BYTES;
        contents += bytes;
        row(format!("file {}", file.name), bytes, &format!("{} bytes", file.bytes));
    }
    row("manifest and end".to_string(), built.archive.bytes.len() as u64 - contents, "");
    let total = built.image.pages * PAGE_BYTES;
    row("image".to_string(), total, &format!("{} frames", built.image.pages));
    let quota = format!("{} frames", built.plan.quota);
    row("quotas of programs".to_string(), built.plan.quota * PAGE_BYTES, &quota);
    let mut text = String::new();
    for (what, bytes, note) in rows {
        let line = format!("{what:<24}{bytes:>12}  {note}");
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn note(segment: &Segment, shared: bool) -> String {
    let prot = segment.prot();
    let rights = match (prot.contains(Prot::WRITE), prot.contains(Prot::EXECUTE)) {
        (true, _) => "read, write",
        (_, true) => "read, execute",
        _ => "read",
    };
    let placement = match segment.placement {
        Placement::InPlace if shared => "shared with another program".to_string(),
        Placement::InPlace => "in place".to_string(),
        Placement::Copy => format!("copied to {} frames", segment.memory_pages),
    };
    format!("{rights}; {placement}")
}
