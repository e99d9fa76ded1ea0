//! The device tree: QEMU's own, and damaged ones.

use crate::fake::tree::{Tree, words};
use exo::device_tree::{Conduit, Controller, Description, Fault, MAX_BANKS, MAX_RESERVED, Range, read};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

macro_rules! dump {
    ($name:literal) => {
        words(include_bytes!(concat!("../trees/", $name, ".dtb")))
    };
}

fn dumps() -> [Vec<u32>; 6] {
    [
        dump!("gic2-smp1"),
        dump!("gic2-smp8"),
        dump!("gic3-smp1"),
        dump!("gic3-smp8"),
        dump!("two-banks"),
        dump!("smp128"),
    ]
}

fn range(start: u64, bytes: u64) -> Range {
    Range { start, bytes }
}

fn good(blob: &[u32]) -> Description {
    read(blob).unwrap_or_else(|fault| panic!("{}", fault.text()))
}

#[test]
fn qemus_own_trees_say_what_the_machine_is() {
    for (blob, controller, cores) in [
        (dump!("gic2-smp1"), Controller::V2, 1),
        (dump!("gic2-smp8"), Controller::V2, 8),
        (dump!("gic3-smp1"), Controller::V3, 1),
        (dump!("gic3-smp8"), Controller::V3, 8),
        (dump!("smp128"), Controller::V3, 128),
    ] {
        let found = good(&blob);
        let memory = if cores == 128 { 1024 * MIB } else { 256 * MIB };
        assert_eq!(
            (found.controller, found.cores, found.memory.as_slice()),
            (Some(controller), cores, &[range(0x4000_0000, memory)][..])
        );
        assert_eq!(found.controller_ranges.as_slice()[0].start, 0x800_0000);
        assert_eq!((found.uart, found.psci), (Some(range(0x900_0000, 0x1000)), Some(Conduit::Hvc)));
        assert_eq!(found.controller_ranges.as_slice().len(), if cores == 128 { 3 } else { 2 });
    }
}

#[test]
fn several_banks_are_normal() {
    let found = good(&dump!("two-banks"));
    let mut banks = found.memory.as_slice().to_vec();
    banks.sort_by_key(|bank| bank.start);
    assert_eq!(banks, [range(0x4000_0000, 128 * MIB), range(0x4800_0000, 128 * MIB)]);
    assert_eq!(found.psci, Some(Conduit::Smc));
    let one_node = Tree::root().controller().node("memory@0").reg(&[(0, 8), (1 << 32, 16), (5, 0)]).end().blob();
    assert_eq!(good(&one_node).memory.as_slice(), [range(0, 8), range(1 << 32, 16)]);
}

#[test]
fn reserved_memory_is_found_in_both_places() {
    let blob = Tree::root()
        .reserve(0x4000_0000, 0x1000)
        .controller()
        .memory(0x4000_0000, 64 * MIB)
        .node("reserved-memory")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[1])
        .bytes("ranges", &[])
        .node("tee@41000000")
        .cells("reg", &[0, 0x4100_0000, 0x2000])
        .bytes("no-map", &[])
        .end()
        .end()
        .blob();
    assert_eq!(good(&blob).reserved.as_slice(), [range(0x4000_0000, 0x1000), range(0x4100_0000, 0x2000)]);
}

#[test]
fn banks_beyond_the_list_are_counted() {
    let mut tree = Tree::root().controller();
    for bank in 0..MAX_BANKS as u64 + 3 {
        tree = tree.memory(bank << 30, MIB);
    }
    let found = good(&tree.blob());
    assert_eq!((found.memory.as_slice().len(), found.memory.dropped), (MAX_BANKS, 3));
}

#[test]
fn memory_that_is_disabled_or_empty_is_no_memory() {
    let disabled = Tree::root().controller().node("memory@0").text("status", "disabled").reg(&[(0, MIB)]).end().blob();
    assert_eq!(read(&disabled).err(), Some(Fault::NoMemory));
    let empty = Tree::root().controller().memory(0x4000_0000, 0).blob();
    assert_eq!(read(&empty).err(), Some(Fault::NoMemory));
    assert_eq!(read(&Tree::root().controller().blob()).err(), Some(Fault::NoMemory));
}

#[test]
fn a_tree_without_a_known_controller_is_refused() {
    assert_eq!(read(&Tree::root().memory(0, MIB).blob()).err(), Some(Fault::NoController));
    let one_range =
        Tree::root().memory(0, MIB).node("intc@1").text("compatible", "arm,gic-400").reg(&[(1, 2)]).end().blob();
    assert_eq!(read(&one_range).err(), Some(Fault::NoController));
    let other = Tree::root()
        .memory(0, MIB)
        .node("intc@1")
        .text("compatible", "riscv,plic0")
        .reg(&[(1, 2), (3, 4)])
        .end()
        .blob();
    assert_eq!(read(&other).err(), Some(Fault::NoController));
}

