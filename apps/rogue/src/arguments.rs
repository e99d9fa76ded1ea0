//! Arguments that no caller means: extremes in each place of each call, random ones in all, handles that were never given.
//!
//! A child makes the calls, on itself: what it does to itself is its own matter, and ends with it.

use crate::book::{Book, End};
use alloc::vec::Vec;
use exo_abi::binding::{Rights, first};
use exo_abi::calls::{CALLS, Call};
use exo_abi::{Handle, Refusal};
use libos::println;
use workshop::{Child, Common, Ground, Order, Script};

/// The extremes.
const EXTREMES: [u64; 18] = [
    0,
    1,
    2,
    63,
    64,
    0xfff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    (1 << 39) - 4096,
    1 << 39,
    1 << 48,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX,
];

/// Handles that the child has, besides itself (0) and its pool (1).
const GIFTS: [(Handle, u16, u8); 4] =
    [(first::CORES, 2, 0x81), (first::INTERRUPTS, 3, 0x81), (first::DEVICES, 4, 0x80), (first::POWER, 5, 0x82)];
/// The child's own gate and event.
const GATE: u64 = 6;
const EVENT: u64 = 7;

/// A child that may do much, to itself.
fn subject(ground: &Ground) -> Result<Child, Refusal> {
    let mut child = Child::build(ground, 16)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    for (binding, slot, rights) in GIFTS {
        child.give(binding, Handle(slot), Rights::from_bits_retain(rights))?;
    }
    let gate = child.gate(ground, 0, 1)?;
    child.give(gate, Handle(GATE as u16), Rights::from_bits_retain(0x81))?;
    let event = child.event(ground, 0, 1)?;
    child.give(event, Handle(EVENT as u16), Rights::from_bits_retain(0x81))?;
    libos::slots::empty(gate);
    libos::slots::empty(event);
    Ok(child)
}

/// The handle that lets a call get furthest.
fn best_handle(call: Call) -> u64 {
    match call {
        Call::Call => GATE,
        Call::Notify => EVENT,
        Call::FrameAlloc
        | Call::FrameFree
        | Call::FrameKind
        | Call::PoolCreate
        | Call::PoolDestroy
        | Call::EnvCreate
        | Call::Grant => 1,
        Call::SliceClaim | Call::SliceRelease => 2,
        Call::IrqBind | Call::IrqAck => 3,
        Call::DebugWrite => 4,
        Call::Power | Call::Audit => 5,
        _ => 0,
    }
}

/// Each extreme in each argument of each call, and of numbers that are no calls.
pub fn extremes(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let numbers = (0..64).chain([0x8000, 0xfffe]);
    let mut orders = numbers.filter(|number| *number != Call::Halt as u64).flat_map(|number| {
        let call = Call::from_number(number);
        let places = if call.is_some() { 12 } else { 1 };
        (0..places).flat_map(move |place| {
            EXTREMES.iter().map(move |extreme| {
                let mut order = Order::new(number, &[call.map_or(0, best_handle)]);
                match place {
                    11 => order.x16 = *extreme,
                    _ => order.x[place] = *extreme,
                }
                order
            })
        })
    });
    let (calls, deaths) = drive(ground, book, &mut orders)?;
    println!("{calls} calls with extreme arguments, {deaths} children died of their own");
    book.attack(format_args!("extremes in every argument of every call"), End::Refused);
    Ok(())
}

/// Numbers that are no calls, with harmless and harmful registers.
pub fn unknown_numbers(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let mut child = Child::build(ground, 16)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    let numbers: Vec<u64> = (Call::END..64).chain([0x8000, 0xfffe]).collect();
    let orders = |x| numbers.iter().map(|number| Order { number: *number, x: [x; 11], x16: x }).collect::<Vec<_>>();
    let mut known = 0;
    for x in [0, u64::MAX] {
        let progress = Script::run(&child, &orders(x))?;
        for index in 0..progress.begun {
            known += u64::from(Script::result(&child, index)?[0] != Refusal::NoSuchCall as u64);
        }
        known += u64::from(!progress.finished);
    }
    let end = if known == 0 { End::Refused } else { End::Harm };
    book.attack(format_args!("{} numbers that are no calls", numbers.len()), end);
    child.destroy(ground)
}

