//! The image: kernel, boot header and archive as one blob, and the ELF around it where QEMU needs one.

use crate::archive::Archive;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::machine::{Machine, RAM_START};
use exo_abi::PAGE_BYTES;
use exo_abi::boot::{BOOT_HEADER_OFFSET, BOOT_MAGIC, BootHeader, FLAG_QEMU, crc32};

/// Below this much RAM QEMU finds no place for a flat image and its device tree.
const SMALLEST_FLAT_KIB: u64 = 8 * 1024;
/// Where the size stands in the arm64 Image header.
const IMAGE_SIZE_OFFSET: usize = 16;

/// How QEMU gets the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrapper {
    /// `-kernel` with the blob itself: QEMU chooses the place, and passes the device tree in x0.
    Flat,
    /// `-kernel` with an ELF at a place of our own, behind the device tree at the start of RAM.
    Elf {
        /// Physical address of the blob.
        address: u64,
    },
}

/// An image that can be run.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file for `-kernel`.
    pub bytes: Vec<u8>,
    /// The file for `-dtb`, if it needs one.
    pub device_tree: Option<Vec<u8>>,
    /// Which build this is.
    pub build_id: [u8; 16],
    /// Pages in memory.
    pub pages: u64,
}

/// Puts the image together for a machine.
pub fn assemble(kernel: &Kernel, archive: &Archive, machine: &Machine) -> Result<Image> {
    let wrapper = wrapper_for(machine);
    let bytes = (kernel.bytes.len() + archive.bytes.len()) as u64;
    fits(bytes, &wrapper, machine)?;
    let mut blob = kernel.bytes.clone();
    blob.extend_from_slice(&archive.bytes);
    let build_id = digest(&blob);
    let header = BootHeader {
        magic: BOOT_MAGIC,
        abi_version: exo_abi::ABI_VERSION,
        flags: FLAG_QEMU,
        build_id,
        early_uart: machine.early_uart(),
        device_tree: if wrapper == Wrapper::Flat { 0 } else { RAM_START },
        archive_offset: kernel.bytes.len() as u64,
        archive_bytes: archive.bytes.len() as u64,
        init_entry: archive.first.entry,
        init_stack: archive.first.stack,
        init_control: archive.first.control,
        init_runs: archive.first.runs,
        checksum: 0,
        reserved: 0,
    };
    let header = encode(&header);
    let at = BOOT_HEADER_OFFSET as usize;
    blob[at..at + header.len()].copy_from_slice(&header);
    blob[IMAGE_SIZE_OFFSET..IMAGE_SIZE_OFFSET + 8].copy_from_slice(&bytes.to_le_bytes());
    let pages = bytes / PAGE_BYTES;
    Ok(match wrapper {
        Wrapper::Flat => Image { bytes: blob, device_tree: None, build_id, pages },
        Wrapper::Elf { address } => {
            let device_tree = Some(machine.device_tree.clone());
            Image { bytes: wrap(&blob, address), device_tree, build_id, pages }
        }
    })
}

/// How QEMU gets an image for this machine.
fn wrapper_for(machine: &Machine) -> Wrapper {
    if machine.options.memory_kib >= SMALLEST_FLAT_KIB {
        return Wrapper::Flat;
    }
    // QEMU's load_dtb makes room in the tree it is given: twice its size and 20 000 bytes.
    let device_tree = (machine.device_tree.len() as u64 + 10_000) * 2;
    Wrapper::Elf { address: RAM_START + device_tree.next_multiple_of(0x10000) }
}

fn fits(bytes: u64, wrapper: &Wrapper, machine: &Machine) -> Result<()> {
    let ram = machine.options.memory_kib * 1024;
    let place = match wrapper {
        // The device tree lies in the middle of RAM, at most 128 MiB from its start.
        Wrapper::Flat => (ram / 2).min(128 << 20) - (1 << 20),
        Wrapper::Elf { address } => ram.saturating_sub(address - RAM_START),
    };
    if bytes <= place {
        return Ok(());
    }
    Err(Error::new(format!(
        "the image has {} KiB, but {} KiB of RAM leave room for {} KiB",
        bytes / 1024,
        ram / 1024,
        place / 1024
    ))
    .remedy("give the machine more --memory, or leave programs or files out of the image"))
}

