//! Arguments for calls: sensible ones, nearly sensible ones, and the integers on which arithmetic breaks.

use crate::fake::world::*;
use crate::fake::{ARCHIVE, CONTROL, CONTROLLER, DATA, FIRST, FREE, Fake, HOLE, INFO, SECRET, TEXT, TICKS, UART};
use exo::binding;
use exo::environment;
use exo::frame::{Kind, Word};
use exo::machine::Machine;
use exo_abi::binding::BindingKind;
use exo_abi::page::WINDOW_LEVEL_3;
use exo_abi::{Call, Pfn};

/// Numbers from one seed: SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Numbers on which arithmetic breaks.
pub const EXTREMES: &[u64] = &[
    0,
    1,
    2,
    47,
    48,
    63,
    64,
    65,
    255,
    256,
    511,
    512,
    767,
    768,
    1023,
    1024,
    4095,
    4096,
    0xffff,
    1 << 16,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 44,
    1 << 48,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

pub struct Player<'f> {
    pub fake: &'f Fake,
    pub dice: Dice,
}

impl Player<'_> {
    /// A handle of this kind, if there is one; now and then any.
    pub fn handle(&mut self, kind: BindingKind) -> u64 {
        if self.dice.one_in(10) {
            return if self.dice.one_in(3) { self.dice.of(EXTREMES) } else { self.dice.below(60) };
        }
        let me = self.fake.environment(self.fake.running().environment());
        if kind == BindingKind::Pool && self.dice.one_in(2) {
            return POOL;
        }
        if kind == BindingKind::Env && self.dice.one_in(2) {
            return SELF;
        }
        let fits: Vec<u64> = (0..128)
            .filter(|handle| binding::read(self.fake, me, *handle).is_ok_and(|binding| self::kind(&binding) == kind))
            .collect();
        if fits.is_empty() { 0 } else { self.dice.of(&fits) }
    }

    /// A number of the caller's that is not used, mostly.
    pub fn own_name(&mut self, kind: u64) -> u64 {
        if self.dice.one_in(6) {
            return if self.dice.one_in(2) { self.dice.of(EXTREMES) } else { 3 + self.dice.below(64) };
        }
        let me = self.fake.environment(self.fake.running().environment()).number();
        let own: Vec<u64> =
            (1..256).filter(|number| environment::owner(self.fake, kind, *number).unwrap() == (me, false)).collect();
        if own.is_empty() { 0 } else { self.dice.of(&own) }
    }

    /// A frame that could become an object of the caller's, mostly.
    pub fn data_frame(&mut self, pool: u64) -> u64 {
        if self.dice.one_in(6) {
            return self.frame();
        }
        let me = self.fake.environment(self.fake.running().environment());
        let pool = binding::read(self.fake, me, pool).map_or(0, |binding| binding.object);
        let all = FREE..FIRST + self.fake.frames().words.len() as u64;
        let fits: Vec<u64> =
            all.filter(|pfn| self.fake.frames().read(Pfn(*pfn)) == Some(Word::new(pool, Kind::Data, 0))).collect();
        if fits.is_empty() { 0 } else { self.dice.of(&fits) }
    }

    /// A frame, mostly one that the caller could use.
    pub fn frame(&mut self) -> u64 {
        let own = self.fake.environment(self.fake.running().environment()).pool();
        let like = |kinds: &[Kind], pool: Option<u64>| -> Vec<u64> {
            let all = FREE..FIRST + self.fake.frames().words.len() as u64;
            all.filter(|pfn| {
                self.fake
                    .frames()
                    .read(Pfn(*pfn))
                    .is_some_and(|word| kinds.contains(&word.kind()) && pool.is_none_or(|pool| pool == word.pool()))
            })
            .collect()
        };
        let choices = match self.dice.below(12) {
            0..=4 => like(&[Kind::Free], None),
            5..=8 => like(&[Kind::Data, Kind::Code], Some(own)),
            9 => like(&[Kind::Data, Kind::Code, Kind::Control, Kind::Table, Kind::Environment, Kind::Bindings], None),
            10 => vec![SECRET.0, INFO.0, ARCHIVE.0, ARCHIVE.0 + 5, HOLE.0, UART.0, CONTROLLER.0, 0x9100],
            _ => EXTREMES.to_vec(),
        };
        if choices.is_empty() { FREE } else { self.dice.of(&choices) }
    }

    pub fn address(&mut self) -> u64 {
        if self.dice.one_in(2) {
            // Where the caller surely has tables.
            let base =
                if self.fake.environment(self.fake.running().environment()).number() == 1 { 0x41_0000 } else { PLACE };
            return base + self.dice.below(6) * 4096;
        }
        let base = self.dice.of(&[
            PLACE,
            PLACE,
            PLACE,
            CHILD_CONTROL,
            TEXT,
            DATA,
            CONTROL,
            0x41_0000,
            0x60_0000,
            1 << 30,
            WINDOW_LEVEL_3 - 4096,
            WINDOW_LEVEL_3,
        ]);
        base + self.dice.below(4) * 4096
    }

    /// An entry of a `map` batch.
    pub fn entry(&mut self) -> (u64, u64) {
        if self.dice.one_in(30) {
            return (self.dice.roll(), self.dice.roll());
        }
        let op = self.dice.of(&[1u64, 1, 1, 1, 2, 2, 2, 3, 4, 4, 5, 6]);
        let low = match op {
            1 | 3 => self.dice.of(&[0x01u64, 0x11, 0x13, 0x33, 0x13, 0x05, 0x15, 0x55, 0x07, 0x80, 0x02]),
            4 | 5 => self.dice.of(&[2u64, 3, 3, 1, 0]),
            6 => self.dice.of(&[0u64, 0x10, 0x20, 0x30]),
            _ => 0,
        };
        let count = if self.dice.one_in(4) { self.dice.of(&[2, 3, 20, 70, 600, 0xffff]) } else { 1 };
        let (pfn, handle) = match op {
            1 if self.dice.one_in(8) => (self.frame() & 0xffff_ffff, self.handle(BindingKind::Device)),
            1 | 4 => {
                let pool = self.handle(BindingKind::Pool);
                (if self.dice.one_in(4) { self.frame() } else { self.data_frame(pool) } & 0xffff_ffff, pool)
            }
            3 | 6 => (0, self.handle(BindingKind::Pool)),
            _ => (0, 0),
        };
        let count = if op == 4 || op == 5 { 1 } else { count };
        (self.address() | op | low << 4, pfn | count << 32 | (handle & 0xffff) << 48)
    }

    pub fn small(&mut self) -> u64 {
        if self.dice.one_in(12) { self.dice.of(EXTREMES) } else { self.dice.below(4) }
    }

    pub fn slot(&mut self) -> u64 {
        if self.dice.one_in(12) { self.dice.of(EXTREMES) } else { 30 + self.dice.below(40) }
    }

    pub fn rights(&mut self) -> u64 {
        self.dice.of(&[0xff, 0xff, 0x8f, 0x7f, 0x81, 1, 3, 0, 0x85, 0x100])
    }

    pub fn frames_in_batch(&mut self, call: Call, pool: u64) -> u64 {
        let free = self.fake.free_count().min(12);
        let free = if call == Call::FrameAlloc { self.fake.free_frames(free) } else { vec![] };
        let one = |player: &mut Self| match () {
            _ if player.dice.one_in(12) => player.frame(),
            _ if call == Call::FrameAlloc && !free.is_empty() => player.dice.of(&free).0,
            _ => player.data_frame(pool),
        };
        let frames: Vec<(u64, u64)> = (0..=self.dice.below(6)).map(|_| (one(self), 0)).collect();
        let count = self.fake.batch(frames);
        if self.dice.one_in(20) { self.dice.of(EXTREMES) } else { count }
    }

    /// A call that could well be granted, or nearly.
    pub fn sensible(&mut self, call: Call) -> Vec<u64> {
        use BindingKind::*;
        match call {
            Call::Call => {
                let flags = self.dice.of(&[0u64, 0, 0, 1 << 16, 1 << 17, 1 << 18, 3 << 17, 1 << 40]);
                let send = self.handle(Pool) | self.rights() << 16;
                vec![
                    self.handle(Gate) | flags,
                    1,
                    2,
                    3,
                    4,
                    5,
                    6,
                    7,
                    self.fake.now.get() + self.dice.below(4000) * TICKS,
                    send,
                    self.slot(),
                ]
            }
            Call::ReplyWait => {
                let flags = self.dice.of(&[0u64, 0, 0, 1 << 48, 1 << 49, 1 << 50, 3 << 49, 1 << 60]);
                let send = self.handle(Pool) | self.rights() << 16;
                vec![
                    self.dice.of(&[0, 0xff, 0xff00_0000_00ff, 1 << 42]) | flags,
                    9,
                    8,
                    7,
                    6,
                    5,
                    4,
                    3,
                    self.fake.now.get() + self.dice.below(4000) * TICKS,
                    send,
                    self.slot(),
                ]
            }
            Call::Wait => vec![
                self.dice.of(&[0, 0xff, 0xff00_0000_00ff, (1 << 48) - 1, 1 << 48]),
                self.dice.of(&[0, 1, self.fake.now.get() + 1000 * TICKS, u64::MAX]),
            ],
            Call::Notify => vec![self.handle(Event)],
            Call::YieldTo => {
                let kind = self.dice.of(&[Env, Gate]);
                vec![self.handle(kind), self.dice.below(2)]
            }
            Call::FrameAlloc | Call::FrameFree | Call::FrameKind => {
                let pool = if self.dice.one_in(3) { self.handle(Pool) } else { POOL };
                vec![pool, self.frames_in_batch(call, pool), self.dice.below(2)]
            }
            Call::Map => {
                let most = self.dice.of(&[1, 1, 3, 8]);
                let entries: Vec<(u64, u64)> = (0..=self.dice.below(most)).map(|_| self.entry()).collect();
                let count = self.fake.batch(entries);
                vec![self.handle(Env), count]
            }
            Call::PoolCreate => vec![
                self.handle(Pool),
                self.own_name(1),
                self.own_name(2),
                self.dice.of(&[0, 3, 8, 20, 1 << 30]),
                self.small(),
                self.slot(),
            ],
            Call::PoolDestroy | Call::EnvDestroy => {
                let kind = if call == Call::PoolDestroy { Pool } else { Env };
                vec![self.handle(kind), 0]
            }
            Call::EnvCreate => {
                let pool = self.handle(Pool);
                vec![
                    pool,
                    self.own_name(0),
                    self.own_name(2),
                    self.data_frame(pool),
                    self.data_frame(pool),
                    self.data_frame(pool),
                    self.slot(),
                ]
            }
            Call::BindingsAdd => vec![self.handle(Env), self.data_frame(POOL)],
            Call::NamesGive => {
                let kind = self.dice.below(3);
                vec![self.handle(Env), kind, self.own_name(kind), self.small()]
            }
            Call::VcoreCreate => vec![
                self.handle(Env),
                self.small(),
                self.data_frame(POOL),
                self.address(),
                1,
                2,
                3,
                self.dice.of(&[0, 0, 0, 1, 9]),
            ],
            Call::VcoreStart => vec![self.handle(Env), self.small(), self.dice.below(2) * 0x1000, 5, 6],
            Call::VcoreStop | Call::VcoreReport => vec![self.handle(Env), self.small()],
            Call::Halt => vec![self.dice.below(9)],
            Call::GateBind => vec![self.handle(Env), self.small(), self.own_name(2), self.slot(), 5],
            Call::EventBind => vec![self.handle(Env), self.small(), self.own_name(2), self.slot(), self.dice.below(50)],
            Call::Grant => {
                let kind = self.dice.of(&[Pool, Pool, Env, Gate, Event, Core, Irq, Device, Power]);
                let range = if self.dice.one_in(3) { (self.dice.below(64), self.small()) } else { (0, 0) };
                vec![
                    self.handle(kind),
                    self.handle(Env),
                    self.slot(),
                    self.rights(),
                    if self.dice.one_in(3) { self.own_name(2) } else { 0 },
                    range.0,
                    range.1,
                ]
            }
            Call::TakeBack => vec![self.own_name(2)],
            Call::Restrict => vec![self.slot(), self.rights()],
            Call::SliceClaim => vec![
                self.handle(Core),
                self.dice.of(&[0, 0, 0, 1]),
                self.dice.below(12),
                self.handle(Env),
                self.small(),
                self.dice.of(&[0, 20, 500, 19]),
                self.dice.below(2),
            ],
            Call::SliceRelease => vec![self.handle(Core), 0, self.dice.below(12)],
            Call::IrqBind => {
                vec![self.handle(Irq), 30 + self.dice.below(40), self.small(), self.dice.below(41), self.dice.below(2)]
            }
            Call::IrqAck => vec![self.handle(Irq), 30 + self.dice.below(40)],
            Call::DebugWrite => vec![self.handle(Device), self.dice.below(50)],
            Call::Power => vec![self.handle(Power), self.small()],
            Call::Audit => vec![self.handle(Power), self.frame()],
            Call::Null | Call::Resume => vec![],
        }
    }
}
