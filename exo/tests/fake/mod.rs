//! A machine for tests: frames of real memory, a model of the TLB, a clock that stands still, devices that only record.

pub mod check;
pub mod tlb;
pub mod tree;
pub mod user;
pub mod world;

use exo::device_tree::{Range, Ranges};
use exo::environment::Environment;
use exo::first;
use exo::frame::{EXPOSED, Frames, Kind, Word};
use exo::machine::{Found, LINEAR, Line, MAX_SPAN, Machine, Power, Tables, Trigger, Words};
use exo::slice::{self, Core};
use exo::vcore::{Vcore, VcoreRef};
use exo_abi::boot::{BOOT_MAGIC, BootHeader, END_MAGIC, InitRun};
use exo_abi::{ABI_VERSION, Pfn};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering::*};
use tlb::Tlb;

/// First frame of RAM.
pub const FIRST: u64 = 0x40000;
/// The frame whose words are the machine information page.
pub const INFO: Pfn = Pfn(FIRST);
/// The first of the slice vectors' frames.
pub const SLICES: u64 = FIRST + 1;
/// A frame of the kernel that nobody may map.
pub const SECRET: Pfn = Pfn(FIRST + 3);
/// First frame of the archive.
pub const ARCHIVE: Pfn = Pfn(FIRST + 4);
/// Frames of the archive.
pub const ARCHIVE_FRAMES: u64 = 8;
/// A hole in the span of RAM: four frames.
pub const HOLE: Pfn = Pfn(FIRST + 12);
/// First frame that is free at the start.
pub const FREE: u64 = FIRST + 16;
/// The debug UART.
pub const UART: Pfn = Pfn(0x9000);
/// The interrupt controller.
pub const CONTROLLER: Pfn = Pfn(0x8000);
/// Interrupt lines.
pub const LINES: usize = 64;
/// Ticks of a microsecond.
pub const TICKS: u64 = 100;
/// What the memory holds before anybody zeroes it.
pub const GARBAGE: u64 = 0x5A5A_5A5A_5A5A_5A5B;
/// First address of the first environment's text.
pub const TEXT: u64 = 0x40_0000;
/// First address of its writable pages.
pub const DATA: u64 = 0x40_4000;
/// Its control page.
pub const CONTROL: u64 = 0x40_9000;

#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);

/// What the kernel asked of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Did {
    Route(u64, u64, Trigger),
    Mask(u64),
    Retire(u64),
    Unmask(u64),
    InterruptCore(u64),
    LoadFp(Pfn),
    SaveFp(Pfn),
    DropFp,
    CleanCode(Pfn),
    InvalidateInstructions,
    ResetUart,
    Power(Power),
}

/// A fault put into the machine, to see that the checks find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seed {
    /// The machine is as it should be.
    None,
    /// Invalidations never complete.
    NeverFinishes,
    /// The invalidation of an address space does nothing.
    ForgetsSpaces,
    /// The invalidation of an address space leaves the window alone.
    ForgetsWindows,
    /// The invalidation of a page does nothing.
    ForgetsPages,
}

/// The machine.
pub struct Fake {
    found: Found<'static>,
    memory: Box<[Page]>,
    tables: Box<Tables>,
    cores: Vec<Core>,
    /// The core that works.
    pub here: Cell<usize>,
    /// The clock.
    pub now: Cell<u64>,
    /// Where the calling program goes on.
    pub pc: Cell<u64>,
    /// Its stack pointer.
    pub sp: Cell<u64>,
    /// What each core's timer stands at.
    pub timers: Vec<Cell<u64>>,
    /// All that TLBs may hold.
    pub tlb: RefCell<Tlb>,
    /// What the kernel asked of the machine.
    pub did: RefCell<Vec<Did>>,
    /// What the debug UART printed.
    pub printed: RefCell<Vec<u8>>,
    /// What is wrong with this machine.
    pub seed: Cell<Seed>,
    /// Looks at kernel memory since it was last set to 0: how long a call took.
    pub work: Cell<u64>,
    /// Cores that were interrupted by another, and have not looked yet.
    pub interrupted: RefCell<Vec<u64>>,
    /// What was seen to be wrong in the middle of calls.
    pub seen: RefCell<Vec<String>>,
}