/// Random numbers: xorshift64*, so that a round can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A word that an attacker would choose.
    fn word(&mut self) -> u64 {
        match self.next() % 8 {
            0 => self.next(),
            1 => 1 << (self.next() % 64),
            2 => (1u64 << (self.next() % 64)).wrapping_sub(1),
            3 => EXTREMES[(self.next() % EXTREMES.len() as u64) as usize],
            4 => workshop::DATA_VA + (self.next() % 64) * 8,
            _ => self.next() % 16,
        }
    }
}

/// A random call with random arguments.
fn random_order(random: &mut Random) -> Order {
    let mut number = random.next() % (Call::END + 3);
    if number == Call::Halt as u64 {
        number = Call::Map as u64;
    }
    let mut order = Order { number, x: core::array::from_fn(|_| random.word()), x16: random.word() };
    // Mostly a handle that is looked at further than its kind.
    if let Some(call) = Call::from_number(number)
        && !random.next().is_multiple_of(4)
    {
        order.x[0] = best_handle(call);
    }
    order
}

/// Random calls with random arguments.
pub fn random(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    const CALLS: usize = 4000;
    const SEED: u64 = 0x5eed_0f5e_ed0f_5eed;
    let mut random = Random(SEED);
    let mut orders = core::iter::repeat_with(|| random_order(&mut random)).take(CALLS);
    let (calls, deaths) = drive(ground, book, &mut orders)?;
    println!("{calls} random calls from seed {SEED:#x}, {deaths} children died of their own");
    book.attack(format_args!("random calls"), End::Refused);
    Ok(())
}

/// Has children make the calls; one that stops or waits for ever is replaced. Answers how many calls, and how many children.
fn drive(ground: &Ground, book: &mut Book, orders: &mut dyn Iterator<Item = Order>) -> Result<(u64, u64), Refusal> {
    let mut child = subject(ground)?;
    let (mut calls, mut deaths) = (0, 0);
    let mut part: Vec<Order> = Vec::new();
    loop {
        part.extend(orders.take(Script::room(&child) as usize - part.len()));
        if part.is_empty() {
            break;
        }
        let progress = match Script::run(&child, &part) {
            Ok(progress) => progress,
            // It waits: for an event, a call, a time.
            Err(Refusal::Busy) => workshop::Progress { begun: Script::begun(&child)?, finished: false },
            Err(refusal) => return Err(refusal),
        };
        for (index, order) in part.iter().enumerate().take(progress.begun as usize) {
            // The last one of an unfinished script never came back.
            let came_back = progress.finished || index as u64 + 1 < progress.begun;
            if came_back && !matches!(Call::from_number(order.number), Some(Call::ReplyWait | Call::Resume)) {
                book.listed(order.number, Script::result(&child, index as u64)?[0]);
            }
        }
        let begun = (progress.begun as usize).clamp(1, part.len());
        calls += begun as u64;
        part.drain(..begun);
        if !progress.finished {
            deaths += 1;
            child.destroy(ground)?;
            child = subject(ground)?;
        }
    }
    child.destroy(ground)?;
    Ok((calls, deaths))
}

/// Handles that were never given: none answers to any call.
pub fn handles(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let mut child = Child::build(ground, 16)?;
    child.vcore(Common::Halt.va(), 0, 0)?;
    let forged = (2..1100).chain([0x7fff, 0x8000, 0xffff, 0x1_0000, 0x1_0001, 1 << 32, u64::MAX]);
    let mut orders = Vec::new();
    for handle in forged {
        let call = CALLS[handle as usize % CALLS.len()].call;
        // Those whose first argument is no handle.
        let call = match call {
            Call::Null | Call::Wait | Call::ReplyWait | Call::Resume | Call::Halt | Call::TakeBack => Call::Audit,
            call => call,
        };
        orders.push(Order::new(call as u64, &[handle, 1, 1, 1]));
    }
    let mut answered = 0;
    for part in orders.chunks(Script::room(&child) as usize) {
        let progress = Script::run(&child, part)?;
        for index in 0..progress.begun {
            let x0 = Script::result(&child, index)?[0];
            let refusal = Refusal::from_number(x0);
            // A call's flags lie above its handle.
            answered += u64::from(!matches!(refusal, Some(Refusal::BadHandle | Refusal::BadArgument)));
        }
    }
    let end = if answered == 0 { End::Refused } else { End::Harm };
    book.attack(format_args!("{} forged handles ({answered} answered)", orders.len()), end);
    child.destroy(ground)
}
