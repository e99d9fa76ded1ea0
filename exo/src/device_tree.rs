//! What the kernel needs of the device tree, read defensively: memory, what is reserved, cores, interrupt controller, UART, PSCI.
//!
//! (Devicetree Specification 0.4: 2.3 properties, 3 nodes, 5.3 the memory reservation block.)

use fdt::nodes::Node;
use fdt::parsing::{NoPanic, aligned::AlignedParser};
use fdt::{Fdt, FdtError};

type Parser<'a> = (AlignedParser<'a>, NoPanic);

/// Banks of RAM that are looked at.
pub const MAX_BANKS: usize = 16;
/// Reserved ranges that are looked at.
pub const MAX_RESERVED: usize = 32;
/// Cores that are looked at.
pub const MAX_CORES: usize = 512;
/// Ranges of registers of an interrupt controller, redistributor regions included.
pub const MAX_CONTROLLER_RANGES: usize = 8;
/// Bytes a tree may have; what firmware hands over is a hundredth of it.
pub const MAX_BYTES: u32 = 2 << 20;

/// Physical bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Range {
    /// First address beyond; saturated.
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// A list with a named limit; what goes beyond is counted.
#[derive(Clone, Copy, Debug)]
pub struct List<T, const N: usize> {
    items: [T; N],
    length: usize,
    /// Items that found no place.
    pub dropped: usize,
}

impl<T: Copy + Default, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        List { items: [T::default(); N], length: 0, dropped: 0 }
    }
}

impl<T: Copy, const N: usize> List<T, N> {
    /// An empty list; `filler` stands where nothing is yet.
    pub const fn empty(filler: T) -> Self {
        List { items: [filler; N], length: 0, dropped: 0 }
    }
    /// Adds an item, or counts it.
    pub fn push(&mut self, item: T) {
        match self.items.get_mut(self.length) {
            Some(place) => (*place, self.length) = (item, self.length + 1),
            None => self.dropped += 1,
        }
    }
    /// The items.
    pub fn as_slice(&self) -> &[T] {
        &self.items[..self.length]
    }
}

/// An interrupt controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Controller {
    /// GICv2: distributor and CPU interface.
    V2,
    /// GICv3: distributor and redistributors.
    V3,
}

/// How PSCI is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// `hvc`.
    Hvc,
    /// `smc`.
    Smc,
}

/// What the tree says.
#[derive(Default)]
pub struct Description {
    /// Banks of RAM.
    pub memory: List<Range, MAX_BANKS>,
    /// What must not be used of it.
    pub reserved: List<Range, MAX_RESERVED>,
    /// Cores there are.
    pub cores: usize,
    /// The interrupt controller.
    pub controller: Option<Controller>,
    /// Its registers: distributor first.
    pub controller_ranges: List<Range, MAX_CONTROLLER_RANGES>,
    /// The first PL011.
    pub uart: Option<Range>,
    /// PSCI.
    pub psci: Option<Conduit>,
}

/// Why a tree cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It does not begin as a device tree does.
    NoTree,
    /// It is longer than the memory it is in, or absurdly long.
    Length,
    /// It is damaged.
    Damaged,
    /// It names no memory.
    NoMemory,
    /// It names no interrupt controller that the kernel knows.
    NoController,
    /// It reserves more ranges of memory than the kernel can keep clear of.
    TooMuchReserved,
}

impl Fault {
    /// One sentence for people.
    pub const fn text(self) -> &'static str {
        match self {
            Fault::NoTree => "there is no device tree where the boot protocol puts it",
            Fault::Length => "the device tree's length is wrong: it is cut short, or damaged",
            Fault::Damaged => "the device tree is damaged",
            Fault::NoMemory => "the device tree names no memory",
            Fault::NoController => "the device tree names no GICv2 or GICv3",
            Fault::TooMuchReserved => {
                "the device tree reserves more ranges of memory than the kernel can keep clear of"
            }
        }
    }
}

impl From<FdtError> for Fault {
    fn from(_: FdtError) -> Fault {
        Fault::Damaged
    }
}

/// Bytes of the tree that begins with these header words.
pub fn total_bytes(header: &[u32; 2]) -> Result<u32, Fault> {
    if u32::from_be(header[0]) != 0xd00d_feed {
        return Err(Fault::NoTree);
    }
    let bytes = u32::from_be(header[1]);
    if (40..=MAX_BYTES).contains(&bytes) { Ok(bytes) } else { Err(Fault::Length) }
}

/// Reads a tree, given as its words.
pub fn read(blob: &[u32]) -> Result<Description, Fault> {
    let header = blob.first_chunk().ok_or(Fault::NoTree)?;
    let bytes = total_bytes(header)? as usize;
    let blob = blob.get(..bytes.div_ceil(4)).ok_or(Fault::Length)?;
    let mut found = Description::default();
    check_blocks(blob, bytes)?;
    reservations(blob, &mut found);
    let tree = Fdt::new_fallible(blob)?;
    let root = fdt::nodes::AsNode::as_node(&tree.root()?);
    visit(&root, Properties::of(&root)?.cells, &mut found, 0)?;
    if found.memory.as_slice().is_empty() {
        return Err(Fault::NoMemory);
    }
    if found.controller.is_none() || found.controller_ranges.as_slice().len() < 2 {
        return Err(Fault::NoController);
    }
    if found.reserved.dropped != 0 {
        return Err(Fault::TooMuchReserved);
    }
    Ok(found)
}

