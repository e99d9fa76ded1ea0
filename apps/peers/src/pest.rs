//! A hostile client, by hand: everything a program can say to a service that it may call.

use crate::honest::{PATIENCE, client};
use crate::store::store::{self, VERSION};
use crate::{Held, same};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Pfn, Refusal};
use libos::event::{self, Event};
use libos::ipc::Gate;
use libos::ipc::names;
use libos::ipc::rpc::message::{self, answer, request};
use libos::ipc::rpc::{Bytes, CallError};
use libos::mem::{self, Shared};
use libos::protocol::{Message, supervisor};
use libos::sys::{self, CallMessage, Progress, SliceTerms};
use libos::time::{self, Instant};
use libos::vcore::Vcore;
use libos::{machine, slots};
use workshop::{Ground, audit};

const PAGES: usize = 2;
const PUT: u8 = 0;
const SUM: u8 = 3;

/// The store's gate, in a slot of its own.
struct Raw(Gate);

impl Raw {
    fn new() -> Result<Raw, Refusal> {
        let slot = slots::take().ok_or(Refusal::SlotTaken)?;
        names::await_service("store", slot, Instant::after(PATIENCE)).map_err(|_| Refusal::NotFree)?;
        Ok(Raw(Gate::new(slot)))
    }

    fn say(&self, message: &Message, send: Option<(Handle, Rights)>) -> Result<Message, Refusal> {
        let call = CallMessage { words: message.to_words(), send, ..CallMessage::default() };
        self.0.call_patiently(&call, Instant::after(PATIENCE)).map(|reply| Message::from_words(&reply.words))
    }

    fn code(&self, message: &Message) -> Result<u8, Refusal> {
        self.say(message, None).map(|reply| reply.code)
    }

    /// Offers frames of a pool; the answer's code and connection.
    fn lend(&self, pool: Handle, rights: Rights, frames: [Pfn; PAGES]) -> Result<(u8, u16), Refusal> {
        self.code(&message::new(request::OPEN, VERSION))?;
        let mut offer = message::new(request::LEND, VERSION);
        for (bytes, frame) in offer.bytes.chunks_exact_mut(8).zip(frames) {
            bytes.copy_from_slice(&frame.0.to_le_bytes());
        }
        self.say(&offer, Some((pool, rights))).map(|reply| (reply.code, reply.flags))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        slots::empty(self.0.handle());
    }
}

/// A pool of two frames, that its maker can end at any time.
struct Loan {
    pool: Handle,
    number: u64,
    cell: u64,
    frames: [Pfn; PAGES],
}

impl Loan {
    fn new() -> Result<Loan, Refusal> {
        let (number, cell) =
            (slots::take_pool().ok_or(Refusal::NotYours)?, slots::take_cell().ok_or(Refusal::NotYours)?);
        let pool = slots::take().ok_or(Refusal::SlotTaken)?;
        sys::pool_create(Handle::POOL, number, cell, PAGES as u64, 0, pool)?;
        let mut frames = [Pfn(0); PAGES];
        mem::alloc_frames(pool, &mut frames)?;
        Ok(Loan { pool, number, cell, frames })
    }

    /// Ends it; somebody may have done so already.
    fn end(self) {
        destroy(self.pool);
        slots::empty(self.pool);
        slots::give_back_cell(self.cell);
        slots::give_back_pool(self.number);
    }
}

const BOTH: Rights = Rights::POOL_READ.union(Rights::POOL_WRITE);

fn destroy(pool: Handle) {
    let mut cursor = 0;
    while let Ok(Progress::Again(next)) = sys::pool_destroy(pool, cursor) {
        cursor = next;
    }
}

/// A request whose bytes lie in the frames.
fn long(method: u8, connection: u16, bytes: usize) -> Message {
    let mut message = message::new(method, VERSION).with_flags(connection);
    message::set_long(&mut message, bytes);
    message
}

/// The store serves as it should.
fn serves() -> Held {
    let mut store = client()?;
    same!(store.sum(Bytes::new(&[1; 3000]))?, 3000, "an honest client's sum");
    Ok(())
}

pub fn garbage(_: &Ground) -> Held {
    let raw = Raw::new()?;
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..2000u64 {
        let mut message = Message::from_words(&core::array::from_fn(|_| next()));
        if round % 4 != 0 {
            // As far as the service's own decoder; not to the methods that end it or take their time.
            message.number = VERSION.to_bits();
            message.code = [0, 1, 3, 4, 5, 7, request::OPEN, request::LEND, 0xff][round as usize % 9];
            message.flags &= if round % 2 == 0 { 0 } else { 0x1ff };
        }
        let reply = raw.say(&message, None)?;
        same!(reply.number, VERSION.to_bits(), "the version in an answer to {message:?}");
        same!(reply.code <= answer::NO_ROOM, true, "the code {} of an answer to {message:?}", reply.code);
    }
    serves()
}

