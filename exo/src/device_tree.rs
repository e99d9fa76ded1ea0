//! What the kernel needs of the device tree, read defensively: memory, what is reserved, cores, interrupt controller, UART, PSCI.
//!
//! (Devicetree Specification 0.4: 2.3 properties, 3 nodes, 5.3 the memory reservation block.)

use crate::fault::{self, Fault};
use exo_abi::{PAGE_BYTES, Pfn};

/// Ranges of one sort that are looked at: banks of RAM, reserved memory, registers of an interrupt controller.
pub const MAX_RANGES: usize = 32;
/// Reserved ranges that a tree may name: the kernel adds what it uses itself.
pub const MAX_RESERVED: usize = MAX_RANGES - 4;
/// Bytes a tree may have; what firmware hands over is a hundredth of it.
pub const MAX_BYTES: usize = 2 << 20;
/// Nodes inside each other that a tree may have, the root included.
const MAX_DEPTH: usize = 15;

/// Physical bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address beyond.
    pub end: u64,
}

impl Range {
    /// So many bytes; the end is saturated.
    pub const fn new(start: u64, bytes: u64) -> Range {
        Range { start, end: start.saturating_add(bytes) }
    }
    /// How many bytes it has.
    pub const fn bytes(self) -> u64 {
        self.end - self.start
    }
    /// The whole pages around it.
    pub const fn pages(self) -> Range {
        Range { start: page_before(self.start), end: page_behind(self.end) }
    }
}

const fn page_before(address: u64) -> u64 {
    address & !(PAGE_BYTES - 1)
}

/// Saturated, to a page.
const fn page_behind(address: u64) -> u64 {
    page_before(address.saturating_add(PAGE_BYTES - 1))
}

/// Ranges of one sort.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ranges {
    items: [Range; MAX_RANGES],
    /// How many there were; the first [`MAX_RANGES`] are kept.
    pub found: usize,
}

impl Ranges {
    /// Adds a range, or counts it; an empty one is none.
    #[inline(never)]
    pub fn push(&mut self, range: Range) {
        if range.start < range.end {
            if let Some(place) = self.items.get_mut(self.found) {
                *place = range;
            }
            self.found += 1;
        }
    }
    /// The ranges.
    pub fn as_slice(&self) -> &[Range] {
        self.items.get(..self.found).unwrap_or(&self.items)
    }
    /// One of them has something in this page.
    pub fn touch(&self, pfn: Pfn) -> bool {
        self.as_slice().iter().map(|range| range.pages()).any(|range| (range.start..range.end).contains(&pfn.address()))
    }
    /// The whole pages of these ranges that keep clear of `taken`, run by run, lowest first.
    pub fn without<'a>(&'a self, taken: &'a Ranges) -> impl Iterator<Item = Range> + 'a {
        let mut at = 0;
        core::iter::from_fn(move || {
            let run = self.next_run(taken, at);
            at = run.end;
            (at != 0).then_some(run)
        })
    }
    /// The first of these runs that begins at `at` or later; all zeros: none.
    #[inline(never)]
    fn next_run(&self, taken: &Ranges, mut at: u64) -> Range {
        let taken = || taken.as_slice().iter().map(|range| range.pages());
        // Each turn passes one of the taken ranges.
        for _ in 0..=MAX_RANGES {
            let pieces = self.as_slice().iter().map(|range| (page_behind(range.start).max(at), page_before(range.end)));
            let Some((start, end)) = pieces.filter(|(start, end)| start < end).min() else { break };
            let Some(range) = taken().find(|range| range.start <= start && start < range.end) else {
                let end = taken().map(|range| range.start).filter(|at| *at > start).fold(end, u64::min);
                return Range { start, end };
            };
            at = range.end;
        }
        Range::default()
    }
}

/// An interrupt controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Controller {
    /// GICv2: distributor and CPU interface.
    V2 = 2,
    /// GICv3: distributor and redistributors.
    V3 = 3,
}

/// How PSCI is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// `hvc`.
    Hvc = 1,
    /// `smc`.
    Smc = 2,
}

