//! The other side: it opens links, and does with each what its client asks for.

use crate::{MESSAGE, PATIENCE, Pair};
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use libos::ipc::handover::Parcel;
use libos::ipc::link::{Heard, Link, Listener};
use libos::ipc::publish::Subscriber;
use libos::ipc::ring::{Bell, Error};
use libos::ipc::shared::{Frames, SharedPool};
use libos::ipc::{Incoming, Outgoing, Server, Words};
use libos::time::{self, Instant};

/// What a client wants done with two shared pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Purpose {
    /// Send bytes back until they end.
    Echo = 1,
    /// Send [`MESSAGES`] messages that count, in batches that are too large for the ring.
    Produce,
    /// Send a few bytes and end.
    Say,
    /// Receive as a subscriber, slowly.
    SubscribeSlowly,
    /// Receive as a subscriber until the end.
    Subscribe,
    /// Publish an index that cannot be.
    Forge,
    /// Write anything anywhere for a while.
    Garbage,
    /// Do nothing.
    Silence,
    /// Notify all the time.
    Flood,
    /// Die in the middle of a line.
    Die,
}

const PURPOSES: [Purpose; 10] = [
    Purpose::Echo,
    Purpose::Produce,
    Purpose::Say,
    Purpose::SubscribeSlowly,
    Purpose::Subscribe,
    Purpose::Forge,
    Purpose::Garbage,
    Purpose::Silence,
    Purpose::Flood,
    Purpose::Die,
];

/// Messages that [`Purpose::Produce`] sends.
pub const MESSAGES: u64 = 5_000;
/// What [`Purpose::Say`] says.
pub const WORDS: &[u8] = b"that is all";
/// What [`Purpose::Die`] says before.
pub const LAST_WORDS: &[u8] = b"half of a li";

/// First words of the calls besides those of links.
pub mod request {
    /// What the last subscription received and missed.
    pub const REPORT: u64 = 1;
    /// Here is a pool.
    pub const POOL: u64 = 2;
    /// Here are frames of it: every byte is to be inverted.
    pub const INVERT: u64 = 3;
    /// The pool is not needed any more.
    pub const FORGET: u64 = 4;
}

/// Serves for ever, unless asked to die.
pub fn main() -> u64 {
    let Ok(mut listener) = Listener::new() else { return 1 };
    let (mut pool, mut report) = (None, [0; 7]);
    let mut outgoing = Outgoing::default();
    loop {
        outgoing.accept = Some(listener.slot());
        let Incoming::Call { badge, words, binding } = Server::new().turn(&outgoing) else {
            outgoing = Outgoing::default();
            continue;
        };
        outgoing = match (listener.hear(badge, &words, binding), words[0]) {
            (Heard::Answered(answer), _) => answer,
            (Heard::Opened { link, purpose, answer, .. }, _) => {
                // The reply goes out with a turn that an alarm ends at once.
                let _ = Server::new().turn(&Outgoing { alarm: Some(Instant::now()), ..answer });
                let purpose = PURPOSES.into_iter().find(|each| *each as u64 == purpose);
                let pair = Pair { link, reads: 0 };
                report = match purpose {
                    Some(Purpose::Die) => {
                        die(&pair);
                        return 0;
                    }
                    Some(purpose) => serve(&pair, purpose).unwrap_or([u64::MAX; 7]),
                    None => [u64::MAX; 7],
                };
                Outgoing::default()
            }
            (Heard::NotMine(Some(binding)), request::POOL) => match SharedPool::received(binding) {
                Ok(received) => {
                    pool = Some(received);
                    Outgoing::default()
                }
                Err(refusal) => Outgoing::from([refusal as u64, 0, 0, 0, 0, 0, 0]),
            },
            (Heard::NotMine(_), request::REPORT) => Outgoing::from(report),
            (Heard::NotMine(_), request::INVERT) => {
                Outgoing::from(pool.as_ref().and_then(|pool| invert(pool, &words)).unwrap_or_default())
            }
            (Heard::NotMine(_), request::FORGET) => {
                pool = None;
                Outgoing::default()
            }
            (Heard::NotMine(_), _) => Outgoing::from([u64::MAX; 7]),
        };
    }
}

