//! Rings on a host: what goes in comes out, hostile words are errors, and loom looks at every order of two parties' accesses.

use super::*;
use crate::ipc::testing::{FAR, Heap, Patient};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec::Vec;

type Pair<const N: usize> = (Sender<N, Heap, Patient>, Receiver<N, Heap, Patient>, Heap, Patient);

/// A ring with `words` words of data, seen from both sides.
fn ring<const N: usize>(words: usize) -> Pair<N> {
    let (heap, bell) = (Heap::new(HEADER_WORDS + words), Patient::new());
    (Sender::new(heap.clone(), bell.clone()), Receiver::new(heap.clone(), bell.clone()), heap, bell)
}

#[test]
fn messages_come_out_in_order_once_they_are_published() {
    let (mut sender, mut receiver, ..) = ring::<2>(16);
    assert_eq!(sender.push(&[1, 2]), Ok(true));
    assert_eq!(sender.push(&[3, 4]), Ok(true));
    assert_eq!(receiver.pop(), Ok(None));
    sender.publish().unwrap();
    assert_eq!(receiver.pop(), Ok(Some([1, 2])));
    assert_eq!(receiver.pop(), Ok(Some([3, 4])));
    assert_eq!(receiver.pop(), Ok(None));
}

#[test]
fn a_full_ring_takes_nothing_until_room_was_given_back() {
    let (mut sender, mut receiver, ..) = ring::<1>(4);
    for message in 0..4 {
        assert_eq!(sender.push(&[message]), Ok(true));
    }
    // Being full published the batch.
    assert_eq!(sender.push(&[4]), Ok(false));
    assert_eq!(receiver.pop(), Ok(Some([0])));
    assert_eq!(sender.push(&[4]), Ok(false));
    receiver.release();
    assert_eq!(sender.push(&[4]), Ok(true));
    assert_eq!(sender.push(&[5]), Ok(false));
}

#[test]
fn slots_are_a_power_of_two_and_stay_inside() {
    let (mut sender, mut receiver, ..) = ring::<3>(17);
    // Five would fit.
    for message in 0..4 {
        assert_eq!(sender.push(&[message; 3]), Ok(true));
    }
    assert_eq!(sender.push(&[9; 3]), Ok(false));
    for message in 0..4 {
        assert_eq!(receiver.pop(), Ok(Some([message; 3])));
    }
}

#[test]
#[should_panic(expected = "a ring of 0 units")]
fn memory_without_room_for_a_message_is_no_ring() {
    let _ = ring::<4>(3);
}

#[test]
fn only_who_says_that_it_waits_is_notified() {
    let (mut sender, mut receiver, _, bell) = ring::<1>(4);
    sender.send(&[1], FAR).unwrap();
    receiver.pop().unwrap();
    assert_eq!(bell.notified(), 0);
    // It gives up after a while; by then it has said that it waits, and has asked now and then whether the other side lives.
    assert_eq!(receiver.pop(), Ok(None));
    assert_eq!(receiver.receive(bell.now() + 5 * PROBE), Err(Error::DeadlineMissed));
    let probes = bell.notified();
    assert!((3..=5).contains(&probes), "{probes}");
    sender.send(&[2], FAR).unwrap();
    assert_eq!(bell.notified(), probes + 1);
    sender.send(&[3], FAR).unwrap();
    assert_eq!(bell.notified(), probes + 1);
}

#[test]
fn closing_lets_the_other_side_have_the_rest() {
    let (mut sender, mut receiver, _, bell) = ring::<1>(4);
    sender.push(&[1]).unwrap();
    sender.push(&[2]).unwrap();
    drop(sender);
    assert_eq!(bell.notified(), 1);
    assert_eq!(receiver.receive(FAR), Ok([1]));
    assert_eq!(receiver.receive(FAR), Ok([2]));
    assert_eq!(receiver.receive(FAR), Err(Error::Closed));
    assert_eq!(receiver.pop(), Err(Error::Closed));
}

#[test]
fn nobody_sends_to_who_has_closed() {
    let (mut sender, receiver, ..) = ring::<1>(2);
    drop(receiver);
    assert_eq!(sender.send(&[1], FAR), Ok(()), "nobody has looked yet");
    assert_eq!(sender.send(&[1], FAR), Ok(()));
    assert_eq!(sender.send(&[1], FAR), Err(Error::Closed));
    assert_eq!(sender.push(&[1]), Err(Error::Closed));
}

