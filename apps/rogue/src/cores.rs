//! Several cores at once: children that share a victim and its pool make calls at random on it, while both are taken from under them.

use crate::book::{Book, End};
use core::mem::offset_of;
use core::time::Duration;
use exo_abi::binding::{Rights, first};
use exo_abi::control_page::ControlPage;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Call, Handle, PAGE_BYTES, Pfn, Refusal};
use libos::sys;
use libos::{machine, mem, println, slots, time};
use workshop::{CONTROL_VA, Child, Common, DATA_VA, EXTRA_VA, Ground, svc};

workshop::snippets! {
    /// Calls without end.
    enum Churn in "velvet_churn" {
        /// One of the thirty-two deeds behind sp, at random: in front of them are the address of the batch buffer, a seed, and how many were done and refused.
        Deeds: [
            "1:",
            "mov x9, sp",
            "ldp x20, x19, [x9]",
            "eor x19, x19, x19, lsl #13",
            "eor x19, x19, x19, lsr #7",
            "eor x19, x19, x19, lsl #17",
            "str x19, [x9, #8]",
            "ubfx x21, x19, #20, #5",
            "add x21, x21, #1",
            "add x21, x9, x21, lsl #7",
            "ldp x0, x1, [x21]",
            "stp x0, x1, [x20]",
            "ldp x0, x1, [x21, #16]",
            "ldp x2, x3, [x21, #32]",
            "ldp x4, x5, [x21, #48]",
            "ldp x6, x17, [x21, #64]",
            "adr x18, 2f",
            "add x17, x18, x17, lsl #3",
            "br x17",
            "2:",
            // `halt` is `null` here.
            ".irp number,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,2,23,24,25,26,27,28,29,30,31,32,33,34",
            svc!(number),
            "b 3f",
            ".endr",
            "3:",
            "mov x9, sp",
            "ldp x2, x3, [x9, #16]",
            "cmp x0, #0",
            "cinc x2, x2, eq",
            "cinc x3, x3, ne",
            "stp x2, x3, [x9, #16]",
            "b 1b",
        ],
    }
}

/// Times that everything is built and taken away.
const ROUNDS: u64 = 12;
/// Attackers at most, each on a core of its own while there are so many.
const MOST: u64 = 4;
/// Frames they fight for.
const PRIZES: usize = 6;
/// Where the victim has them mapped: no page of its own lies there.
const PRIZE_VA: u64 = DATA_VA + 0x1_0000;
/// A deed's bytes.
const DEED: u64 = 128;

// What an attacker holds.
const POOL: u64 = 2;
const VICTIM: u64 = 3;
const CORES: u64 = 4;
const GATE: u64 = 5;
const EVENT: u64 = 6;

/// Two words of the batch buffer, and a call with x0 to x6.
type Deed = ([u64; 2], Call, [u64; 7]);

/// What they do: each line refused or not, as it comes.
fn deed(index: u64, prizes: &[Pfn; PRIZES], tables: [Pfn; 2], position: u64) -> Deed {
    let which = (index / 8) as usize % PRIZES;
    let (frame, va) = (prizes[which], PRIZE_VA + which as u64 * PAGE_BYTES);
    let (pool, prot) = (Handle(POOL as u16), Prot::READ | Prot::WRITE | Prot::ACCESSED);
    let words = |entry: MapEntry| [entry.first, entry.second];
    let far = DATA_VA + 0x20_0000;
    match index {
        0 | 8 | 16 | 24 => ([frame.0, 0], Call::FrameAlloc, [POOL, 1, 0, 0, 0, 0, 0]),
        1 | 9 | 17 | 25 => (words(MapEntry::map(va, frame, 1, prot, pool)), Call::Map, [VICTIM, 1, 0, 0, 0, 0, 0]),
        2 | 10 | 18 | 26 => (words(MapEntry::unmap(va, 1)), Call::Map, [VICTIM, 1, 0, 0, 0, 0, 0]),
        3 | 11 | 19 | 27 => ([frame.0, 0], Call::FrameFree, [POOL, 1, 0, 0, 0, 0, 0]),
        4 | 12 => ([frame.0, 0], Call::FrameKind, [POOL, 1, index / 8, 0, 0, 0, 0]),
        5 => (words(MapEntry::install_table(far, 3, tables[0], pool)), Call::Map, [VICTIM, 1, 0, 0, 0, 0, 0]),
        6 => (words(MapEntry::remove_table(far, 3)), Call::Map, [VICTIM, 1, 0, 0, 0, 0, 0]),
        7 => (words(MapEntry::map(far, frame, 1, prot, pool)), Call::Map, [VICTIM, 1, 0, 0, 0, 0, 0]),
        13 => (words(MapEntry::unmap(far, 1)), Call::Map, [VICTIM, 1, 0, 0, 0, 0, 0]),
        14 | 15 => ([0, 0], Call::VcoreStop, [VICTIM, index % 2, 0, 0, 0, 0, 0]),
        20 => ([0, 0], Call::VcoreStart, [VICTIM, 0, Common::Spin.va(), 0, DATA_VA, 0, 0]),
        21 => ([0, 0], Call::VcoreStart, [VICTIM, 1, Common::Echo.va(), 0, 0, 0, 0]),
        22 => ([0, 0], Call::SliceClaim, [CORES, 0, position, VICTIM, 0, 100, 0]),
        23 => ([0, 0], Call::SliceRelease, [CORES, 0, position, 0, 0, 0, 0]),
        28 => ([0, 0], Call::Notify, [EVENT, 0, 0, 0, 0, 0, 0]),
        29 => ([0, 0], Call::Call, [GATE, 1, 2, 3, 0, 0, 0]),
        30 => ([0, 0], Call::YieldTo, [VICTIM, 1, 0, 0, 0, 0, 0]),
        _ => ([0, 0], Call::VcoreReport, [VICTIM, 0, 0, 0, 0, 0, 0]),
    }
}

