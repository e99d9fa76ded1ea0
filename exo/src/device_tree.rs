//! What the kernel needs of the device tree, read defensively: memory, what is reserved, cores, interrupt controller, UART, PSCI.
//!
//! (Devicetree Specification 0.4: 2.3 properties, 3 nodes, 5.3 the memory reservation block.)

use crate::fault::Fault;
use exo_abi::PAGE_BYTES;
use fdt::Fdt;
use fdt::nodes::AsNode;

/// Ranges of one sort that are looked at: banks of RAM, reserved memory, registers of an interrupt controller.
pub const MAX_RANGES: usize = 32;
/// Reserved ranges that a tree may name: the kernel adds what it uses itself.
pub const MAX_RESERVED: usize = MAX_RANGES - 4;
/// Bytes a tree may have; what firmware hands over is a hundredth of it.
pub const MAX_BYTES: u32 = 2 << 20;
/// Nodes inside each other that a tree may have, the root included: the parser passes silently over what lies deeper.
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
    /// The first PL011.
    pub uart: Option<Range>,
    /// PSCI.
    pub psci: Option<Conduit>,
}

/// What the kernel takes a node for.
#[derive(Clone, Copy)]
enum Kind {
    Nothing,
    Root,
    /// A bus whose addresses are its parent's.
    Bus,
    Cores,
    Memory,
    Reserved,
    Controller(Controller),
    Uart,
    Psci,
}

/// The names, and the strings of `compatible`, that the kernel knows.
const KNOWN: [(Kind, &[&str]); 8] = [
    (Kind::Memory, &["memory"]),
    (Kind::Cores, &["cpus"]),
    (Kind::Reserved, &["reserved-memory"]),
    (Kind::Bus, &["simple-bus"]),
    (Kind::Uart, &["arm,pl011"]),
    (Kind::Psci, &["arm,psci", "arm,psci-0.2", "arm,psci-1.0"]),
    (Kind::Controller(Controller::V3), &["arm,gic-v3"]),
    (Kind::Controller(Controller::V2), &["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a9-gic"]),
];

/// The properties that the kernel looks at.
const PROPERTIES: [&str; 7] = ["reg", "compatible", "method", "status", "ranges", "#address-cells", "#size-cells"];

/// Reads a tree, given as the words from its first on. (The description is large: it is not moved about.)
#[inline(never)]
pub fn read(blob: &[u32], found: &mut Description) -> Result<(), Fault> {
    let (blob, bytes) = check_blocks(blob)?;
    found.bytes = bytes;
    reservations(blob, &mut found.reserved);
    let root = Fdt::new_fallible(blob)?.root()?;
    let mut uarts = Ranges::default();
    // What each node on the way to the current one is, and the bytes of an address and of a size in its children's `reg`.
    let mut parents = [(Kind::Nothing, 0, 0); MAX_DEPTH + 1];
    let (mut first, mut nodes) = (Some(Ok((0, root.as_node()))), root.all_nodes()?);
    while let Some(node) = first.take().or_else(|| nodes.next()) {
        let (depth, node) = node?;
        let Some([parent, own, ..]) = parents.get_mut(depth..) else { return Err(Fault::DAMAGED) };
        let (parent, address, size) = *parent;
        own.0 = if depth == 0 { Kind::Root } else { Kind::Nothing };
        if depth != 0 && matches!(parent, Kind::Nothing) {
            continue;
        }
        let mut values = [None; PROPERTIES.len()];
        for property in node.properties()? {
            let property = property?;
            if let Some((_, value)) = PROPERTIES.iter().zip(&mut values).find(|(name, _)| **name == property.name) {
                *value = Some(property.value);
            }
        }
        let [reg, compatible, method, status, ranges, address_cells, size_cells] = values;
        let width = |value: Option<&[u8]>, or: u64| value.map_or(or, number).min(3) as usize * 4;
        (own.1, own.2) = (width(address_cells, 2), width(size_cells, 1));
        let name = node.name()?.name;
        let kind = known(name.as_bytes()).or_else(|| known(compatible?)).unwrap_or(Kind::Nothing);
        let list = match (parent, kind) {
            (Kind::Reserved, _) => &mut found.reserved,
            (Kind::Cores, _) => {
                found.cores += usize::from(name == "cpu");
                continue;
            }
            _ if status.is_some_and(|status| !status.starts_with(b"ok")) => continue,
            (Kind::Root, Kind::Memory) => &mut found.memory,
            (_, Kind::Uart) => &mut uarts,
            (_, Kind::Controller(version)) if found.controller.is_none() => {
                found.controller = Some(version);
                &mut found.controller_ranges
            }
            (_, Kind::Psci) => {
                let smc = method.is_some_and(|method| method.starts_with(b"smc"));
                found.psci = Some(if smc { Conduit::Smc } else { Conduit::Hvc });
                continue;
            }
            (Kind::Root, Kind::Cores | Kind::Reserved) | (Kind::Root | Kind::Bus, Kind::Bus) => {
                own.0 = if matches!(kind, Kind::Bus) && ranges != Some(&[]) { Kind::Nothing } else { kind };
                continue;
            }
            _ => continue,
        };
        // Addresses of more than 64 bits (PCI's) are not the kernel's matter.
        let entries = reg.unwrap_or_default().chunks_exact((address + size).max(4));
        for entry in entries.filter(|_| address <= 8 && size <= 8) {
            let (start, bytes) = entry.split_at_checked(address).unwrap_or_default();
            list.push(Range::new(number(start), bytes.get(..size).map_or(0, number)));
        }
    }
    found.uart = uarts.as_slice().first().copied();
    Fault::none_of([
        (found.memory.found == 0, Fault::NO_MEMORY),
        (found.controller_ranges.found < 2, Fault::NO_CONTROLLER),
        (found.reserved.found > MAX_RESERVED, Fault::RESERVED),
    ])
}

