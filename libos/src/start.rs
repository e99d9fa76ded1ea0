//! What a program is told when it starts: the contract between who makes an environment and the library inside.
//!
//! The maker maps the program's segments, a control page, a page or two with a [`StartInfo`] (postcard) and a small
//! stack, at the addresses of [`Layout`], and starts vcore 0 at `_start` with x0 = the address of the [`StartInfo`].
//! That stack becomes the one that upcalls run on. Everything else the program takes from its own pool when it needs it.

mod layout;

pub use layout::{INFO_PAGES, Layout, UPCALL_STACK_PAGES};

use crate::ipc::Gate;
use alloc::vec::Vec;
use exo_abi::Handle;
use serde::{Deserialize, Serialize};
use spin::Once;

/// Everything a program is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartInfo<'a> {
    /// The [`exo_abi::ABI_VERSION`] of the maker. First, so that another version can still be told.
    pub abi_version: u32,
    /// Its address space.
    pub layout: Layout,
    /// The frame of [`exo_abi::exposed::MachineInfo`].
    pub machine_frame: u64,
    /// The program's name.
    #[serde(borrow)]
    pub name: &'a str,
    /// Its arguments, without its name.
    #[serde(borrow)]
    pub args: Vec<&'a str>,
    /// Its environment's number.
    pub environment: u32,
    /// Its own pool's number.
    pub pool: u32,
    /// The core its vcore 0 lives on.
    pub core: u32,
    /// The quota of its own pool, in frames.
    pub frames: u64,
    /// Generic timer ticks a second.
    pub timer_hz: u64,
    /// Empty places in its binding table: first, and how many.
    pub slots: (u16, u16),
    /// Revocation cells it owns and may use: first, and how many.
    pub cells: (u32, u32),
    /// Environment numbers it owns.
    pub environments: (u32, u32),
    /// Pool numbers it owns.
    pub pools: (u32, u32),
    /// Bindings by name: the gates of services (`console`, `init`), the event `watchdog`, and what else it was given.
    #[serde(borrow)]
    pub bindings: Vec<Named<'a>>,
    /// Devices.
    #[serde(borrow)]
    pub devices: Vec<DeviceInfo<'a>>,
    /// Files, mapped read-only.
    #[serde(borrow)]
    pub files: Vec<FileInfo<'a>>,
}

/// A binding with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named<'a> {
    /// The name it is asked for by.
    pub name: &'a str,
    /// Its place in the binding table.
    pub handle: u16,
    /// Its [`exo_abi::BindingKind`].
    pub kind: u8,
}

/// A device: registers and interrupt lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo<'a> {
    /// The `compatible` string it was asked for by.
    pub compatible: &'a str,
    /// Its node in the device tree.
    pub name: &'a str,
    /// Its Device binding.
    pub handle: u16,
    /// First frame of its registers.
    pub first_frame: u64,
    /// Frames of its registers.
    pub frames: u64,
    /// Offset of the first register in the first frame.
    pub offset: u32,
    /// Its interrupt lines.
    pub lines: Vec<LineInfo>,
}

/// An interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineInfo {
    /// The Irq binding it lies in.
    pub handle: u16,
    /// Its number.
    pub number: u32,
    /// It is edge-triggered.
    pub edge: bool,
}

/// A file that is mapped read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where its first byte lies.
    pub va: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// Writes a [`StartInfo`] for a program to find; answers with its length, or `None` when `page` is too short.
pub fn encode(info: &StartInfo, page: &mut [u8]) -> Option<usize> {
    postcard::to_slice(info, page).ok().map(|written| written.len())
}

/// Reads what [`encode`] wrote.
pub fn decode(page: &[u8]) -> Option<StartInfo<'_>> {
    postcard::from_bytes(page).ok()
}

/// What must be known before there is a heap to decode the rest: version, layout, frame of the machine's description.
pub(crate) fn peek(page: &[u8]) -> Option<(u32, Layout, u64)> {
    postcard::take_from_bytes(page).ok().map(|(front, _)| front)
}

static INFO: Once<StartInfo<'static>> = Once::new();

/// Publishes what the program was told; the library's entry does this once.
pub(crate) fn set_info(info: StartInfo<'static>) {
    INFO.call_once(|| info);
}

/// What this program was told.
///
/// # Panics
/// On a host, where nobody was told anything.
pub fn info() -> &'static StartInfo<'static> {
    INFO.get().expect("the program was started by the library's entry")
}

/// [`info`], or `None` before the entry is through (and on a host).
pub(crate) fn info_if_known() -> Option<&'static StartInfo<'static>> {
    INFO.get()
}

/// The arguments, without the program's name.
pub fn args() -> impl ExactSizeIterator<Item = &'static str> {
    info().args.iter().copied()
}

/// What was given under this name.
pub fn named(name: &str) -> Option<&'static Named<'static>> {
    info_if_known()?.bindings.iter().find(|binding| binding.name == name)
}

/// The binding given under this name.
pub fn handle(name: &str) -> Option<Handle> {
    named(name).map(|binding| Handle(binding.handle))
}

/// The gate of a service this program may call.
pub fn service(name: &str) -> Option<Gate> {
    handle(name).map(Gate::new)
}

/// The bytes of a file this program was handed.
pub fn file(name: &str) -> Option<&'static [u8]> {
    let file = info_if_known()?.files.iter().find(|file| file.name == name)?;
    Some(crate::mem::bytes_mapped_for_good(file.va, file.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn example() -> StartInfo<'static> {
        StartInfo {
            abi_version: exo_abi::ABI_VERSION,
            layout: Layout::above(0x20_8000, 16, 64),
            machine_frame: 0x40123,
            name: "shell",
            args: vec!["-v", ""],
            environment: 3,
            pool: 4,
            core: 0,
            frames: 64,
            timer_hz: 62_500_000,
            slots: (9, 119),
            cells: (20, 4),
            environments: (0, 0),
            pools: (0, 0),
            bindings: vec![Named { name: "console", handle: 7, kind: 3 }],
            devices: vec![DeviceInfo {
                compatible: "arm,pl011",
                name: "/pl011@9000000",
                handle: 8,
                first_frame: 0x9000,
                frames: 1,
                offset: 0,
                lines: vec![LineInfo { handle: 9, number: 33, edge: false }],
            }],
            files: vec![FileInfo { name: "motd", va: 0x10_0000_0000, bytes: 12 }],
        }
    }

    #[test]
    fn what_is_told_is_what_is_heard() {
        let mut page = [0; 4096];
        let length = encode(&example(), &mut page).unwrap();
        assert!(length < 200, "{length}");
        // Zeros follow in the page; the reader does not mind.
        assert_eq!(decode(&page), Some(example()));
        assert_eq!(peek(&page), Some((exo_abi::ABI_VERSION, example().layout, 0x40123)));
    }

    #[test]
    fn what_does_not_fit_is_not_cut() {
        let mut short = [0; 40];
        assert_eq!(encode(&example(), &mut short), None);
    }

    #[test]
    fn damaged_bytes_are_no_start_info() {
        let mut page = [0; 4096];
        let length = encode(&example(), &mut page).unwrap();
        for cut in 0..length {
            assert_eq!(decode(&page[..cut]), None, "cut to {cut}");
        }
    }
}
