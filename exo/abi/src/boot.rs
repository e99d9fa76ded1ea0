//! What the image-builder writes into the image for the kernel, and what the kernel hands to the first environment.
//!
//! The image is one flat blob: the kernel (arm64 Image header, [`BootHeader`] at offset 64, text, data, and zeros where
//! its bss lies), then, on a page boundary, the archive. It runs at any 4 KiB boundary of RAM. The same blob is wrapped in an ELF with one
//! segment when QEMU is to load it below the place of a flat image.
//!
//! The first environment starts at its entry point with the frame number of [`crate::exposed::MachineInfo`] in x0, and zeros elsewhere.

/// "VELVETB1", little-endian.
pub const BOOT_MAGIC: u64 = u64::from_le_bytes(*b"VELVETB1");
/// "VELVETEN", the last eight bytes of the archive: what is cut short lacks them.
pub const END_MAGIC: u64 = u64::from_le_bytes(*b"VELVETEN");
/// Where [`BootHeader`] begins in the image: behind the 64 bytes of the arm64 Image header.
pub const BOOT_HEADER_OFFSET: u64 = 64;
/// Runs of pages of the first environment.
pub const MAX_INIT_RUNS: usize = 8;

/// [`BootHeader::flags`]: QEMU runs this image; leave by semihosting, so that the exit code is passed on.
pub const FLAG_QEMU: u32 = 1;

/// Pages of the first environment, mapped in place from the archive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct InitRun {
    /// First address, page-aligned.
    pub va: u64,
    /// First page, counted from the archive's first.
    pub archive_page: u32,
    /// Pages; 0: this run is not used.
    pub pages: u32,
    /// [`crate::page::Prot`] bits: READ, READ|WRITE, READ|EXECUTE.
    pub prot: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the kernel finds in its image.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BootHeader {
    /// [`BOOT_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`] of the image-builder.
    pub abi_version: u32,
    /// [`FLAG_QEMU`].
    pub flags: u32,
    /// Which build this is: a digest of kernel and archive.
    pub build_id: [u8; 16],
    /// Physical address of a PL011 for messages before the device tree is understood; 0: none.
    pub early_uart: u64,
    /// Physical address of the device tree when `x0` is 0 at entry; 0: none.
    pub device_tree: u64,
    /// First byte of the archive, counted from the image's first; page-aligned.
    pub archive_offset: u64,
    /// Bytes of the archive, a multiple of 4096; its last eight are [`END_MAGIC`].
    pub archive_bytes: u64,
    /// Entry point of the first environment.
    pub init_entry: u64,
    /// Its stack pointer.
    pub init_stack: u64,
    /// Where its control page is mapped: page-aligned, beyond every run, in the same 2 MiB as one of them.
    pub init_control: u64,
    /// Its pages.
    pub init_runs: [InitRun; MAX_INIT_RUNS],
    /// CRC-32 (IEEE) of all bytes of this header before this field.
    pub checksum: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(core::mem::size_of::<BootHeader>() <= 448);

/// "VELVETAR": the archive's first eight bytes.
pub const ARCHIVE_MAGIC: u64 = u64::from_le_bytes(*b"VELVETAR");

/// The archive's first bytes, for the first environment. What the manifest describes is its own and the image-builder's matter.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ArchiveHeader {
    /// [`ARCHIVE_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// CRC-32 (IEEE) of the manifest's bytes.
    pub manifest_crc: u32,
    /// First byte of the manifest, counted from the archive's first.
    pub manifest_offset: u64,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
}

/// CRC-32 (IEEE 802.3), four bits at a time: only headers of some hundred bytes are checked with it in the kernel.
pub const fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    let mut i = 0;
    while i < bytes.len() * 2 {
        crc ^= (bytes[i / 2] >> (i % 2 * 4)) as u32 & 0xf;
        crc = (crc >> 4) ^ CRC_OF[(crc & 0xf) as usize];
        i += 1;
    }
    !crc
}

/// What four bits change.
const CRC_OF: [u32; 16] = {
    let mut table = [0u32; 16];
    let mut i = 0u32;
    while i < 64 {
        let crc = if i.is_multiple_of(4) { i / 4 } else { table[i as usize / 4] };
        table[i as usize / 4] = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        i += 1;
    }
    table
};
