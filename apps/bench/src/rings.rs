//! Rings, pipes and handed-over frames: shared pools instead of calls that copy.
//!
//! The other side is this same program in an environment of its own, [`echo`].

use crate::meter::{Failed, Figure, ITERATIONS, Measured, Stretches};
use alloc::sync::Arc;
use core::time::Duration;
use exo_abi::binding::Rights;
use libos::ipc::handover::Parcel;
use libos::ipc::link::{self, Heard, Link, Listener};
use libos::ipc::pipe::{Reader, Writer};
use libos::ipc::ring::{self, Receiver, Sender};
use libos::ipc::shared::{Access, Area, Frames, MAX_RUNS, SharedPool, SharedWords, Wake};
use libos::ipc::{Gate, Incoming, Outgoing, Server};
use libos::sys::{self, CallMessage};
use libos::time::Instant;
use libos::{event, start};
use workshop::Ground;

/// How long either side waits for the other before something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages between two publications.
const BATCH: u64 = 32;
/// Words of a message.
const MESSAGE: usize = 4;
/// Frames of the pool that is shared.
const FRAMES: u64 = 8;

impl From<ring::Error> for Failed {
    fn from(error: ring::Error) -> Failed {
        Failed::Lacks(match error {
            ring::Error::Broken => "the ring is broken",
            ring::Error::Closed => "the other side closed the ring",
            ring::Error::Died => "the other side of the ring died",
            ring::Error::DeadlineMissed => "the other side of the ring does not answer",
        })
    }
}

impl From<link::Failed> for Failed {
    fn from(failed: link::Failed) -> Failed {
        match failed {
            link::Failed::Refused(refusal) => Failed::Refused(refusal),
            _ => Failed::Lacks("the other side declined the link"),
        }
    }
}

type Ends = (Reader<Area, Arc<Wake>>, Writer<Area, Arc<Wake>>);

/// Two pipes on a link of two pages; the client writes to the first.
fn pipes(link: &Link, reads: u64) -> Option<Ends> {
    let (to_read, to_write) = (link.area(reads, 1)?, link.area(1 - reads, 1)?);
    Some((Reader::new(to_read, link.bell()), Writer::new(to_write, link.bell())))
}

/// The other side: opens links, whose bytes it sends back; takes a pool, and hands each frame of it back that it was handed the call before.
pub fn echo() -> u64 {
    let Ok(mut listener) = Listener::new() else { return 1 };
    let mut outgoing = Outgoing::default();
    loop {
        outgoing.accept = Some(listener.slot());
        let Incoming::Call { badge, words, binding } = Server::new().turn(&outgoing) else { continue };
        outgoing = match listener.hear(badge, &words, binding) {
            Heard::Answered(answer) => answer,
            Heard::Opened { link, answer, .. } => {
                // The reply goes out with a turn that an alarm ends at once.
                let _ = Server::new().turn(&Outgoing { alarm: Some(Instant::now()), ..answer });
                let _ = send_back(&link);
                Outgoing::default()
            }
            Heard::NotMine(Some(binding)) => match SharedPool::received(binding) {
                Ok(pool) => swap_frames(&pool),
                Err(_) => Outgoing::default(),
            },
            Heard::NotMine(None) => Outgoing::default(),
        };
    }
}

/// Takes the frames that come with a call and gives those of the call before, until a call brings none; answers with the last reply.
fn swap_frames(pool: &SharedPool) -> Outgoing {
    let (mut last, mut reply) = (None, [0; MAX_RUNS]);
    loop {
        let [a, b, c, d] = reply;
        let [_, a, b, c, d, ..] = sys::reply_wait_words(0, [a, b, c, d, 0, 0, 0]);
        let Some(frames) = Frames::from_words([a, b, c, d]) else { return Outgoing::default() };
        let Ok(parcel) = Parcel::accept(pool, frames) else { return Outgoing::default() };
        reply = match last.replace(parcel).map(Parcel::give) {
            Some(Ok(frames)) => frames.words(),
            _ => [0; MAX_RUNS],
        };
    }
}

/// Sends bytes back until the other side closes.
fn send_back(link: &Link) -> Result<(), ring::Error> {
    let Some((mut reader, mut writer)) = pipes(link, 0) else { return Ok(()) };
    // Who asks is noticed to be gone without one.
    let deadline = Instant(u64::MAX);
    let mut bytes = [0; 64];
    loop {
        match reader.read(&mut bytes, deadline)? {
            0 => return Ok(()),
            count => writer.write_all(&bytes[..count], deadline)?,
        }
    }
}

fn other_side() -> Result<Gate, Failed> {
    start::service("echo").ok_or(Failed::Lacks("the manifest names no echo to call"))
}

