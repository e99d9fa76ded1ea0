//! What the tests of rings, pipes and publishing share: memory of the heap, and a bell with a clock of its own.

use super::ring::{Bell, HEADER_WORDS, Memory};
use crate::time::Instant;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use exo_abi::Refusal;
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::vec::Vec;

/// A deadline that no test reaches.
pub const FAR: Instant = Instant(u64::MAX);

/// Shared memory.
#[derive(Clone)]
pub struct Heap(Arc<[AtomicU64]>);

impl Heap {
    pub fn new(words: usize) -> Heap {
        Heap((0..words).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().into())
    }

    pub fn words(&self) -> &[AtomicU64] {
        &self.0
    }

    pub fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Relaxed));
    }
}

impl Memory for Heap {
    type Word = AtomicU64;

    fn header(&self) -> &[AtomicU64; HEADER_WORDS] {
        self.0.first_chunk().unwrap()
    }

    fn data(&self) -> &[AtomicU64] {
        &self.0[HEADER_WORDS..]
    }
}

type OnNotify = Box<dyn FnOnce(&Patient)>;

/// A bell that lets time pass while it waits, and counts.
#[derive(Clone)]
pub struct Patient(Rc<Inside>);

struct Inside {
    now: Cell<u64>,
    notified: Cell<u64>,
    gone: Cell<bool>,
    floods: Cell<bool>,
    on_notify: RefCell<Option<OnNotify>>,
}

impl Patient {
    pub fn new() -> Patient {
        Patient(Rc::new(Inside {
            now: Cell::new(1),
            notified: Cell::new(0),
            gone: Cell::new(false),
            floods: Cell::new(false),
            on_notify: RefCell::new(None),
        }))
    }

    /// Times somebody was notified.
    pub fn notified(&self) -> u64 {
        self.0.notified.get()
    }

    /// From now on nobody can be.
    pub fn die(&self) {
        self.0.gone.set(true);
    }

    /// From now on no wait lasts.
    pub fn flood(&self) {
        self.0.floods.set(true);
    }

    /// The next time somebody is, this happens first.
    pub fn when_notified(&self, action: impl FnOnce(&Patient) + 'static) {
        *self.0.on_notify.borrow_mut() = Some(Box::new(action));
    }
}

impl Bell for Patient {
    fn notify(&self) -> Result<(), Refusal> {
        let action = self.0.on_notify.borrow_mut().take();
        if let Some(action) = action {
            action(self);
        }
        if self.0.gone.get() {
            return Err(Refusal::Stale);
        }
        self.0.notified.set(self.0.notified.get() + 1);
        Ok(())
    }

    fn wait(&self, until: Instant) {
        let now = self.now();
        self.0.now.set(if self.0.floods.get() { (now + Duration::from_micros(1)).0 } else { until.0.max(now.0) });
    }

    fn now(&self) -> Instant {
        Instant(self.0.now.get())
    }
}
