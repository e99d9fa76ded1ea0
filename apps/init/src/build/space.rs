//! A program's address space: planned first, then mapped.

use super::{Frames, Ground, Order};
use crate::failed::{Failed, While};
use crate::places::Places;
use crate::tables::{Table, runs, tables_for};
use alloc::vec::Vec;
use exo_abi::binding::first;
use exo_abi::page::{MAPPABLE_END, MapEntry, Prot};
use exo_abi::{Handle, PAGE_BYTES, Pfn};
use libos::mem::Mapping;
use libos::mem::tables::map_all_other;
use libos::protocol::supervisor::Region;
use libos::start::{INFO_PAGES, Layout, StartInfo, UPCALL_STACK_PAGES};
use velvet_manifest::{Placement, Segment};

/// Pages of address space for the heap of a program with a small quota.
const LEAST_HEAP_PAGES: u64 = 64;
/// Pages of address space for the heap at most: 1 GiB.
const MOST_HEAP_PAGES: u64 = 1 << 18;

/// Where everything goes, and what it needs.
pub struct Space {
    layout: Layout,
    places: Places,
    tables: Vec<Table>,
    copied_pages: u64,
}

impl Space {
    /// Plans; nothing has happened yet when this fails.
    pub fn plan(ground: &Ground, order: &Order) -> Result<Space, Failed> {
        const STEP: &str = "plan its address space";
        let program = order.program;
        let image_end = program.segments.iter().map(Segment::end).max().unwrap_or(0);
        let heap_pages = program.frames.clamp(LEAST_HEAP_PAGES, MOST_HEAP_PAGES);
        if image_end > MAPPABLE_END >> 2 || program.frames > 1 << 40 {
            return Err(Failed::because(STEP, "its segments lie too high"));
        }
        let layout = Layout::above(Layout::control_for(image_end), u64::from(program.stack_pages), heap_pages);
        let mut ranges: Vec<(u64, u64)> = program.segments.iter().map(|segment| (segment.va, segment.end())).collect();
        ranges.push((layout.control, layout.upcall_stack_end));
        for handed in &program.files {
            let file =
                ground.manifest.files.get(handed.file as usize).ok_or(Failed::because(STEP, "a file is missing"))?;
            ranges.push((handed.va, handed.va.saturating_add(u64::from(file.pages) * PAGE_BYTES)));
        }
        let tables = tables_for(&ranges).ok_or(Failed::because(STEP, "it spreads over too many tables"))?;
        let copied_pages = copied(&program.segments).map(|segment| u64::from(segment.memory_pages)).sum();
        let mut places = Places::of(&ground.manifest, program);
        name_layout(&mut places, &layout);
        Ok(Space { layout, places, tables, copied_pages })
    }

    /// Frames of the child's pool that it needs: for tables, copies, the control page, the start pages and the stack.
    pub fn frames(&self) -> u64 {
        self.tables.len() as u64 + self.copied_pages + 1 + INFO_PAGES + UPCALL_STACK_PAGES
    }

    /// Its addresses.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What lies where.
    pub fn places(&self) -> Places {
        self.places.clone()
    }

    /// Installs the tables.
    pub fn install_tables(&self, environment: Handle, pool: Handle, frames: &mut Frames) -> Result<(), Failed> {
        let entries: Vec<MapEntry> = self
            .tables
            .iter()
            .map(|table| MapEntry::install_table(table.va, table.level, frames.next(), pool))
            .collect();
        map_entries(environment, "install its page tables", &entries)
    }

    /// Maps text and constants in place, copies the writable segments, maps the files.
    pub fn map_segments(
        &self,
        ground: &Ground,
        order: &Order,
        environment: Handle,
        pool: Handle,
        frames: &mut Frames,
    ) -> Result<(), Failed> {
        for segment in &order.program.segments {
            match segment.placement {
                Placement::InPlace => in_place(ground, environment, segment)?,
                Placement::Copy => {
                    let frames = frames.next_many(u64::from(segment.memory_pages));
                    copy(ground, segment, pool, frames)?;
                    map(
                        environment,
                        "map its data",
                        segment.va,
                        frames,
                        segment.prot() & (Prot::READ | Prot::WRITE),
                        pool,
                    )?;
                }
            }
        }
        for handed in &order.program.files {
            let Some(file) = ground.manifest.files.get(handed.file as usize) else {
                continue;
            };
            from_archive(
                ground,
                environment,
                "map a file for it",
                handed.va,
                file.archive_page,
                file.pages,
                Prot::READ,
            )?;
        }
        Ok(())
    }

