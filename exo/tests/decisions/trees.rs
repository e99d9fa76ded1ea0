//! The device tree: QEMU's own, and damaged ones.

use crate::fake::tree::{Tree, words};
use exo::device_tree::{self, Conduit, Controller, Description, MAX_RANGES, MAX_RESERVED, Range, Ranges};
use exo::fault::Fault;
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
    Range::new(start, bytes)
}

fn read(blob: &[u32]) -> Result<Description, Fault> {
    let mut found = Description::default();
    let bytes: Vec<u8> = blob.iter().flat_map(|word| word.to_ne_bytes()).collect();
    device_tree::read(&bytes, &mut found, &mut |_| ()).map(|()| found)
}

fn good(blob: &[u32]) -> Description {
    read(blob).unwrap_or_else(|fault| panic!("{}", fault.0))
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
        assert_eq!((found.uarts.as_slice(), found.psci), (&[range(0x900_0000, 0x1000)][..], Some(Conduit::Hvc)));
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
    for bank in 0..MAX_RANGES as u64 + 3 {
        tree = tree.memory(bank << 30, MIB);
    }
    let found = good(&tree.blob());
    assert_eq!((found.memory.as_slice().len(), found.memory.found), (MAX_RANGES, MAX_RANGES + 3));
}

#[test]
fn memory_that_is_disabled_or_empty_is_no_memory() {
    let disabled = Tree::root().controller().node("memory@0").text("status", "disabled").reg(&[(0, MIB)]).end().blob();
    assert_eq!(read(&disabled).err(), Some(Fault::NO_MEMORY));
    let empty = Tree::root().controller().memory(0x4000_0000, 0).blob();
    assert_eq!(read(&empty).err(), Some(Fault::NO_MEMORY));
    assert_eq!(read(&Tree::root().controller().blob()).err(), Some(Fault::NO_MEMORY));
}

#[test]
fn a_tree_without_a_known_controller_is_refused() {
    assert_eq!(read(&Tree::root().memory(0, MIB).blob()).err(), Some(Fault::NO_CONTROLLER));
    let one_range =
        Tree::root().memory(0, MIB).node("intc@1").text("compatible", "arm,gic-400").reg(&[(1, 2)]).end().blob();
    assert_eq!(read(&one_range).err(), Some(Fault::NO_CONTROLLER));
    let other = Tree::root()
        .memory(0, MIB)
        .node("intc@1")
        .text("compatible", "riscv,plic0")
        .reg(&[(1, 2), (3, 4)])
        .end()
        .blob();
    assert_eq!(read(&other).err(), Some(Fault::NO_CONTROLLER));
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
        assert_eq!(read(&blob).err(), Some(Fault::NO_MEMORY));
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
    assert_eq!(read(&blob).err(), Some(Fault::NO_MEMORY));
}

#[test]
fn more_reservations_than_can_be_kept_are_refused() {
    let tree = (0..MAX_RESERVED as u64 + 2)
        .fold(Tree::root().controller().memory(0, MIB), |tree, entry| tree.reserve(entry << 20, 4096));
    assert_eq!(read(&tree.blob()).err(), Some(Fault::RESERVED));
    let mut tree = Tree::root()
        .controller()
        .memory(0, MIB)
        .node("reserved-memory")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2]);
    for region in 0..=MAX_RESERVED as u64 {
        tree = tree.node(&format!("r@{region:x}")).reg(&[(region << 20, 4096)]).end();
    }
    assert_eq!(read(&tree.end().blob()).err(), Some(Fault::RESERVED));
}

