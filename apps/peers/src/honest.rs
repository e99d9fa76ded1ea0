//! What an honest client may count on.

use crate::store::{KEYS, Point, StoreError, newer, store};
use crate::{Held, same};
use alloc::vec::Vec;
use core::hint::black_box;
use core::time::Duration;
use exo_abi::{Handle, Pfn, Refusal};
use libos::ipc::names::{self, NotFound};
use libos::ipc::rpc::{Bytes, CallError, Error};
use libos::mem::{self, Shared};
use libos::slots;
use libos::time::Instant;
use workshop::Ground;

/// Long: a busy host makes the guest wait, and no test may depend on that.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A client of the store.
pub fn client() -> Result<store::Client, CallError> {
    Ok(store::Client::named("store")?.with_patience(PATIENCE))
}

pub fn short(_: &Ground) -> Held {
    let mut store = client()?;
    for number in [0, 1, i64::MAX, i64::MIN + 1, -77] {
        let point = Point { x: number, y: -number, at: number as u64, weight: 5 };
        // Four times ten bytes: what four u64 take at most.
        same!(store.mirror(point)?, Point { x: -number, y: number, ..point }, "a point");
    }
    let mut trusting = store::Client::named("store")?.trusting();
    same!(trusting.sum(Bytes::new(&[1; 40]))?, 40, "a sum without a deadline");
    Ok(())
}

pub fn long(_: &Ground) -> Held {
    let mut store = client()?;
    let before = store.puts()?;
    // 47 bytes and their length fit into registers, 48 do not; two frames hold 8192 bytes, of which key and length take three.
    for (round, len) in [0, 1, 46, 47, 48, 4096, 8189].into_iter().enumerate() {
        let value: Vec<u8> = (0..len).map(|index| (index * 7 + len) as u8).collect();
        same!(store.put(1, Bytes::new(&value))?, before + round as u32 + 1, "{len} bytes");
        same!(store.get(1)?.as_ref(), value.as_slice(), "{len} bytes");
        same!(store.sum(Bytes::new(&value))?, value.iter().map(|byte| u64::from(*byte)).sum(), "{len} bytes");
    }
    same!(store.zeros(8190)?.len(), 8190, "bytes one by one");
    Ok(())
}

/// Every length of the loops' ends and every alignment: in memory, and into shared frames and back.
pub fn copies(_: &Ground) -> Held {
    let pattern: Vec<u8> = (0..2048u32).map(|index| (index * 151 + 7 + index / 256) as u8).collect();
    let frames = Frames::new()?;
    for length in (0..=272).chain([319, 320, 511, 512, 513, 767, 1000]) {
        for (from, to) in (0..16).flat_map(|from| [(from, 0), (from, 5), (from, 8), (16 - from, from)]) {
            let wanted = &pattern[from..from + black_box(length)];
            let mut there = [0xee; 1100];
            there[to + 16..to + 16 + length].copy_from_slice(wanted);
            same!(&there[to + 16..to + 16 + length] == wanted, true, "{length} bytes from {from} to {to}");
            let around = there[..to + 16].iter().chain(&there[to + 16 + length..]);
            same!(around.filter(|byte| **byte != 0xee).count(), 0, "bytes beside {length} from {from} to {to}");
            let mut back = [0xee; 1100];
            frames.shared.write(4096 - 300 + to, wanted)?;
            frames.shared.read(4096 - 300 + to, &mut back[from + 16..from + 16 + length])?;
            same!(&back[from + 16..from + 16 + length] == wanted, true, "{length} shared bytes from {from} to {to}");
            let around = back[..from + 16].iter().chain(&back[from + 16 + length..]);
            same!(around.filter(|byte| **byte != 0xee).count(), 0, "bytes beside {length} shared from {from} to {to}");
        }
    }
    Ok(())
}

/// Two frames of this program's own pool, seen as shared ones.
struct Frames {
    // Before the frames are given back.
    shared: Shared,
    _back: GiveBack,
}

struct GiveBack([Pfn; 2]);

impl Drop for GiveBack {
    fn drop(&mut self) {
        mem::free_frames(Handle::POOL, &self.0);
    }
}

impl Frames {
    fn new() -> Result<Frames, Refusal> {
        let mut frames = [Pfn(0); 2];
        mem::alloc_frames(Handle::POOL, &mut frames)?;
        let back = GiveBack(frames);
        Ok(Frames { shared: Shared::map(Handle::POOL, &frames)?, _back: back })
    }
}

pub fn services_errors(_: &Ground) -> Held {
    let mut store = client()?;
    same!(store.get(KEYS), Err(Error::Service(StoreError::NoKey(KEYS))), "a key that is none");
    same!(store.get(KEYS - 1), Err(Error::Service(StoreError::Empty)), "an empty place");
    same!(store.put(200, Bytes::new(&[0; 100])), Err(Error::Service(StoreError::NoKey(200))), "a long value");
    Ok(())
}