/// What the tree says.
#[derive(Default)]
pub struct Description {
    /// Bytes it has itself.
    pub bytes: u64,
    /// Banks of RAM.
    pub memory: Ranges,
    /// What must not be used of it.
    pub reserved: Ranges,
    /// Cores there are.
    pub cores: usize,
    /// The interrupt controller.
    pub controller: Option<Controller>,
    /// Its registers: distributor first.
    pub controller_ranges: Ranges,
    /// PL011s.
    pub uarts: Ranges,
    /// PSCI.
    pub psci: Option<Conduit>,
}

/// What the kernel takes a node for.
#[derive(Clone, Copy)]
enum Kind {
    Nothing,
    Root,
    Bus,
    Cores,
    Memory,
    Reserved,
    Controller(Controller),
    Uart,
    Psci,
}

/// The names, and the strings of `compatible`, that the kernel knows.
const KNOWN: [(Kind, &[u8]); 12] = [
    (Kind::Memory, b"memory"),
    (Kind::Cores, b"cpus"),
    (Kind::Reserved, b"reserved-memory"),
    (Kind::Bus, b"simple-bus"),
    (Kind::Uart, b"arm,pl011"),
    (Kind::Psci, b"arm,psci"),
    (Kind::Psci, b"arm,psci-0.2"),
    (Kind::Psci, b"arm,psci-1.0"),
    (Kind::Controller(Controller::V3), b"arm,gic-v3"),
    (Kind::Controller(Controller::V2), b"arm,gic-400"),
    (Kind::Controller(Controller::V2), b"arm,cortex-a15-gic"),
    (Kind::Controller(Controller::V2), b"arm,cortex-a9-gic"),
];

/// The properties that the kernel looks at, as they stand in the strings.
const PROPERTIES: [&[u8]; 7] =
    [b"reg\0", b"compatible\0", b"method\0", b"status\0", b"ranges\0", b"#address-cells\0", b"#size-cells\0"];

/// Reads the tree that begins with `blob`, and tells `core` of each core's affinity. (The description is large: it is not moved about.)
#[inline(never)]
pub fn read(blob: &[u8], found: &mut Description, core: &mut dyn FnMut(u64)) -> Result<(), Fault> {
    fault::when(word(blob, 0) != Some(0xd00d_feed), Fault::NO_TREE)?;
    let bytes = word(blob, 4).filter(|bytes| (40..=MAX_BYTES).contains(bytes)).ok_or(Fault::LENGTH)?;
    found.bytes = bytes as u64;
    let own = blob.get(..bytes).ok_or(Fault::LENGTH)?;
    reservations(own, &mut found.reserved).and_then(|()| nodes(own, found, core)).ok_or(Fault::DAMAGED)?;
    fault::when(found.memory.found == 0, Fault::NO_MEMORY)?;
    fault::when(found.controller_ranges.found < 2, Fault::NO_CONTROLLER)?;
    fault::when(found.reserved.found > MAX_RESERVED, Fault::RESERVED)
}

// Tokens of the structure block.
const PROPERTY: usize = 3;
const NOP: usize = 4;