fn serve(pair: &Pair, purpose: Purpose) -> Result<Words, Error> {
    let deadline = Instant::after(PATIENCE);
    match purpose {
        Purpose::Echo => {
            let (Some(mut reader), Some(mut writer)) = (pair.reader(), pair.writer()) else { return Ok([0; 7]) };
            let mut bytes = [0; 100];
            loop {
                match reader.read(&mut bytes, deadline)? {
                    0 => break,
                    count => writer.write_all(&bytes[..count], deadline)?,
                }
            }
        }
        Purpose::Produce => {
            let Some(mut sender) = pair.sender() else { return Ok([0; 7]) };
            for message in 0..MESSAGES {
                let message = [message, !message, 0, 7];
                // Most are published when the ring is full.
                if message[0] % 300 == 0 || !sender.push(&message)? {
                    sender.send(&message, deadline)?;
                }
            }
        }
        Purpose::Say => {
            if let Some(mut writer) = pair.writer() {
                writer.write_all(WORDS, deadline)?;
            }
        }
        Purpose::SubscribeSlowly => {
            time::sleep(Duration::from_millis(50));
            return subscribe(&pair.link, deadline);
        }
        Purpose::Subscribe => return subscribe(&pair.link, deadline),
        Purpose::Forge => {
            write_words(&pair.link, |words| words[512].store(1 << 40, Relaxed));
            let _ = pair.link.bell().notify();
        }
        Purpose::Garbage => write_words(&pair.link, |words| {
            let mut random = 88172645463325252u64;
            for _ in 0..20_000 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // The headers most of all.
                let place = if random & 3 == 0 { random >> 8 } else { (random >> 8 & 1) * 512 + (random >> 9 & 15) };
                words[(place % words.len() as u64) as usize].store(random >> (random >> 58), Relaxed);
                if random & 0x3f00 == 0 {
                    let _ = pair.link.bell().notify();
                }
            }
        }),
        Purpose::Flood => {
            let end = Instant::after(crate::hostile::FLOOD);
            while Instant::now() < end {
                let _ = pair.link.bell().notify();
            }
        }
        Purpose::Silence | Purpose::Die => {}
    }
    Ok([0; 7])
}

/// Writes to the shared words past all protocols.
fn write_words(link: &Link, write: impl FnOnce(&[core::sync::atomic::AtomicU64])) {
    write(link.memory().words());
}

fn die(pair: &Pair) {
    if let Some(writer) = pair.writer() {
        // Its end must not look like the end of the pipe.
        let mut writer = core::mem::ManuallyDrop::new(writer);
        let _ = writer.write_all(LAST_WORDS, Instant::after(PATIENCE));
    }
}

/// Receives until the publisher closes: how many came, how many it missed, whether they came in order, whether any was torn.
fn subscribe(link: &Link, deadline: Instant) -> Result<Words, Error> {
    let Some(area) = link.area(0, 1) else { return Ok([0; 7]) };
    let mut subscriber = Subscriber::<MESSAGE, _, _>::new(area, link.bell());
    let (mut came, mut missed, mut wrong) = (0, 0, 0);
    loop {
        match subscriber.receive(deadline) {
            Ok(received) => {
                missed += received.missed;
                wrong += u64::from(received.message != [came + missed; MESSAGE]);
                came += 1;
            }
            Err(Error::Closed) => return Ok([1, came, missed, wrong, 0, 0, 0]),
            Err(error) => return Err(error),
        }
    }
}

/// Inverts every byte of the frames that came, and gives them back.
fn invert(pool: &SharedPool, words: &Words) -> Option<Words> {
    let [_, a, b, c, d, ..] = *words;
    let parcel = Parcel::accept(pool, Frames::from_words([a, b, c, d])?).ok()?;
    for word in parcel.words() {
        word.store(!word.load(Relaxed), Relaxed);
    }
    let [a, b, c, d] = parcel.give().ok()?.words();
    Some([request::INVERT, a, b, c, d, 0, 0])
}