pub fn wrong_loans(_: &Ground) -> Held {
    let raw = Raw::new()?;
    let loan = Loan::new()?;
    let bit = event::take_bit().ok_or(Refusal::InUse)?;
    let event = Event::of_self(bit)?;
    same!(raw.code(&message::new(request::LEND, VERSION))?, answer::NO_PAGES, "a loan without a binding");
    same!(raw.lend(event.handle(), Rights::EVENT_NOTIFY, loan.frames)?.0, answer::NO_ROOM, "an event as a pool");
    same!(raw.lend(loan.pool, Rights::POOL_READ, loan.frames)?.0, answer::NO_ROOM, "frames for reading only");
    let elsewhere = [loan.frames[0], Pfn(machine::info().archive_frame)];
    same!(raw.lend(loan.pool, BOTH, elsewhere)?.0, answer::NO_ROOM, "the archive's frame as its own");
    same!(raw.lend(loan.pool, BOTH, [Pfn(u64::MAX), Pfn(0)])?.0, answer::NO_ROOM, "frames that do not exist");
    same!(raw.lend(loan.pool, BOTH, loan.frames)?.0, answer::READY, "its own frames");
    loan.end();
    slots::empty(event.handle());
    event::give_back_bit(bit);
    serves()
}

pub fn unasked_binding(_: &Ground) -> Held {
    let raw = Raw::new()?;
    let bit = event::take_bit().ok_or(Refusal::InUse)?;
    let event = Event::of_self(bit)?;
    let send = Some((event.handle(), Rights::EVENT_NOTIFY));
    let plain = message::new(5, VERSION);
    same!(raw.say(&plain, send).err(), Some(Refusal::SlotTaken), "a binding while no slot is open");
    for _ in 0..130 {
        same!(raw.code(&message::new(request::OPEN, VERSION))?, answer::READY, "a slot");
        same!(raw.say(&plain, send)?.code, answer::DONE, "a call with a binding that nobody asked for");
    }
    slots::empty(event.handle());
    event::give_back_bit(bit);
    serves()
}

pub fn wrong_lengths(_: &Ground) -> Held {
    let raw = Raw::new()?;
    let loan = Loan::new()?;
    let (code, connection) = raw.lend(loan.pool, BOTH, loan.frames)?;
    same!(code, answer::READY, "a loan");
    for bytes in [8193, 1 << 16, u32::MAX as usize] {
        same!(raw.code(&long(SUM, connection, bytes))?, answer::MALFORMED, "{bytes} bytes");
    }
    let zeros = raw.code(&long(SUM, connection, 8192))?;
    same!(zeros, answer::MALFORMED, "zeros behind the arguments");
    same!(raw.code(&long(SUM, connection, 1))?, answer::DONE, "no bytes to sum up");
    for other in [connection ^ 1, 0, 255] {
        same!(raw.code(&long(SUM, other, 1))?, answer::NO_PAGES, "connection {other}");
    }
    same!(raw.code(&long(SUM, connection | 0x0200, 1))?, answer::DONE, "flags that mean nothing");
    loan.end();
    serves()
}

pub fn taken_away(_: &Ground) -> Held {
    let raw = Raw::new()?;
    let loan = Loan::new()?;
    let (_, connection) = raw.lend(loan.pool, BOTH, loan.frames)?;
    same!(raw.code(&long(SUM, connection, 1))?, answer::DONE, "a request in frames that are there");
    destroy(loan.pool);
    same!(raw.code(&long(SUM, connection, 1))?, answer::NO_PAGES, "a request in frames that are gone");
    same!(raw.code(&long(SUM, connection, 8192))?, answer::NO_PAGES, "a long one");
    loan.end();
    serves()
}

/// The pool that the second vcore destroys, or whose frames it writes to; 0: it rests.
static TARGET: AtomicU64 = AtomicU64::new(0);
static FRAMES: [AtomicU64; PAGES] = [const { AtomicU64::new(0) }; PAGES];
/// How often the second vcore did what it is for.
static DONE: AtomicU64 = AtomicU64::new(0);
/// The target is to be written to, not destroyed.
const WRITE: u64 = 1 << 32;

fn frames() -> [Pfn; PAGES] {
    FRAMES.each_ref().map(|frame| Pfn(frame.load(SeqCst)))
}

/// The second vcore: does what the first one wishes, in the middle of whatever that does.
fn second() {
    loop {
        match TARGET.load(SeqCst) {
            0 => time::sleep(Duration::from_micros(300)),
            target if target & WRITE == 0 => {
                destroy(Handle(target as u16));
                TARGET.store(0, SeqCst);
                DONE.fetch_add(1, SeqCst);
            }
            target => {
                let Ok(shared) = Shared::map(Handle(target as u16), &frames()) else { continue };
                let mut byte = 0u8;
                while TARGET.load(SeqCst) == target {
                    byte = byte.wrapping_mul(5).wrapping_add(77);
                    let _ = shared.write(usize::from(byte), &[byte; 600]);
                    DONE.fetch_add(1, SeqCst);
                }
            }
        }
    }
}

fn begin_second(ground: &Ground) -> Result<(), Refusal> {
    static BEGUN: AtomicU64 = AtomicU64::new(0);
    if BEGUN.swap(1, SeqCst) == 1 {
        return Ok(());
    }
    let terms = SliceTerms { micros: 200, exact: false };
    Vcore { index: 1, core: 0, stack_pages: 4 }.spawn_on(ground.cores, ground.positions.take()?, terms, second)
}

