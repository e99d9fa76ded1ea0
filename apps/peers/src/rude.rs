//! A hostile server: answers as its client asks it to, and each answer is wrong in its own way.

use crate::honest::PATIENCE;
use crate::{Held, same};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use core::time::Duration;
use exo_abi::{Handle, Pfn, Refusal};
use libos::ipc::rpc::NoError;
use libos::ipc::rpc::message::{self, answer, request};
use libos::ipc::rpc::{CallError, Version, decode};
use libos::ipc::{Incoming, Outgoing, Server};
use libos::mem::Shared;
use libos::protocol::Message;
use libos::sys::SliceTerms;
use libos::vcore::Vcore;
use libos::{slots, time};
use workshop::Ground;

libos::interface! {
    /// What the client believes.
    pub mod polite {
        const VERSION: u16 = 1;
        const PAGES: usize = 2;
        /// Answers in this way.
        fn act(how: u32) -> Result<Vec<u16>, NoError>;
        /// The same.
        #[idempotent]
        fn act_again(how: u32) -> Result<Vec<u16>, NoError>;
    }
}

/// Ways to answer.
mod how {
    pub const ONES: u32 = 0;
    pub const BAD_NUMBER: u32 = 1;
    pub const BEYOND_THE_FRAMES: u32 = 2;
    pub const LONG_WITHOUT_END: u32 = 3;
    pub const MORE_THAN_THERE_IS: u32 = 4;
    pub const OTHER_VERSION: u32 = 5;
    pub const UNKNOWN_CODE: u32 = 6;
    pub const ALWAYS_FORGETFUL: u32 = 7;
    pub const AN_ERROR_THAT_CANNOT_BE: u32 = 8;
    pub const TRAILING: u32 = 9;
    pub const SCRIBBLE: u32 = 10;
    pub const SILENCE: u32 = 11;
    pub const DEATH: u32 = 12;
}

/// What the second vcore writes to.
static POOL: AtomicU64 = AtomicU64::new(0);
static FRAMES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn shared() -> Result<Shared, Refusal> {
    Shared::map(Handle(POOL.load(SeqCst) as u16), &FRAMES.each_ref().map(|frame| Pfn(frame.load(SeqCst))))
}

/// The second vcore: changes the answer for ever.
fn scribble() {
    loop {
        let Ok(shared) = shared() else {
            time::sleep(Duration::from_millis(1));
            continue;
        };
        let mut byte = 0u8;
        // Until the frames are gone, or others are lent.
        let pool = POOL.load(SeqCst);
        while POOL.load(SeqCst) == pool && shared.write(usize::from(byte) * 3, &[byte; 256]).is_ok() {
            byte = byte.wrapping_mul(5).wrapping_add(77);
        }
    }
}

/// Answers for ever.
pub fn main() -> ! {
    let ground = Ground::of_application(1);
    if let Ok((ground, position)) = ground.and_then(|g| g.positions.take().map(|p| (g, p)).map_err(|_| "no position")) {
        let terms = SliceTerms { micros: 200, exact: false };
        let _ = Vcore { index: 1, core: 0, stack_pages: 4 }.spawn_on(ground.cores, position, terms, scribble);
    }
    let server = Server::new();
    let mut accept = slots::take();
    let mut outgoing = Outgoing { accept, ..Outgoing::default() };
    loop {
        let Incoming::Call { words, binding, .. } = server.turn(&outgoing) else { continue };
        let request = Message::from_words(&words);
        let reply = match request.code {
            request::OPEN => message::new(answer::READY, polite::VERSION),
            request::LEND => {
                if let Some(pool) = binding {
                    let former = POOL.swap(u64::from(pool.0), SeqCst);
                    if former != 0 {
                        slots::empty(Handle(former as u16));
                    }
                    for (place, bytes) in FRAMES.iter().zip(request.bytes.chunks_exact(8)) {
                        place.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), SeqCst);
                    }
                    accept = slots::take();
                }
                message::new(answer::READY, polite::VERSION).with_flags(1)
            }
            _ => act(decode::<(u32,)>(request.as_bytes()).map_or(u32::MAX, |(how,)| how)),
        };
        outgoing = Outgoing { words: reply.to_words(), accept, ..Outgoing::default() };
        // All of them, the length beyond the bytes too.
        if request.code < request::FIRST && reply.len == u8::MAX {
            outgoing.words = [u64::MAX; 7];
        }
    }
}

