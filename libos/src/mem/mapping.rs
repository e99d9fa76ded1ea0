//! A mapping: frames that this program sees for a while, and may read and write without any `unsafe`.

use super::{access, places, tables};
use exo_abi::page::Prot;
use exo_abi::{Handle, PAGE_BYTES, Pfn, Refusal};

/// Frames of a pool or of a device, mapped at a place of the library's choice until it is dropped.
///
/// Others may share the frames, so nothing is lent as a reference: bytes are copied, words are read and written whole.
#[derive(Debug)]
pub struct Mapping {
    va: u64,
    pages: u64,
    writable: bool,
}

impl Mapping {
    /// Maps `pages` frames from `first` on, under `binding` (Pool or Device), which must have the rights that `prot` names.
    pub fn new(binding: Handle, first: Pfn, pages: u64, prot: Prot) -> Result<Mapping, Refusal> {
        if prot.contains(Prot::EXECUTE) {
            return Err(Refusal::BadArgument);
        }
        let va = places::take(pages).ok_or(Refusal::BadArgument)?;
        // Marked from the start: nobody asks yet, and where hardware does not set the marks each would be a fault.
        let marks = if prot.contains(Prot::WRITE) { Prot::ACCESSED | Prot::DIRTY } else { Prot::ACCESSED };
        if let Err(refusal) = tables::map_at(va, binding, first, pages, prot | marks) {
            places::give_back(va, pages);
            return Err(refusal);
        }
        Ok(Mapping { va, pages, writable: prot.contains(Prot::WRITE) })
    }

    /// For reading and writing.
    pub fn writable(binding: Handle, first: Pfn, pages: u64) -> Result<Mapping, Refusal> {
        Mapping::new(binding, first, pages, Prot::READ | Prot::WRITE)
    }

    /// For reading.
    pub fn readable(binding: Handle, first: Pfn, pages: u64) -> Result<Mapping, Refusal> {
        Mapping::new(binding, first, pages, Prot::READ)
    }

    /// Its first address.
    pub fn va(&self) -> u64 {
        self.va
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.pages * PAGE_BYTES
    }

    /// Never: a mapping has a page at least.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Copies bytes from `offset` on.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        access::copy_out(self.at(offset, out.len() as u64, 1), out);
    }

    /// Copies bytes to `offset` and on.
    ///
    /// # Panics
    /// Beyond the end, or when it is mapped for reading.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert!(self.writable, "mapped for reading only");
        access::copy_in(self.at(offset, bytes.len() as u64, 1), bytes);
    }

    /// Reads a word, whole.
    ///
    /// # Panics
    /// Beyond the end, or misaligned.
    #[inline(always)]
    pub fn read_u64(&self, offset: u64) -> u64 {
        access::read(self.at(offset, 8, 8))
    }

    /// Writes a word, whole.
    ///
    /// # Panics
    /// Beyond the end, misaligned, or when it is mapped for reading.
    #[inline(always)]
    pub fn write_u64(&mut self, offset: u64, value: u64) {
        assert!(self.writable, "mapped for reading only");
        access::write(self.at(offset, 8, 8), value);
    }

    /// Reads half a word, whole. Also through a shared reference of a device's registers.
    ///
    /// # Panics
    /// Beyond the end, or misaligned.
    #[inline(always)]
    pub fn read_u32(&self, offset: u64) -> u32 {
        access::read(self.at(offset, 4, 4))
    }

    /// Writes half a word, whole.
    ///
    /// # Panics
    /// Beyond the end, misaligned, or when it is mapped for reading.
    #[inline(always)]
    pub fn write_u32(&self, offset: u64, value: u32) {
        assert!(self.writable, "mapped for reading only");
        access::write(self.at(offset, 4, 4), value);
    }

    /// Keeps it mapped for the program's whole life.
    pub fn forever(self) -> u64 {
        let va = self.va;
        core::mem::forget(self);
        va
    }

    /// Keeps it for the program's whole life, as bytes. For what nobody writes: files, the archive, the device tree.
    pub(crate) fn into_bytes(self) -> &'static [u8] {
        let bytes = self.len();
        access::bytes_mapped_for_good(self.forever(), bytes)
    }

    #[inline(always)]
    fn at(&self, offset: u64, bytes: u64, align: u64) -> u64 {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.len() && offset.is_multiple_of(align) => self.va + offset,
            _ => out_of_range(offset, bytes, self.len()),
        }
    }
}

/// Maps a frame of the own pool, readable and writable, at a place that was set aside, for good.
pub(crate) fn map_for_good(va: u64, frame: Pfn) -> Result<(), Refusal> {
    let prot = Prot::READ | Prot::WRITE | Prot::ACCESSED | Prot::DIRTY;
    tables::map_at(va, Handle::POOL, frame, 1, prot)
}

#[cold]
#[inline(never)]
fn out_of_range(offset: u64, bytes: u64, len: u64) -> ! {
    panic!("{bytes} bytes at {offset:#x} are not in a mapping of {len:#x}, or misaligned");
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Where unmapping is refused the place is lost; it is never used twice.
        if tables::unmap_at(self.va, self.pages) {
            places::give_back(self.va, self.pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mapping of ordinary memory, as if the kernel had made it.
    fn over(memory: &mut [u64]) -> core::mem::ManuallyDrop<Mapping> {
        assert!((memory.len() * 8).is_multiple_of(PAGE_BYTES as usize));
        let va = memory.as_mut_ptr().expose_provenance() as u64;
        core::mem::ManuallyDrop::new(Mapping { va, pages: memory.len() as u64 * 8 / PAGE_BYTES, writable: true })
    }

    #[test]
    fn what_is_written_is_read_to_the_last_byte() {
        let mut memory = std::vec![0u64; 1024];
        let mut mapping = over(&mut memory);
        mapping.write(8190, &[1, 2]);
        mapping.write_u64(8, 0x1122_3344_5566_7788);
        mapping.write_u32(16, 0xaabb_ccdd);
        let mut out = [0; 2];
        mapping.read(8190, &mut out);
        assert_eq!(out, [1, 2]);
        assert_eq!(mapping.read_u64(8), 0x1122_3344_5566_7788);
        assert_eq!(mapping.read_u32(16), 0xaabb_ccdd);
    }

    #[test]
    #[should_panic(expected = "not in a mapping")]
    fn nothing_is_written_behind_the_end() {
        let mut memory = std::vec![0u64; 512];
        over(&mut memory).write(4095, &[1, 2]);
    }

    #[test]
    #[should_panic(expected = "not in a mapping")]
    fn an_offset_that_wraps_is_out_of_range() {
        let mut memory = std::vec![0u64; 512];
        over(&mut memory).read(u64::MAX, &mut [0]);
    }

    #[test]
    #[should_panic(expected = "misaligned")]
    fn a_register_is_read_whole_or_not_at_all() {
        let mut memory = std::vec![0u64; 512];
        over(&mut memory).read_u32(2);
    }

    #[test]
    fn without_a_kernel_nothing_is_mapped() {
        assert!(Mapping::readable(Handle::POOL, Pfn(1), 1).is_err());
    }
}