impl Fake {
    /// A machine with RAM, kernel frames and archive, and nothing in it yet.
    pub fn bare(frames: u64, cores: u64) -> Fake {
        let words: Vec<AtomicU64> = (0..frames)
            .map(|index| {
                AtomicU64::new(match FIRST + index {
                    pfn if pfn == SECRET.0 => Word::new(0, Kind::Kernel, 0).0,
                    pfn if pfn < ARCHIVE.0 => Word::new(0, Kind::Kernel, 0).0 | EXPOSED,
                    pfn if (HOLE.0..HOLE.0 + 4).contains(&pfn) => Word::new(0, Kind::Device, 0).0,
                    pfn if pfn < FREE => Word::new(0, Kind::Kernel, 0).0,
                    _ => Word::new(0, Kind::Free, 0).0,
                })
            })
            .collect();
        let free = |index: u64| FIRST + index >= FREE && index < frames;
        let bitmap: Vec<AtomicU64> = (0..frames.div_ceil(64))
            .map(|word| AtomicU64::new((0..64).filter(|bit| free(word * 64 + bit)).map(|bit| 1 << bit).sum()))
            .collect();
        let memory: Box<[Page]> = (0..frames).map(|_| Page([const { AtomicU64::new(GARBAGE) }; 512])).collect();
        memory[..ARCHIVE.0 as usize - FIRST as usize]
            .iter()
            .flat_map(|page| &page.0)
            .for_each(|word| word.store(0, Relaxed));
        memory[(ARCHIVE.0 + ARCHIVE_FRAMES - 1 - FIRST) as usize].0[511].store(END_MAGIC, Relaxed);
        let mut devices = Ranges::default();
        devices.push(Range::new(CONTROLLER.address(), 4096));
        Fake {
            found: Found {
                frames: Frames {
                    first: FIRST,
                    words: Box::leak(words.into_boxed_slice()),
                    bitmap: Box::leak(bitmap.into_boxed_slice()),
                },
                lines: Box::leak((0..2 * LINES).map(|_| AtomicU64::new(0)).collect()),
                hz: TICKS * 1_000_000,
                uart: Some(UART),
                devices,
            },
            memory,
            tables: Box::new(Tables::at_boot()),
            cores: (0..cores)
                .map(|id| {
                    // SAFETY: a core is made of atomics, to which zeros are valid values.
                    let core: Core = unsafe { std::mem::zeroed() };
                    core.begin(id, Pfn(SLICES + id));
                    core
                })
                .collect(),
            here: Cell::new(0),
            now: Cell::new(1_000_000),
            pc: Cell::new(0x1000),
            sp: Cell::new(0x2000),
            timers: (0..cores).map(|_| Cell::new(u64::MAX)).collect(),
            tlb: RefCell::new(Tlb::default()),
            did: RefCell::default(),
            printed: RefCell::default(),
            seed: Cell::new(Seed::None),
            work: Cell::new(0),
            interrupted: RefCell::default(),
            seen: RefCell::default(),
        }
    }

    /// A machine on which the first environment runs.
    pub fn with(frames: u64, cores: u64) -> Fake {
        let fake = Fake::bare(frames, cores);
        first::build(&fake, &header(), ARCHIVE, frames - (FREE - FIRST), INFO, cores)
            .expect("the first environment fits");
        let outcome = slice::schedule(&fake);
        fake.settle(outcome, &mut [0; 11]);
        fake.assert_clean();
        fake
    }

    /// The usual machine.
    pub fn new() -> Fake {
        Fake::with(512, 1)
    }

    fn worked(&self) {
        self.work.set(self.work.get() + 1);
    }

    fn page(&self, pfn: Pfn) -> &Page {
        self.memory
            .get((pfn.0 - FIRST) as usize)
            .unwrap_or_else(|| panic!("the kernel looked at {pfn:?}, which is no RAM"))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // SAFETY: the slices were leaked from boxes by `bare`, nothing else frees them, and no reference to them outlives the machine.
        unsafe {
            drop(Box::from_raw(std::ptr::from_ref(self.found.frames.words).cast_mut()));
            drop(Box::from_raw(std::ptr::from_ref(self.found.frames.bitmap).cast_mut()));
            drop(Box::from_raw(std::ptr::from_ref(self.found.lines).cast_mut()));
        }
    }
}

/// What the image-builder would write: three pages of text, one read-only page, four writable ones.
pub fn header() -> BootHeader {
    let run =
        |va: u64, archive_page: u32, pages: u32, prot: u32| InitRun { va, archive_page, pages, prot, reserved: 0 };
    let mut runs = [InitRun::default(); 8];
    (runs[0], runs[1], runs[2]) = (run(TEXT, 0, 3, 5), run(TEXT + 0x3000, 3, 1, 1), run(DATA, 4, 3, 3));
    BootHeader {
        magic: BOOT_MAGIC,
        abi_version: ABI_VERSION,
        flags: 0,
        build_id: [7; 16],
        early_uart: 0,
        device_tree: 0,
        archive_offset: 0x10000,
        archive_bytes: ARCHIVE_FRAMES * 4096,
        init_entry: TEXT,
        init_stack: DATA + 0x3000,
        init_control: CONTROL,
        init_runs: runs,
        checksum: 0,
        reserved: 0,
    }
}