fn act(how: u32) -> Message {
    let done = message::new(answer::DONE, polite::VERSION);
    let long = |bytes| {
        let mut long = done;
        message::set_long(&mut long, bytes);
        long
    };
    match how {
        how::ONES => Message { len: u8::MAX, ..done },
        how::BAD_NUMBER => done.with_bytes(&[1, 0xff, 0xff, 0xff]),
        how::BEYOND_THE_FRAMES => long(8193),
        how::LONG_WITHOUT_END => long(u32::MAX as usize),
        how::MORE_THAN_THERE_IS => done.with_bytes(&[0xff, 0xff, 0xff, 0xff, 0x7f]),
        how::OTHER_VERSION => Message { number: Version::new(9, "another").to_bits(), ..done },
        how::UNKNOWN_CODE => Message { code: 0x77, ..done },
        how::ALWAYS_FORGETFUL => message::new(answer::NO_PAGES, polite::VERSION),
        how::AN_ERROR_THAT_CANNOT_BE => message::new(answer::FAILED, polite::VERSION).with_bytes(&[0]),
        how::TRAILING => done.with_bytes(&[1, 5, 6]),
        how::SCRIBBLE => long(700),
        how::SILENCE => {
            time::sleep(Duration::from_millis(100));
            done.with_bytes(&[0])
        }
        how::DEATH => libos::exit(5),
        _ => done.with_bytes(&[0]),
    }
}

fn client() -> Result<polite::Client, CallError> {
    Ok(polite::Client::named("rude")?.with_patience(PATIENCE))
}

pub fn answers(_: &Ground) -> Held {
    let mut client = client()?;
    same!(client.act(u32::MAX)?, Vec::new(), "a polite answer");
    for (how, expected) in [
        (how::BAD_NUMBER, CallError::BadAnswer),
        (how::BEYOND_THE_FRAMES, CallError::BadAnswer),
        (how::LONG_WITHOUT_END, CallError::BadAnswer),
        (how::MORE_THAN_THERE_IS, CallError::BadAnswer),
        (how::UNKNOWN_CODE, CallError::BadAnswer),
        (how::ALWAYS_FORGETFUL, CallError::BadAnswer),
        (how::AN_ERROR_THAT_CANNOT_BE, CallError::BadAnswer),
        (how::TRAILING, CallError::BadAnswer),
    ] {
        same!(client.act(how), Err(expected.into()), "way {how}");
        same!(client.act_again(how), Err(expected.into()), "way {how} to an idempotent call");
    }
    for (how, theirs) in [(how::OTHER_VERSION, Version::new(9, "another")), (how::ONES, Version::from_bits(u32::MAX))] {
        let mismatch = CallError::Version { ours: polite::VERSION, theirs };
        same!(client.act(how), Err(mismatch.into()), "way {how}");
    }
    same!(client.act(u32::MAX)?, Vec::new(), "a polite answer at the end");
    Ok(())
}

pub fn scribbles(_: &Ground) -> Held {
    let mut client = client()?;
    let (mut understood, mut refused) = (0, 0);
    for _ in 0..1500 {
        match client.act(how::SCRIBBLE) {
            Ok(_) => understood += 1,
            Err(error) => {
                same!(error, CallError::BadAnswer.into(), "an answer that changes");
                refused += 1;
            }
        }
    }
    same!(understood + refused, 1500, "answers");
    same!(refused > 0, true, "answers that were refused");
    Ok(())
}

pub fn silence(_: &Ground) -> Held {
    let mut client = client()?.with_patience(Duration::from_millis(10));
    same!(client.act(how::SILENCE), Err(CallError::Timeout.into()), "no answer");
    let mut client = client.with_patience(PATIENCE);
    same!(client.act(u32::MAX)?, Vec::new(), "an answer once it hears again");
    Ok(())
}

pub fn death(_: &Ground) -> Held {
    let mut client = client()?;
    same!(client.act(how::DEATH), Err(CallError::Died.into()), "its death");
    same!(client.act(u32::MAX)?, Vec::new(), "its next life");
    Ok(())
}
