//! The machine is set up, step by step, until the first environment runs. What is wrong is said on the early UART.

use super::boot;
use super::layout::*;
use super::objects::{self, Arm, Globals};
use super::{entry, gic, mmu, panic, power, registers, uart};
use core::sync::atomic::Ordering::*;
use exo::device_tree::{self, Controller, Description, List, Range};
use exo::first::{self, Boot};
use exo::frame::{EXPOSED, Frames, Kind, Word};
use exo::machine::Machine;
use exo::slice::Core;
use exo_abi::boot::{BootHeader, END_MAGIC, FLAG_QEMU};
use exo_abi::exposed::{Features, LAYOUT_VERSION, MachineInfo};
use exo_abi::{ABI_VERSION, PAGE_BYTES, Pfn};

/// From the boot code: physical addresses of device tree (or 0) and image, and the timer at the first instruction.
pub extern "C" fn start(device_tree: u64, image: u64, entry_ticks: u64) -> ! {
    let parts = boot::image();
    mmu::set_up(image, parts.guard);
    let header = boot::header();
    begin_early_uart(header);
    power::set_up(None, header.flags & FLAG_QEMU != 0);
    first::check_header(header, boot::header_bytes()).unwrap_or_else(|fault| panic::refuse(fault.text()));
    first::check_runs(header).unwrap_or_else(|fault| panic::refuse(fault.text()));

    let tree_at = if device_tree != 0 { device_tree } else { header.device_tree };
    let (tree, tree_bytes) = read_tree(tree_at);
    power::set_up(tree.psci, header.flags & FLAG_QEMU != 0);
    let uart = begin_uart(&tree);
    let (lines, devices) = begin_interrupts(&tree);

    let kept = Range { start: image, bytes: header.archive_offset.saturating_add(header.archive_bytes) };
    check_archive(header, &parts);
    let tree_range = pages_of(Range { start: tree_at, bytes: tree_bytes });
    let memory = Memory::plan(&tree, kept, tree_range, lines);
    memory.map(Range { start: image, bytes: parts.text });
    mmu::forget_identity();
    let frames = memory.frames(kept, tree_range);

    let features = registers::features();
    let globals = Globals {
        frames,
        lines: memory.lines(lines),
        offset: LINEAR.wrapping_sub(memory.base),
        hz: registers::timer_hz(),
        uart,
        devices,
        features,
    };
    let core = objects::set_up(globals, Core::new(0, Pfn(memory.slices / PAGE_BYTES)));
    registers::prepare(features, core);
    let archive = Pfn((image + header.archive_offset) / PAGE_BYTES);
    if objects::last_word(Pfn(archive.0 + header.archive_bytes / PAGE_BYTES - 1)) != END_MAGIC {
        panic::refuse(first::Fault::Archive.text());
    }

    let info = Pfn(memory.info / PAGE_BYTES);
    let free = memory.free.get();
    first::build(&Arm, &Boot { header, archive, free, info, cores: 1 })
        .unwrap_or_else(|fault| panic::refuse(fault.text()));
    let qemu = if header.flags & FLAG_QEMU != 0 { Features::QEMU } else { Features::empty() };
    let first_frame = Arm.frames().first;
    let span = Arm.frames().words.len() as u64;
    let mut page = MachineInfo {
        layout_version: LAYOUT_VERSION,
        abi_version: ABI_VERSION as u64,
        build_id: header.build_id,
        features: (features | qemu).bits(),
        timer_hz: registers::timer_hz(),
        cores: 1,
        gic_version: if tree.controller == Some(Controller::V2) { 2 } else { 3 },
        interrupt_lines: lines,
        first_frame,
        frames: span,
        frames_of_ram: memory.ram_frames,
        frames_free_at_start: free,
        frames_ignored: memory.ignored_frames,
        bitmap_frame: memory.bitmap / PAGE_BYTES,
        bitmap_frames: span.div_ceil(8 * PAGE_BYTES),
        slices_frame: memory.slices / PAGE_BYTES,
        device_tree_frame: tree_range.start / PAGE_BYTES,
        device_tree_offset: tree_at - tree_range.start,
        device_tree_bytes: tree_bytes,
        archive_frame: archive.0,
        archive_frames: header.archive_bytes / PAGE_BYTES,
        uart_frame: uart.map_or(0, |uart| uart.0),
        kernel_frames: (memory.boot.bytes + header.archive_offset) / PAGE_BYTES,
        entry_ticks,
        first_user_ticks: 0,
        kernel_text_bytes: parts.text,
        kernel_data_bytes: parts.data,
    };
    page.first_user_ticks = registers::now();
    objects::write_info(info, &page);
    entry::begin()
}

