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
pub const MAX_RESERVED: usize = MAX_RANGES - 3;
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
    /// Cuts off what lies at or beyond `limit`; answers how many bytes that is.
    pub fn cut(&mut self, limit: u64) -> u64 {
        let beyond = self.items.iter_mut().map(|range| {
            let end = range.end;
            range.end = end.min(limit.max(range.start));
            end - range.end
        });
        beyond.sum()
    }
    /// The whole pages of these ranges that keep clear of `taken`, run by run, lowest first.
    pub fn without(&self, taken: &Ranges) -> impl Iterator<Item = Range> {
        core::iter::successors(self.next_run(taken, 0), |run| self.next_run(taken, run.end))
    }
    /// The first of these runs that begins at `at` or later.
    #[inline(never)]
    fn next_run(&self, taken: &Ranges, mut at: u64) -> Option<Range> {
        let taken = || taken.as_slice().iter().map(|range| range.pages());
        // Each turn passes one of the taken ranges.
        for _ in 0..=MAX_RANGES {
            let pieces = self.as_slice().iter().map(|range| (page_behind(range.start).max(at), page_before(range.end)));
            let (start, end) = pieces.filter(|(start, end)| start < end).min()?;
            match taken().find(|range| range.start <= start && start < range.end) {
                Some(range) => at = range.end,
                None => {
                    let end = taken().map(|range| range.start).filter(|at| *at > start).fold(end, u64::min);
                    return Some(Range { start, end });
                }
            }
        }
        None
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

/// What the kernel makes of a node's children.
#[derive(Clone, Copy)]
enum Place {
    Nothing,
    /// Those of the root.
    Root,
    /// Those of a bus whose addresses are its parent's.
    Bus,
    Cores,
    Reserved,
}

/// What a device is.
#[derive(Clone, Copy)]
enum Device {
    Controller(Controller),
    Uart,
    Psci,
    Bus,
}

/// The strings of `compatible` that the kernel knows.
const KNOWN: [(&str, Device); 9] = [
    ("arm,cortex-a15-gic", Device::Controller(Controller::V2)),
    ("arm,cortex-a9-gic", Device::Controller(Controller::V2)),
    ("arm,gic-400", Device::Controller(Controller::V2)),
    ("arm,gic-v3", Device::Controller(Controller::V3)),
    ("arm,pl011", Device::Uart),
    ("arm,psci-1.0", Device::Psci),
    ("arm,psci-0.2", Device::Psci),
    ("arm,psci", Device::Psci),
    ("simple-bus", Device::Bus),
];

/// The properties that the kernel looks at.
const PROPERTIES: [&str; 7] = ["reg", "compatible", "method", "status", "ranges", "#address-cells", "#size-cells"];

/// Reads a tree, given as the words from its first on.
pub fn read(blob: &[u32]) -> Result<Description, Fault> {
    let (blob, bytes) = check_blocks(blob)?;
    let mut found = Description { bytes, ..Description::default() };
    reservations(blob, &mut found.reserved);
    let root = Fdt::new_fallible(blob)?.root()?;
    // What each node on the way to the current one is to its children, and the bytes of an address and of a size in their `reg`.
    let mut parents = [(Place::Nothing, (0, 0)); MAX_DEPTH + 1];
    for node in core::iter::once(Ok((0, root.as_node()))).chain(root.all_nodes()?) {
        let (depth, node) = node?;
        let Some([parent, own, ..]) = parents.get_mut(depth..) else { return Err(Fault::DAMAGED) };
        let (parent, cells) = *parent;
        own.0 = Place::Nothing;
        if depth != 0 && matches!(parent, Place::Nothing) {
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
        let width = |value: Option<&[u8]>, or: u64| value.map_or(or, |value| number(value).min(3)) as usize * 4;
        own.1 = (width(address_cells, 2), width(size_cells, 1));
        let reg = in_reg(reg.unwrap_or_default(), cells);
        let name = node.name()?.name;
        match (parent, name) {
            (Place::Nothing, _) => own.0 = Place::Root,
            (Place::Cores, _) => found.cores += usize::from(name == "cpu"),
            (Place::Reserved, _) => reg.for_each(|range| found.reserved.push(range)),
            _ if status.is_some_and(|status| !status.starts_with(b"ok")) => {}
            (Place::Root, "memory") => reg.for_each(|range| found.memory.push(range)),
            (Place::Root, "cpus") => own.0 = Place::Cores,
            (Place::Root, "reserved-memory") => own.0 = Place::Reserved,
            (Place::Root | Place::Bus, _) => {
                let known = |name: &[u8]| KNOWN.iter().find(|(known, _)| known.as_bytes() == name);
                match compatible.unwrap_or_default().split(|byte| *byte == 0).find_map(known) {
                    Some((_, Device::Controller(version))) if found.controller.is_none() => {
                        found.controller = Some(*version);
                        reg.for_each(|range| found.controller_ranges.push(range));
                    }
                    Some((_, Device::Uart)) => found.uart = found.uart.or({ reg }.next()),
                    Some((_, Device::Psci)) => {
                        let smc = method.is_some_and(|method| method.starts_with(b"smc"));
                        found.psci = Some(if smc { Conduit::Smc } else { Conduit::Hvc });
                    }
                    Some((_, Device::Bus)) if ranges == Some(&[]) => own.0 = Place::Bus,
                    _ => {}
                }
            }
        }
    }
    if found.memory.found == 0 {
        Err(Fault::NO_MEMORY)
    } else if found.controller_ranges.found < 2 {
        Err(Fault::NO_CONTROLLER)
    } else if found.reserved.found > MAX_RESERVED {
        Err(Fault::RESERVED)
    } else {
        Ok(found)
    }
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

/// The ranges in a `reg`, by the parent's cells. Addresses of more than 64 bits (PCI's) are not the kernel's matter.
fn in_reg(reg: &[u8], (address, size): (usize, usize)) -> impl Iterator<Item = Range> {
    let reg = if address > 8 || size > 8 { &[] } else { reg };
    reg.chunks_exact((address + size).max(4)).map(move |entry| {
        let (start, bytes) = entry.split_at_checked(address).unwrap_or_default();
        Range::new(number(start), number(bytes.get(..size).unwrap_or_default()))
    })
}

/// A big-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | *byte as u64)
}
