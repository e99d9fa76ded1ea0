//! What two honest sides can count on.

use crate::peer::{MESSAGES, Purpose, WORDS, request};
use crate::{Broken, Held, MESSAGE, Pair, deadline, ensure, gate, pair, pool, some};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use exo_abi::binding::Rights;
use libos::ipc::handover::Parcel;
use libos::ipc::link::Link;
use libos::ipc::publish::Publisher;
use libos::ipc::ring::Error;
use libos::ipc::shared::{Access, Area, Frames, SharedPool, SharedWords, Wake};
use libos::sys::CallMessage;

/// Bytes that go through a pipe of a page.
const BYTES: usize = 30_000;
/// Messages that are published.
const PUBLISHED: u64 = 500;
/// Pages of a parcel.
const PAGES: u64 = 3;

pub fn bytes_come_back() -> Held {
    let (pair, pool) = pair("peer", Purpose::Echo)?;
    let (mut reader, mut writer) = (some(pair.reader())?, some(pair.writer())?);
    let bytes: Vec<u8> = (0..BYTES).map(|index| (index * 7 + index / 251) as u8).collect();
    let (mut sent, mut back) = (0, Vec::<u8>::new());
    let (deadline, mut part) = (deadline(), [0; 777]);
    while back.len() < bytes.len() {
        // As much as fits, so that both pipes are full now and then.
        while sent < bytes.len() {
            match writer.try_write(&bytes[sent..bytes.len().min(sent + 1234)])? {
                0 => break,
                count => sent += count,
            }
        }
        let count = reader.read(&mut part, deadline)?;
        ensure!(count > 0, "the pipe ended after {} bytes", back.len());
        back.extend(&part[..count]);
    }
    ensure!(back == bytes, "other bytes came back");
    drop(writer);
    ensure!(reader.read(&mut part, deadline)? == 0, "the pipe does not end");
    drop((reader, pair, pool));
    Ok(())
}

pub fn messages_pass() -> Held {
    let (pair, _pool) = pair("peer", Purpose::Produce)?;
    let mut receiver = some(pair.receiver())?;
    let deadline = deadline();
    for wanted in 0..MESSAGES {
        let message = receiver.receive(deadline)?;
        ensure!(message == [wanted, !wanted, 0, 7], "message {wanted} is {message:?}");
    }
    let end = receiver.receive(deadline);
    ensure!(end == Err(Error::Closed), "after the last: {end:?}");
    Ok(())
}

pub fn the_end_comes_last() -> Held {
    let (pair, _pool) = pair("peer", Purpose::Say)?;
    let mut reader = some(pair.reader())?;
    let (deadline, mut all, mut byte) = (deadline(), Vec::<u8>::new(), [0; 3]);
    loop {
        match reader.read(&mut byte, deadline)? {
            0 => break,
            count => all.extend(&byte[..count]),
        }
    }
    ensure!(all == WORDS, "it said {all:?}");
    Ok(())
}

/// A page that only this side writes, and a publisher on it with the peer as its one subscriber.
fn publisher(pool: &SharedPool, purpose: Purpose) -> Result<(Publisher<MESSAGE, Area, Arc<Wake>>, Pair), Broken> {
    let memory = Arc::new(SharedWords::map(pool, pool.take(1)?, Access::Write)?);
    let link = Link::open(gate("peer")?, pool, &memory, Access::Read, purpose as u64, deadline())?;
    let mut publisher = Publisher::new(some(link.area(0, 1))?);
    publisher.subscribe(link.bell());
    Ok((publisher, Pair { link, reads: 0 }))
}

/// What the peer's subscription came to: messages received and missed.
fn report() -> Result<(u64, u64), Broken> {
    let message = CallMessage { words: [request::REPORT, 0, 0, 0, 0, 0, 0], ..CallMessage::default() };
    let [ended, came, missed, wrong, ..] = gate("peer")?.call_patiently(&message, deadline())?.words;
    ensure!(ended == 1, "the subscription broke");
    ensure!(wrong == 0, "{wrong} messages were wrong");
    Ok((came, missed))
}

pub fn subscribers_count() -> Held {
    let pool = pool(4)?;
    let (mut publisher, _pair) = publisher(&pool, Purpose::SubscribeSlowly)?;
    for message in 0..PUBLISHED {
        publisher.publish(&[message; MESSAGE]);
    }
    publisher.notify();
    drop(publisher);
    let (came, missed) = report()?;
    ensure!(came + missed == PUBLISHED, "{came} came and {missed} were missed of {PUBLISHED}");
    ensure!(missed > 0 && came > 0, "{came} came and {missed} were missed");
    Ok(())
}

pub fn subscribers_keep_up() -> Held {
    let pool = pool(4)?;
    let (mut publisher, _pair) = publisher(&pool, Purpose::Subscribe)?;
    for message in 0..PUBLISHED {
        publisher.publish(&[message; MESSAGE]);
        publisher.notify();
        // It gets the core at the latest now.
        if message % 32 == 31 {
            libos::time::sleep(core::time::Duration::from_millis(3));
        }
    }
    ensure!(publisher.subscribers() == 1, "the subscriber was taken for dead");
    drop(publisher);
    let (came, missed) = report()?;
    ensure!(came + missed == PUBLISHED, "{came} came and {missed} were missed of {PUBLISHED}");
    Ok(())
}

pub fn frames_change_hands() -> Held {
    let (pool, gate) = (pool(8)?, gate("peer")?);
    let send = Some((pool.handle(), Rights::POOL_READ | Rights::POOL_WRITE));
    let message = CallMessage { words: [request::POOL, 0, 0, 0, 0, 0, 0], send, ..CallMessage::default() };
    let [refusal, ..] = gate.call_patiently(&message, deadline())?.words;
    ensure!(refusal == 0, "the pool was refused with {refusal}");
    for round in 0..20u8 {
        let mut parcel = Parcel::new(&pool, PAGES)?;
        let bytes = vec![round; (PAGES * exo_abi::PAGE_BYTES) as usize];
        parcel.write(0, &bytes);
        parcel.write(5, &[1, 2, 3]);
        let [a, b, c, d] = parcel.give()?.words();
        let [done, a, b, c, d, ..] = gate.call([request::INVERT, a, b, c, d, 0, 0])?;
        ensure!(done == request::INVERT, "round {round}: it could not take the frames");
        let parcel = Parcel::accept(&pool, some(Frames::from_words([a, b, c, d]))?)?;
        let mut back = vec![0; bytes.len()];
        parcel.read(0, &mut back);
        ensure!(back[5..8] == [!1, !2, !3], "round {round}: {:?}", &back[..10]);
        ensure!(back[..5].iter().chain(&back[8..]).all(|byte| *byte == !round), "round {round}: other bytes");
    }
    gate.call([request::FORGET, 0, 0, 0, 0, 0, 0])?;
    Ok(())
}
