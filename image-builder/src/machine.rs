//! The machine an image is for: QEMU's `virt` with chosen options, and what its device tree says of it.

use crate::cases::CPUS;
use crate::error::{Error, Result};
use crate::{emulator, folders};
use fdt::nodes::{AsNode, Node};
use fdt::parsing::{NoPanic, ParseError, aligned::AlignedParser};
use fdt::properties::cells::CellSizes;
use fdt::{Fdt, FdtError};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use velvet_manifest::Line;

/// Where the RAM of QEMU's `virt` begins.
pub const RAM_START: u64 = 0x4000_0000;
/// Devices that the kernel itself drives: nobody can claim them.
const KERNELS_OWN: [&str; 7] = [
    "arm,gic-v3",
    "arm,cortex-a15-gic",
    "arm,gic-v3-its",
    "arm,gic-v2m-frame",
    "arm,armv8-timer",
    "arm,armv7-timer",
    "arm,smmu-v3",
];

/// The timer of a core with a 64-bit state.
const ARMV8_TIMER: &str = "arm,armv8-timer";

/// Nodes that may lie within each other; QEMU's lie seven deep at most, the threads of a core.
const MAX_DEPTH: usize = 32;

type TreeNode<'a> = Node<'a, (AlignedParser<'a>, NoPanic)>;
type Properties<'a> = BTreeMap<&'a str, &'a [u8]>;

/// What a person can choose about the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MachineOptions {
    /// The core's model, as QEMU calls it.
    pub cpu: String,
    /// Cores.
    pub smp: u32,
    /// RAM.
    pub memory_kib: u64,
    /// The interrupt controller's version: 2 or 3.
    pub gic: u32,
    /// The exception level the kernel is entered at: 1 or 2.
    pub el: u32,
    /// Count instructions: one takes two to the power of this many nanoseconds, and every run is the same.
    pub icount: Option<u32>,
}

impl Default for MachineOptions {
    fn default() -> MachineOptions {
        MachineOptions { cpu: "cortex-a76".to_string(), smp: 1, memory_kib: 256 * 1024, gic: 3, el: 1, icount: None }
    }
}

impl MachineOptions {
    /// The arguments that make QEMU this machine.
    pub fn qemu_arguments(&self) -> Vec<String> {
        let mut machine = format!("virt-7.2,gic-version={},dtb-randomness=off", self.gic);
        if self.el == 2 {
            machine.push_str(",virtualization=on");
        }
        let mut arguments: Vec<String> = ["-M", &machine, "-cpu", &self.cpu].map(String::from).into();
        arguments.extend(["-smp".to_string(), self.smp.to_string()]);
        arguments.extend(["-m".to_string(), format!("{}K", self.memory_kib)]);
        arguments.extend(["-nic", "none"].map(String::from));
        if let Some(shift) = self.icount {
            // A clock of its own too: the host's would tell one run from the other.
            let icount = format!("shift={shift},sleep=off");
            arguments.extend(["-icount", &icount, "-rtc", "base=2026-01-01,clock=vm"].map(String::from));
        }
        arguments
    }

    /// A file name that differs when the device tree may.
    pub fn file_name(&self) -> String {
        let MachineOptions { cpu, smp, memory_kib, gic, el, icount: _ } = self;
        format!("{cpu}-smp{smp}-{memory_kib}k-gic{gic}-el{el}.dtb")
    }

    /// In few words, for messages.
    pub fn summary(&self) -> String {
        format!("{} x{}, {} KiB, GICv{}, EL{}", self.cpu, self.smp, self.memory_kib, self.gic, self.el)
    }
}

/// `256M`, `1G` or `512K` as KiB.
pub fn parse_memory(text: &str) -> std::result::Result<u64, String> {
    let (digits, scale) = match text.trim_end_matches(['K', 'k', 'M', 'm', 'G', 'g']) {
        digits if digits.len() + 1 < text.len() => return Err(memory_remedy(text)),
        digits => match text.as_bytes().last() {
            Some(b'K' | b'k') => (digits, 1),
            Some(b'G' | b'g') => (digits, 1024 * 1024),
            _ => (digits, 1024),
        },
    };
    let number: u64 = digits.parse().map_err(|_| memory_remedy(text))?;
    let kib = number.checked_mul(scale).ok_or_else(|| memory_remedy(text))?;
    if kib == 0 || !kib.is_multiple_of(4) {
        return Err(format!("`{text}` is not a whole number of 4 KiB frames"));
    }
    Ok(kib)
}

