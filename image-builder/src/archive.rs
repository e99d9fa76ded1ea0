//! The archive: manifest, programs and files, laid out in pages.

use crate::check::{Plan, PlannedProgram};
use crate::elf::{Executable, Pages};
use crate::error::{Error, Result};
use exo_abi::PAGE_BYTES;
use exo_abi::boot::{END_MAGIC, InitRun, MAX_INIT_RUNS};
use exo_abi::page::Prot;
use std::collections::HashMap;
use velvet_manifest::archive::{Crc32, write_front};
use velvet_manifest::{File, Manifest, Placement, Program, Segment};

const PAGE: usize = PAGE_BYTES as usize;
/// What one table of page descriptors covers.
const REGION: u64 = 2 << 20;

/// A finished archive.
#[derive(Clone, Debug)]
pub struct Archive {
    /// A whole number of pages.
    pub bytes: Vec<u8>,
    /// What stands in it.
    pub manifest: Manifest,
    /// How the first environment begins.
    pub first: FirstEnvironment,
}

/// What the kernel needs to begin the first environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirstEnvironment {
    /// First instruction.
    pub entry: u64,
    /// Stack pointer.
    pub stack: u64,
    /// Where its control page goes.
    pub control: u64,
    /// Its pages, all mapped in place.
    pub runs: [InitRun; MAX_INIT_RUNS],
}

/// Lays out the archive of a plan whose programs are `executables`, in the same order.
pub fn lay_out(plan: &Plan, executables: &[Executable]) -> Result<Archive> {
    // The manifest's length depends on page numbers, and these on its length: try front sizes until one holds it.
    let mut front_pages = 1;
    loop {
        let (manifest, pages, first) = lay_out_behind(plan, executables, front_pages)?;
        let front =
            write_front(&manifest).map_err(|cause| Error::new(format!("cannot write the manifest: {cause}")))?;
        let needed = front.len().div_ceil(PAGE);
        if needed > front_pages {
            front_pages = needed;
            continue;
        }
        let mut bytes = front;
        bytes.resize(front_pages * PAGE, 0);
        bytes.extend_from_slice(&pages);
        bytes.resize(manifest.archive_pages as usize * PAGE, 0);
        let end = bytes.len() - 8;
        bytes[end..].copy_from_slice(&END_MAGIC.to_le_bytes());
        return Ok(Archive { bytes, manifest, first });
    }
}

fn lay_out_behind(
    plan: &Plan,
    executables: &[Executable],
    front_pages: usize,
) -> Result<(Manifest, Vec<u8>, FirstEnvironment)> {
    let mut layout = Layout { first_page: front_pages, bytes: Vec::new(), shared: HashMap::new() };
    let mut manifest = Manifest { image: plan.name.clone(), ..Manifest::default() };
    let mut first = FirstEnvironment::default();
    for (index, (planned, executable)) in plan.programs.iter().zip(executables).enumerate() {
        let program = if index == Manifest::FIRST {
            let (program, found) = layout.first_environment(planned, executable)?;
            first = found;
            program
        } else {
            layout.program(planned, executable)
        };
        manifest.programs.push(program);
    }
    for file in &plan.files {
        let archive_page = layout.add_shared(&file.bytes);
        let pages = file.bytes.len().div_ceil(PAGE);
        let crc32 = layout.checksum(archive_page, pages);
        manifest.files.push(File {
            name: file.name.clone(),
            archive_page,
            pages: pages as u32,
            bytes: file.bytes.len() as u64,
            crc32,
        });
    }
    // One page more for END_MAGIC: what is mapped in place ends on the page before.
    manifest.archive_pages = (front_pages + layout.bytes.len() / PAGE + 1) as u32;
    Ok((manifest, layout.bytes, first))
}

struct Layout {
    first_page: usize,
    bytes: Vec<u8>,
    /// Page numbers of read-only contents, so that equal ones lie here once.
    shared: HashMap<Vec<u8>, u32>,
}

impl Layout {
    fn program(&mut self, planned: &PlannedProgram, executable: &Executable) -> Program {
        let mut program = planned.program.clone();
        program.entry = executable.entry;
        for pages in &executable.segments {
            let writable = pages.prot.contains(Prot::WRITE);
            program.segments.push(if writable { self.copied(pages) } else { self.in_place(pages) });
        }
        program
    }

    fn copied(&mut self, pages: &Pages) -> Segment {
        let contents = without_trailing_zeros(&pages.bytes);
        let archive_page = self.add_shared(contents);
        self.segment(pages, archive_page, contents.len() / PAGE, Placement::Copy)
    }