#[test]
fn a_peer_that_dies_half_way_is_an_error_after_the_rest() {
    let (mut sender, mut receiver, _, bell) = ring::<1>(4);
    sender.send(&[1], FAR).unwrap();
    bell.die();
    assert_eq!(receiver.receive(FAR), Ok([1]));
    assert_eq!(receiver.receive(FAR), Err(Error::Died));
    assert_eq!(receiver.pop(), Err(Error::Died));
    for _ in 0..4 {
        let _ = sender.push(&[2]);
    }
    assert_eq!(sender.send(&[2], FAR), Err(Error::Died));
    assert_eq!(sender.push(&[2]), Err(Error::Died));
    assert_eq!(sender.publish(), Ok(()));
}

#[test]
fn what_was_published_just_before_the_death_is_received() {
    let (sender, mut receiver, _, bell) = ring::<1>(4);
    // While the receiver looks whether the other side lives, that publishes and dies.
    bell.when_notified(move |bell| {
        let mut sender = std::mem::ManuallyDrop::new(sender);
        sender.push(&[7]).unwrap();
        sender.publish().unwrap();
        bell.die();
    });
    assert_eq!(receiver.receive(FAR), Ok([7]));
    assert_eq!(receiver.receive(FAR), Err(Error::Died));
}

#[test]
fn one_that_never_answers_costs_time_until_the_deadline() {
    let (mut sender, mut receiver, _, bell) = ring::<1>(1);
    let deadline = bell.now() + Duration::from_secs(1);
    assert_eq!(receiver.receive(deadline), Err(Error::DeadlineMissed));
    assert!(bell.now() >= deadline);
    sender.send(&[1], FAR).unwrap();
    let deadline = bell.now() + Duration::from_secs(1);
    assert_eq!(sender.send(&[2], deadline), Err(Error::DeadlineMissed));
    // It is no end: what was sent is there, and it goes on.
    assert_eq!(receiver.receive(FAR), Ok([1]));
    receiver.release();
    assert_eq!(sender.send(&[2], FAR), Ok(()));
}

#[test]
fn waiting_on_a_ring_that_has_ended_is_its_error() {
    let (heap, bell) = (Heap::new(HEADER_WORDS + 4), Patient::new());
    let mut producer = Producer::new(heap.clone(), bell.clone(), 4);
    heap.header()[CONSUMER.index].store(9, Relaxed);
    producer.advance(4);
    assert_eq!(producer.wait(FAR), Err(Error::Broken));
    assert_eq!(producer.wait(FAR), Err(Error::Broken));
    let mut consumer = Consumer::new(heap.clone(), bell, 4);
    heap.header()[PRODUCER.index].store(CLOSED, Relaxed);
    assert_eq!(consumer.wait(FAR), Err(Error::Closed));
    assert_eq!(consumer.wait(FAR), Err(Error::Closed));
}

#[test]
#[should_panic(expected = "more was read than there is")]
fn nobody_reads_beyond_what_is_there() {
    Consumer::new(Heap::new(HEADER_WORDS + 4), Patient::new(), 4).advance(1);
}

#[test]
fn a_flood_of_notifications_ends_at_the_deadline() {
    let (_sender, mut receiver, _, bell) = ring::<1>(1);
    bell.flood();
    assert_eq!(receiver.receive(bell.now() + Duration::from_millis(1)), Err(Error::DeadlineMissed));
}

/// What a hostile producer may have left in its index, and whether it can be.
#[test]
fn an_index_that_cannot_be_breaks_the_ring() {
    for (head, wanted) in [
        (1, Error::Broken),
        (7, Error::Broken),
        (u64::MAX, Error::Broken),
        (CLOSED, Error::Broken),
        (CLOSED - 1, Error::Broken),
        (2, Error::DeadlineMissed),
        (2 | CLOSED, Error::Closed),
    ] {
        let (mut sender, mut receiver, heap, bell) = ring::<1>(4);
        sender.send(&[1], FAR).unwrap();
        sender.send(&[2], FAR).unwrap();
        receiver.receive(FAR).unwrap();
        receiver.receive(FAR).unwrap();
        // 6 is the last that may be.
        heap.header()[PRODUCER.index].store(head, Relaxed);
        assert_eq!(receiver.receive(bell.now() + PROBE), Err(wanted), "{head:#x}");
        let after = receiver.receive(bell.now() + PROBE);
        assert_eq!(after, Err(wanted), "{head:#x} again");
    }
    for (tail, wanted) in [(5, Error::Broken), (u64::MAX, Error::Broken), (CLOSED, Error::Closed)] {
        let (mut sender, _receiver, heap, bell) = ring::<1>(4);
        (0..4).for_each(|message| sender.send(&[message], FAR).unwrap());
        heap.header()[CONSUMER.index].store(tail, Relaxed);
        assert_eq!(sender.send(&[9], bell.now() + PROBE), Err(wanted), "{tail:#x}");
        assert_eq!(sender.push(&[9]), Err(wanted), "{tail:#x} again");
    }
}