pub fn vanishing(ground: &Ground) -> Held {
    begin_second(ground)?;
    let raw = Raw::new()?;
    let (mut gone, mut served) = (0, 0u64);
    for _ in 0..60 {
        let loan = Loan::new()?;
        let (code, connection) = raw.lend(loan.pool, BOTH, loan.frames)?;
        same!(code, answer::READY, "a loan");
        TARGET.store(u64::from(loan.pool.0), SeqCst);
        // Ends when the second vcore has had its slice.
        loop {
            match raw.code(&long(SUM, connection, 8192))? {
                answer::MALFORMED => served += 1,
                code => {
                    same!(code, answer::NO_PAGES, "a request in frames that vanish");
                    gone += 1;
                    break;
                }
            }
        }
        while TARGET.load(SeqCst) != 0 {
            time::sleep(Duration::from_micros(100));
        }
        loan.end();
    }
    same!((gone, served > 0), (60, true), "rounds");
    serves()
}

pub fn changing(ground: &Ground) -> Held {
    begin_second(ground)?;
    let raw = Raw::new()?;
    let loan = Loan::new()?;
    let (_, connection) = raw.lend(loan.pool, BOTH, loan.frames)?;
    FRAMES.iter().zip(loan.frames).for_each(|(place, frame)| place.store(frame.0, SeqCst));
    let before = DONE.load(SeqCst);
    TARGET.store(u64::from(loan.pool.0) | WRITE, SeqCst);
    let (mut done, mut refused) = (0u64, 0u64);
    let until = Instant::after(Duration::from_millis(100));
    while Instant::now() < until || DONE.load(SeqCst) < before + 100 {
        for method in [PUT, SUM, 1, 4] {
            match raw.code(&long(method, connection, 700))? {
                answer::DONE | answer::FAILED => done += 1,
                code => {
                    same!(code, answer::MALFORMED, "a request that changes");
                    refused += 1;
                }
            }
        }
    }
    TARGET.store(0, SeqCst);
    same!(done + refused > 100, true, "calls: {done} and {refused}");
    loan.end();
    serves()
}

pub fn greedy(_: &Ground) -> Held {
    let raw = Raw::new()?;
    let mut honest = client()?;
    for round in 0..130 {
        let loan = Loan::new()?;
        let (code, connection) = raw.lend(loan.pool, BOTH, loan.frames)?;
        same!(code, answer::READY, "loan {round}");
        same!(raw.code(&long(SUM, connection, 1))?, answer::DONE, "a call with loan {round}");
        loan.end();
        if round % 26 == 0 {
            same!(honest.sum(Bytes::new(&[2; 5000]))?, 10_000, "an honest client's sum");
        }
    }
    // And many at once, without giving any back.
    let loans: Vec<Loan> = (0..10).map(|_| Loan::new()).collect::<Result<_, _>>()?;
    for loan in &loans {
        same!(raw.lend(loan.pool, BOTH, loan.frames)?.0, answer::READY, "one of many");
    }
    loans.into_iter().for_each(Loan::end);
    serves()
}

/// Calls and is killed.
pub fn victim() -> ! {
    loop {
        if let Ok(mut store) = store::Client::named("store") {
            // Frames are lent meanwhile.
            let _ = store.sum(Bytes::new(&[1; 2000]));
            let _ = store.work(40);
        }
    }
}

pub fn killed(_: &Ground) -> Held {
    let init = libos::start::service("init").ok_or(CallError::NotPermitted)?;
    let ask = |code| -> Result<u8, Refusal> {
        let words = supervisor::request_named(code, "victim");
        let call = CallMessage { words, ..CallMessage::default() };
        init.call_patiently(&call, Instant::after(PATIENCE)).map(|reply| supervisor::head(&reply.words).0)
    };
    for _ in 0..3 {
        same!(ask(supervisor::START)?, libos::protocol::status::OK, "the victim's start");
        time::sleep(Duration::from_millis(25));
        same!(ask(supervisor::KILL)?, libos::protocol::status::OK, "the victim's end");
        serves()?;
    }
    Ok(())
}

pub fn nothing_leaks(ground: &Ground) -> Held {
    let everything = |ground: &Ground| -> Held {
        crate::honest::two_clients(ground)?;
        crate::honest::next_life(ground)?;
        for attack in [garbage, wrong_loans, unasked_binding, wrong_lengths, taken_away, vanishing, greedy, killed] {
            attack(ground)?;
        }
        // The dead of this round are forgotten by a service that begins anew.
        same!(client()?.die(), Err(CallError::Died.into()), "its death");
        serves()
    };
    // The first round fetches what stays: stacks, heaps, tables.
    everything(ground)?;
    let before = machine::free_frames();
    everything(ground)?;
    same!(machine::free_frames(), before, "free frames after the same once more");
    let found = audit(ground.power)?;
    same!(found.is_clean(), true, "{found}");
    Ok(())
}