    fn in_place(&mut self, pages: &Pages) -> Segment {
        let whole = in_full(pages);
        let archive_page = self.add_shared(&whole);
        self.segment(pages, archive_page, whole.len() / PAGE, Placement::InPlace)
    }

    fn segment(&self, pages: &Pages, archive_page: u32, archive_pages: usize, placement: Placement) -> Segment {
        Segment {
            va: pages.va,
            archive_page,
            archive_pages: archive_pages as u32,
            memory_pages: pages.memory_pages as u32,
            prot: pages.prot.bits(),
            placement,
            crc32: self.checksum(archive_page, archive_pages),
        }
    }

    /// The first environment has nobody who fills pages for it: its data, zeros and stack lie in the archive in full.
    fn first_environment(
        &mut self,
        planned: &PlannedProgram,
        executable: &Executable,
    ) -> Result<(Program, FirstEnvironment)> {
        let mut segments = executable.segments.clone();
        let end = segments.last().map_or(0, Pages::end);
        let stack_pages = u64::from(planned.program.stack_pages);
        let (stack, control) = behind(end, stack_pages);
        segments.push(Pages {
            va: stack,
            bytes: Vec::new(),
            memory_pages: stack_pages,
            prot: Prot::READ | Prot::WRITE,
        });
        if segments.len() > MAX_INIT_RUNS {
            return Err(Error::new(format!(
                "`{}` has {} segments, the first environment may have {}",
                planned.program.name,
                segments.len() - 1,
                MAX_INIT_RUNS - 1
            ))
            .at(&planned.place)
            .remedy("build it with lld's default layout"));
        }
        let mut program = planned.program.clone();
        program.entry = executable.entry;
        let mut first = FirstEnvironment {
            entry: executable.entry,
            stack: stack + stack_pages * PAGE_BYTES,
            control,
            ..FirstEnvironment::default()
        };
        for (pages, run) in segments.iter().zip(&mut first.runs) {
            let whole = in_full(pages);
            let writable = pages.prot.contains(Prot::WRITE);
            let archive_page = if writable { self.add(&whole) } else { self.add_shared(&whole) };
            let segment = self.segment(pages, archive_page, whole.len() / PAGE, Placement::InPlace);
            *run = InitRun {
                va: segment.va,
                archive_page,
                pages: segment.archive_pages,
                prot: u32::from(segment.prot),
                reserved: 0,
            };
            program.segments.push(segment);
        }
        Ok((program, first))
    }

    fn add(&mut self, contents: &[u8]) -> u32 {
        let page = self.first_page + self.bytes.len() / PAGE;
        self.bytes.extend_from_slice(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE), 0);
        page as u32
    }

    fn add_shared(&mut self, contents: &[u8]) -> u32 {
        if let Some(page) = self.shared.get(contents) {
            return *page;
        }
        let page = self.add(contents);
        self.shared.insert(contents.to_vec(), page);
        page
    }

    fn checksum(&self, archive_page: u32, pages: usize) -> u32 {
        let start = (archive_page as usize - self.first_page) * PAGE;
        Crc32::of(&self.bytes[start..start + pages * PAGE])
    }
}

/// Stack and control page behind `end`, an unmapped page before each, both in one 2 MiB region so that one table serves them.
fn behind(end: u64, stack_pages: u64) -> (u64, u64) {
    let control_of = |stack: u64| stack + (stack_pages + 1) * PAGE_BYTES;
    let stack = end + PAGE_BYTES;
    if stack / REGION == control_of(stack) / REGION {
        return (stack, control_of(stack));
    }
    let stack = stack.next_multiple_of(REGION) + PAGE_BYTES;
    (stack, control_of(stack))
}

fn in_full(pages: &Pages) -> Vec<u8> {
    let mut whole = pages.bytes.clone();
    whole.resize(pages.memory_pages as usize * PAGE, 0);
    whole
}

/// `bytes`, a whole number of pages, without the pages at its end that are zeros.
fn without_trailing_zeros(bytes: &[u8]) -> &[u8] {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..used.next_multiple_of(PAGE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_and_control_page_share_a_table() {
        for end in [0x20_5000, 0x3f_7000, 0x3f_f000, 0x40_0000] {
            let (stack, control) = behind(end, 8);
            assert!(stack > end, "a guard page lies below the stack");
            assert_eq!(control, stack + 9 * PAGE_BYTES, "a guard page lies above it");
            assert_eq!(stack / REGION, control / REGION);
        }
    }

    #[test]
    fn pages_of_zeros_at_the_end_need_no_place() {
        let mut bytes = vec![0; 4 * PAGE];
        assert!(without_trailing_zeros(&bytes).is_empty());
        bytes[PAGE] = 1;
        assert_eq!(without_trailing_zeros(&bytes).len(), 2 * PAGE);
    }
}