fn begin_early_uart(header: &BootHeader) {
    if header.early_uart != 0
        && let Some(address) = mmu::device(Range { start: header.early_uart, bytes: PAGE_BYTES })
    {
        uart::set_base(address);
        uart::reset();
    }
}

/// Reads the device tree through a window.
fn read_tree(at: u64) -> (Description, u64) {
    let refuse = |fault: device_tree::Fault| -> ! { panic::refuse(fault.text()) };
    if at == 0 || at % 8 != 0 {
        refuse(device_tree::Fault::NoTree);
    }
    let Some(window) = mmu::open(at, device_tree::MAX_BYTES as u64) else { refuse(device_tree::Fault::NoTree) };
    let header = window.words(2).first_chunk().copied().unwrap_or_default();
    let bytes = device_tree::total_bytes(&header).unwrap_or_else(|fault| refuse(fault));
    let tree = device_tree::read(window.words(bytes.div_ceil(4) as usize)).unwrap_or_else(|fault| refuse(fault));
    mmu::close(window);
    (tree, bytes as u64)
}

/// The device tree's UART takes over from the early one.
fn begin_uart(tree: &Description) -> Option<Pfn> {
    let range = tree.uart?;
    let address = mmu::device(range)?;
    uart::set_base(address);
    uart::reset();
    Some(Pfn(range.start / PAGE_BYTES))
}

/// The interrupt controller: how many lines there are, and what of the physical address space is the kernel's.
fn begin_interrupts(tree: &Description) -> (u64, List<Range, 16>) {
    let mut devices = List::empty(Range::default());
    let mut addresses = [(0, 0); device_tree::MAX_CONTROLLER_RANGES];
    let ranges = tree.controller_ranges.as_slice();
    let wanted = if tree.controller == Some(Controller::V2) { 2 } else { ranges.len() };
    for (range, place) in ranges.iter().zip(&mut addresses).take(wanted) {
        let Some(address) = mmu::device(*range) else {
            panic::refuse("the interrupt controller's registers do not fit the kernel's address space")
        };
        *place = (address, range.bytes);
    }
    ranges.iter().for_each(|range| devices.push(*range));
    let controller = tree.controller.unwrap_or(Controller::V3);
    if !gic::set_up(controller, addresses[0].0, &addresses[1..wanted.max(1)]) {
        panic::refuse("the interrupt controller has no interface for this core");
    }
    (gic::lines(), devices)
}

/// The archive's place and length make sense; its end is looked at when it can be seen.
fn check_archive(header: &BootHeader, parts: &boot::Image) {
    let sound = header.archive_offset.is_multiple_of(PAGE_BYTES)
        && header.archive_bytes.is_multiple_of(PAGE_BYTES)
        && header.archive_offset >= parts.whole
        && header.archive_bytes >= PAGE_BYTES
        && header.archive_offset < 1 << 40
        && header.archive_bytes < 1 << 40;
    if !sound {
        panic::refuse(first::Fault::Archive.text());
    }
}

/// Whole pages around a range.
fn pages_of(range: Range) -> Range {
    let start = range.start & !(PAGE_BYTES - 1);
    Range { start, bytes: (range.end() - start).next_multiple_of(PAGE_BYTES) }
}

/// Most runs of usable RAM: every bank, cut by every reserved range.
const MAX_RUNS: usize = device_tree::MAX_BANKS + device_tree::MAX_RESERVED;

