//! Device trees that are damaged: what is wrong is said, or the machine is another one; nothing panics.

mod common;

use common::machine;
use image_builder::machine::{Machine, MachineOptions};

/// Reads a tree and uses everything that was read; what is wrong with it otherwise.
fn wrong(tree: &[u8]) -> Option<String> {
    match Machine::read(&MachineOptions::default(), tree) {
        Ok(machine) => {
            machine.devices.iter().for_each(|device| assert!(device.frames().1 > 0));
            None
        }
        Err(cause) => Some(cause.to_string()),
    }
}

fn is_clear(said: &str) -> bool {
    ["device tree is damaged: ", "device tree is cut short", "not a 64-bit core"].iter().any(|text| said.contains(text))
}

/// The field of the header at `offset`.
fn header(tree: &[u8], offset: usize) -> usize {
    u32::from_be_bytes(tree[offset..offset + 4].try_into().unwrap()) as usize
}

#[test]
fn a_whole_device_tree_is_read_again_as_the_same_machine() {
    let again = Machine::read(&machine().options, &machine().device_tree).unwrap();
    assert_eq!((again.cores, again.frames_of_ram), (machine().cores, machine().frames_of_ram));
    assert_eq!(again.devices, machine().devices);
    assert!(again.early_uart() != 0);
}

#[test]
fn a_device_tree_with_a_changed_byte_is_read_or_refused_clearly() {
    let mut tree = machine().device_tree.clone();
    for at in 0..tree.len() {
        let whole = tree[at];
        for damage in [0, 1, 2, 3, 4, 9, 0x80, 0xff, whole ^ 1] {
            tree[at] = damage;
            let said = wrong(&tree);
            assert!(said.as_deref().is_none_or(is_clear), "byte {at} is {damage:#x}: {said:?}");
        }
        tree[at] = whole;
    }
}

#[test]
fn a_device_tree_that_breaks_off_is_refused() {
    let tree = &machine().device_tree;
    for length in (0..tree.len() - 8).step_by(4) {
        assert!(wrong(&tree[..length]).is_some_and(|said| is_clear(&said)), "{length} bytes");
    }
}

#[test]
fn a_node_that_is_not_closed_or_closed_twice_is_refused() {
    let tree = &machine().device_tree;
    let (start, bytes) = (header(tree, 8), header(tree, 36));
    let is_end_of_node = |at: &usize| tree[*at..at + 8] == [0, 0, 0, 2, 0, 0, 0, 1];
    let ends: Vec<usize> = (start..start + bytes - 8).step_by(4).filter(is_end_of_node).collect();
    assert!(ends.len() > 10);
    for at in ends {
        let mut damaged = tree.clone();
        damaged[at + 3] = 4;
        assert!(wrong(&damaged).is_some_and(|said| is_clear(&said)), "the node that ends at {at}");
    }
    let mut damaged = tree.clone();
    damaged[start + bytes - 4..start + bytes].copy_from_slice(&2u32.to_be_bytes());
    assert!(wrong(&damaged).is_some_and(|said| is_clear(&said)));
}

#[test]
fn cells_without_bytes_and_registers_beyond_all_addresses_are_refused() {
    let tree = &machine().device_tree;
    let reg: Vec<u8> = [0, 0x900_0000, 0, 0x1000].iter().flat_map(|cell: &u32| cell.to_be_bytes()).collect();
    let at = tree.windows(16).position(|bytes| bytes == reg).expect("the PL011 is there");
    let mut damaged = tree.clone();
    damaged[at..at + 8].fill(0xff);
    assert!(wrong(&damaged).is_some_and(|said| said.contains("damaged")));
    let mut damaged = tree.clone();
    let cells: Vec<u8> = [3, 4].iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
    for at in (header(tree, 8)..header(tree, 8) + 200).step_by(4) {
        if damaged[at..at + 8] == cells && damaged[at + 12..at + 16] == 2u32.to_be_bytes() {
            damaged[at + 12..at + 16].fill(0);
        }
    }
    assert!(wrong(&damaged).is_some_and(|said| said.contains("damaged")));
}