/// The header as the kernel reads it.
fn encode(header: &BootHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(size_of::<BootHeader>());
    out.extend_from_slice(&header.magic.to_le_bytes());
    out.extend_from_slice(&header.abi_version.to_le_bytes());
    out.extend_from_slice(&header.flags.to_le_bytes());
    out.extend_from_slice(&header.build_id);
    for word in [
        header.early_uart,
        header.device_tree,
        header.archive_offset,
        header.archive_bytes,
        header.init_entry,
        header.init_stack,
        header.init_control,
    ] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for run in &header.init_runs {
        out.extend_from_slice(&run.va.to_le_bytes());
        for word in [run.archive_page, run.pages, run.prot, run.reserved] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    out.extend_from_slice(&crc32(&out).to_le_bytes());
    out.extend_from_slice(&header.reserved.to_le_bytes());
    out
}

/// An ELF64 with one segment: `blob` at `address`, which is also where it begins to run.
fn wrap(blob: &[u8], address: u64) -> Vec<u8> {
    const HEADERS: usize = 64 + 56;
    let offset = PAGE_BYTES;
    let mut out = Vec::with_capacity(offset as usize + blob.len());
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, 183] {
        out.extend_from_slice(&half.to_le_bytes()); // executable, AArch64
    }
    out.extend_from_slice(&1u32.to_le_bytes());
    for word in [address, 64, 0] {
        out.extend_from_slice(&word.to_le_bytes()); // entry, program headers, no sections
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    for word in [1u32, 7] {
        out.extend_from_slice(&word.to_le_bytes()); // PT_LOAD, RWX
    }
    let bytes = blob.len() as u64;
    for word in [offset, address, address, bytes, bytes, PAGE_BYTES] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    debug_assert_eq!(out.len(), HEADERS);
    out.resize(offset as usize, 0);
    out.extend_from_slice(blob);
    out
}

/// FNV-1a of 128 bits: it tells builds apart, and proves nothing against an attacker.
fn digest(bytes: &[u8]) -> [u8; 16] {
    const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let fold = |sum: u128, byte: &u8| (sum ^ u128::from(*byte)).wrapping_mul(PRIME);
    bytes.iter().fold(BASIS, fold).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use exo_abi::boot::{InitRun, MAX_INIT_RUNS};
    use std::mem::offset_of;

    fn header() -> BootHeader {
        BootHeader {
            magic: BOOT_MAGIC,
            abi_version: 0x0102_0304,
            flags: 5,
            build_id: [6; 16],
            early_uart: 7,
            device_tree: 8,
            archive_offset: 9,
            archive_bytes: 10,
            init_entry: 11,
            init_stack: 12,
            init_control: 13,
            init_runs: [InitRun { va: 14, archive_page: 15, pages: 16, prot: 17, reserved: 0 }; MAX_INIT_RUNS],
            checksum: 0,
            reserved: 0,
        }
    }

    #[test]
    fn the_boot_header_is_written_where_the_contract_says() {
        let bytes = encode(&header());
        assert_eq!(bytes.len(), size_of::<BootHeader>());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(long(offset_of!(BootHeader, early_uart)), 7);
        assert_eq!(long(offset_of!(BootHeader, device_tree)), 8);
        assert_eq!(long(offset_of!(BootHeader, archive_offset)), 9);
        assert_eq!(long(offset_of!(BootHeader, archive_bytes)), 10);
        assert_eq!(long(offset_of!(BootHeader, init_entry)), 11);
        assert_eq!(long(offset_of!(BootHeader, init_stack)), 12);
        assert_eq!(long(offset_of!(BootHeader, init_control)), 13);
        assert_eq!(long(offset_of!(BootHeader, init_runs)), 14);
        let at = offset_of!(BootHeader, checksum);
        assert_eq!(bytes[at..at + 4], crc32(&bytes[..at]).to_le_bytes());
    }

    #[test]
    fn the_digest_is_fnv_1a() {
        assert_eq!(digest(b"").as_slice(), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58du128.to_le_bytes());
        assert_eq!(digest(b"a").as_slice(), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964u128.to_le_bytes());
    }
}
