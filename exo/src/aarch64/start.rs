//! The machine is set up, step by step, until the first environment runs. What is wrong is said on the early UART.

use super::boot;
use super::layout::*;
use super::objects::{self, Arm, Globals};
use super::{entry, gic, mmu, panic, power, registers, uart};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::{self, Controller, Description, List, Range};
use exo::first::{self, Boot};
use exo::frame::{EXPOSED, Frames, Kind, Word};
use exo::interrupt::WORDS_PER_LINE;
use exo::machine::Machine;
use exo_abi::boot::{BootHeader, END_MAGIC, FLAG_QEMU};
use exo_abi::exposed::{Features, LAYOUT_VERSION, MachineInfo};
use exo_abi::{ABI_VERSION, PAGE_BYTES, Pfn};

/// From the boot code: physical addresses of device tree (or 0) and image, and the timer at the first instruction.
pub extern "C" fn start(device_tree: u64, image: u64, entry_ticks: u64) -> ! {
    let parts = boot::image();
    mmu::set_up(image, parts.guard);
    let header = boot::header();
    begin_uart(Range { start: header.early_uart, bytes: PAGE_BYTES });
    power::set_up(None, header.flags & FLAG_QEMU != 0);
    check(first::check_header(header, boot::header_bytes()));
    check(first::check_runs(header));
    check_archive(header, &parts);

    let tree_at = if device_tree != 0 { device_tree } else { header.device_tree };
    let (tree, tree_bytes) = read_tree(tree_at);
    power::set_up(tree.psci, header.flags & FLAG_QEMU != 0);
    let uart = tree.uart.filter(|uart| begin_uart(*uart)).map(|uart| Pfn(uart.start / PAGE_BYTES));
    let lines = begin_interrupts(&tree);

    let kept = Range { start: image, bytes: header.archive_offset + header.archive_bytes };
    let tree_range = pages_of(Range { start: tree_at, bytes: tree_bytes });
    let memory = Memory::plan(&tree, kept, tree_range, lines);
    memory.map(Range { start: image, bytes: parts.text });
    mmu::forget_identity();
    let (frames, line_words, free) = memory.words(kept, tree_range, lines);

    let (features, timer_hz) = (registers::features(), registers::timer_hz());
    let first_frame = frames.first;
    let span = frames.words.len() as u64;
    let globals = Globals { frames, lines: line_words, hz: timer_hz, uart, devices: tree.controller_ranges, features };
    let core = objects::set_up(globals, Pfn(memory.slices / PAGE_BYTES));
    registers::prepare(features, core);
    let archive = Pfn(kept.start / PAGE_BYTES + header.archive_offset / PAGE_BYTES);
    if Arm.words(Pfn(kept.end() / PAGE_BYTES - 1))[511].load(Relaxed) != END_MAGIC {
        panic::refuse(first::Fault::Archive.text());
    }

    let info = Pfn(memory.info / PAGE_BYTES);
    check(first::build(&Arm, &Boot { header, archive, free, info, cores: 1 }));
    let qemu = if header.flags & FLAG_QEMU != 0 { Features::QEMU } else { Features::empty() };
    objects::write_info(
        info,
        &MachineInfo {
            layout_version: LAYOUT_VERSION,
            abi_version: ABI_VERSION as u64,
            build_id: header.build_id,
            features: (features | qemu).bits(),
            timer_hz,
            cores: 1,
            gic_version: if tree.controller == Some(Controller::V2) { 2 } else { 3 },
            interrupt_lines: lines,
            first_frame,
            frames: span,
            frames_of_ram: memory.ram_frames,
            frames_free_at_start: free,
            frames_ignored: memory.ignored_frames,
            bitmap_frame: memory.bitmap / PAGE_BYTES,
            bitmap_frames: (memory.slices - memory.bitmap) / PAGE_BYTES,
            slices_frame: memory.slices / PAGE_BYTES,
            device_tree_frame: tree_range.start / PAGE_BYTES,
            device_tree_offset: tree_at - tree_range.start,
            device_tree_bytes: tree_bytes,
            archive_frame: archive.0,
            archive_frames: header.archive_bytes / PAGE_BYTES,
            uart_frame: uart.map_or(0, |uart| uart.0),
            kernel_frames: (memory.boot.bytes + header.archive_offset) / PAGE_BYTES,
            entry_ticks,
            first_user_ticks: registers::now(),
            kernel_text_bytes: parts.text,
            kernel_data_bytes: parts.data,
        },
    );
    entry::begin()
}

/// What stood in the way of the first environment is said, and the machine stops.
fn check(result: Result<(), first::Fault>) {
    if let Err(fault) = result {
        panic::refuse(fault.text());
    }
}