#[test]
fn memory_that_turned_to_zeros_is_a_broken_ring_or_nothing() {
    let (mut sender, mut receiver, heap, bell) = ring::<1>(4);
    (0..3).for_each(|message| sender.send(&[message], FAR).unwrap());
    receiver.receive(FAR).unwrap();
    heap.clear();
    // Two were known to be there: what they hold is the other side's matter.
    assert_eq!(receiver.receive(FAR), Ok([0]));
    assert_eq!(receiver.receive(FAR), Ok([0]));
    assert_eq!(receiver.receive(bell.now() + PROBE), Err(Error::Broken));
    let (_, mut fresh, heap, bell) = ring::<1>(4);
    heap.clear();
    bell.die();
    assert_eq!(fresh.receive(FAR), Err(Error::Died));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u64),
    Publish,
    Pop,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u64>().prop_map(Step::Push),
        1 => Just(Step::Publish),
        3 => Just(Step::Pop),
        1 => Just(Step::Release),
    ]
}

proptest! {
    /// Against a queue: nothing is lost, doubled or exchanged, whatever the order of the steps.
    #[test]
    fn a_ring_is_a_bounded_queue(steps in prop::collection::vec(step(), 0..300), bits in 0u32..5) {
        let (mut sender, mut receiver, ..) = ring::<2>(2 << bits);
        let mut queue = VecDeque::new();
        for step in steps {
            match step {
                Step::Push(value) => {
                    if sender.push(&[value, !value]).unwrap() {
                        queue.push_back(value);
                    }
                    prop_assert!(queue.len() <= 1 << bits);
                }
                Step::Publish => sender.publish().unwrap(),
                Step::Pop => {
                    if let Some(message) = receiver.pop().unwrap() {
                        let value = queue.pop_front().unwrap();
                        prop_assert_eq!(message, [value, !value]);
                    }
                }
                Step::Release => receiver.release(),
            }
        }
        drop(sender);
        while let Ok(message) = receiver.receive(FAR) {
            prop_assert_eq!(message[0], queue.pop_front().unwrap());
        }
        prop_assert!(queue.is_empty());
    }

    /// The other side writes anything anywhere between any two steps: there is an answer, in bounded time, and after `Broken` nothing else.
    #[test]
    fn garbage_costs_an_error_and_nothing_else(
        steps in prop::collection::vec((step(), any::<prop::sample::Index>(), prop_oneof![any::<u64>(), 0u64..40, (CLOSED..CLOSED + 40)]), 1..80)
    ) {
        let (mut sender, mut receiver, heap, bell) = ring::<2>(8);
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for (step, place, value) in steps {
            heap.words()[place.index(HEADER_WORDS + 8)].store(value, Relaxed);
            let soon = bell.now() + PROBE;
            match step {
                Step::Push(value) => sent.push(sender.send(&[value; 2], soon).err()),
                Step::Publish => sent.push(sender.publish().err()),
                Step::Pop => received.push(receiver.receive(soon).err()),
                Step::Release => receiver.release(),
            }
        }
        for answers in [sent, received] {
            if let Some(first) = answers.iter().position(|answer| *answer == Some(Error::Broken)) {
                let later = answers[first..].iter().flatten();
                prop_assert!(later.copied().all(|answer| answer == Error::Broken));
            }
        }
    }
}

/// The same code under loom, which tries every order of the accesses of two parties that the memory model allows.
mod model {
    use super::*;
    use loom::sync::{Condvar, Mutex};
    use loom::thread;
    use std::mem::ManuallyDrop;
    use std::sync::Arc;

    /// Nothing is wrong.
    const RIGHT: u8 = 0;
    /// The barrier between saying that one waits and looking again (and its counterpart) is missing.
    const NO_FENCE: u8 = 1;
    /// An index is published without the data before it.
    const RELAXED: u8 = 2;

    /// A word of loom's, perhaps with a bug.
    struct Modelled<const BUG: u8>(loom::sync::atomic::AtomicU64);

    impl<const BUG: u8> Word for Modelled<BUG> {
        fn load(&self, order: Ordering) -> u64 {
            self.0.load(order)
        }

        fn store(&self, value: u64, order: Ordering) {
            self.0.store(value, if BUG == RELAXED { Relaxed } else { order });
        }

        fn fence(order: Ordering) {
            if BUG != NO_FENCE {
                loom::sync::atomic::fence(order);
            }
        }
    }

    type Words<const BUG: u8> = (Vec<Modelled<BUG>>, Vec<Modelled<BUG>>);

