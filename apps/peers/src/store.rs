//! The honest service: keeps values by key until it dies.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use libos::ipc::rpc::{Bytes, Caller, NoError, Refused, Server};
use libos::time::{self, Instant};
use serde::{Deserialize, Serialize};

/// Keys there are.
pub const KEYS: u8 = 8;

/// What goes wrong in the store itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StoreError {
    /// There is no such key.
    NoKey(u8),
    /// Nothing was put there.
    Empty,
}

impl fmt::Display for StoreError {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// Numbers, such as a user would send: 32 bytes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Point {
    pub x: i64,
    pub y: i64,
    pub at: u64,
    pub weight: u64,
}

libos::interface! {
    /// Keeps values by key.
    pub mod store {
        const VERSION: u16 = 1;
        const PAGES: usize = 2;
        /// Keeps a value; answers with how many calls kept one so far.
        fn put(key: u8, value: &Bytes) -> Result<u32, StoreError>;
        /// The value.
        #[idempotent]
        fn get(key: u8) -> Result<&Bytes, StoreError>;
        /// So many bytes.
        #[idempotent]
        fn zeros(bytes: u32) -> Result<Vec<u8>, NoError>;
        /// A sum of the bytes.
        #[idempotent]
        fn sum(bytes: &Bytes) -> Result<u64, NoError>;
        /// The point on the other side of the origin.
        #[idempotent]
        fn mirror(point: Point) -> Result<Point, NoError>;
        /// How many calls kept a value in this life.
        #[idempotent]
        fn puts() -> Result<u32, NoError>;
        /// Takes so many milliseconds.
        fn work(ms: u32) -> Result<u32, NoError>;
        /// Whose request was refused last, and what number of a version it carried.
        #[idempotent]
        fn refused() -> Result<(u64, u64), NoError>;
        /// Dies.
        fn die() -> Result<(), NoError>;
        /// Dies if the timer has not passed this.
        #[idempotent]
        fn die_before(ticks: u64) -> Result<u32, NoError>;
    }
}

/// The same service as somebody built it later.
pub mod newer {
    use libos::ipc::rpc::NoError;

    libos::interface! {
        pub mod store {
            const VERSION: u16 = 2;
            #[idempotent]
            fn puts() -> Result<u32, NoError>;
        }
    }
}

static REFUSED_BADGE: AtomicU64 = AtomicU64::new(0);
static REFUSED_VERSION: AtomicU64 = AtomicU64::new(0);

#[derive(Default)]
struct Store {
    values: [Option<Vec<u8>>; KEYS as usize],
    puts: u32,
}

impl store::Service for Store {
    fn put(&mut self, _: Caller, key: u8, value: &Bytes) -> Result<u32, StoreError> {
        let place = self.values.get_mut(usize::from(key)).ok_or(StoreError::NoKey(key))?;
        *place = Some(value.to_vec());
        self.puts += 1;
        Ok(self.puts)
    }

    fn get(&mut self, _: Caller, key: u8) -> Result<&Bytes, StoreError> {
        let place = self.values.get(usize::from(key)).ok_or(StoreError::NoKey(key))?;
        place.as_deref().map(Bytes::new).ok_or(StoreError::Empty)
    }

    fn zeros(&mut self, _: Caller, bytes: u32) -> Result<Vec<u8>, NoError> {
        Ok(alloc::vec![0; bytes.min(20_000) as usize])
    }

    fn sum(&mut self, _: Caller, bytes: &Bytes) -> Result<u64, NoError> {
        Ok(bytes.iter().map(|byte| u64::from(*byte)).sum())
    }

    fn mirror(&mut self, _: Caller, point: Point) -> Result<Point, NoError> {
        Ok(Point { x: point.x.wrapping_neg(), y: point.y.wrapping_neg(), ..point })
    }

    fn puts(&mut self, _: Caller) -> Result<u32, NoError> {
        Ok(self.puts)
    }

    fn work(&mut self, _: Caller, ms: u32) -> Result<u32, NoError> {
        let until = Instant::after(Duration::from_millis(u64::from(ms.min(1000))));
        while Instant::now() < until {
            core::hint::spin_loop();
        }
        Ok(ms)
    }

    fn refused(&mut self, _: Caller) -> Result<(u64, u64), NoError> {
        Ok((REFUSED_BADGE.load(Relaxed), REFUSED_VERSION.load(Relaxed)))
    }

    fn die(&mut self, _: Caller) -> Result<(), NoError> {
        libos::exit(3)
    }

    fn die_before(&mut self, _: Caller, ticks: u64) -> Result<u32, NoError> {
        if Instant::now() < Instant(ticks) {
            libos::exit(4)
        }
        // It is a next life, or the timer passed on the way.
        time::sleep(Duration::from_micros(1));
        Ok(self.puts)
    }
}

/// Serves for ever.
pub fn main() -> ! {
    Server::new(store::Served(Store::default())).on_refused(note).serve()
}

fn note(caller: Caller, why: Refused) {
    REFUSED_BADGE.store(caller.badge, Relaxed);
    let number = match why {
        Refused::Version { theirs, .. } => u64::from(theirs.number),
        Refused::Malformed => 10_000,
        Refused::NoPages => 10_001,
    };
    REFUSED_VERSION.store(number, Relaxed);
}
