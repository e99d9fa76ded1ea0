//! An application's ELF: what is refused, and the pages of what is not.

use crate::error::{Error, Result};
use exo_abi::PAGE_BYTES;
use exo_abi::page::{MAPPABLE_END, Prot};
use object::LittleEndian as Le;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

type Header = elf::FileHeader64<Le>;

/// The section in which an application says which version of the contract it was built for, and in a second word (not 0) that it was built to be the
/// first environment.
pub const ABI_SECTION: &str = ".velvet.abi";

/// An application, cut into pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// First instruction.
    pub entry: u64,
    /// By ascending address.
    pub segments: Vec<Pages>,
    /// It was built to be the first environment, and nothing else.
    pub first: bool,
}

/// A page-aligned stretch of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    /// First address, page-aligned.
    pub va: u64,
    /// Contents, a whole number of pages; what memory has beyond it is zeros.
    pub bytes: Vec<u8>,
    /// Pages in memory.
    pub memory_pages: u64,
    /// READ, READ|WRITE or READ|EXECUTE.
    pub prot: Prot,
}

impl Pages {
    /// First address beyond it.
    pub fn end(&self) -> u64 {
        self.va + self.memory_pages * PAGE_BYTES
    }
}

/// Reads an application's ELF; `name` is what a refusal calls it.
pub fn load(name: &str, file: &[u8]) -> Result<Executable> {
    let refused = |what: &str| Error::new(format!("`{name}` is refused: {what}"));
    let header = Header::parse(file)
        .map_err(|_| refused("it is not an ELF64 file").remedy("name the crate of an application"))?;
    let little = header.endian().map_err(|_| refused("it is not little-endian"))?;
    if header.e_machine(little) != elf::EM_AARCH64 {
        return Err(refused(&format!("it is for another machine (ELF machine {})", header.e_machine(little).0))
            .remedy("build it for aarch64-unknown-none"));
    }
    if header.e_type(little) != elf::ET_EXEC {
        return Err(refused("it is not an executable with fixed addresses")
            .remedy("build a binary, with the relocation model of aarch64-unknown-none"));
    }
    let programs = header.program_headers(little, file).map_err(|_| refused("its program headers are cut short"))?;
    let mut segments = Vec::new();
    for program in programs {
        if program.p_type(little) == elf::PT_TLS && program.p_memsz(little) > 0 {
            return Err(refused("it has thread-local data").remedy("use what libos offers instead"));
        }
        if program.p_type(little) == elf::PT_LOAD && program.p_memsz(little) > 0 {
            segments.push(pages(program, file).map_err(|what| refused(&what))?);
        }
    }
    segments.sort_by_key(|segment| segment.va);
    let entry = header.e_entry(little);
    check(&segments, entry).map_err(|what| refused(&what))?;
    let said = said(header, file).unwrap_or_default();
    check_version(name, said)?;
    Ok(Executable { entry, segments, first: said.get(4..8).is_some_and(|word| word != [0; 4]) })
}

fn pages(program: &elf::ProgramHeader64<Le>, file: &[u8]) -> std::result::Result<Pages, String> {
    let little = Le;
    let start = program.p_vaddr(little);
    let end = start
        .checked_add(program.p_memsz(little))
        .filter(|end| *end <= MAPPABLE_END)
        .ok_or_else(|| format!("its segment at {start:#x} does not lie below {MAPPABLE_END:#x}"))?;
    if program.p_filesz(little) > program.p_memsz(little) {
        return Err(format!("its segment at {start:#x} is larger in the file than in memory"));
    }
    let contents = program.data(little, file).map_err(|()| format!("its segment at {start:#x} is cut short"))?;
    let flags = program.p_flags(little).0;
    let (writable, executable) = (flags & elf::PF_W.0 != 0, flags & elf::PF_X.0 != 0);
    let prot = match (writable, executable) {
        (true, true) => {
            return Err(format!("its segment at {start:#x} is writable and executable"));
        }
        (true, false) => Prot::READ | Prot::WRITE,
        (false, true) => Prot::READ | Prot::EXECUTE,
        (false, false) => Prot::READ,
    };
    let va = start & !(PAGE_BYTES - 1);
    let mut bytes = vec![0; (start - va) as usize];
    bytes.extend_from_slice(contents);
    if contents.is_empty() {
        bytes.clear();
    }
    bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES as usize), 0);
    Ok(Pages { va, bytes, memory_pages: (end - va).div_ceil(PAGE_BYTES), prot })
}

fn check(segments: &[Pages], entry: u64) -> std::result::Result<(), String> {
    for pair in segments.windows(2) {
        if pair[1].va < pair[0].end() {
            return Err(format!("its segments at {:#x} and {:#x} overlap", pair[0].va, pair[1].va));
        }
    }
    if segments.first().is_some_and(|first| first.va == 0) {
        return Err("it occupies address 0, which catches null pointers".to_string());
    }
    let holds = |segment: &&Pages| (segment.va..segment.end()).contains(&entry);
    match segments.iter().find(holds) {
        Some(segment) if segment.prot.contains(Prot::EXECUTE) => Ok(()),
        _ => Err(format!("its entry point {entry:#x} does not lie in an executable segment")),
    }
}

fn check_version(name: &str, said: &[u8]) -> Result<()> {
    let mine = exo_abi::ABI_VERSION;
    match said.first_chunk().map(|word| u32::from_le_bytes(*word)) {
        Some(version) if version == mine => Ok(()),
        Some(version) => Err(Error::new(format!(
            "`{name}` is refused: it was built for ABI version {version}, this is version {mine}"
        ))
        .remedy("build it with the libos of this repository")),
        None => Err(Error::new(format!(
            "`{name}` is refused: it does not say for which ABI version it was built (no {ABI_SECTION}), this is version {mine}"
        ))
        .remedy("use libos, whose entry point says it")),
    }
}

/// What stands in [`ABI_SECTION`].
fn said<'a>(header: &Header, file: &'a [u8]) -> Option<&'a [u8]> {
    let sections = header.sections(Le, file).ok()?;
    let (_, section) = sections.section_by_name(Le, ABI_SECTION.as_bytes())?;
    section.data(Le, file).ok()
}