/// The archive's place and length make sense; its end is looked at when it can be seen.
fn check_archive(header: &BootHeader, parts: &boot::Image) {
    let (offset, bytes) = (header.archive_offset, header.archive_bytes);
    let whole_pages = (offset | bytes).is_multiple_of(PAGE_BYTES) && bytes != 0;
    if !whole_pages || offset < parts.whole || offset | bytes >= 1 << 40 {
        panic::refuse(first::Fault::Archive.text());
    }
}

/// A UART to say things on: the boot header's, then the device tree's.
fn begin_uart(range: Range) -> bool {
    let address = if range.start == 0 { None } else { mmu::device(range) };
    if let Some(address) = address {
        uart::set_base(address);
        uart::reset();
    }
    address.is_some()
}

/// Reads the device tree through a window. Answers its length too.
fn read_tree(at: u64) -> (Description, u64) {
    let read = || {
        let window = if at == 0 || !at.is_multiple_of(8) { None } else { mmu::open(at, device_tree::MAX_BYTES as u64) };
        let window = window.ok_or(device_tree::Fault::NoTree)?;
        let header = window.words(2).first_chunk().copied().unwrap_or_default();
        let bytes = device_tree::total_bytes(&header)? as u64;
        let tree = device_tree::read(window.words(bytes.div_ceil(4) as usize))?;
        mmu::close(window);
        Ok((tree, bytes))
    };
    read().unwrap_or_else(|fault: device_tree::Fault| panic::refuse(fault.text()))
}

/// The interrupt controller; answers how many lines there are.
fn begin_interrupts(tree: &Description) -> u64 {
    let mut seen = [(0, 0); device_tree::MAX_CONTROLLER_RANGES];
    let controller = tree.controller.unwrap_or(Controller::V3);
    let ranges = tree.controller_ranges.as_slice();
    // A v2 has more than the kernel looks at: what is for virtual machines.
    let wanted = if controller == Controller::V2 { 2 } else { ranges.len() };
    for (range, place) in ranges.iter().zip(&mut seen).take(wanted) {
        let Some(address) = mmu::device(*range) else {
            panic::refuse("the interrupt controller's registers do not fit the kernel's address space")
        };
        *place = (address, range.bytes);
    }
    let [(distributor, _), rest @ ..] = &seen;
    if !gic::set_up(controller, *distributor, rest) {
        panic::refuse("the interrupt controller has no interface for this core");
    }
    gic::lines()
}

/// Whole pages around a range.
fn pages_of(range: Range) -> Range {
    let start = page_before(range.start);
    Range { start, bytes: page_behind(range.end()) - start }
}

fn page_before(address: u64) -> u64 {
    address & !(PAGE_BYTES - 1)
}

/// Saturated, to a page.
fn page_behind(address: u64) -> u64 {
    page_before(address.saturating_add(PAGE_BYTES - 1))
}

/// Most runs of usable RAM: every bank, cut by every reserved range.
const MAX_RUNS: usize = device_tree::MAX_BANKS + device_tree::MAX_RESERVED;

/// Where everything lies in RAM.
struct Memory {
    /// Usable RAM, page by page, lowest first.
    runs: List<Range, MAX_RUNS>,
    /// From the first run's beginning to the last one's end.
    span: Range,
    /// Boot memory: the linear map's tables, then the words of frames and lines, the bitmap, the slice vector, the machine information.
    boot: Range,
    words: u64,
    bitmap: u64,
    slices: u64,
    info: u64,
    ram_frames: u64,
    ignored_frames: u64,
}

impl Memory {
    /// Chooses a place for everything.
    fn plan(tree: &Description, image: Range, tree_range: Range, lines: u64) -> Memory {
        let (runs, ignored_frames) = usable(tree);
        let (Some(first), Some(last)) = (runs.as_slice().first(), runs.as_slice().last()) else {
            panic::refuse(device_tree::Fault::NoMemory.text())
        };
        let span = Range { start: first.start, bytes: last.end() - first.start };
        if !runs.as_slice().iter().any(|run| run.start <= image.start && image.end() <= run.end()) {
            panic::refuse(
                "the image is larger than the memory it is in: give the machine more, or the image fewer programs",
            );
        }
        let (mut tables, mut ram_frames) = (3, 0);
        for run in runs.as_slice() {
            // A table for each GiB that is begun, and two for the ends of each run; three above for the kernel's text.
            tables += run.bytes / (1 << 30) + 4;
            ram_frames += run.bytes / PAGE_BYTES;
        }
        let frames = span.bytes / PAGE_BYTES;
        // The linear map can do with fewer tables than that: small machines get what they need.
        let tables = tables.min(2 + (frames / 512 + 2) + frames / (512 * 512)) * PAGE_BYTES;
        let words = page_behind((frames + lines * WORDS_PER_LINE) * 8);
        let bitmap = page_behind(frames.div_ceil(8));
        let bytes = tables + words + bitmap + 2 * PAGE_BYTES;
        let Some(start) = place(runs.as_slice(), bytes, &[pages_of(image), tree_range]) else {
            panic::refuse(first::Fault::Memory.text())
        };
        let slices = start + tables + words + bitmap;
        Memory {
            span,
            boot: Range { start, bytes },
            words: start + tables,
            bitmap: start + tables + words,
            slices,
            info: slices + PAGE_BYTES,
            ram_frames,
            ignored_frames,
            runs,
        }
    }

