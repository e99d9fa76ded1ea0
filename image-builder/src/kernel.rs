//! The kernel's ELF as the flat bytes that run, and its sizes.

use crate::error::{Error, Result};
use exo_abi::PAGE_BYTES;
use exo_abi::boot::{BOOT_HEADER_OFFSET, BootHeader};
use object::LittleEndian as Le;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

type Header = elf::FileHeader64<Le>;

/// The offset of the magic number in the arm64 Image header (Linux, Documentation/arch/arm64/booting).
const IMAGE_MAGIC_OFFSET: usize = 56;
/// Most bytes a kernel may have, its zeros included: what is more is a mistake in its link.
const MAX_BYTES: u64 = 64 << 20;

/// The kernel, ready to be patched.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Memory order, zeros included, a whole number of pages.
    pub bytes: Vec<u8>,
    /// What they consist of.
    pub sizes: KernelSizes,
}

/// Bytes of the kernel by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelSizes {
    /// Executable.
    pub text: u64,
    /// Read-only.
    pub rodata: u64,
    /// Writable with contents; memory of single cores left out.
    pub data: u64,
    /// Writable zeros; memory of single cores left out.
    pub bss: u64,
    /// Memory of single cores: sections `.percore*`.
    pub per_core: u64,
    /// The kernel's own translation tables: section `.tables`, counted with the linear map's.
    pub tables: u64,
}

/// Reads the kernel's ELF.
pub fn flatten(file: &[u8]) -> Result<Kernel> {
    let wrong = |what: &str| Error::new(format!("the kernel is refused: {what}"));
    let header = Header::parse(file).map_err(|_| wrong("it is not an ELF64 file"))?;
    let little = header.endian().map_err(|_| wrong("it is not little-endian"))?;
    if header.e_machine(little) != elf::EM_AARCH64 {
        return Err(wrong("it is for another machine"));
    }
    let programs = header.program_headers(little, file).map_err(|_| wrong("its program headers are cut short"))?;
    let mut loads: Vec<&elf::ProgramHeader64<Le>> = programs
        .iter()
        .filter(|program| program.p_type(little) == elf::PT_LOAD && program.p_memsz(little) > 0)
        .collect();
    loads.sort_by_key(|program| program.p_vaddr(little));
    let base = loads.first().ok_or_else(|| wrong("it has no segments"))?.p_vaddr(little);
    let mut bytes = Vec::new();
    for program in loads {
        let offset = program.p_vaddr(little) - base;
        let end = offset.saturating_add(program.p_memsz(little));
        if offset < bytes.len() as u64 || end > MAX_BYTES {
            return Err(wrong("its segments overlap or lie too far apart"));
        }
        let contents = program.data(little, file).map_err(|()| wrong("a segment is cut short"))?;
        bytes.resize(offset as usize, 0);
        bytes.extend_from_slice(contents);
        bytes.resize(end as usize, 0);
    }
    bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES as usize), 0);
    let magic = bytes.get(IMAGE_MAGIC_OFFSET..IMAGE_MAGIC_OFFSET + 4);
    if magic != Some(b"ARM\x64".as_slice()) {
        return Err(wrong("it does not begin with an arm64 Image header"));
    }
    let header_end = BOOT_HEADER_OFFSET as usize + size_of::<BootHeader>();
    let place = bytes.get(BOOT_HEADER_OFFSET as usize..header_end);
    if place.is_none_or(|place| place.iter().any(|byte| *byte != 0)) {
        return Err(wrong("it leaves no room for the boot header"));
    }
    Ok(Kernel { bytes, sizes: sizes(header, file).ok_or_else(|| wrong("its sections are cut short"))? })
}

fn sizes(header: &Header, file: &[u8]) -> Option<KernelSizes> {
    let sections = header.sections(Le, file).ok()?;
    let mut sizes = KernelSizes::default();
    for section in sections.iter() {
        let flags = section.sh_flags(Le).0;
        let bytes = section.sh_size(Le);
        let name = sections.section_name(Le, section).ok()?;
        if flags & elf::SHF_ALLOC.0 == 0 {
            continue;
        }
        let sum = if flags & elf::SHF_EXECINSTR.0 != 0 {
            &mut sizes.text
        } else if flags & elf::SHF_WRITE.0 == 0 {
            &mut sizes.rodata
        } else if name.starts_with(b".percore") {
            &mut sizes.per_core
        } else if name == b".tables" {
            &mut sizes.tables
        } else if section.sh_type(Le) == elf::SHT_NOBITS {
            &mut sizes.bss
        } else {
            &mut sizes.data
        };
        *sum += bytes;
    }
    Some(sizes)
}
