//! What lies where in a program's address space, as far as init decided it.

use alloc::vec::Vec;
use exo_abi::page::{MAPPABLE_END, Prot};
use exo_abi::{PAGE_BYTES, Pfn};
use libos::protocol::supervisor::Region;
use velvet_manifest::{Manifest, Program};

/// First and first-beyond addresses of regions. The first that holds an address names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(Vec<(u64, u64, Region)>);

impl Places {
    /// The segments and files of `program`.
    pub fn of(manifest: &Manifest, program: &Program) -> Places {
        let mut places = Places(Vec::new());
        for segment in &program.segments {
            let region = match segment.prot() {
                prot if prot.contains(Prot::EXECUTE) => Region::Text,
                prot if prot.contains(Prot::WRITE) => Region::Data,
                _ => Region::Constants,
            };
            places.add(segment.va, segment.end(), region);
        }
        for handed in &program.files {
            if let Some(file) = manifest.files.get(handed.file as usize) {
                places.add(handed.va, handed.va.saturating_add(u64::from(file.pages) * PAGE_BYTES), Region::File);
            }
        }
        places
    }

    /// Names `start..end`.
    pub fn add(&mut self, start: u64, end: u64, region: Region) {
        self.0.push((start, end, region));
    }

    /// Where `address` lies.
    pub fn region(&self, address: u64) -> Region {
        let named = self.0.iter().find(|(start, end, _)| (*start..*end).contains(&address));
        match named {
            Some(&(_, _, region)) => region,
            None if Pfn(address >> 12) == Pfn(0) => Region::Null,
            None if address >= MAPPABLE_END => Region::Kernel,
            None => Region::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::manifest;

    #[test]
    fn segments_and_files_have_names() {
        let manifest = manifest();
        let mut places = Places::of(&manifest, &manifest.programs[1]);
        places.add(0x30_0000, 0x30_1000, Region::Guard);
        assert_eq!(places.region(0x20_0000), Region::Constants);
        assert_eq!(places.region(0x20_1fff), Region::Text);
        assert_eq!(places.region(0x20_3000), Region::Data);
        assert_eq!(places.region(0x30_0008), Region::Guard);
        assert_eq!(places.region(velvet_manifest::FILES_VA + 8), Region::File);
    }

    #[test]
    fn what_is_nowhere_is_told_apart() {
        let places = Places::default();
        assert_eq!(places.region(8), Region::Null);
        assert_eq!(places.region(0x5000), Region::None);
        assert_eq!(places.region(MAPPABLE_END), Region::Kernel);
        assert_eq!(places.region(u64::MAX), Region::Kernel);
    }
}