    /// Maps all usable RAM linearly.
    fn map(&self, text: Range) {
        let bytes = self.words - self.boot.start;
        let mapped = mmu::open(self.boot.start, bytes).and_then(|window| {
            let tables = mmu::TableMemory::new(&window, self.boot.start, bytes);
            let mut map = mmu::LinearMap { text, tables };
            self.runs.as_slice().iter().try_for_each(|run| map.add(*run))?;
            mmu::close(window);
            Some(())
        });
        if mapped.is_none() {
            panic::refuse(first::Fault::Memory.text());
        }
    }

    /// The words of all frames, with the bitmap: what is free, what is the kernel's, what is no RAM. The words of the lines. How many frames are free.
    fn words(&self, image: Range, tree: Range, lines: u64) -> (Frames<'static>, &'static [AtomicU64], u64) {
        let (first, count) = (self.span.start / PAGE_BYTES, self.span.bytes / PAGE_BYTES);
        objects::zero(self.words, self.boot.end() - self.words);
        let words = objects::boot_words(self.words, count);
        let line_words = objects::boot_words(self.words + count * 8, lines * WORDS_PER_LINE);
        let bitmap = objects::boot_words(self.bitmap, count.div_ceil(64));
        let frames = Frames { first, words, bitmap };
        let mut next = first;
        for run in self.runs.as_slice() {
            let start = run.start / PAGE_BYTES;
            (next..start).for_each(|pfn| frames.set(Pfn(pfn), Word::new(0, Kind::Device, 0)));
            next = run.end() / PAGE_BYTES;
            set_bits(bitmap, start - first, next - first);
        }
        let kernel = Word::new(0, Kind::Kernel, 0);
        let exposed = Word(kernel.0 | EXPOSED);
        let pages = Range { start: self.bitmap, bytes: self.boot.end() - self.bitmap };
        let mut free = self.ram_frames;
        for (range, word) in [(image, kernel), (self.boot, kernel), (tree, exposed), (pages, exposed)] {
            for pfn in range.start / PAGE_BYTES..range.end().div_ceil(PAGE_BYTES) {
                let index = pfn.wrapping_sub(first);
                if let Some(bits) = bitmap.get((index / 64) as usize) {
                    let (old, bit) = (bits.load(Relaxed), 1 << (index % 64));
                    bits.store(old & !bit, Relaxed);
                    free -= u64::from(old & bit != 0);
                    frames.set(Pfn(pfn), word);
                }
            }
        }
        (frames, line_words, free)
    }
}

/// Sets bits `at` to `end`: the whole words between, and what is left on both sides.
fn set_bits(bitmap: &[AtomicU64], at: u64, end: u64) {
    let head = at.next_multiple_of(64).min(end);
    let tail = (end & !63).max(head);
    let whole = bitmap.get((head / 64) as usize..(tail / 64) as usize).unwrap_or_default();
    whole.iter().for_each(|word| word.store(!0, Relaxed));
    for bit in (at..head).chain(tail..end) {
        if let Some(word) = bitmap.get((bit / 64) as usize) {
            word.store(word.load(Relaxed) | 1 << (bit % 64), Relaxed);
        }
    }
}

/// RAM without what is reserved, in whole pages, lowest first, and within the span of the linear map. Also: frames that are not.
fn usable(tree: &Description) -> (List<Range, MAX_RUNS>, u64) {
    let (mut runs, mut ignored) = (List::empty(Range::default()), 0);
    let (mut at, mut limit) = (0, u64::MAX);
    // Each turn ends behind a bank, or before or behind a reserved range.
    for _ in 0..device_tree::MAX_BANKS + 2 * device_tree::MAX_RESERVED {
        let banks = tree.memory.as_slice().iter().map(|bank| (page_behind(bank.start), page_before(bank.end())));
        let rest = banks.map(|(start, end)| (start.max(at), end)).filter(|(start, end)| start < end).min();
        let Some((start, mut end)) = rest else { break };
        limit = limit.min((start & !((1 << 30) - 1)) + MAX_SPAN);
        at = start;
        for range in tree.reserved.as_slice().iter().filter(|range| range.bytes != 0).map(|range| pages_of(*range)) {
            if range.start <= at && at < range.end() {
                at = range.end();
            } else if at < range.start {
                end = end.min(range.start);
            }
        }
        if at == start {
            let usable = end.min(limit).max(start);
            if usable > start {
                runs.push(Range { start, bytes: usable - start });
            }
            ignored += (end - usable) / PAGE_BYTES;
            at = end;
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
