//! What a hostile or dying other side costs: an error in time, and nothing that stays.

use crate::peer::{LAST_WORDS, Purpose};
use crate::{Held, PATIENCE, Pair, Resources, deadline, ensure, gate, owner, pair, pool, some};
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use exo_abi::Refusal;
use exo_abi::binding::Rights;
use libos::event::Event;
use libos::ipc::handover::Parcel;
use libos::ipc::link::{Heard, Listener};
use libos::ipc::ring::{Error, HEADER_WORDS};
use libos::ipc::shared::{Frames, SharedPool};
use libos::ipc::{Incoming, Outgoing, Server};
use libos::sys::CallMessage;
use libos::time::Instant;
use libos::{event, slots};

/// How long one that does not answer is waited for.
const SHORT: Duration = Duration::from_millis(350);
/// How long a flood of notifications lasts.
pub const FLOOD: Duration = Duration::from_millis(100);

pub fn wrong_index() -> Held {
    let (pair, _pool) = pair("peer", Purpose::Forge)?;
    let mut receiver = some(pair.receiver())?;
    for _ in 0..2 {
        let answer = receiver.receive(deadline());
        ensure!(answer == Err(Error::Broken), "{answer:?}");
    }
    Ok(())
}

pub fn garbage() -> Held {
    let (pair, _pool) = pair("peer", Purpose::Garbage)?;
    let (mut reader, mut writer) = (some(pair.reader())?, some(pair.writer())?);
    let end = Instant::after(SHORT);
    let mut bytes = [0; 5000];
    let read = loop {
        match reader.read(&mut bytes, end) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    ensure!(read != Err(Error::Died), "it lives");
    let written = writer.write_all(&bytes, end);
    ensure!(written != Err(Error::Died), "it lives");
    Ok(())
}

pub fn silence() -> Held {
    let (pair, _pool) = pair("peer", Purpose::Silence)?;
    let mut receiver = some(pair.receiver())?;
    let end = Instant::after(SHORT);
    let answer = receiver.receive(end);
    ensure!(answer == Err(Error::DeadlineMissed), "{answer:?}");
    ensure!(Instant::now() >= end, "it gave up early");
    let mut writer = some(pair.writer())?;
    let answer = writer.write_all(&[0; 8192], Instant::after(SHORT));
    ensure!(answer == Err(Error::DeadlineMissed), "{answer:?}");
    Ok(())
}

pub fn flood() -> Held {
    let (pair, _pool) = pair("peer", Purpose::Flood)?;
    let answer = some(pair.receiver())?.receive(Instant::after(FLOOD / 2));
    ensure!(answer == Err(Error::DeadlineMissed), "{answer:?}");
    Ok(())
}

pub fn senseless_calls() -> Held {
    let (gate, pool) = (gate("peer")?, pool(4)?);
    let frames = pool.take(1)?.words();
    let hello = u64::from_le_bytes(*b"VLINK1-H");
    let finish = u64::from_le_bytes(*b"VLINK1-F");
    let bit = some(event::take_bit())?;
    let event = Event::of_self(bit)?;
    let readable = Some((pool.handle(), Rights::POOL_READ));
    let of = |words: [u64; 7], send| CallMessage { words, send, ..CallMessage::default() };
    let [frame, ..] = frames;
    for (what, message) in [
        ("no binding", of([hello, frame, 0, 0, 0, 0, 1], None)),
        ("an event for a pool", of([hello, frame, 0, 0, 0, 0, 1], Some((event.handle(), Rights::EVENT_NOTIFY)))),
        ("no frames", of([hello, 0, 0, 0, 0, 0, 0], readable)),
        ("too many frames", of([hello, frame | 65 << 32, 0, 0, 0, 0, 0], readable)),
        ("bits that mean nothing", of([hello, frame | 1 << 63, 0, 0, 0, 0, 0], readable)),
        ("frames of nobody", of([hello, 3 | 1 << 32, 0, 0, 0, 0, 0], readable)),
        ("more rights than came", of([hello, frame, 0, 0, 0, 0, 1], readable)),
        ("an access that is none", of([hello, frame, 0, 0, 0, 0, 2], readable)),
        ("the end before the beginning", of([finish, 1, 0, 0, 0, 0, 0], Some((event.handle(), Rights::EVENT_NOTIFY)))),
        ("the end without a binding", of([finish, 1, 0, 0, 0, 0, 0], None)),
    ] {
        let [status, ..] = gate.call_patiently(&message, deadline())?.words;
        ensure!(status != 0, "{what} was accepted");
    }
    // More half-open links than it keeps, and none of them finished with an event.
    for _ in 0..20 {
        let slot = some(slots::take())?;
        let message = CallMessage { accept: Some(slot), ..of([hello, frame, 0, 0, 0, 0, 0], readable) };
        let reply = gate.call_patiently(&message, deadline())?;
        slots::empty(slot);
        ensure!(reply.words[0] == 0, "it was declined with {}", reply.words[0]);
        let not_an_event = of([finish, reply.words[1], 0, 0, 0, 0, 0], readable);
        if reply.words[1] % 2 == 0 {
            let [status, ..] = gate.call_patiently(&not_an_event, deadline())?.words;
            ensure!(status != 0, "a pool was taken for an event");
        }
    }
    slots::empty(event.handle());
    event::give_back_bit(bit);
    drop(pool);
    // It serves as before.
    crate::honest::the_end_comes_last()
}

pub fn foreign_frames() -> Held {
    let pool = pool(4)?;
    let mut own = [exo_abi::Pfn(0)];
    libos::mem::alloc_frames(exo_abi::Handle::POOL, &mut own)?;
    for frame in [own[0].0, 0, 3, u64::from(u32::MAX)] {
        let frames = some(Frames::from_words([frame | 1 << 32, 0, 0, 0]))?;
        ensure!(Parcel::accept(&pool, frames).is_err(), "frame {frame:#x} was accepted");
    }
    libos::mem::free_frames(exo_abi::Handle::POOL, &own);
    // Half of them are the pool's: what was mapped before the refusal is unmapped again, and can be freed.
    let frames = pool.take(1)?;
    let mixed = some(Frames::from_words([frames.words()[0], 3 | 1 << 32, 0, 0]))?;
    ensure!(Parcel::accept(&pool, mixed).is_err(), "a foreign frame was accepted beside an own one");
    pool.free(frames);
    ensure!(pool.take(4).is_ok(), "a frame of the refused parcel is still mapped");
    Ok(())
}

pub fn no_pool() -> Held {
    let bit = some(event::take_bit())?;
    // Its slot is emptied with the refusal.
    let refused = SharedPool::received(Event::of_self(bit)?.handle()).err();
    event::give_back_bit(bit);
    ensure!(refused == Some(Refusal::WrongKind), "{refused:?}");
    Ok(())
}

pub fn death() -> Held {
    let (pair, _pool) = pair("mortal", Purpose::Die)?;
    let mut reader = some(pair.reader())?;
    let mut heard = alloc::vec::Vec::<u8>::new();
    let mut byte = [0; 5];
    let end = loop {
        match reader.read(&mut byte, deadline()) {
            Ok(0) => break None,
            Ok(count) => heard.extend(&byte[..count]),
            Err(error) => break Some(error),
        }
    };
    ensure!(heard == LAST_WORDS, "it said {heard:?}");
    ensure!(end == Some(Error::Died), "its death looks like {end:?}");
    let mut writer = some(pair.writer())?;
    let answer = writer.write_all(&[0; 8192], deadline());
    ensure!(answer == Err(Error::Died), "{answer:?}");
    Ok(())
}

/// The owner calls this program's gate: here it is the server.
pub fn death_of_the_owner() -> Held {
    let before = Resources::now();
    let mut listener = Listener::new()?;
    let end = deadline();
    let mut outgoing = Outgoing::default();
    let link = loop {
        outgoing = Outgoing { accept: Some(listener.slot()), alarm: Some(end), ..outgoing };
        let Incoming::Call { badge, words, binding } = Server::new().turn(&outgoing) else {
            ensure!(Instant::now() < end, "nobody called");
            continue;
        };
        outgoing = match listener.hear(badge, &words, binding) {
            Heard::Answered(answer) => answer,
            Heard::Opened { link, purpose, answer, .. } => {
                ensure!(purpose == owner::PURPOSE, "purpose {purpose}");
                let _ = Server::new().turn(&Outgoing { alarm: Some(Instant::now()), ..answer });
                break link;
            }
            Heard::NotMine(_) => Outgoing::default(),
        };
    };
    let pair = Pair { link, reads: 0 };
    let (mut reader, mut writer) = (some(pair.reader())?, some(pair.writer())?);
    let mut bytes = [0; 8];
    let count = reader.read(&mut bytes, end)?;
    ensure!(bytes[..count] == *owner::WORDS, "it said {:?}", &bytes[..count]);
    // Now it dies, and the frames under this program's feet are gone.
    writer.write_all(&[1], end)?;
    let answer = reader.read(&mut bytes, end);
    ensure!(matches!(answer, Err(Error::Broken | Error::Died)), "{answer:?}");
    let gone = Instant::after(PATIENCE);
    // What it said is not there any more, but a page of this program's own.
    while pair.link.memory().words()[HEADER_WORDS].load(Relaxed) != 0 {
        ensure!(Instant::now() < gone, "its pool outlives it");
        libos::time::sleep(Duration::from_millis(1));
    }
    let answer = writer.write_all(&[0; 8192], end);
    ensure!(matches!(answer, Err(Error::Broken | Error::Died)), "{answer:?}");
    drop((reader, writer, pair, listener));
    let after = Resources::now();
    ensure!(after == before, "it leaves {after:?}, there were {before:?}");
    Ok(())
}
