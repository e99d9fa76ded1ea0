//! Rings, pipes, publishing and handed-over frames between environments: one line for each promise, exit code 0 if all hold.
//!
//! The other side is this same program in other environments: [`peer`] does what it is asked for, hostile things among them, and [`owner`] dies
//! with a pool that it shares.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

mod honest;
mod hostile;
mod owner;
mod peer;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Debug;
use core::time::Duration;
use exo_abi::{Handle, Pfn};
use libos::ipc::Gate;
use libos::ipc::link::Link;
use libos::ipc::pipe::{Reader, Writer};
use libos::ipc::ring::{Receiver, Sender};
use libos::ipc::shared::{Access, Area, SharedPool, SharedWords, Wake};
use libos::time::Instant;
use libos::{event, mem, println, slots, start};

libos::main!(main);

/// Long: a busy host makes the guest wait, and no test may depend on that.
const PATIENCE: Duration = Duration::from_secs(20);
/// Frames of this program's pool, by the manifest.
const QUOTA: usize = 512;
/// Words of a message.
const MESSAGE: usize = 4;

/// A promise held, or why not.
type Held = Result<(), Broken>;

/// Why a promise did not hold.
struct Broken(String);

impl<E: Debug> From<E> for Broken {
    fn from(error: E) -> Broken {
        Broken(format!("{error:?}"))
    }
}

/// Goes on only if something is so.
macro_rules! ensure {
    ($so:expr, $($why:tt)*) => {
        if !$so {
            return Err($crate::Broken(alloc::format!($($why)*)));
        }
    };
}
use ensure;

/// A promise and the function that tries it.
type Promise = (&'static str, fn() -> Held);

const PROMISES: &[Promise] = &[
    ("bytes come back as they went", honest::bytes_come_back),
    ("messages pass, both sides sleeping", honest::messages_pass),
    ("the end of a pipe comes after its last byte", honest::the_end_comes_last),
    ("a slow subscriber is told what it missed", honest::subscribers_count),
    ("a subscriber that reads on misses nothing", honest::subscribers_keep_up),
    ("frames change hands with what they hold", honest::frames_change_hands),
    ("a wrong index is an error", hostile::wrong_index),
    ("garbage is an error or silence", hostile::garbage),
    ("who never answers costs time until the deadline", hostile::silence),
    ("a flood of notifications ends at the deadline", hostile::flood),
    ("senseless calls for links are declined", hostile::senseless_calls),
    ("frames of others are refused", hostile::foreign_frames),
    ("what is no pool is not taken for one", hostile::no_pool),
    ("a peer that dies half-way is an error", hostile::death),
    ("a peer that takes its pool with it is an error", hostile::death_of_the_owner),
];

fn main() -> u64 {
    match start::args().next() {
        Some("peer") => return peer::main(),
        Some("owner") => return owner::main(),
        _ => {}
    }
    // Heap and stack have grown to what the promises need, and the region of shared memory has its tables.
    let _ = honest::bytes_come_back();
    let mut held = 0;
    for (name, promise) in PROMISES {
        let before = Resources::now();
        let result = promise().and_then(|()| {
            let after = Resources::now();
            ensure!(after == before, "it leaves {after:?}, there were {before:?}");
            Ok(())
        });
        match result {
            Ok(()) => {
                held += 1;
                println!("channels {name} ok");
            }
            Err(Broken(why)) => println!("channels {name} FAILED {why}"),
        }
    }
    println!("channels: {held} of {} promises hold", PROMISES.len());
    u64::from(held != PROMISES.len())
}

/// What can leak: the next slot, cell and event bit that are free, and frames.
#[derive(PartialEq, Eq, Debug)]
struct Resources {
    slot: Option<u16>,
    cell: Option<u64>,
    bit: Option<u64>,
    /// Frames that the own pool's quota has left.
    frames: usize,
}

impl Resources {
    fn now() -> Resources {
        let (slot, cell, bit) = (slots::take(), slots::take_cell(), event::take_bit());
        slot.inspect(|slot| slots::give_back(*slot));
        cell.inspect(|cell| slots::give_back_cell(*cell));
        bit.inspect(|bit| event::give_back_bit(*bit));
        let mut frames = [Pfn(0); QUOTA];
        let (taken, _) = mem::frames::alloc_some(Handle::POOL, &mut frames);
        mem::free_frames(Handle::POOL, &frames[..taken]);
        Resources { slot: slot.map(|slot| slot.0), cell, bit, frames: taken }
    }
}

/// Two pages that a link shares: the client's ring, then the server's.
struct Pair {
    link: Link,
    /// Which of them this side reads.
    reads: u64,
}

impl Pair {
    fn reader(&self) -> Option<Reader<Area, Arc<Wake>>> {
        Some(Reader::new(self.link.area(self.reads, 1)?, self.link.bell()))
    }

    fn writer(&self) -> Option<Writer<Area, Arc<Wake>>> {
        Some(Writer::new(self.link.area(1 - self.reads, 1)?, self.link.bell()))
    }

    fn receiver(&self) -> Option<Receiver<MESSAGE, Area, Arc<Wake>>> {
        Some(Receiver::new(self.link.area(self.reads, 1)?, self.link.bell()))
    }

    fn sender(&self) -> Option<Sender<MESSAGE, Area, Arc<Wake>>> {
        Some(Sender::new(self.link.area(1 - self.reads, 1)?, self.link.bell()))
    }
}

/// When this side gives up.
fn deadline() -> Instant {
    Instant::after(PATIENCE)
}

/// The gate of one of the others.
fn gate(name: &str) -> Result<Gate, Broken> {
    start::service(name).ok_or(Broken(format!("no service {name}")))
}

/// A pool of this program's first number, which is used by one promise at a time.
fn pool(frames: u64) -> Result<SharedPool, Broken> {
    Ok(SharedPool::create(u64::from(start::info().pools.0), frames)?)
}

/// Two pages shared with one of the others, which is to do something with them.
fn pair(name: &str, purpose: peer::Purpose) -> Result<(Pair, SharedPool), Broken> {
    let pool = pool(4)?;
    let memory = Arc::new(SharedWords::map(&pool, pool.take(2)?, Access::Write)?);
    let link = Link::open(gate(name)?, &pool, &memory, Access::Write, purpose as u64, deadline())?;
    Ok((Pair { link, reads: 1 }, pool))
}

/// What must not be missing.
fn some<T>(value: Option<T>) -> Result<T, Broken> {
    value.ok_or(Broken("something is missing".into()))
}