#[test]
fn blocks_that_lie_beyond_the_tree_are_damage() {
    for index in [2, 3, 8, 9] {
        for value in [1 << 20, i32::MAX as u32, u32::MAX] {
            let mut blob = dump!("gic3-smp1");
            blob[index] = u32::to_be(value);
            assert_eq!(read(&blob).err(), Some(Fault::DAMAGED));
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

/// The affinities of a tree's cores.
fn affinities(blob: &[u32]) -> Vec<u64> {
    let mut told = Vec::new();
    let bytes: Vec<u8> = blob.iter().flat_map(|word| word.to_ne_bytes()).collect();
    device_tree::read(&bytes, &mut Description::default(), &mut |affinity| told.push(affinity)).unwrap();
    told
}

#[test]
fn cores_are_told_by_their_affinities() {
    // QEMU: clusters of eight on a GICv2, of sixteen on a GICv3.
    assert_eq!(affinities(&dump!("gic2-smp8")), (0..8).collect::<Vec<_>>());
    let of_sixteen = |core: u64| ((core / 16) << 8) + core % 16;
    assert_eq!(affinities(&dump!("smp128")), (0..128).map(of_sixteen).collect::<Vec<_>>());
    // Two cells, one that failed, one without a place, one with half of one.
    let cpus = Tree::root().controller().memory(0x4000_0000, MIB).node("cpus").cells("#address-cells", &[2]);
    let cpus = cpus.node("cpu@0").cells("reg", &[1, 0x102]).end().node("cpu@1").text("status", "fail").end();
    let blob = cpus.node("cpu@2").end().node("cpu@3").cells("reg", &[]).end().node("idle-states").end().end().blob();
    assert_eq!(affinities(&blob), [1 << 32 | 0x102, 0, 0]);
}

#[test]
fn a_tree_deeper_than_the_parser_looks_is_refused() {
    let nested = |levels: usize| {
        let tree = (0..levels).fold(Tree::root().controller(), |tree, level| tree.node(&format!("n{level}")));
        (0..levels).fold(tree, |tree, _| tree.end()).memory(0, MIB).blob()
    };
    assert_eq!(good(&nested(14)).memory.found, 1);
    for levels in [15, 16, 17, 40] {
        assert_eq!(read(&nested(levels)).err(), Some(Fault::DAMAGED), "{levels}");
    }
}

#[test]
fn what_is_disabled_is_no_device_and_what_is_on_a_bus_is_one() {
    let uart =
        |tree: Tree, at: u64| tree.node(&format!("serial@{at:x}")).text("compatible", "arm,pl011").reg(&[(at, 0x1000)]);
    let bus = |tree: Tree| {
        tree.node("soc").text("compatible", "simple-bus").cells("#address-cells", &[2]).cells("#size-cells", &[2])
    };
    let tree = uart(Tree::root().controller().memory(0, MIB), 0x1000).text("status", "disabled").end();
    let tree = uart(bus(tree), 0x2000).end().end();
    let tree =
        uart(bus(bus(tree).bytes("ranges", &[])).bytes("ranges", &[]), 0x3000).text("status", "okay").end().end().end();
    assert_eq!(good(&uart(tree, 0x4000).end().blob()).uarts.as_slice().first(), Some(&range(0x3000, 0x1000)));
}

fn ranges(of: &[(u64, u64)]) -> Ranges {
    let mut ranges = Ranges::default();
    of.iter().for_each(|(start, bytes)| ranges.push(range(*start, *bytes)));
    ranges
}

#[test]
fn runs_are_whole_pages_that_keep_clear_of_what_is_taken() {
    let runs = |banks: &[(u64, u64)], taken: &[(u64, u64)]| -> Vec<(u64, u64)> {
        ranges(banks).without(&ranges(taken)).map(|run| (run.start, run.bytes())).collect()
    };
    assert_eq!(runs(&[(0x8000, 0x4000), (0, 0x2000)], &[]), [(0, 0x2000), (0x8000, 0x4000)]);
    assert_eq!(runs(&[(0x800, 0x3000)], &[]), [(0x1000, 0x2000)]);
    assert_eq!(runs(&[(0x800, 0x900), (u64::MAX, 8)], &[]), []);
    assert_eq!(runs(&[(0, 0x8000)], &[(0x1fff, 2), (0x5000, 1)]), [(0, 0x1000), (0x3000, 0x2000), (0x6000, 0x2000)]);
    assert_eq!(runs(&[(0, 0x8000)], &[(0, 0x2000), (0x1000, 0x2000), (0x7000, u64::MAX)]), [(0x3000, 0x4000)]);
    assert_eq!(runs(&[(0, 0x8000)], &[(0, u64::MAX)]), []);
    assert_eq!(runs(&[(0, 0x4000), (0x2000, 0x4000)], &[]), [(0, 0x4000), (0x4000, 0x2000)]);
}

#[test]
fn what_does_not_begin_as_a_tree_is_none() {
    assert_eq!(read(&[]).err(), Some(Fault::NO_TREE));
    assert_eq!(read(&[1]).err(), Some(Fault::NO_TREE));
    assert_eq!(read(&[0; 100]).err(), Some(Fault::NO_TREE));
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
        assert_eq!(read(&blob).err(), Some(Fault::LENGTH));
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
    fn runs_are_in_order_inside_a_bank_and_clear_of_what_is_taken(banks in proptest::collection::vec((0..64u64, 0..16u64), 0..20), taken in proptest::collection::vec((0..64u64, 0..4u64), 0..20)) {
        let (banks, taken) = (banks.iter().map(|(at, pages)| (at << 12, pages << 12)).collect::<Vec<_>>(), taken.iter().map(|(at, pages)| (at << 12, pages << 12)).collect::<Vec<_>>());
        let inside = |list: &[(u64, u64)], at: u64| list.iter().any(|(start, bytes)| *start <= at && at < start + bytes);
        let runs: Vec<Range> = ranges(&banks).without(&ranges(&taken)).collect();
        assert!(runs.windows(2).all(|pair| pair[0].end <= pair[1].start));
        for page in 0..100 {
            let at = page << 12;
            let found = runs.iter().any(|run| run.start <= at && at < run.end);
            assert_eq!(found, inside(&banks, at) && !inside(&taken, at), "{at:#x}");
        }
    }

    #[test]
    fn no_noise_panics(noise in proptest::collection::vec(any::<u32>(), 0..400)) {
        let mut blob = vec![u32::to_be(0xd00d_feed), ((noise.len() as u32 + 2) * 4).to_be()];
        blob.extend(noise);
        let _ = read(&blob);
    }
}