/// Where everything lies in RAM.
struct Memory {
    /// Usable RAM, page by page, lowest first.
    runs: List<Range, MAX_RUNS>,
    /// The physical address that the linear map begins with.
    base: u64,
    /// Boot memory: the linear map's tables, the frames' and lines' words, the exposed pages.
    boot: Range,
    tables: u64,
    words: u64,
    bitmap: u64,
    slices: u64,
    info: u64,
    ram_frames: u64,
    ignored_frames: u64,
    free: core::cell::Cell<u64>,
}

impl Memory {
    /// Chooses a place for everything.
    fn plan(tree: &Description, image: Range, tree_range: Range, lines: u64) -> Memory {
        let (runs, ignored_frames) = usable(tree);
        let pages = runs.as_slice();
        let (Some(first), Some(last)) = (pages.first(), pages.last()) else {
            panic::refuse(device_tree::Fault::NoMemory.text())
        };
        if !pages.iter().any(|run| run.start <= image.start && image.end() <= run.end()) {
            panic::refuse(
                "the image is larger than the memory it is in: give the machine more, or the image fewer programs",
            );
        }
        let span = (last.end() - first.start) / PAGE_BYTES;
        // A table for each GiB that is begun, and two for the ends of each run; three for the kernel's text.
        let tables = pages.iter().map(|run| run.bytes / (1 << 30) + 4).sum::<u64>() + 3;
        let words = ((span + lines) * 8).div_ceil(PAGE_BYTES);
        let bitmap = span.div_ceil(8 * PAGE_BYTES);
        // The linear map can do with fewer tables than that: small machines get what they need.
        let tables = tables.min(2 + (span / 512 + 2) + span / (512 * 512));
        let need = (tables + words + bitmap + 2) * PAGE_BYTES;
        let Some(start) = place(pages, need, &[pages_of(image), tree_range]) else {
            panic::refuse(first::Fault::Memory.text())
        };
        let words_at = start + tables * PAGE_BYTES;
        let bitmap_at = words_at + words * PAGE_BYTES;
        let slices = bitmap_at + bitmap * PAGE_BYTES;
        Memory {
            base: first.start & !((1 << 30) - 1),
            boot: Range { start, bytes: need },
            tables: start,
            words: words_at,
            bitmap: bitmap_at,
            slices,
            info: slices + PAGE_BYTES,
            ram_frames: pages.iter().map(|run| run.bytes / PAGE_BYTES).sum(),
            ignored_frames,
            free: core::cell::Cell::new(0),
            runs,
        }
    }

    /// Maps all usable RAM linearly.
    fn map(&self, text: Range) {
        let bytes = self.words - self.tables;
        let Some(window) = mmu::open(self.tables, bytes) else { panic::refuse(first::Fault::Memory.text()) };
        let mut tables = mmu::TableMemory { next: self.tables, end: self.words, start: self.tables, window };
        for run in self.runs.as_slice() {
            if mmu::map_linear(*run, self.base, text, &mut tables).is_none() {
                panic::refuse(first::Fault::Memory.text());
            }
        }
        mmu::close(tables.window);
    }