/// What the first of these strings is that the kernel knows.
fn known(names: &[u8]) -> Option<Kind> {
    let is = |name: &[u8]| KNOWN.iter().find(|(_, known)| known.iter().any(|known| known.as_bytes() == name));
    names.split(|byte| *byte == 0).find_map(is).map(|(kind, _)| *kind)
}

/// The tree's own words and bytes. Its strings and its structure lie in it (5.2), and the structure ends with its end: the parser adds and subtracts without looking.
fn check_blocks(blob: &[u32]) -> Result<(&[u32], u64), Fault> {
    const END: u64 = 9;
    let word = |index: u64| blob.get(index as usize).map(|word| u32::from_be(*word) as u64);
    if word(0) != Some(0xd00d_feed) {
        return Err(Fault::NO_TREE);
    }
    let bytes = word(1).filter(|bytes| (40..=MAX_BYTES as u64).contains(bytes)).ok_or(Fault::LENGTH)?;
    let own = blob.get(..bytes.div_ceil(4) as usize).ok_or(Fault::LENGTH)?;
    // The offsets and sizes of the structure and of the strings. The parser looks at whole words of both.
    let [structure, strings, strings_size, size] = [2, 3, 8, 9].map(|index| word(index).unwrap_or(u64::MAX >> 1));
    let last = word((structure / 4 + size / 4).wrapping_sub(1));
    let inside = structure + size <= bytes && strings + strings_size <= bytes;
    if inside && size >= 4 && last == Some(END) { Ok((own, bytes)) } else { Err(Fault::DAMAGED) }
}

/// The memory reservation block: pairs of 64-bit numbers, ended by a pair of zeros (or by the tree).
fn reservations(blob: &[u32], reserved: &mut Ranges) {
    let offset = blob.get(4).map_or(0, |offset| u32::from_be(*offset) as usize / 4);
    for entry in blob.get(offset..).unwrap_or_default().as_chunks().0.iter().take(MAX_RANGES) {
        let [start_high, start, high, bytes] = entry.map(|word| u32::from_be(word) as u64);
        if high | bytes == 0 {
            break;
        }
        reserved.push(Range::new(start_high << 32 | start, high << 32 | bytes));
    }
}

/// A big-endian number of up to eight bytes.
#[inline(never)]
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | *byte as u64)
}