/// The strings and the structure lie in the tree (5.2), and the structure ends with its end: the parser adds and subtracts without looking.
fn check_blocks(blob: &[u32], bytes: usize) -> Result<(), Fault> {
    const END: usize = 9;
    let word = |index: usize| blob.get(index).map(|word| u32::from_be(*word) as usize).ok_or(Fault::Damaged);
    let end = |offset: usize, size: usize| offset.checked_add(size).filter(|end| *end <= bytes).ok_or(Fault::Damaged);
    let (structure, size) = (word(2)?, word(9)?);
    end(word(3)?, word(8)?)?;
    end(structure, size)?;
    // The parser looks at whole words of both.
    let last = structure / 4 + size / 4;
    if size < 4 || word(last - 1)? != END { Err(Fault::Damaged) } else { Ok(()) }
}

/// The memory reservation block: pairs of 64-bit numbers, ended by a pair of zeros (or by the tree).
fn reservations(blob: &[u32], found: &mut Description) {
    let offset = blob.get(4).map_or(0, |offset| u32::from_be(*offset) as usize / 4);
    for entry in blob.get(offset..).unwrap_or(&[]).chunks_exact(4).take(MAX_RESERVED + 1) {
        let word = |high: u32, low: u32| (u32::from_be(high) as u64) << 32 | u32::from_be(low) as u64;
        let range = Range { start: word(entry[0], entry[1]), bytes: word(entry[2], entry[3]) };
        if range.bytes == 0 {
            break;
        }
        found.reserved.push(range);
    }
}

/// What the kernel looks at of a node.
#[derive(Clone, Copy)]
struct Properties<'a> {
    reg: &'a [u8],
    compatible: &'a [u8],
    method: &'a [u8],
    enabled: bool,
    /// Its children's addresses are its parent's: `ranges` is there and empty.
    transparent: bool,
    /// Bytes of an address and of a size in its children's `reg`.
    cells: (usize, usize),
}

impl<'a> Properties<'a> {
    fn of(node: &Node<'a, Parser<'a>>) -> Result<Self, Fault> {
        let mut found =
            Properties { reg: &[], compatible: &[], method: &[], enabled: true, transparent: false, cells: (8, 4) };
        for property in node.properties()? {
            let property = property?;
            let value = property.value;
            match property.name {
                "reg" => found.reg = value,
                "compatible" => found.compatible = value,
                "method" => found.method = value,
                "status" => found.enabled = value.starts_with(b"ok"),
                "ranges" => found.transparent = value.is_empty(),
                "#address-cells" => found.cells.0 = number(value).min(3) as usize * 4,
                "#size-cells" => found.cells.1 = number(value).min(3) as usize * 4,
                _ => {}
            }
        }
        Ok(found)
    }

    /// One of the strings of `compatible`.
    fn is(&self, wanted: &[&str]) -> bool {
        self.compatible.split(|byte| *byte == 0).any(|name| wanted.iter().any(|wanted| wanted.as_bytes() == name))
    }

    /// The ranges in `reg`, by the parent's cells. Addresses of more than 64 bits (PCI's) are not the kernel's matter.
    fn ranges(&self, (address, size): (usize, usize)) -> impl Iterator<Item = Range> + 'a {
        let reg = if address > 8 || size > 8 { &[] } else { self.reg };
        let entries = reg.chunks_exact((address + size).max(4));
        entries.map(move |entry| Range {
            start: number(&entry[..address]),
            bytes: number(&entry[address..address + size]),
        })
    }
}

/// A big-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | *byte as u64)
}

/// Looks at the children of a node, and at theirs where the kernel knows what they are: three levels at most.
fn visit<'a>(
    node: &Node<'a, Parser<'a>>,
    cells: (usize, usize),
    found: &mut Description,
    depth: u32,
) -> Result<(), Fault> {
    for child in node.children()? {
        let child = child?;
        let name = child.name()?.name;
        let own = Properties::of(&child)?;
        match name {
            "memory" if depth == 0 && own.enabled => {
                own.ranges(cells).filter(|range| range.bytes != 0).for_each(|range| found.memory.push(range));
            }
            "cpus" if depth == 0 => {
                for core in child.children()? {
                    found.cores += usize::from(core?.name()?.name == "cpu");
                }
            }
            "reserved-memory" if depth == 0 => {
                for region in child.children()? {
                    let region = Properties::of(&region?)?;
                    region.ranges(own.cells).for_each(|range| found.reserved.push(range));
                }
            }
            _ => device(&child, &own, cells, found, depth)?,
        }
    }
    Ok(())
}

/// A device, or a bus of devices whose addresses are the parent's.
fn device<'a>(
    node: &Node<'a, Parser<'a>>,
    own: &Properties<'a>,
    cells: (usize, usize),
    found: &mut Description,
    depth: u32,
) -> Result<(), Fault> {
    let version_2 = own.is(&["arm,cortex-a15-gic", "arm,gic-400", "arm,cortex-a9-gic"]);
    if version_2 || own.is(&["arm,gic-v3"]) {
        found.controller = Some(if version_2 { Controller::V2 } else { Controller::V3 });
        own.ranges(cells).for_each(|range| found.controller_ranges.push(range));
    } else if own.is(&["arm,pl011"]) {
        found.uart = found.uart.or(own.ranges(cells).next());
    } else if own.is(&["arm,psci", "arm,psci-0.2", "arm,psci-1.0"]) {
        found.psci = Some(if own.method.starts_with(b"smc") { Conduit::Smc } else { Conduit::Hvc });
    } else if own.is(&["simple-bus"]) && own.transparent && depth < 2 {
        visit(node, own.cells, found, depth + 1)?;
    }
    Ok(())
}