    #[derive(Clone)]
    struct Shared<const BUG: u8>(Arc<Words<BUG>>);

    impl<const BUG: u8> Shared<BUG> {
        fn new(words: usize) -> Shared<BUG> {
            let zeros = |count| (0..count).map(|_| Modelled(loom::sync::atomic::AtomicU64::new(0))).collect();
            Shared(Arc::new((zeros(HEADER_WORDS), zeros(words))))
        }
    }

    impl<const BUG: u8> Memory for Shared<BUG> {
        type Word = Modelled<BUG>;

        fn header(&self) -> &[Modelled<BUG>; HEADER_WORDS] {
            self.0.0.first_chunk().unwrap()
        }

        fn data(&self) -> &[Modelled<BUG>] {
            &self.0.1
        }
    }

    /// An event bit that stays pending until it ends a sleep. No clock: who is not woken sleeps for ever, which loom calls a deadlock.
    #[derive(Clone)]
    struct Events {
        mine: Arc<(Mutex<bool>, Condvar)>,
        theirs: Arc<(Mutex<bool>, Condvar)>,
    }

    impl Events {
        fn pair() -> (Events, Events) {
            let (a, b) = (Arc::new((Mutex::new(false), Condvar::new())), Arc::new((Mutex::new(false), Condvar::new())));
            (Events { mine: a.clone(), theirs: b.clone() }, Events { mine: b, theirs: a })
        }
    }

    impl Bell for Events {
        fn notify(&self) -> Result<(), Refusal> {
            *self.theirs.0.lock().unwrap() = true;
            self.theirs.1.notify_one();
            Ok(())
        }

        fn wait(&self, _: Instant) {
            let mut pending = self.mine.0.lock().unwrap();
            while !*pending {
                pending = self.mine.1.wait(pending).unwrap();
            }
            *pending = false;
        }

        fn now(&self) -> Instant {
            Instant(0)
        }
    }

    /// `messages` through a ring, whose receiver sleeps whenever there is none.
    fn messages_pass<const BUG: u8>(messages: u64) {
        loom::model(move || {
            let (there, back) = Events::pair();
            let memory = Shared::<BUG>::new(2);
            let theirs = memory.clone();
            let receiving = thread::spawn(move || {
                // Closing would wake a sender that should have been woken by room; and what loom ends must not go on.
                let mut receiver = ManuallyDrop::new(Receiver::<1, _, _>::new(theirs, back));
                for message in 1..=messages {
                    assert_eq!(receiver.receive(FAR), Ok([message]), "a message was not what was sent");
                }
                receiver.release();
            });
            let mut sender = ManuallyDrop::new(Sender::<1, _, _>::new(memory, there));
            for message in 1..=messages {
                sender.send(&[message], FAR).unwrap();
            }
            receiving.join().unwrap();
        });
    }

    #[test]
    fn no_message_is_lost_and_nobody_oversleeps() {
        messages_pass::<RIGHT>(2);
    }

    #[test]
    fn a_full_ring_wakes_its_sender() {
        loom::model(|| {
            let (there, back) = Events::pair();
            let memory = Shared::<RIGHT>::new(1);
            let mut receiver = ManuallyDrop::new(Receiver::<1, _, _>::new(memory.clone(), back));
            let mut sender = ManuallyDrop::new(Sender::<1, _, _>::new(memory, there));
            sender.send(&[1], FAR).unwrap();
            let receiving = thread::spawn(move || {
                assert_eq!(receiver.receive(FAR), Ok([1]));
                receiver.release();
                receiver
            });
            sender.send(&[2], FAR).unwrap();
            assert_eq!(receiving.join().unwrap().pop(), Ok(Some([2])));
        });
    }

    #[test]
    fn the_end_comes_after_the_last_message() {
        loom::model(|| {
            let (there, back) = Events::pair();
            let memory = Shared::<RIGHT>::new(2);
            let theirs = memory.clone();
            let receiving = thread::spawn(move || {
                let mut receiver = Receiver::<1, _, _>::new(theirs, back);
                assert_eq!(receiver.receive(FAR), Ok([1]));
                assert_eq!(receiver.receive(FAR), Err(Error::Closed));
            });
            let mut sender = Sender::<1, _, _>::new(memory, there);
            assert_eq!(sender.push(&[1]), Ok(true));
            drop(sender);
            receiving.join().unwrap();
        });
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_barrier_a_wake_up_is_lost() {
        messages_pass::<NO_FENCE>(2);
    }

    #[test]
    #[should_panic(expected = "not what was sent")]
    fn without_release_a_message_is_seen_before_its_words() {
        messages_pass::<RELAXED>(1);
    }
}