fn memory_remedy(text: &str) -> String {
    format!("`{text}` is not an amount of memory: write 256M, 1G or 512K")
}

/// A machine as its device tree describes it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What was chosen.
    pub options: MachineOptions,
    /// Cores.
    pub cores: u32,
    /// Frames of RAM.
    pub frames_of_ram: u64,
    /// Everything with registers, in the tree's order.
    pub devices: Vec<MachineDevice>,
    /// The device tree, cut to what it uses.
    pub device_tree: Vec<u8>,
}

/// A device of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineDevice {
    /// The path of its node.
    pub path: String,
    /// What it says it is compatible with.
    pub compatible: Vec<String>,
    /// Where its registers begin.
    pub address: u64,
    /// How many bytes they take.
    pub bytes: u64,
    /// Its shared interrupt lines.
    pub lines: Vec<Line>,
}

impl MachineDevice {
    /// First frame and number of frames of its registers.
    pub fn frames(&self) -> (u64, u64) {
        let first = self.address / exo_abi::PAGE_BYTES;
        (first, (self.address + self.bytes).div_ceil(exo_abi::PAGE_BYTES) - first)
    }

    /// The kernel drives it.
    pub fn is_the_kernels(&self) -> bool {
        self.compatible.iter().any(|name| KERNELS_OWN.contains(&name.as_str()))
    }
}

impl Machine {
    /// Asks QEMU for the device tree of such a machine, once, and reads it.
    pub fn describe(options: &MachineOptions) -> Result<Machine> {
        let file = folders::output("device-trees")?.join(options.file_name());
        if !file.exists() {
            let fresh = folders::scratch_name(&file);
            dump_device_tree(options, &fresh)?;
            fs::rename(&fresh, &file).map_err(|cause| Error::io("write", &file, &cause))?;
        }
        let blob = fs::read(&file).map_err(|cause| Error::io("read", &file, &cause))?;
        Machine::read(options, &blob)
    }

    /// Reads a device tree.
    pub fn read(options: &MachineOptions, blob: &[u8]) -> Result<Machine> {
        let device_tree = trim(blob)?;
        let words: Vec<u32> = device_tree.as_chunks().0.iter().map(|bytes| u32::from_ne_bytes(*bytes)).collect();
        let mut machine =
            Machine { options: options.clone(), cores: 0, frames_of_ram: 0, devices: Vec::new(), device_tree };
        let root = root(&words)?;
        // QEMU names the timer's architecture after the core's: Armv7 has no 64-bit state, and the kernel would never say a word.
        let mut has_timer = false;
        for child in root.children()? {
            has_timer |= compatible(&properties(child?)?).iter().any(|name| name == ARMV8_TIMER);
        }
        if !has_timer {
            return Err(Error::new(format!("`{}` is not a 64-bit core", options.cpu))
                .remedy(format!("choose another --cpu: {}", CPUS.join(", "))));
        }
        machine.visit(root, &properties(root)?, "")?;
        Ok(machine)
    }

    /// Physical address of the first PL011, 0 if there is none.
    pub fn early_uart(&self) -> u64 {
        let is_uart = |device: &&MachineDevice| device.compatible.iter().any(|c| c == "arm,pl011");
        self.devices.iter().find(is_uart).map_or(0, |device| device.address)
    }

    fn visit(&mut self, node: TreeNode<'_>, its_properties: &Properties<'_>, path: &str) -> Result<()> {
        let cells = CellSizes {
            address_cells: cells(its_properties, "#address-cells", 2),
            size_cells: cells(its_properties, "#size-cells", 1),
        };
        for child in node.children()? {
            let child = child?;
            let child_path = format!("{path}/{}", name(child)?);
            let own = properties(child)?;
            match own.get("device_type").copied() {
                Some(b"cpu\0") => self.cores += 1,
                Some(b"memory\0") => {
                    let before = self.frames_of_ram * exo_abi::PAGE_BYTES;
                    let mut banks = registers(&own, &cells)?.into_iter();
                    let bytes = banks.try_fold(before, |sum, (_, bytes)| sum.checked_add(bytes));
                    self.frames_of_ram = bytes.ok_or(FdtError::InvalidPropertyValue)? / exo_abi::PAGE_BYTES;
                }
                _ => self.devices.extend(device(&own, &cells, &child_path)?),
            }
            self.visit(child, &own, &child_path)?;
        }
        Ok(())
    }
}

