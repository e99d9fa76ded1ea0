//! The machine an image is for: QEMU's `virt` with chosen options, and what its device tree says of it.

use crate::cases::CPUS;
use crate::error::{Error, Result};
use crate::{emulator, folders};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
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
        let fdt = Fdt::new(&device_tree)
            .map_err(|cause| Error::new(format!("the machine's device tree is damaged: {cause}")))?;
        let mut machine = Machine {
            options: options.clone(),
            cores: 0,
            frames_of_ram: 0,
            devices: Vec::new(),
            device_tree: device_tree.clone(),
        };
        // QEMU names the timer's architecture after the core's: Armv7 has no 64-bit state, and the kernel would never say a word.
        let timer = |node: FdtNode<'_>| {
            Some(text_list(node.property("compatible")?.value()).contains(&ARMV8_TIMER.to_string()))
        };
        if !fdt.root().children().filter_map(timer).any(|found| found) {
            return Err(Error::new(format!("`{}` is not a 64-bit core", options.cpu))
                .remedy(format!("choose another --cpu: {}", CPUS.join(", "))));
        }
        machine.visit(fdt.root(), "");
        Ok(machine)
    }

    /// Physical address of the first PL011, 0 if there is none.
    pub fn early_uart(&self) -> u64 {
        let is_uart = |device: &&MachineDevice| device.compatible.iter().any(|c| c == "arm,pl011");
        self.devices.iter().find(is_uart).map_or(0, |device| device.address)
    }

    fn visit(&mut self, node: FdtNode<'_>, path: &str) {
        for child in node.children() {
            let child_path = format!("{path}/{}", child.name());
            let kind = child.property("device_type").map(|p| p.value().to_vec());
            match kind.as_deref() {
                Some(b"cpu\0") => self.cores += 1,
                Some(b"memory\0") => {
                    let bytes: u64 = registers(child).iter().map(|(_, bytes)| bytes).sum();
                    self.frames_of_ram += bytes / exo_abi::PAGE_BYTES;
                }
                _ => self.devices.extend(device(child, &child_path)),
            }
            self.visit(child, &child_path);
        }
    }
}

fn device(node: FdtNode<'_>, path: &str) -> Option<MachineDevice> {
    let compatible: Vec<String> = text_list(node.property("compatible")?.value());
    let (address, bytes) = registers(node).first().copied().unwrap_or((0, 0));
    (bytes > 0).then(|| MachineDevice { path: path.to_string(), compatible, address, bytes, lines: lines(node) })
}

fn registers(node: FdtNode<'_>) -> Vec<(u64, u64)> {
    let Ok(Some(entries)) = node.reg() else {
        return Vec::new();
    };
    entries.filter_map(|entry| Some((entry.address().ok()?, entry.size().ok()?))).collect()
}

/// Shared lines of an `interrupts` property in the form of Arm's GIC: kind (0: shared), number, flags (1, 2: edge).
fn lines(node: FdtNode<'_>) -> Vec<Line> {
    let Some(property) = node.property("interrupts") else {
        return Vec::new();
    };
    let cells: Vec<u32> =
        property.value().chunks_exact(4).map(|cell| u32::from_be_bytes([cell[0], cell[1], cell[2], cell[3]])).collect();
    let shared = cells.chunks_exact(3).filter(|cell| cell[0] == 0);
    shared.map(|cell| Line { number: cell[1] + 32, edge: cell[2] & 0b11 != 0 }).collect()
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
