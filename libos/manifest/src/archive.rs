//! The archive: header, manifest, and the pages of programs and files.
//!
//! ```text
//! page 0     ArchiveHeader (exo-abi), then the manifest's postcard bytes
//! page n     segments and files, each beginning on a page, in the order of the manifest, padded with zeros
//! last page  zeros, and END_MAGIC in its last eight bytes
//! ```
//!
//! Segments with the same bytes share their pages.

use crate::Manifest;
use alloc::vec::Vec;
use exo_abi::boot::{ARCHIVE_MAGIC, ArchiveHeader};

/// Bytes of the header; the manifest follows.
pub const HEADER_BYTES: usize = core::mem::size_of::<ArchiveHeader>();

/// Why an archive cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is shorter than what its header says.
    TooShort,
    /// It does not begin with [`ARCHIVE_MAGIC`].
    NotAnArchive,
    /// It was made for this other version of the contract.
    OtherVersion(u32),
    /// The manifest's checksum is wrong.
    WrongChecksum,
    /// The manifest's bytes are no manifest.
    NotAManifest,
}

impl core::fmt::Display for Damage {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Damage::TooShort => out.write_str("the archive is cut short"),
            Damage::NotAnArchive => out.write_str("this is not an archive"),
            Damage::OtherVersion(version) => {
                write!(out, "the archive is for ABI version {version}, this is version {}", exo_abi::ABI_VERSION)
            }
            Damage::WrongChecksum => out.write_str("the manifest's checksum is wrong"),
            Damage::NotAManifest => out.write_str("the manifest does not decode"),
        }
    }
}

impl core::error::Error for Damage {}

/// Reads the header from the archive's first bytes; says nothing about what follows it.
pub fn read_header(archive: &[u8]) -> Result<ArchiveHeader, Damage> {
    let bytes = archive.get(..HEADER_BYTES).ok_or(Damage::TooShort)?;
    let header = ArchiveHeader {
        magic: long(bytes, 0),
        abi_version: word(bytes, 8),
        manifest_crc: word(bytes, 12),
        manifest_offset: long(bytes, 16),
        manifest_bytes: long(bytes, 24),
    };
    if header.magic != ARCHIVE_MAGIC {
        return Err(Damage::NotAnArchive);
    }
    if header.abi_version != exo_abi::ABI_VERSION {
        return Err(Damage::OtherVersion(header.abi_version));
    }
    Ok(header)
}

/// Reads the manifest; `archive` need not go beyond it.
pub fn read_manifest(archive: &[u8]) -> Result<Manifest, Damage> {
    let header = read_header(archive)?;
    let start = usize::try_from(header.manifest_offset).map_err(|_| Damage::TooShort)?;
    let length = usize::try_from(header.manifest_bytes).map_err(|_| Damage::TooShort)?;
    let end = start.checked_add(length).ok_or(Damage::TooShort)?;
    let bytes = archive.get(start..end).ok_or(Damage::TooShort)?;
    if Crc32::of(bytes) != header.manifest_crc {
        return Err(Damage::WrongChecksum);
    }
    postcard::from_bytes(bytes).map_err(|_| Damage::NotAManifest)
}

/// The archive's first bytes: header and manifest.
pub fn write_front(manifest: &Manifest) -> Result<Vec<u8>, postcard::Error> {
    let body = postcard::to_allocvec(manifest)?;
    let mut front = Vec::with_capacity(HEADER_BYTES + body.len());
    front.extend_from_slice(&ARCHIVE_MAGIC.to_le_bytes());
    front.extend_from_slice(&exo_abi::ABI_VERSION.to_le_bytes());
    front.extend_from_slice(&Crc32::of(&body).to_le_bytes());
    front.extend_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
    front.extend_from_slice(&(body.len() as u64).to_le_bytes());
    front.extend_from_slice(&body);
    Ok(front)
}

/// CRC-32 (IEEE 802.3) of bytes that come in pieces: the same sum as [`exo_abi::boot::crc32`], by a table.
#[derive(Clone, Copy, Debug)]
pub struct Crc32(u32);

impl Crc32 {
    /// Of nothing yet.
    pub const fn new() -> Crc32 {
        Crc32(!0)
    }

    /// The sum of one piece alone.
    pub fn of(bytes: &[u8]) -> u32 {
        let mut sum = Crc32::new();
        sum.add(bytes);
        sum.value()
    }

    /// Adds a piece.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 >> 8) ^ TABLE[usize::from((self.0 as u8) ^ byte)];
        }
    }

    /// The sum of all pieces so far.
    pub const fn value(self) -> u32 {
        !self.0
    }
}

impl Default for Crc32 {
    fn default() -> Crc32 {
        Crc32::new()
    }
}

static TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|i| bytes[at + i]))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Names, Placement, Program, Restart, Segment, Slices, Start};
    use alloc::{string::ToString, vec};
    use core::mem::offset_of;

    fn example() -> Manifest {
        Manifest {
            image: "example".to_string(),
            programs: vec![Program {
                name: "init".to_string(),
                abi_version: exo_abi::ABI_VERSION,
                entry: 0x20_1000,
                segments: vec![Segment {
                    va: 0x20_1000,
                    archive_page: 1,
                    archive_pages: 3,
                    memory_pages: 3,
                    prot: 5,
                    placement: Placement::InPlace,
                    crc32: 7,
                }],
                stack_pages: 8,
                frames: 100,
                minimum: 50,
                names: Names::default(),
                slices: vec![Slices { core: 0, count: 1, micros: 1000, exact: false }],
                devices: vec![],
                calls: vec![],
                services: vec!["init".to_string()],
                restart: Restart::default(),
                watchdog_ms: None,
                args: vec!["one".to_string()],
                files: vec![],
                start: Start::AtBoot,
                ends_machine: false,
                debug: false,
                power: true,
                audit: false,
            }],
            files: vec![],
            archive_pages: 5,
        }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was_written() {
        let manifest = example();
        assert_eq!(read_manifest(&write_front(&manifest).unwrap()), Ok(manifest));
    }

    #[test]
    fn the_header_is_read_where_the_contract_says_it_lies() {
        assert_eq!(offset_of!(ArchiveHeader, abi_version), 8);
        assert_eq!(offset_of!(ArchiveHeader, manifest_crc), 12);
        assert_eq!(offset_of!(ArchiveHeader, manifest_offset), 16);
        assert_eq!(offset_of!(ArchiveHeader, manifest_bytes), 24);
        assert_eq!(HEADER_BYTES, 32);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_refused() {
        let front = write_front(&example()).unwrap();
        for length in 0..front.len() {
            assert!(read_manifest(&front[..length]).is_err(), "cut to {length}");
        }
        for at in 0..front.len() {
            let mut damaged = front.clone();
            damaged[at] ^= 0x55;
            assert!(read_manifest(&damaged).is_err(), "flipped {at}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut front = write_front(&example()).unwrap();
        front[8] = 0xee;
        assert_eq!(read_manifest(&front), Err(Damage::OtherVersion(0xee)));
    }

    #[test]
    fn the_table_agrees_with_the_contracts_checksum() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        let mut sum = Crc32::new();
        sum.add(&bytes[..300]);
        sum.add(&bytes[300..]);
        assert_eq!(sum.value(), exo_abi::boot::crc32(&bytes));
        assert_eq!(Crc32::of(b"123456789"), 0xCBF4_3926);
    }
}