impl Machine for Fake {
    fn tables(&self) -> &Tables {
        self.worked();
        &self.tables
    }
    fn found(&self) -> &Found<'_> {
        self.worked();
        &self.found
    }
    fn words(&self, pfn: Pfn) -> &Words {
        self.worked();
        &self.page(pfn).0
    }
    fn environment(&self, pfn: Pfn) -> &Environment {
        self.worked();
        let page = std::ptr::from_ref(self.page(pfn));
        // SAFETY: a page is as large as an environment and as aligned, any bits are one (atomics and a lock that is an atomic), and the memory lives as long as the machine.
        unsafe { &*page.cast::<Environment>() }
    }
    fn vcore(&self, vcore: VcoreRef) -> &Vcore {
        assert!(
            vcore.0 & 63 == 0 && vcore.0 >> 6 & 63 >= 8 && vcore.0 & !(MAX_SPAN - 1) == LINEAR,
            "the kernel looked for a vcore in {vcore:?}"
        );
        &self.environment(vcore.environment()).vcores[vcore.index() as usize]
    }
    fn core(&self) -> &Core {
        self.worked();
        &self.cores[self.here.get()]
    }
    fn core_at(&self, id: u64) -> Option<&Core> {
        self.cores.get(id as usize)
    }
    fn now(&self) -> u64 {
        self.now.get()
    }
    fn user_pc(&self) -> u64 {
        self.pc.get()
    }
    fn user_sp(&self) -> u64 {
        self.sp.get()
    }
    fn set_timer(&self, at: u64) {
        self.timers[self.here.get()].set(at);
    }
    fn exchange(&self, word: &AtomicU64, old: u64, new: u64) -> Result<(), u64> {
        word.compare_exchange(old, new, AcqRel, Acquire).map(|_| ())
    }
    fn add(&self, word: &AtomicU64, value: u64) {
        word.fetch_add(value, Release);
    }
    fn zero(&self, pfn: Pfn) {
        self.before_zero(pfn);
        self.page(pfn).0.iter().for_each(|word| word.store(0, Relaxed));
        // About what it costs: 64 steps of DC ZVA.
        self.work.set(self.work.get() + 64);
    }
    fn publish_descriptors(&self) {
        self.fill_tlb();
    }
    fn invalidate_page(&self, asid: u64, va: u64) {
        if self.seed.get() != Seed::ForgetsPages {
            self.tlb.borrow_mut().forget_page(asid, va);
        }
    }
    fn invalidate_space(&self, asid: u64) {
        match self.seed.get() {
            Seed::ForgetsSpaces => {}
            Seed::ForgetsWindows => self.tlb.borrow_mut().forget_space(asid, tlb::Window::Stays),
            _ => self.tlb.borrow_mut().forget_space(asid, tlb::Window::Goes),
        }
    }
    fn finish_invalidation(&self) {
        // Until now another core could load whatever the tables still say.
        self.fill_tlb();
        if self.seed.get() != Seed::NeverFinishes {
            self.tlb.borrow_mut().finish();
        }
    }
    fn clean_code(&self, pfn: Pfn) {
        self.did.borrow_mut().push(Did::CleanCode(pfn));
    }
    fn invalidate_instructions(&self) {
        self.did.borrow_mut().push(Did::InvalidateInstructions);
    }
    fn reset_uart(&self) {
        self.did.borrow_mut().push(Did::ResetUart);
    }
    fn write_uart(&self, bytes: &[u8]) {
        self.printed.borrow_mut().extend(bytes);
    }
    fn set_line(&self, line: u64, to: Line) {
        self.did.borrow_mut().push(match to {
            Line::Masked => Did::Mask(line),
            Line::Unmasked => Did::Unmask(line),
            Line::Retired => Did::Retire(line),
            Line::Routed(core, trigger) => Did::Route(line, core, trigger),
        });
    }
    fn interrupt_core(&self, id: u64) {
        self.did.borrow_mut().push(Did::InterruptCore(id));
        self.interrupted.borrow_mut().push(id);
    }
    fn load_fp(&self, control: Pfn) {
        self.did.borrow_mut().push(Did::LoadFp(control));
    }
    fn save_fp(&self, control: Pfn) {
        self.did.borrow_mut().push(Did::SaveFp(control));
    }
    fn drop_fp(&self) {
        self.did.borrow_mut().push(Did::DropFp);
    }
    fn power(&self, what: Power) {
        self.did.borrow_mut().push(Did::Power(what));
    }
}
