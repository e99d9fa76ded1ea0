//! The archive: the manifest at its front, and the pages of programs.

use crate::failed::{Failed, While};
use alloc::vec;
use exo_abi::binding::first;
use exo_abi::exposed::MachineInfo;
use exo_abi::{PAGE_BYTES, Pfn, Refusal};
use libos::mem::Mapping;
use velvet_manifest::archive::{Crc32, Damage, HEADER_BYTES, read_header, read_manifest};
use velvet_manifest::{Manifest, Segment};

/// Pages seen at a time.
const WINDOW_PAGES: u64 = 16;
/// Pages of the longest manifest.
const MOST_FRONT_PAGES: u64 = 64;

/// Frames of the archive.
#[derive(Clone, Copy, Debug)]
pub struct Archive {
    first: u64,
    frames: u64,
}

/// Why the manifest cannot be read.
#[derive(Clone, Copy, Debug)]
pub enum Unreadable {
    /// It is damaged.
    Damaged(Damage),
    /// The kernel does not show it.
    Refused(Refusal),
}

impl core::fmt::Display for Unreadable {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Unreadable::Damaged(damage @ Damage::OtherVersion(_)) => {
                write!(out, "{damage}: build kernel and applications from one commit")
            }
            Unreadable::Damaged(damage) => write!(out, "{damage}: build the image anew"),
            Unreadable::Refused(refusal) => write!(out, "the archive cannot be mapped: {refusal}"),
        }
    }
}

impl Archive {
    /// Where the kernel says it lies.
    pub fn of(machine: &MachineInfo) -> Archive {
        Archive { first: machine.archive_frame, frames: machine.archive_frames }
    }

    /// The frame of `page`, of `pages` that lie in the archive.
    pub fn frame(&self, page: u32, pages: u32) -> Option<Pfn> {
        (u64::from(page) + u64::from(pages) <= self.frames).then_some(Pfn(self.first + u64::from(page)))
    }

    /// The manifest, checked.
    pub fn manifest(&self) -> Result<Manifest, Unreadable> {
        let front = |pages| Mapping::readable(first::ARCHIVE, Pfn(self.first), pages).map_err(Unreadable::Refused);
        if self.frames == 0 {
            return Err(Unreadable::Damaged(Damage::TooShort));
        }
        let mut head = [0; HEADER_BYTES];
        front(1)?.read(0, &mut head);
        let header = read_header(&head).map_err(Unreadable::Damaged)?;
        let end = header.manifest_offset.saturating_add(header.manifest_bytes);
        let pages = end.div_ceil(PAGE_BYTES);
        if pages > self.frames.min(MOST_FRONT_PAGES) {
            return Err(Unreadable::Damaged(Damage::TooShort));
        }
        let mut bytes = vec![0; end as usize];
        front(pages)?.read(0, &mut bytes);
        read_manifest(&bytes).map_err(Unreadable::Damaged)
    }

    /// Compares the segment's pages with the manifest's checksum.
    pub fn check(&self, segment: &Segment) -> Result<(), Failed> {
        const STEP: &str = "check its pages in the archive";
        let mut sum = Crc32::new();
        self.read(segment, STEP, |_, bytes| {
            sum.add(bytes);
            Ok(())
        })?;
        if sum.value() == segment.crc32 {
            Ok(())
        } else {
            Err(Failed::because(STEP, "their checksum is wrong: build the image anew"))
        }
    }

    /// Hands the segment's pages to `take` one by one, with their numbers.
    pub fn read(
        &self,
        segment: &Segment,
        step: &'static str,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let first_frame = self
            .frame(segment.archive_page, segment.archive_pages)
            .ok_or(Failed::because(step, "they lie beyond the archive's end: build the image anew"))?;
        let pages = u64::from(segment.archive_pages);
        let mut buffer = vec![0; PAGE_BYTES as usize];
        let mut page = 0;
        while page < pages {
            let part = (pages - page).min(WINDOW_PAGES);
            let window = Mapping::readable(first::ARCHIVE, Pfn(first_frame.0 + page), part).while_doing(step)?;
            for offset in 0..part {
                window.read(offset * PAGE_BYTES, &mut buffer);
                take(page + offset, &buffer)?;
            }
            page += part;
        }
        Ok(())
    }
}