impl From<FdtError> for Error {
    fn from(cause: FdtError) -> Error {
        Error::new(format!("the machine's device tree is damaged: {cause}"))
    }
}

/// The root of the device tree in these words, whose form is looked at first: `fdt` takes a tree that breaks off for one that ends.
fn root(words: &[u32]) -> Result<TreeNode<'_>> {
    // Devicetree Specification 0.4, section 5.2.
    const VERSION: u32 = 17;
    let tree = Fdt::new_fallible(words)?;
    let header = tree.header();
    if !(header.last_compatible_version..=header.version).contains(&VERSION) {
        let version = header.version;
        return Err(Error::new(format!(
            "the machine's device tree is damaged: its version is {version}, not {VERSION}"
        )));
    }
    let [reserved, structure, strings] =
        [header.memory_reserve_map_offset, header.structs_offset, header.strings_offset].map(|offset| offset as usize);
    let in_order = [40, reserved, structure, structure + header.structs_size as usize, strings].is_sorted();
    let aligned = reserved.is_multiple_of(8) && structure.is_multiple_of(4);
    let reservations = words.get(reserved / 4..structure / 4).filter(|_| in_order && aligned).unwrap_or_default();
    if !reservations.as_chunks().0.contains(&[0; 4]) {
        return Err(FdtError::ParseError(ParseError::UnexpectedEndOfData).into());
    }
    check_structure(tree.structs_block())?;
    Ok(tree.root()?.as_node())
}

/// One root, its nodes closed within it, and nothing behind it (5.4).
fn check_structure(words: &[u32]) -> std::result::Result<(), FdtError> {
    const BEGIN_NODE: u32 = 1;
    const END_NODE: u32 = 2;
    const PROPERTY: u32 = 3;
    const NOTHING: u32 = 4;
    const END: u32 = 9;
    const CUT_SHORT: ParseError = ParseError::UnexpectedEndOfData;
    let (mut rest, mut depth) = (words, 0);
    while let Some((token, behind)) = rest.split_first() {
        rest = match u32::from_be(*token) {
            BEGIN_NODE if depth < MAX_DEPTH => {
                depth += 1;
                let end_of_name = behind.iter().position(|word| word.to_ne_bytes().contains(&0)).ok_or(CUT_SHORT)?;
                &behind[end_of_name + 1..]
            }
            PROPERTY if depth > 0 => {
                let bytes = u32::from_be(*behind.first().ok_or(CUT_SHORT)?) as usize;
                behind.get(2 + bytes.div_ceil(4)..).ok_or(CUT_SHORT)?
            }
            END_NODE if depth > 1 => {
                depth -= 1;
                behind
            }
            END_NODE if depth == 1 && behind == [END.to_be()] => return Ok(()),
            NOTHING => behind,
            _ => return Err(ParseError::UnexpectedToken.into()),
        };
    }
    Err(CUT_SHORT.into())
}

fn name(node: TreeNode<'_>) -> std::result::Result<String, FdtError> {
    let name = node.name()?.to_string();
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b",._+-@".contains(&byte);
    if name.bytes().all(is_valid) { Ok(name) } else { Err(FdtError::InvalidNodeName) }
}

