//! The other cores: PSCI starts them, each says what it can, and waits until the machine is set up.

use super::layout::{CORE_PAGES, IMAGE, STACK_BYTES};
use super::objects::Arm;
use super::{boot, entry, gic, mmu, panic, power, registers};
use core::sync::atomic::{AtomicU64, Ordering::*};
use exo::device_tree::{self, Controller, Description, Range};
use exo::machine::Machine;
use exo::slice::Core;
use exo_abi::exposed::Features;
use exo_abi::{PAGE_BYTES, Pfn};

/// What a core has to itself, behind the top of its stack: TPIDR_EL1 is the address of both. The first core's lies in the image.
#[repr(C)]
pub struct PerCore {
    /// What the decisions know of it.
    pub core: Core,
    /// What MPIDR_EL1 says of its place.
    pub affinity: AtomicU64,
    /// Its bit in the targets of a GICv2.
    pub target: AtomicU64,
    /// What it can, with [`HERE`] once it is there, or [`LOST`].
    said: AtomicU64,
}

const HERE: u64 = 1 << 63;
/// It has no interrupts.
const LOST: u64 = 1 << 62;
/// Bytes from one core's structure to the next.
const STRIDE: u64 = (CORE_PAGES + 1) * PAGE_BYTES;
/// How long a core may take to come, in seconds.
const PATIENCE: u64 = 10;

const _: () = assert!(size_of::<PerCore>() as u64 <= CORE_PAGES * PAGE_BYTES - STACK_BYTES as u64);

/// How many cores run; ids are below.
static COUNT: AtomicU64 = AtomicU64::new(1);
/// The structures' addresses: this and id times [`STRIDE`], but for the first core's.
static BASE: AtomicU64 = AtomicU64::new(0);
/// What all cores can, with [`HERE`] once they may run.
static SHARED: AtomicU64 = AtomicU64::new(0);
/// Keys for pointer authentication are made of it.
static SEED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    /// The first core's, of zeros.
    safe static stack_top: u8;
}

/// The structure in place `id`.
fn place(id: u64) -> &'static PerCore {
    let address = if id == 0 { &raw const stack_top as u64 } else { BASE.load(Relaxed) + id * STRIDE };
    // SAFETY: the boot code has room there; `start` maps zeroed memory, for each id below what it counts. A structure is made of atomics, to which zeros are valid values.
    unsafe { &*(address as *const PerCore) }
}

/// A core that runs.
pub fn by_id(id: u64) -> Option<&'static PerCore> {
    (id < COUNT.load(Relaxed)).then(|| place(id))
}

/// The first core gets its slice vector, and its place at the interrupt controller.
pub fn begin_first(vector: Pfn) {
    let own = place(0);
    own.core.begin(0, vector);
    own.affinity.store(registers::affinity(), Relaxed);
    own.target.store(gic::own_target(), Relaxed);
}

/// Boot memory for the other cores.
pub struct Memory {
    /// How many there may be, the first included.
    pub cores: u64,
    /// Tables, stacks and structures; nothing for one core.
    pub range: Range,
    /// The slice vectors, of all cores.
    pub vectors: u64,
}

impl Memory {
    /// What the tree's cores need that the controller reaches: bytes for them, and for the vectors.
    pub fn needed(tree: &Description) -> (u64, [u64; 2]) {
        let most = if tree.controller == Some(Controller::V2) { gic::MOST_V2 } else { MOST };
        let cores = if tree.psci.is_some() { (tree.cores as u64).clamp(1, most) } else { 1 };
        let others = cores - 1;
        (cores, [mmu::core_tables(others) + others * CORE_PAGES, cores].map(|pages| pages * PAGE_BYTES))
    }
}

/// Cores that the kernel runs on at most.
const MOST: u64 = 512;

/// Starts the cores that the `tree` names, of an image; answers how many run then. All wait in [`main`].
pub fn start(tree: Range, image: u64, memory: &Memory) -> u64 {
    let tables = mmu::core_tables(memory.cores - 1) * PAGE_BYTES;
    let Some(base) = mmu::map_cores(memory.range.start, memory.range.start + tables, memory.cores - 1) else {
        return 1;
    };
    // The top of the first one's stack, less its id.
    BASE.store(base + PAGE_BYTES + STACK_BYTES as u64 - STRIDE, Relaxed);
    let (own, mut named) = (registers::affinity(), 1);
    let note = &mut |affinity| {
        if affinity != own && named < memory.cores {
            place(named).affinity.store(affinity, Relaxed);
            named += 1;
        }
    };
    let _ = mmu::look_at(tree, |bytes| device_tree::read(bytes, &mut Description::default(), note));
    let mut begun = 1;
    for candidate in 1..named {
        let (affinity, own) = (place(candidate).affinity.load(Relaxed), place(begun));
        own.affinity.store(affinity, Relaxed);
        own.core.begin(begun, Pfn(memory.vectors / PAGE_BYTES + begun));
        if power::start_core(affinity, image + (&raw const boot::core_start as u64 - IMAGE), &raw const *own as u64) {
            begun += 1;
        } else {
            left_out(affinity);
        }
    }
    let mut features = registers::features();
    let mut count = 1;
    while count < begun && wait_for(place(count), &mut features) {
        count += 1;
    }
    (count..begun).for_each(|id| left_out(place(id).affinity.load(Relaxed)));
    COUNT.store(count, Relaxed);
    SHARED.store(features.bits(), Relaxed);
    count
}

/// Waits until a core is there, and keeps of `features` what it has too.
fn wait_for(other: &PerCore, features: &mut Features) -> bool {
    let end = registers::now() + PATIENCE * registers::timer_hz();
    registers::set_timer(end);
    while other.said.load(Acquire) == 0 && registers::now() < end {
        registers::sleep();
        // Each core that comes interrupts this one.
        if let Some(number) = gic::acknowledge() {
            gic::complete(number);
        }
    }
    registers::set_timer(u64::MAX);
    let said = other.said.load(Acquire);
    *features &= Features::from_bits_retain(said);
    said & HERE != 0
}

fn left_out(affinity: u64) {
    panic::say(&[("exo: this core does not start: ", affinity, 16)]);
}

/// What all cores can. This one does nothing else from here on.
pub fn settle() -> Features {
    let shared = Features::from_bits_truncate(SHARED.load(Relaxed));
    let features = if COUNT.load(Relaxed) == 1 { registers::features() } else { shared };
    SEED.store(registers::seed(), Relaxed);
    registers::prepare(features, SEED.load(Relaxed));
    SHARED.store(features.bits(), Relaxed);
    features
}

/// The machine is set up: the others may run.
pub fn release() {
    SHARED.fetch_or(HERE, Release);
    (1..COUNT.load(Relaxed)).for_each(|id| gic::send(place(id)));
}

/// What another core begins with, on its own stack.
pub extern "C" fn main() -> ! {
    let own = place(Arm.core().id());
    registers::begin_timer();
    if gic::begin_core().is_err() {
        own.said.store(LOST, Release);
    } else {
        own.target.store(gic::own_target(), Relaxed);
        own.said.store(HERE | registers::features().bits(), Release);
    }
    gic::send(place(0));
    // The first core's interrupt stays pending until the first vcore's entry, or the idle loop, takes it.
    while SHARED.load(Acquire) & HERE == 0 || own.core.id() >= COUNT.load(Relaxed) {
        registers::sleep();
    }
    registers::prepare(Features::from_bits_truncate(SHARED.load(Relaxed)), SEED.load(Relaxed));
    entry::begin()
}