#[test]
fn cells_wider_than_an_address_name_no_memory() {
    for (address, size) in [(3, 2), (2, 3), (u32::MAX, 1)] {
        let blob = Tree::default()
            .node("")
            .cells("#address-cells", &[address])
            .cells("#size-cells", &[size])
            .memory(0, MIB)
            .blob();
        assert_eq!(read(&blob).err(), Some(Fault::NoMemory));
    }
}

#[test]
fn addresses_without_cells_name_no_memory() {
    let blob = Tree::default()
        .node("")
        .cells("#address-cells", &[0])
        .cells("#size-cells", &[0])
        .controller()
        .memory(0x4000_0000, MIB)
        .blob();
    assert_eq!(read(&blob).err(), Some(Fault::NoMemory));
}

#[test]
fn more_reservations_than_can_be_kept_are_refused() {
    let tree = (0..MAX_RESERVED as u64 + 2)
        .fold(Tree::root().controller().memory(0, MIB), |tree, entry| tree.reserve(entry << 20, 4096));
    assert_eq!(read(&tree.blob()).err(), Some(Fault::TooMuchReserved));
    let mut tree = Tree::root()
        .controller()
        .memory(0, MIB)
        .node("reserved-memory")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2]);
    for region in 0..=MAX_RESERVED as u64 {
        tree = tree.node(&format!("r@{region:x}")).reg(&[(region << 20, 4096)]).end();
    }
    assert_eq!(read(&tree.end().blob()).err(), Some(Fault::TooMuchReserved));
}

#[test]
fn blocks_that_lie_beyond_the_tree_are_damage() {
    for index in [2, 3, 8, 9] {
        for value in [1 << 20, i32::MAX as u32, u32::MAX] {
            let mut blob = dump!("gic3-smp1");
            blob[index] = u32::to_be(value);
            assert_eq!(read(&blob).err(), Some(Fault::Damaged));
        }
    }
}

#[test]
fn an_entry_that_means_nothing_is_passed_over() {
    let blob = Tree::root()
        .nop()
        .controller()
        .nop()
        .memory(0x4000_0000, MIB)
        .nop()
        .node("cpus")
        .nop()
        .node("cpu@0")
        .end()
        .nop()
        .node("cpu-map")
        .end()
        .node("cpu@1")
        .end()
        .end()
        .blob();
    assert_eq!(good(&blob).cores, 2);
}

#[test]
fn what_does_not_begin_as_a_tree_is_none() {
    assert_eq!(read(&[]).err(), Some(Fault::NoTree));
    assert_eq!(read(&[1]).err(), Some(Fault::NoTree));
    assert_eq!(read(&[0; 100]).err(), Some(Fault::NoTree));
}

#[test]
fn a_tree_cut_short_anywhere_is_refused() {
    for blob in dumps() {
        for length in (0..blob.len()).step_by(7) {
            assert!(read(&blob[..length]).is_err(), "of {} words {length} were enough", blob.len());
            // The same with a header that claims to be whole.
            let mut short = blob[..length].to_vec();
            if length > 10 {
                short[1] = (length as u32 * 4).to_be();
                let _ = read(&short);
            }
        }
    }
}

#[test]
fn an_absurd_length_is_refused() {
    let mut blob = dump!("gic3-smp1");
    for length in [0u32, 1, 39, (2 << 20) + 1, i32::MAX as u32, u32::MAX] {
        blob[1] = length.to_be();
        assert_eq!(read(&blob).err(), Some(Fault::Length));
    }
}

#[test]
fn every_word_replaced_by_every_extreme_never_panics() {
    let blob = dump!("gic3-smp1");
    for index in 0..blob.len() {
        for value in [0, 1, 2, 3, 4, 9, 0xff, 0x7fff_ffff, 0xffff_fffc, u32::MAX] {
            let mut damaged = blob.clone();
            damaged[index] = u32::to_be(value);
            let _ = read(&damaged);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_panics(which in 0..6usize, changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let blob = &dumps()[which];
        let mut bytes: Vec<u8> = blob.iter().flat_map(|word| word.to_ne_bytes()).collect();
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let _ = read(&words(&bytes));
    }

    #[test]
    fn no_noise_panics(noise in proptest::collection::vec(any::<u32>(), 0..400)) {
        let mut blob = vec![u32::to_be(0xd00d_feed), ((noise.len() as u32 + 2) * 4).to_be()];
        blob.extend(noise);
        let _ = read(&blob);
    }
}