fn properties(node: TreeNode<'_>) -> std::result::Result<Properties<'_>, FdtError> {
    node.properties()?.iter().map(|property| property.map(|property| (property.name, property.value))).collect()
}

/// Cells of an address or of a size in the `reg` of a node's children (2.3.5).
fn cells(properties: &Properties<'_>, name: &str, default: usize) -> usize {
    let value = properties.get(name).and_then(|value| value.first_chunk());
    value.map_or(default, |value| u32::from_be_bytes(*value) as usize)
}

fn compatible(properties: &Properties<'_>) -> Vec<String> {
    properties.get("compatible").map_or_else(Vec::new, |value| text_list(value))
}

fn device(properties: &Properties<'_>, cells: &CellSizes, path: &str) -> Result<Option<MachineDevice>> {
    if !properties.contains_key("compatible") {
        return Ok(None);
    }
    let (address, bytes) = registers(properties, cells)?.first().copied().unwrap_or((0, 0));
    if bytes == 0 {
        return Ok(None);
    }
    let (path, compatible) = (path.to_string(), compatible(properties));
    Ok(Some(MachineDevice { path, compatible, address, bytes, lines: lines(properties)? }))
}

/// First address and bytes of each entry of `reg`; none where they have more than 64 bits, as PCI's have.
fn registers(properties: &Properties<'_>, cells: &CellSizes) -> std::result::Result<Vec<(u64, u64)>, FdtError> {
    let (address, size) = (cells.address_cells * 4, cells.size_cells * 4);
    let reg = properties.get("reg").copied().unwrap_or_default();
    if reg.is_empty() || address > 8 || size > 8 {
        return Ok(Vec::new());
    }
    if !reg.len().is_multiple_of(address + size) {
        return Err(FdtError::InvalidPropertyValue);
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let entries = reg.chunks_exact(address + size).map(|entry| (number(&entry[..address]), number(&entry[address..])));
    let fits = |(start, bytes): (u64, u64)| start.checked_add(bytes).map(|_| (start, bytes));
    entries.map(|entry| fits(entry).ok_or(FdtError::InvalidPropertyValue)).collect()
}

/// Shared lines of an `interrupts` property in the form of Arm's GIC: kind (0: shared), number, flags (1, 2: edge).
fn lines(properties: &Properties<'_>) -> std::result::Result<Vec<Line>, FdtError> {
    let value = properties.get("interrupts").copied().unwrap_or_default();
    let cells: Vec<u32> = value.as_chunks().0.iter().map(|cell| u32::from_be_bytes(*cell)).collect();
    let shared = cells.chunks_exact(3).filter(|cell| cell[0] == 0);
    let line = |cell: &[u32]| Some(Line { number: cell[1].checked_add(32)?, edge: cell[2] & 0b11 != 0 });
    shared.map(|cell| line(cell).ok_or(FdtError::InvalidPropertyValue)).collect()
}

fn text_list(bytes: &[u8]) -> Vec<String> {
    let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// Cuts the unused rest off a device tree: QEMU dumps one mebibyte, which a small machine has not got.
fn trim(blob: &[u8]) -> Result<Vec<u8>> {
    let damaged = || Error::new("the machine's device tree is cut short");
    let word = |at: usize| {
        let bytes = blob.get(at..at + 4).ok_or_else(damaged)?;
        Ok::<usize, Error>(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    // Offsets of the fields in the header: Devicetree Specification 0.4, section 5.2.
    let (structure, strings) = (word(8)? + word(36)?, word(12)? + word(32)?);
    let used = structure.max(strings).next_multiple_of(8);
    let mut trimmed = blob.get(..used).filter(|tree| tree.len() >= 40).ok_or_else(damaged)?.to_vec();
    trimmed[4..8].copy_from_slice(&(used as u32).to_be_bytes());
    Ok(trimmed)
}

fn dump_device_tree(options: &MachineOptions, file: &std::path::Path) -> Result<()> {
    let mut arguments = options.qemu_arguments();
    arguments[1].push_str(&format!(",dumpdtb={}", file.display()));
    let output =
        Command::new(emulator::PROGRAM).args(&arguments).args(["-display", "none"]).output().map_err(|cause| {
            Error::new(format!("cannot start {}: {cause}", emulator::PROGRAM)).remedy("cargo image doctor")
        })?;
    if output.status.success() && file.exists() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!("QEMU has no such machine ({}): {}", options.summary(), said.trim()))
        .remedy("choose other values for --cpu, --smp, --memory, --gic or --el"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory_are_read_with_their_units() {
        assert_eq!(parse_memory("256M"), Ok(256 * 1024));
        assert_eq!(parse_memory("1G"), Ok(1024 * 1024));
        assert_eq!(parse_memory("512K"), Ok(512));
        assert_eq!(parse_memory("2"), Ok(2048));
    }

    #[test]
    fn nonsense_amounts_of_memory_are_refused() {
        for text in ["", "M", "0", "3K", "12MM", "-1M", "1.5G", "99999999999999999999G"] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_device_tree_that_is_cut_short_is_refused() {
        for length in [0, 8, 39] {
            assert!(Machine::read(&MachineOptions::default(), &vec![0xff; length]).is_err());
        }
        assert!(Machine::read(&MachineOptions::default(), &[0; 64]).is_err());
    }
}
