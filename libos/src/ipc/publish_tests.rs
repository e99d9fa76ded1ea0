//! Publishing on a host: exact counts of what was missed, hostile words, and loom on the sequence lock.

use super::*;
use crate::ipc::ring::{HEADER_WORDS, PROBE};
use crate::ipc::testing::{FAR, Heap, Patient};
use core::sync::atomic::Ordering;
use proptest::prelude::*;

fn pair(words: usize) -> (Publisher<1, Heap, Patient>, Subscriber<1, Heap, Patient>, Heap, Patient) {
    let (heap, bell) = (Heap::new(HEADER_WORDS + words), Patient::new());
    let mut publisher = Publisher::new(heap.clone());
    publisher.subscribe(bell.clone());
    (publisher, Subscriber::new(heap.clone(), bell.clone()), heap, bell)
}

fn received(message: u64, missed: u64) -> Result<Option<Received<1>>, Error> {
    Ok(Some(Received { message: [message], missed }))
}

#[test]
fn who_keeps_up_misses_nothing() {
    let (mut publisher, mut subscriber, ..) = pair(8);
    for message in 0..20 {
        publisher.publish(&[message]);
        assert_eq!(subscriber.pop(), received(message, 0));
        assert_eq!(subscriber.pop(), Ok(None));
    }
}

#[test]
fn who_is_slow_is_told_how_many_it_missed() {
    let (mut publisher, mut subscriber, ..) = pair(8);
    (0..10).for_each(|message| publisher.publish(&[message]));
    // Four slots: 6 to 9 are still there.
    assert_eq!(subscriber.pop(), received(6, 6));
    assert_eq!(subscriber.pop(), received(7, 0));
    // Now 8 is overwritten, which the slot says before the count is looked at: on to the middle of what is there.
    (10..14).for_each(|message| publisher.publish(&[message]));
    assert_eq!(subscriber.pop(), received(12, 4));
    assert_eq!(subscriber.pop(), received(13, 0));
    drop(publisher);
    assert_eq!(subscriber.pop(), Err(Error::Closed));
}

#[test]
fn the_last_message_comes_before_the_end() {
    let (mut publisher, mut subscriber, _, bell) = pair(8);
    publisher.publish(&[1]);
    drop(publisher);
    assert_eq!(bell.notified(), 1);
    assert_eq!(subscriber.receive(FAR), Ok(Received { message: [1], missed: 0 }));
    assert_eq!(subscriber.receive(FAR), Err(Error::Closed));
}

#[test]
fn a_subscriber_that_is_gone_is_forgotten() {
    let (mut publisher, _, _, bell) = pair(8);
    publisher.subscribe(Patient::new());
    bell.die();
    publisher.notify();
    assert_eq!(publisher.subscribers(), 1);
}

#[test]
fn a_publisher_that_is_silent_or_dead_is_an_error_in_time() {
    let (_publisher, mut subscriber, _, bell) = pair(8);
    assert_eq!(subscriber.receive(bell.now() + 3 * PROBE), Err(Error::DeadlineMissed));
    bell.die();
    assert_eq!(subscriber.receive(FAR), Err(Error::Died));
    assert_eq!(subscriber.pop(), Err(Error::Died));
}

#[test]
#[should_panic(expected = "two messages")]
fn one_slot_is_no_circle() {
    pair(3);
}