/// Everything of it, again and again; at the end of each round as many frames are free as before.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let mut tables = [Pfn(0); 2];
    mem::alloc_frames(Handle::POOL, &mut tables)?;
    mem::free_frames(Handle::POOL, &tables);
    let (mut done, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let before = machine::free_frames();
        let position = ground.positions.take()?;
        let mut victim = Child::build(ground, 1)?;
        victim.vcore(Common::Spin.va(), 0, DATA_VA)?;
        victim.vcore_on(machine::info().cores - 1, Common::Echo.va(), 0, 0)?;
        let (gate, event) = (victim.gate(ground, 1, 9)?, victim.event(ground, 1, 3)?);
        let mut prizes = [Pfn(0); PRIZES];
        mem::alloc_frames(victim.pool, &mut prizes)?;
        let mut attackers = alloc::vec::Vec::new();
        for index in 0..machine::info().cores.clamp(2, MOST) {
            attackers.push(attacker(ground, &victim, [gate, event], round * MOST + index, |number| {
                deed(number, &prizes, tables, position)
            })?);
        }
        time::sleep(Duration::from_millis(5));
        // The victim goes first, last, or in the middle of its attackers.
        let mut victim = Some(victim);
        for (number, attacker) in attackers.into_iter().enumerate() {
            if let Some(victim) = victim.take_if(|_| number as u64 == round % 3) {
                victim.destroy(ground)?;
            }
            time::sleep(Duration::from_micros(200));
            let view = attacker.view(0)?;
            (done, refused) = (done + view.read_u64(16), refused + view.read_u64(24));
            drop(view);
            attacker.destroy(ground)?;
        }
        if let Some(victim) = victim {
            victim.destroy(ground)?;
        }
        [gate, event].into_iter().for_each(slots::empty);
        ground.positions.give_back(position);
        let lost = machine::free_frames() != before;
        book.attack(
            format_args!("calls from several cores, round {round}"),
            if lost { End::Harm } else { End::Refused },
        );
    }
    println!("{done} of their calls were done, {refused} refused");
    if done == 0 || refused == 0 {
        book.harm(format_args!("nobody fought"));
    }
    Ok(())
}

/// A child that does deeds on a core of its own.
fn attacker(
    ground: &Ground,
    victim: &Child,
    [gate, event]: [Handle; 2],
    number: u64,
    deed: impl Fn(u64) -> Deed,
) -> Result<Child, Refusal> {
    let mut child = Child::build(ground, 2)?.with(Churn::blob())?;
    for (source, handle, rights) in [
        (victim.pool, POOL, Rights::POOL_ALLOC | Rights::POOL_READ | Rights::POOL_WRITE | Rights::POOL_EXECUTE),
        (victim.env, VICTIM, Rights::ENV_MAP | Rights::ENV_RUN | Rights::ENV_DESTROY),
        (first::CORES, CORES, Rights::CORE_CLAIM),
        (gate, GATE, Rights::GATE_CALL),
        (event, EVENT, Rights::EVENT_NOTIFY),
    ] {
        child.give(source, Handle(handle as u16), rights)?;
    }
    let core = number % machine::info().cores;
    child.vcore_on(core, EXTRA_VA + Churn::Deeds.offset(), DATA_VA, 0)?;
    let write = |at: u64, value: u64| -> Result<(), Refusal> {
        child.view((at / PAGE_BYTES) as usize)?.write_u64(at % PAGE_BYTES, value);
        Ok(())
    };
    write(0, CONTROL_VA + offset_of!(ControlPage, batch) as u64)?;
    write(8, 0x9e37_79b9_7f4a_7c15 ^ number << 17)?;
    for index in 0..32 {
        let (words, call, x) = deed(index);
        let deed = words.into_iter().chain(x).chain([call as u64]);
        for (place, value) in deed.enumerate() {
            write((index + 1) * DEED + place as u64 * 8, value)?;
        }
    }
    child.claim_on(ground, 0, core, 500)?;
    sys::vcore_start(child.env, 0)?;
    Ok(child)
}