    /// Writes and maps what the program is told, and the stack it begins on.
    pub fn map_start_pages(
        &self,
        environment: Handle,
        pool: Handle,
        info: &[u8],
        frames: &mut Frames,
    ) -> Result<(), Failed> {
        const STEP: &str = "write its start pages";
        let pages = frames.next_many(INFO_PAGES);
        for (frame, part) in pages.iter().zip(info.chunks(PAGE_BYTES as usize)) {
            Mapping::writable(pool, *frame, 1).while_doing(STEP)?.write(0, part);
        }
        map(environment, STEP, self.layout.info, pages, Prot::READ, pool)?;
        let stack = frames.next_many(UPCALL_STACK_PAGES);
        map(environment, "map its first stack", self.layout.upcall_stack, stack, Prot::READ | Prot::WRITE, pool)
    }
}

/// The start information as bytes that fit its pages.
pub fn encode(info: &StartInfo) -> Result<Vec<u8>, Failed> {
    let mut bytes = alloc::vec![0; (INFO_PAGES * PAGE_BYTES) as usize];
    let length = libos::start::encode(info, &mut bytes)
        .ok_or(Failed::because("describe its start", "names and arguments are too long"))?;
    bytes.truncate(length);
    Ok(bytes)
}

/// Maps `frames` at `va`, marked from the start: nobody is interested in the marks, and where hardware does not set them
/// each would be a fault.
pub fn map(
    environment: Handle,
    step: &'static str,
    va: u64,
    frames: &[Pfn],
    prot: Prot,
    pool: Handle,
) -> Result<(), Failed> {
    let mut entries = Vec::new();
    let mut at = va;
    for (frame, count) in runs(frames) {
        entries.push(MapEntry::map(at, frame, count, marked(prot), pool));
        at += count * PAGE_BYTES;
    }
    map_entries(environment, step, &entries)
}

fn map_entries(environment: Handle, step: &'static str, entries: &[MapEntry]) -> Result<(), Failed> {
    if entries.is_empty() {
        return Ok(());
    }
    map_all_other(environment, entries).while_doing(step)
}

fn marked(prot: Prot) -> Prot {
    if prot.contains(Prot::WRITE) { prot | Prot::ACCESSED | Prot::DIRTY } else { prot | Prot::ACCESSED }
}

fn copied(segments: &[Segment]) -> impl Iterator<Item = &Segment> {
    segments.iter().filter(|segment| segment.placement == Placement::Copy)
}

fn in_place(ground: &Ground, environment: Handle, segment: &Segment) -> Result<(), Failed> {
    let prot = segment.prot() & (Prot::READ | Prot::EXECUTE);
    from_archive(ground, environment, "map its text", segment.va, segment.archive_page, segment.archive_pages, prot)
}

fn from_archive(
    ground: &Ground,
    environment: Handle,
    step: &'static str,
    va: u64,
    page: u32,
    pages: u32,
    prot: Prot,
) -> Result<(), Failed> {
    let frame = ground
        .archive
        .frame(page, pages)
        .ok_or(Failed::because(step, "it lies beyond the archive's end: build the image anew"))?;
    let entry = MapEntry::map(va, frame, u64::from(pages), marked(prot), first::ARCHIVE);
    map_entries(environment, step, &[entry])
}

/// Fills the child's frames, which are zero, with what the archive holds of the segment.
fn copy(ground: &Ground, segment: &Segment, pool: Handle, frames: &[Pfn]) -> Result<(), Failed> {
    const STEP: &str = "copy its data";
    if segment.archive_pages > segment.memory_pages {
        return Err(Failed::because(STEP, "the archive holds more than the segment"));
    }
    ground.archive.read(segment, STEP, |page, bytes| {
        Mapping::writable(pool, frames[page as usize], 1).while_doing(STEP)?.write(0, bytes);
        Ok(())
    })
}

fn name_layout(places: &mut Places, layout: &Layout) {
    let guard = |places: &mut Places, below: u64, to: u64| places.add(below, to, Region::Guard);
    places.add(layout.control, layout.upcall_stack - PAGE_BYTES, Region::Start);
    guard(places, layout.upcall_stack - PAGE_BYTES, layout.upcall_stack);
    places.add(layout.upcall_stack, layout.upcall_stack_end, Region::Stack);
    guard(places, layout.upcall_stack_end, layout.stack);
    places.add(layout.stack, layout.stack_end, Region::Stack);
    places.add(layout.maps, layout.maps_end, Region::Mappings);
    places.add(layout.heap, layout.heap_end, Region::Heap);
    places.add(layout.far, layout.far_end, Region::Mappings);
}