#[test]
fn numbers_that_cannot_be_break_the_subscription() {
    type Case = (&'static str, fn(&Heap));
    let cases: [Case; 5] = [
        ("the count went back", |heap| heap.header()[COUNT].store(1, Ordering::Relaxed)),
        ("a count that cannot be doubled", |heap| heap.header()[COUNT].store(CLOSED - 1, Ordering::Relaxed)),
        ("zeros", Heap::clear),
        ("a counted message is not there", |heap| heap.header()[COUNT].store(3, Ordering::Relaxed)),
        ("a slot is ahead of the count", |heap| {
            heap.data()[4].store(2 * 6 + 1, Ordering::Relaxed);
            heap.header()[COUNT].store(3, Ordering::Relaxed);
        }),
    ];
    for (what, harm) in cases {
        let (mut publisher, mut subscriber, heap, _) = pair(8);
        publisher.publish(&[1]);
        publisher.publish(&[2]);
        subscriber.pop().unwrap();
        subscriber.pop().unwrap();
        harm(&heap);
        assert_eq!(subscriber.receive(FAR), Err(Error::Broken), "{what}");
        assert_eq!(subscriber.pop(), Err(Error::Broken), "{what}");
    }
}

proptest! {
    /// What is received and what is missed add up, and messages come in order.
    #[test]
    fn nothing_is_lost_without_being_counted(bursts in prop::collection::vec((0u64..20, 0u64..20), 0..50), bits in 1u32..4) {
        let (mut publisher, mut subscriber, ..) = pair(2 << bits);
        let (mut published, mut seen) = (0, 0);
        for (writes, reads) in bursts {
            for _ in 0..writes {
                publisher.publish(&[published]);
                published += 1;
            }
            for _ in 0..reads {
                if let Some(Received { message, missed }) = subscriber.pop().unwrap() {
                    seen += missed;
                    prop_assert_eq!(message[0], seen);
                    seen += 1;
                }
            }
        }
        drop(publisher);
        while let Ok(Received { message, missed }) = subscriber.receive(FAR) {
            seen += missed;
            prop_assert_eq!(message[0], seen);
            seen += 1;
        }
        prop_assert_eq!(seen, published);
    }

    /// Whatever stands in memory: an answer in bounded time.
    #[test]
    fn garbage_costs_an_error_and_nothing_else(
        writes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u64>(), 0u64..40]), 0..200)
    ) {
        let (mut publisher, mut subscriber, heap, bell) = pair(8);
        let mut broken = false;
        for (place, value) in writes {
            publisher.publish(&[value]);
            heap.words()[place.index(HEADER_WORDS + 8)].store(value, Ordering::Relaxed);
            let answer = subscriber.receive(bell.now() + PROBE);
            prop_assert!(!broken || answer == Err(Error::Broken));
            broken = answer == Err(Error::Broken);
        }
    }
}

/// The same code under loom.
mod model {
    use super::*;
    use exo_abi::Refusal;
    use loom::thread;
    use std::sync::Arc;
    use std::vec::Vec;

    /// With `ORDERED` false every order is relaxed and there are no barriers.
    struct Modelled<const ORDERED: bool>(loom::sync::atomic::AtomicU64);

    impl<const ORDERED: bool> Word for Modelled<ORDERED> {
        fn load(&self, order: Ordering) -> u64 {
            self.0.load(if ORDERED { order } else { Relaxed })
        }

        fn store(&self, value: u64, order: Ordering) {
            self.0.store(value, if ORDERED { order } else { Relaxed });
        }

        fn fence(order: Ordering) {
            if ORDERED {
                loom::sync::atomic::fence(order);
            }
        }
    }

    #[derive(Clone)]
    struct Shared<const ORDERED: bool>(Arc<Vec<Modelled<ORDERED>>>);

    impl<const ORDERED: bool> Memory for Shared<ORDERED> {
        type Word = Modelled<ORDERED>;

        fn header(&self) -> &[Modelled<ORDERED>; HEADER_WORDS] {
            self.0.first_chunk().unwrap()
        }

        fn data(&self) -> &[Modelled<ORDERED>] {
            &self.0[HEADER_WORDS..]
        }
    }

    struct Nobody;

    impl Bell for Nobody {
        fn notify(&self) -> Result<(), Refusal> {
            Ok(())
        }

        fn wait(&self, _: Instant) {}

        fn now(&self) -> Instant {
            Instant(0)
        }
    }

    /// Three messages through two slots: the third overwrites the first, perhaps while it is read.
    fn no_message_is_torn<const ORDERED: bool>() {
        loom::model(|| {
            let zeros = (0..HEADER_WORDS + 6).map(|_| Modelled::<ORDERED>(loom::sync::atomic::AtomicU64::new(0)));
            let memory = Shared(Arc::new(zeros.collect()));
            let mut publisher = std::mem::ManuallyDrop::new(Publisher::<2, _, Nobody>::new(memory.clone()));
            publisher.publish(&[1, 1]);
            let publishing = thread::spawn(move || {
                publisher.publish(&[2, 2]);
                publisher.publish(&[3, 3]);
            });
            let mut subscriber = Subscriber::<2, _, _>::new(memory, Nobody);
            let mut seen = 0;
            for _ in 0..2 {
                if let Some(Received { message: [a, b], missed }) = subscriber.pop().expect("an honest publisher") {
                    seen += missed + 1;
                    assert_eq!((a, b), (seen, seen), "a message was torn");
                }
            }
            publishing.join().unwrap();
        });
    }

    #[test]
    fn a_message_is_whole_and_its_number_right() {
        no_message_is_torn::<true>();
    }

    #[test]
    #[should_panic]
    fn without_the_barriers_it_is_not() {
        no_message_is_torn::<false>();
    }
}