    /// The words of all frames, and the bitmap: what is free, what is the kernel's, what is no RAM.
    fn frames(&self, image: Range, tree: Range) -> Frames<'static> {
        let pages = self.runs.as_slice();
        let first = pages.first().map_or(0, |run| run.start / PAGE_BYTES);
        let span = pages.last().map_or(0, |run| run.end() / PAGE_BYTES) - first;
        let words = objects::boot_words(self.words, span, self.base);
        let bitmap = objects::boot_words(self.bitmap, span.div_ceil(64), self.base);
        objects::boot_words(self.slices, 512, self.base);
        objects::boot_words(self.info, 512, self.base);
        let frames = Frames { first, words, bitmap };
        let mut next = first;
        for run in pages {
            let start = run.start / PAGE_BYTES;
            (next..start).for_each(|pfn| frames.set(Pfn(pfn), Word::new(0, Kind::Device, 0)));
            next = run.end() / PAGE_BYTES;
            set_bits(bitmap, start - first, next - first);
        }
        let exposed = Word(Word::new(0, Kind::Kernel, 0).0 | EXPOSED);
        let kernel = Word::new(0, Kind::Kernel, 0);
        let mut used = 0;
        let own = |range: Range, word: Word| {
            let mut newly = 0;
            for pfn in range.start / PAGE_BYTES..range.end().div_ceil(PAGE_BYTES) {
                let index = pfn.wrapping_sub(first);
                if let Some(bits) = bitmap.get((index / 64) as usize) {
                    newly += bits.fetch_and(!(1 << (index % 64)), Relaxed) >> (index % 64) & 1;
                    frames.set(Pfn(pfn), word);
                }
            }
            newly
        };
        used += own(image, kernel);
        used += own(self.boot, kernel);
        used += own(tree, exposed);
        used += own(Range { start: self.bitmap, bytes: self.boot.end() - self.bitmap }, exposed);
        self.free.set(self.ram_frames - used);
        frames
    }

    /// The words of the interrupt lines, behind those of the frames.
    fn lines(&self, lines: u64) -> &'static [core::sync::atomic::AtomicU64] {
        let frames = self.runs.as_slice();
        let span = frames.last().map_or(0, |run| run.end() / PAGE_BYTES)
            - frames.first().map_or(0, |run| run.start / PAGE_BYTES);
        objects::more_boot_words(self.words + span * 8, lines, self.base)
    }
}

/// Sets bits `from` to `to`, a word at a time where it can.
fn set_bits(bitmap: &[core::sync::atomic::AtomicU64], from: u64, to: u64) {
    let mut at = from;
    while at < to {
        let (word, bit) = ((at / 64) as usize, at % 64);
        let count = (64 - bit).min(to - at);
        let mask = (!0u64 >> (64 - count)) << bit;
        if let Some(bits) = bitmap.get(word) {
            bits.store(bits.load(Relaxed) | mask, Relaxed);
        }
        at += count;
    }
}

/// RAM without what is reserved, in whole pages, sorted, and within the span of the linear map. Also: frames that are not.
fn usable(tree: &Description) -> (List<Range, MAX_RUNS>, u64) {
    let mut banks = [Range::default(); device_tree::MAX_BANKS];
    let count = tree.memory.as_slice().len();
    banks[..count].copy_from_slice(tree.memory.as_slice());
    banks[..count].sort_unstable_by_key(|bank| bank.start);
    let base = banks[0].start & !((1 << 30) - 1);
    let mut runs = List::empty(Range::default());
    let mut ignored = 0;
    let mut from = 0;
    for bank in &banks[..count] {
        // Overlapping banks are taken once.
        let mut at = bank.start.max(from).next_multiple_of(PAGE_BYTES);
        let end = bank.end() & !(PAGE_BYTES - 1);
        let limit = end.min(base + MAX_SPAN);
        ignored += end.saturating_sub(limit.max(at)) / PAGE_BYTES;
        from = from.max(end);
        // Each turn ends behind a reserved range, or ends the bank.
        for _ in 0..=device_tree::MAX_RESERVED {
            if at >= limit {
                break;
            }
            let next = tree
                .reserved
                .as_slice()
                .iter()
                .filter(|range| range.bytes != 0 && range.end() > at && range.start < limit)
                .min_by_key(|range| range.start);
            let stop = next.map_or(limit, |range| (range.start & !(PAGE_BYTES - 1)).max(at));
            if stop > at {
                runs.push(Range { start: at, bytes: stop - at });
            }
            at = next.map_or(limit, |range| range.end().checked_next_multiple_of(PAGE_BYTES).unwrap_or(limit));
        }
    }
    (runs, ignored)
}

/// The lowest `need` bytes of usable RAM that keep clear of what is there.
fn place(runs: &[Range], need: u64, taken: &[Range; 2]) -> Option<u64> {
    for run in runs {
        let mut at = run.start;
        // Each turn passes one of the taken ranges.
        for _ in 0..=taken.len() {
            match taken.iter().find(|range| range.start < at.saturating_add(need) && at < range.end()) {
                Some(range) => at = range.end(),
                None if at.checked_add(need)? <= run.end() => return Some(at),
                None => break,
            }
        }
    }
    None
}