/// A message of 32 bytes through a ring in a shared pool, both sides together: a 32nd of writing 32 messages and publishing them, of
/// taking them and giving the room back. Nobody sleeps, so it is no matter where the other side runs; here both map the frames for themselves.
pub fn ring_message(ground: &Ground) -> Measured {
    let number = ground.pools.take()?;
    let pool = SharedPool::create(number, FRAMES)?;
    let frames = pool.take(1)?;
    let bit = || event::take_bit().ok_or(Failed::Lacks("no event is left"));
    let side = || -> Result<(Area, Arc<Wake>), Failed> {
        let memory = Arc::new(SharedWords::map(&pool, frames, Access::Write)?);
        let area = Area::new(&memory, 0, 1).ok_or(Failed::Lacks("a page is no area"))?;
        let bit = bit()?;
        Ok((area, Arc::new(Wake::new(bit, event::Event::of_self(bit)?))))
    };
    let ((here, bell), (there, other_bell)) = (side()?, side()?);
    let mut sender = Sender::<MESSAGE, _, _>::new(here, bell);
    let mut receiver = Receiver::<MESSAGE, _, _>::new(there, other_bell);
    let (mut sum, mut sent) = (0u64, 0u64);
    let batches = Stretches { rounds: 1, each: ITERATIONS / BATCH };
    let figure = batches.measure(
        |_| {
            for _ in 0..BATCH {
                if !sender.push(&[sent, 2, 3, 4])? {
                    return Err(Failed::Lacks("the ring is full"));
                }
                sent += 1;
            }
            sender.publish()?;
            for _ in 0..BATCH {
                let Some([first, ..]) = receiver.pop()? else { return Err(Failed::Lacks("a message is missing")) };
                sum += first;
            }
            receiver.release();
            Ok(())
        },
        |_| Ok(()),
    )?;
    drop((sender, receiver));
    drop(pool);
    ground.pools.give_back(number);
    if sum != sent * (sent - 1) / 2 {
        return Err(Failed::Lacks("the messages that came are others"));
    }
    Ok(Figure { iterations: figure.iterations * BATCH, ..figure })
}

/// A byte to another environment on this core and back, by two pipes: each side sleeps until the other's byte is there.
pub fn pipe_round_trip_1b(ground: &Ground) -> Measured {
    let number = ground.pools.take()?;
    let pool = SharedPool::create(number, FRAMES)?;
    let memory = Arc::new(SharedWords::map(&pool, pool.take(2)?, Access::Write)?);
    let link = Link::open(other_side()?, &pool, &memory, Access::Write, 0, Instant::after(PATIENCE))?;
    let (mut reader, mut writer) = pipes(&link, 1).ok_or(Failed::Lacks("two pages are no two areas"))?;
    let deadline = Instant::after(PATIENCE);
    let mut byte = [0];
    let figure = Stretches::ONE.measure_switching(|round| {
        writer.write_all(&[round as u8], deadline)?;
        match reader.read(&mut byte, deadline)? {
            1 if byte[0] == round as u8 => Ok(()),
            _ => Err(Failed::Lacks("the byte that came back is another")),
        }
    })?;
    drop((reader, writer, link, memory, pool));
    ground.pools.give_back(number);
    Ok(figure)
}

/// A frame handed to another environment: unmapped here, named in a call, mapped there. Each call hands the frame of the call before back with
/// its reply, so it is half of a call with two frames under way.
pub fn frame_handover(ground: &Ground) -> Measured {
    let gate = other_side()?;
    let number = ground.pools.take()?;
    let pool = SharedPool::create(number, FRAMES)?;
    let rights = Rights::POOL_READ | Rights::POOL_WRITE;
    let take = CallMessage { send: Some((pool.handle(), rights)), ..CallMessage::default() };
    gate.call_patiently(&take, Instant::after(PATIENCE))?;
    let hand = |parcel: Parcel| {
        let [a, b, c, d] = parcel.give()?.words();
        gate.call([a, b, c, d, 0, 0, 0])
    };
    hand(Parcel::new(&pool, 1)?)?;
    let mut parcel = Some(Parcel::new(&pool, 1)?);
    let figure = Stretches::ONE.measure_switching(|_| {
        let Some(given) = parcel.take() else { return Err(Failed::Lacks("there is no parcel")) };
        let [a, b, c, d, ..] = hand(given)?;
        let frames = Frames::from_words([a, b, c, d]).ok_or(Failed::Lacks("no frames came back"))?;
        parcel = Some(Parcel::accept(&pool, frames)?);
        Ok(())
    })?;
    gate.call([0; 7])?;
    drop(parcel);
    drop(pool);
    ground.pools.give_back(number);
    Ok(Figure { iterations: figure.iterations * 2, ..figure })
}
