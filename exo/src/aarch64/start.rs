//! The machine is set up, step by step, until the first environment runs. What is wrong is said on the early UART.

use super::cores::{self, Memory};
use super::layout::*;
use super::objects::{self, Arm};
use super::{boot, entry, gic, mmu, panic, power, registers, uart};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::{self, Description, Range};
use exo::fault::Fault;
use exo::first;
use exo::frame::{EXPOSED, Frames, Kind, Word};
use exo::interrupt::WORDS_PER_LINE;
use exo::machine::Found;
use exo_abi::boot::FLAG_QEMU;
use exo_abi::exposed::{Features, LAYOUT_VERSION, MachineInfo};
use exo_abi::{ABI_VERSION, PAGE_BYTES, Pfn};

/// From the boot code: physical addresses of device tree (or 0) and image, and the timer at the first instruction.
pub extern "C" fn start(device_tree: u64, image: u64, entry_ticks: u64) -> ! {
    match set_up(device_tree, image, entry_ticks) {
        Ok(()) => entry::begin(),
        Err(fault) => panic::stop(&[("exo: cannot start: ", 0, 0), (fault.0, 0, 0)]),
    }
}

fn set_up(device_tree: u64, image: u64, entry_ticks: u64) -> Result<(), Fault> {
    let [text, data, whole, guard] = boot::extent();
    mmu::set_up(guard);
    let header = &boot::boot_header;
    uart::begin(Range::new(header.early_uart, PAGE_BYTES));
    first::check_header(header, boot::header_bytes(), whole)?;

    let tree_at = if device_tree != 0 { device_tree } else { header.device_tree };
    let (mut tree, blob) = (Description::default(), Range::new(tree_at, device_tree::MAX_BYTES as u64));
    mmu::look_at(blob, |bytes| device_tree::read(bytes, &mut tree, &mut |_| ())).unwrap_or(Err(Fault::NO_TREE))?;
    power::CONDUIT.store(tree.psci.map_or(0, |conduit| conduit as u64), Relaxed);
    let uart =
        tree.uarts.as_slice().first().filter(|uart| uart::begin(**uart)).map(|uart| Pfn(uart.start / PAGE_BYTES));
    let lines = gic::set_up(tree.controller, tree.controller_ranges.as_slice())?;

    // What there is: the runs of usable RAM, within the span that the linear map takes.
    let first = tree.memory.without(&tree.reserved).next().ok_or(Fault::NO_MEMORY)?.start;
    let all: u64 = tree.memory.without(&tree.reserved).map(|run| run.bytes() / PAGE_BYTES).sum();
    tree.reserved.push(Range { start: (first & !(GIB - 1)).saturating_add(MAX_SPAN), end: u64::MAX });
    let image = Range::new(image, header.archive_offset + header.archive_bytes);
    let tree_pages = Range::new(tree_at, tree.bytes).pages();
    let (mut span, mut tables, mut ram, mut fits) = (Range { start: first, end: first }, 3, 0, false);
    for run in tree.memory.without(&tree.reserved) {
        // A table for each GiB that is begun, and two for the ends of each run; three above for the kernel's text.
        tables += run.bytes() / GIB + 4;
        ram += run.bytes() / PAGE_BYTES;
        span.end = run.end;
        fits |= run.start <= image.start && image.end <= run.end;
    }
    fits.then_some(()).ok_or(Fault::IMAGE)?;

    // Where it goes, in boot memory: the linear map's tables, the words of frames and lines, the bitmap, the slice vectors, the machine information, and what each other core has to itself.
    let frames = span.bytes() / PAGE_BYTES;
    // The linear map can do with fewer tables than that: small machines get what they need.
    let tables = tables.min(2 + (frames / 512 + 2) + frames / (512 * 512)) * PAGE_BYTES;
    let words = ((frames + lines * WORDS_PER_LINE) * 8).next_multiple_of(PAGE_BYTES);
    let bitmap = frames.div_ceil(8).next_multiple_of(PAGE_BYTES);
    let (cores, [core_bytes, vector_bytes]) = Memory::needed(&tree);
    let bytes = tables + words + bitmap + vector_bytes + PAGE_BYTES + core_bytes;
    let mut taken = tree.reserved;
    taken.push(image);
    taken.push(tree_pages);
    let place = tree.memory.without(&taken).find(|run| run.bytes() >= bytes).ok_or(Fault::MEMORY)?.start;
    let boot = Range::new(place, bytes);
    taken.push(boot);
    let (words, bitmap) = (boot.start + tables, boot.start + tables + words);
    let shown = Range { start: bitmap, end: boot.end - core_bytes };
    let info = shown.end - PAGE_BYTES;
    let slices = info - vector_bytes;

    let runs = tree.memory.without(&tree.reserved);
    let tables = Range { start: boot.start, end: words };
    mmu::map_linear(runs, Range::new(image.start, text), tables).ok_or(Fault::MEMORY)?;
    objects::zero(words, boot.end - words);
    let line_words = objects::boot_words(words + frames * 8, lines * WORDS_PER_LINE);
    let first = first / PAGE_BYTES;
    let (words, bits) = (objects::boot_words(words, frames), objects::boot_words(bitmap, frames.div_ceil(64)));
    let frames = Frames { first, words, bitmap: bits };
    // What is free, what is the kernel's, what is no RAM.
    let mark = |range: Range, word: Word| {
        (range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)).for_each(|pfn| frames.set(Pfn(pfn), word));
    };
    let mut hole = span.start;
    for run in tree.memory.without(&tree.reserved) {
        mark(Range { start: hole, end: run.start }, Word::new(0, Kind::Device, 0));
        hole = run.end;
    }
    let kernel = Word::new(0, Kind::Kernel, 0);
    let exposed = Word(kernel.0 | EXPOSED);
    let owners = [(image, kernel), (boot, kernel), (tree_pages, exposed), (shown, exposed)];
    owners.into_iter().for_each(|(range, word)| mark(range, word));
    let mut free = 0;
    for run in tree.memory.without(&taken) {
        free += run.bytes() / PAGE_BYTES;
        set_bits(bits, run.start / PAGE_BYTES - first, run.end / PAGE_BYTES - first);
    }

    let hz = registers::timer_hz();
    let found = Found { frames, lines: line_words, hz, uart, devices: tree.controller_ranges };
    objects::set_up(found);
    cores::begin_first(Pfn(slices / PAGE_BYTES));
    registers::begin_timer();
    let memory = Memory { cores, range: Range { start: shown.end, end: boot.end }, vectors: slices };
    let cores = if cores == 1 { 1 } else { cores::start(blob, image.start, &memory) };
    let features = cores::settle();
    let archive = Pfn((image.start + header.archive_offset) / PAGE_BYTES);
    let info_frame = Pfn(info / PAGE_BYTES);
    first::build(&Arm, header, archive, free, info_frame, cores)?;
    let qemu = if header.flags & FLAG_QEMU != 0 { Features::QEMU } else { Features::empty() };
    objects::write_info(
        info_frame,
        MachineInfo {
            layout_version: LAYOUT_VERSION,
            abi_version: ABI_VERSION as u64,
            build_id: header.build_id,
            features: (features | qemu).bits(),
            timer_hz: hz,
            cores,
            gic_version: tree.controller.map_or(0, |controller| controller as u64),
            interrupt_lines: lines,
            first_frame: first,
            frames: span.bytes() / PAGE_BYTES,
            frames_of_ram: ram,
            frames_free_at_start: free,
            frames_ignored: all - ram,
            bitmap_frame: bitmap / PAGE_BYTES,
            bitmap_frames: (slices - bitmap) / PAGE_BYTES,
            slices_frame: slices / PAGE_BYTES,
            device_tree_frame: tree_at / PAGE_BYTES,
            device_tree_offset: tree_at % PAGE_BYTES,
            device_tree_bytes: tree.bytes,
            archive_frame: archive.0,
            archive_frames: header.archive_bytes / PAGE_BYTES,
            uart_frame: uart.map_or(0, |uart| uart.0),
            kernel_frames: (boot.bytes() + header.archive_offset) / PAGE_BYTES,
            entry_ticks,
            first_user_ticks: registers::now(),
            kernel_text_bytes: text,
            kernel_data_bytes: data - text,
        },
    );
    mmu::end_boot();
    cores::release();
    Ok(())
}

/// Sets bits `at` to `end`, word by word.
fn set_bits(bitmap: &[AtomicU64], at: u64, end: u64) {
    let words = bitmap.get((at / 64) as usize..end.div_ceil(64) as usize).unwrap_or_default();
    let mut first = at & !63;
    for word in words {
        let bits = !0 << at.saturating_sub(first) & !0 >> (first + 64).saturating_sub(end);
        word.store(word.load(Relaxed) | bits, Relaxed);
        first += 64;
    }
}