/// Reads the structure block (5.4) to its end; nothing if it is damaged.
fn nodes(blob: &[u8], found: &mut Description, core: &mut dyn FnMut(u64)) -> Option<()> {
    let block = |offset, bytes| blob.get(word(blob, offset)?..)?.get(..word(blob, bytes)?);
    let (strings, mut rest) = (block(12, 32)?, block(8, 36)?);
    // What each node on the way to the current one is, and the bytes of an address and of a size in its children's `reg`.
    let mut parents = [(Kind::Nothing, 0, 0); MAX_DEPTH + 1];
    let mut depth = 0;
    loop {
        match take_word(&mut rest)? {
            1 => {} // FDT_BEGIN_NODE
            // FDT_END_NODE
            2 => {
                depth = usize::checked_sub(depth, 1)?;
                continue;
            }
            NOP => continue,
            // FDT_END
            9 => return (depth == 0).then_some(()),
            _ => return None,
        }
        let [(parent, address, size), own, ..] = parents.get_mut(depth..)? else { return None };
        depth += 1;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let name = take(&mut rest, end + 1)?.split(|byte| matches!(byte, b'@' | 0)).next()?;
        let mut values = [None; PROPERTIES.len()];
        while let token @ (PROPERTY | NOP) = word(rest, 0)? {
            take_word(&mut rest)?;
            if token == PROPERTY {
                let (bytes, at) = (take_word(&mut rest)?, take_word(&mut rest)?);
                let (value, text) = (take(&mut rest, bytes)?, strings.get(at..)?);
                if let Some(place) = PROPERTIES.iter().position(|name| text.starts_with(name)) {
                    values[place] = Some(value);
                }
            }
        }
        let [reg, compatible, method, status, ranges, address_cells, size_cells] = values;
        let width = |value: Option<&[u8]>, or: u64| value.map_or(or, number).min(3) as usize * 4;
        *own = (if depth == 1 { Kind::Root } else { Kind::Nothing }, width(address_cells, 2), width(size_cells, 1));
        let kind = known(name).or_else(|| known(compatible?)).unwrap_or(Kind::Nothing);
        let list = match (*parent, kind) {
            (Kind::Nothing, _) => continue,
            (Kind::Reserved, _) => &mut found.reserved,
            _ if status.is_some_and(|status| !status.starts_with(b"ok")) => continue,
            (Kind::Cores, _) => {
                if name == b"cpu" {
                    // One or two cells: its affinity, as MPIDR_EL1 has it (Linux, Documentation/devicetree/bindings/arm/cpus.yaml).
                    found.cores += 1;
                    core(number(reg.unwrap_or_default()));
                }
                continue;
            }
            (Kind::Root, Kind::Memory) => &mut found.memory,
            (_, Kind::Uart) => &mut found.uarts,
            (_, Kind::Controller(version)) if found.controller.is_none() => {
                found.controller = Some(version);
                &mut found.controller_ranges
            }
            (_, Kind::Psci) => {
                let smc = method.is_some_and(|method| method.starts_with(b"smc"));
                found.psci = Some(if smc { Conduit::Smc } else { Conduit::Hvc });
                continue;
            }
            // A bus whose addresses are its parent's.
            (Kind::Root | Kind::Bus, Kind::Bus) if ranges != Some(&[]) => continue,
            (Kind::Root, Kind::Cores | Kind::Reserved) | (Kind::Root | Kind::Bus, Kind::Bus) => {
                own.0 = kind;
                continue;
            }
            _ => continue,
        };
        // Addresses of more than 64 bits (PCI's) are not the kernel's matter.
        for entry in reg.unwrap_or_default().chunks_exact((*address + *size).max(4)) {
            if let Some((start, bytes)) = entry.split_at_checked(*address).filter(|_| *address <= 8 && *size <= 8) {
                list.push(Range::new(number(start), bytes.get(..*size).map_or(0, number)));
            }
        }
    }
}

/// What the first of these strings is that the kernel knows.
fn known(names: &[u8]) -> Option<Kind> {
    let is = |name: &[u8]| KNOWN.iter().find(|(_, known)| *known == name);
    names.split(|byte| *byte == 0).find_map(is).map(|(kind, _)| *kind)
}

/// The memory reservation block: pairs of 64-bit numbers, ended by a pair of zeros (or by the tree).
fn reservations(blob: &[u8], reserved: &mut Ranges) -> Option<()> {
    for entry in blob.get(word(blob, 16)?..)?.chunks_exact(16).take(MAX_RANGES) {
        let (start, bytes) = entry.split_at_checked(8)?;
        if number(bytes) == 0 {
            break;
        }
        reserved.push(Range::new(number(start), number(bytes)));
    }
    Some(())
}

/// Takes bytes, and what fills their last word, off the front.
fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    rest.split_off(..bytes.next_multiple_of(4))?.get(..bytes)
}

fn take_word(rest: &mut &[u8]) -> Option<usize> {
    take(rest, 4).map(|word| number(word) as usize)
}

/// The word that begins at a byte.
fn word(bytes: &[u8], at: usize) -> Option<usize> {
    take_word(&mut bytes.get(at..)?)
}

/// A big-endian number of up to eight bytes.
#[inline(never)]
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | *byte as u64)
}