pub fn too_long(_: &Ground) -> Held {
    let mut store = client()?;
    let before = store.puts()?;
    same!(store.put(1, Bytes::new(&[0; 8190])), Err(CallError::RequestTooLong.into()), "a byte too much");
    same!(store.zeros(8191), Err(CallError::AnswerTooLong.into()), "a byte too much in the answer");
    same!(store.puts()?, before, "a request that was not sent was served");
    Ok(())
}

pub fn versions(_: &Ground) -> Held {
    let mut newer = newer::store::Client::named("store")?.with_patience(PATIENCE);
    let mismatch = CallError::Version { ours: newer::store::VERSION, theirs: store::VERSION };
    same!(newer.puts(), Err(mismatch.into()), "the newer client");
    let (badge, version) = client()?.refused()?;
    same!((badge != 0, version), (true, 2), "the older service");
    Ok(())
}

pub fn names(_: &Ground) -> Held {
    same!(store::Client::named("pl011").err(), Some(CallError::NotPermitted), "a service of somebody else's");
    let slot = slots::take().ok_or(Refusal::SlotTaken)?;
    let until = || Instant::after(PATIENCE);
    same!(names::resolve("victim", slot, until()), Err(NotFound::NotPermitted), "what the manifest does not name");
    same!(names::resolve("", slot, until()), Err(NotFound::NotPermitted), "nothing");
    same!(names::resolve("store", slot, until()), Ok(()), "what it names");
    same!(store::Client::over(libos::ipc::Gate::new(slot)).puts().is_ok(), true, "the gate that came");
    slots::empty(slot);
    Ok(())
}

pub fn on_demand(_: &Ground) -> Held {
    let mut late = store::Client::named("late")?.with_patience(PATIENCE);
    same!(late.puts()?, 0, "its first call");
    Ok(())
}

pub fn deadline(_: &Ground) -> Held {
    let mut hasty = client()?.with_patience(Duration::from_millis(5));
    let begun = Instant::now();
    same!(hasty.work(60), Err(CallError::Timeout.into()), "work that takes too long");
    same!(begun.elapsed() >= Duration::from_millis(5), true, "cut before its deadline");
    let mut patient = client()?;
    same!(patient.sum(Bytes::new(&[3; 9]))?, 27, "the next answer");
    same!(patient.work(1)?, 1, "short work");
    Ok(())
}

pub fn two_clients(_: &Ground) -> Held {
    let (mut one, mut two) = (client()?, client()?);
    let (ones, twos) = ([1; 5000], [2; 6000]);
    for _ in 0..10 {
        one.put(1, Bytes::new(&ones))?;
        two.put(2, Bytes::new(&twos))?;
        same!(one.sum(Bytes::new(&ones))?, 5000, "the first's bytes");
        same!(one.get(1)?.as_ref(), &ones[..], "the first's value");
        same!(two.get(2)?.as_ref(), &twos[..], "the second's value");
    }
    Ok(())
}

pub fn death(_: &Ground) -> Held {
    let (mut store, mut other) = (client()?, client()?);
    other.put(1, Bytes::new(&[1; 100]))?;
    same!(store.die(), Err(CallError::Died.into()), "the call that kills");
    // The next call of the same client looks for the service again; it has heard of the death.
    same!(store.put(1, Bytes::new(&[7; 100]))?, 1, "the next life's first value");
    // The other one has not: it is told, once.
    same!(other.put(2, Bytes::new(&[8; 100])), Err(CallError::Gone.into()), "a call to who is gone");
    same!(other.put(2, Bytes::new(&[8; 100]))?, 2, "the call after that");
    Ok(())
}

pub fn next_life(_: &Ground) -> Held {
    let (mut store, mut other) = (client()?, client()?);
    let value = [9; 3000];
    other.put(1, Bytes::new(&value))?;
    same!(store.die(), Err(CallError::Died.into()), "the call that kills");
    same!(other.puts()?, 0, "a short idempotent call");
    same!(store.die(), Err(CallError::Died.into()), "the call that kills again");
    same!(other.sum(Bytes::new(&value))?, 27_000, "a long idempotent call");
    same!(other.get(1), Err(Error::Service(StoreError::Empty)), "what was kept in an earlier life");
    Ok(())
}

pub fn deaths_on_the_way(_: &Ground) -> Held {
    let mut store = client()?;
    let before = store.puts()?;
    let until = Instant::after(Duration::from_millis(30));
    same!(store.die_before(until.0)?, 0, "an answer of a later life ({before} before)");
    same!(Instant::now() >= until, true, "an answer before its time");
    Ok(())
}

pub fn stays_down(_: &Ground) -> Held {
    let mut nobody = store::Client::named("nobody")?.with_patience(Duration::from_millis(50));
    let begun = Instant::now();
    same!(nobody.puts(), Err(CallError::Gone.into()), "a service that does not live");
    same!(nobody.work(1), Err(CallError::Gone.into()), "the same for a call that is not idempotent");
    same!(begun.elapsed() < PATIENCE, true, "patience beyond the client's own");
    Ok(())
}
