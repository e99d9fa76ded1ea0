//! Both sides of an interface on a host: what one says, and what anybody might say, the other must stand.

use super::message::{self, answer, flag, request};
use super::*;
use crate::ipc::Words;
use crate::mem::Shared;
use crate::protocol::Message;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Shape {
    Point,
    Line { from: i32, to: i64 },
    Named(String, Option<u16>),
    Many(Vec<(u8, bool)>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Overflow {
    Sum { missing: u64 },
}

crate::interface! {
    /// Adds, and keeps shapes.
    pub mod adder {
        const VERSION: u16 = 7;
        const PAGES: usize = 2;
        /// Adds to the sum.
        fn add(number: u64) -> Result<u64, Overflow>;
        /// The sum.
        #[idempotent]
        fn sum() -> Result<u64, NoError>;
        fn shape(shape: Shape, name: &str) -> Result<Shape, Overflow>;
    }
}

/// The same, one version later and with another method.
mod later {
    use super::NoError;

    crate::interface! {
        pub mod adder {
            const VERSION: u16 = 8;
            fn sum() -> Result<u64, NoError>;
        }
    }
}

#[derive(Default)]
struct Adder {
    sum: u64,
    calls: u64,
}

impl adder::Service for Adder {
    fn add(&mut self, _: Caller, number: u64) -> Result<u64, Overflow> {
        self.calls += 1;
        self.sum = self.sum.checked_add(number).ok_or(Overflow::Sum { missing: number })?;
        Ok(self.sum)
    }

    fn sum(&mut self, caller: Caller) -> Result<u64, NoError> {
        self.calls += 1;
        Ok(self.sum + caller.badge)
    }

    fn shape(&mut self, _: Caller, shape: Shape, name: &str) -> Result<Shape, Overflow> {
        self.calls += 1;
        match shape {
            Shape::Named(..) => Ok(Shape::Named(name.to_string(), None)),
            shape => Ok(shape),
        }
    }
}

const ADD: u8 = 0;
const SUM: u8 = 1;
const SHAPE: u8 = 2;

std::thread_local! {
    static REFUSED: RefCell<Vec<Refused>> = const { RefCell::new(Vec::new()) };
}

fn server() -> Server<adder::Served<Adder>> {
    REFUSED.take();
    Server::new(adder::Served(Adder::default()))
        .on_refused(|_, why| REFUSED.with_borrow_mut(|refused| refused.push(why)))
}

fn asks<T: Serialize>(method: u8, arguments: &T) -> Message {
    let (bytes, len) = codec::encode(arguments).unwrap();
    let mut message = message::new(method, adder::VERSION);
    (message.bytes, message.len) = (bytes, len as u8);
    message
}

fn hears(server: &mut Server<adder::Served<Adder>>, badge: u64, words: &Words) -> Message {
    let outgoing = server.answer(badge, words, None);
    assert_eq!(outgoing.send, None);
    let reply = Message::from_words(&outgoing.words);
    assert_eq!(reply.number, adder::VERSION.to_bits());
    reply
}

fn value<T: for<'a> Deserialize<'a>>(reply: &Message) -> T {
    codec::decode_payload(&reply.bytes, usize::from(reply.len)).unwrap()
}

#[test]
fn arguments_arrive_and_results_and_errors_come_back() {
    let mut server = server();
    let reply = hears(&mut server, 1, &asks(ADD, &(5u64,)).to_words());
    assert_eq!((reply.code, value::<u64>(&reply)), (answer::DONE, 5));
    let reply = hears(&mut server, 1, &asks(ADD, &(u64::MAX,)).to_words());
    assert_eq!((reply.code, value::<Overflow>(&reply)), (answer::FAILED, Overflow::Sum { missing: u64::MAX }));
    let reply = hears(&mut server, 37, &asks(SUM, &()).to_words());
    assert_eq!((reply.code, value::<u64>(&reply)), (answer::DONE, 42));
    let reply = hears(&mut server, 1, &asks(SHAPE, &(Shape::Named(String::new(), Some(3)), "circle")).to_words());
    assert_eq!(value::<Shape>(&reply), Shape::Named("circle".to_string(), None));
    assert_eq!(REFUSED.take(), []);
}

#[test]
fn the_words_behind_a_message_are_zeros() {
    let mut server = server();
    let shape = Shape::Many(std::vec![(0xff, true); 20]);
    hears(&mut server, 1, &asks(SHAPE, &(shape, "")).to_words());
    let reply = server.answer(1, &asks(ADD, &(3u64,)).to_words(), None);
    assert_eq!(reply.words[1..], [3, 0, 0, 0, 0, 0]);
}

#[test]
fn a_mismatch_is_named_to_both_sides() {
    let mut server = server();
    let theirs = later::adder::VERSION;
    let reply = hears(&mut server, 1, &message::new(0, theirs).to_words());
    assert_eq!(reply.code, answer::VERSION);
    assert_eq!(Version::from_bits(reply.number), adder::VERSION);
    assert_eq!(REFUSED.take(), [Refused::Version { ours: adder::VERSION, theirs }]);
    assert_eq!((theirs.number, adder::VERSION.number), (8, 7));
    let error = CallError::Version { ours: theirs, theirs: adder::VERSION }.to_string();
    assert!(error.contains(" 7 (") && error.contains(" 8 ("), "{error}");
    assert_eq!(server.service.0.calls, 0);
}

#[test]
fn what_is_not_a_request_does_not_reach_the_service() {
    let mut server = server();
    let trailing = asks(ADD, &(5u64, 6u64));
    let short = Message { len: 0, ..asks(ADD, &(5u64,)) };
    let no_method = asks(3, &());
    let bad_shape = asks(SHAPE, &(200u8, 0u8));
    let bad_text = asks(SHAPE, &(Shape::Point, serde_bytes::Bytes::new(b"\xff\xfe")));
    let huge = asks(SHAPE, &(3u8, u64::MAX >> 1));
    for (request, what) in [
        (trailing, "trailing bytes"),
        (short, "no bytes"),
        (no_method, "no method"),
        (bad_shape, "no variant"),
        (bad_text, "no UTF-8"),
        (huge, "a sequence longer than the message"),
        (message::new(0xff, adder::VERSION), "no request"),
        (message::new(request::FIRST + 2, adder::VERSION), "none either"),
    ] {
        assert_eq!(hears(&mut server, 1, &request.to_words()).code, answer::MALFORMED, "{what}");
    }
    let long = Message { flags: flag::LONG, ..asks(ADD, &(5u64,)) };
    assert_eq!(hears(&mut server, 1, &long.to_words()).code, answer::NO_PAGES);
    let unknown = Message { flags: 9, ..asks(ADD, &(5u64,)) };
    assert_eq!(hears(&mut server, 1, &unknown.to_words()).code, answer::NO_PAGES);
    // Lending without a binding, and asking for a slot where there is none.
    assert_eq!(hears(&mut server, 1, &message::new(request::LEND, adder::VERSION).to_words()).code, answer::NO_PAGES);
    assert_eq!(hears(&mut server, 1, &message::new(request::OPEN, adder::VERSION).to_words()).code, answer::NO_ROOM);
    assert_eq!(server.service.0.calls, 0);
}

/// A client in front of a gate that does not exist, which has heard this.
fn client(received: Message) -> Client {
    let mut client = Client::over(adder::VERSION, 2, crate::ipc::Gate::new(exo_abi::Handle(3)));
    client.received = received;
    client
}

#[test]
fn an_answer_that_makes_no_sense_is_an_error() {
    let reply = |bytes: &[u8]| message::new(answer::DONE, adder::VERSION).with_bytes(bytes);
    assert_eq!(client(reply(&[5])).decode::<u64, NoError>(), Ok(5));
    for bytes in [&[][..], &[0x80], &[0xff; 10], &[5, 6]] {
        assert_eq!(client(reply(bytes)).decode::<u64, NoError>(), Err(CallError::BadAnswer.into()), "{bytes:?}");
    }
    // Nothing was lent, so that nothing can lie there.
    let mut long = reply(&[]);
    message::set_long(&mut long, 5);
    assert_eq!(client(long).decode::<u64, NoError>(), Err(CallError::BadAnswer.into()));
    assert_eq!(client(reply(&[0])).decode::<NoError, NoError>(), Err(CallError::BadAnswer.into()));
}

#[test]
fn who_has_no_kernel_is_told_so_at_once() {
    let refused = CallError::Refused(exo_abi::Refusal::NoSuchCall);
    let mut over = adder::Client::over(crate::ipc::Gate::new(exo_abi::Handle(3)));
    assert_eq!(over.sum(), Err(refused.into()));
    assert_eq!(adder::Client::named("adder").map(|_| ()), Err(CallError::NotPermitted));
}

#[test]
fn arguments_that_do_not_fit_are_not_sent() {
    let mut short = Client::over(adder::VERSION, 0, crate::ipc::Gate::new(exo_abi::Handle(3)));
    let result = short.call::<_, (), NoError>(0, Repeat::Never, &([0u64; 6], u64::MAX));
    // Six zeros and a number of ten bytes fit; fifty bytes do not.
    assert_eq!(result, Err(CallError::Refused(exo_abi::Refusal::NoSuchCall).into()));
    let result = short.call::<_, (), NoError>(0, Repeat::Never, &serde_bytes::Bytes::new(&[0; 49]));
    assert_eq!(result, Err(CallError::RequestTooLong.into()));
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        (any::<i32>(), any::<i64>()).prop_map(|(from, to)| Shape::Line { from, to }),
        (".{0,200}", any::<Option<u16>>()).prop_map(|(name, number)| Shape::Named(name, number)),
        proptest::collection::vec(any::<(u8, bool)>(), 0..3000).prop_map(Shape::Many),
    ]
}

proptest! {
    #[test]
    fn every_value_comes_through_registers_or_frames(shape in shape(), text in ".{0,80}") {
        let value = (shape, text);
        match codec::encode(&value) {
            Some((bytes, len)) => {
                prop_assert_eq!(codec::decode_payload::<(Shape, String)>(&bytes, len), Ok(value.clone()));
                prop_assert!(bytes[len..].iter().all(|byte| *byte == 0));
            }
            None => {
                let shared = Shared::over(std::vec![0; 1024].leak());
                let expected = postcard::to_allocvec(&value).unwrap();
                let len = codec::encode_shared(&value, &shared).unwrap();
                let mut bytes = std::vec![0; len];
                shared.read(0, &mut bytes).unwrap();
                prop_assert_eq!(&bytes, &expected);
                prop_assert_eq!(codec::decode::<(Shape, String)>(&bytes), Ok(value.clone()));
            }
        }
    }

    #[test]
    fn what_does_not_fit_into_the_frames_is_refused(bytes in 8191usize..20_000) {
        let shared = Shared::over(std::vec![0; 1024].leak());
        prop_assert_eq!(codec::encode_shared(serde_bytes::Bytes::new(&std::vec![1; bytes]), &shared), None);
        prop_assert_eq!(codec::encode_shared(&std::vec![1u8; bytes], &shared), None);
    }

    #[test]
    fn no_words_bring_a_server_down(words: Words, badge: u64, versioned: bool, method in 0u8..4) {
        let mut server = server();
        let mut message = Message::from_words(&words);
        if versioned {
            message.number = adder::VERSION.to_bits();
            message.code = method;
        }
        let reply = hears(&mut server, badge, &message.to_words());
        prop_assert!(reply.code <= answer::NO_ROOM);
        let served = matches!(reply.code, answer::DONE | answer::FAILED | answer::TOO_LONG);
        prop_assert_eq!(server.service.0.calls, u64::from(served));
    }

    #[test]
    fn a_changed_request_is_another_request_or_none(shape in shape(), at in 0usize..48, byte: u8) {
        let mut server = server();
        if let Some((bytes, len)) = codec::encode(&(shape, "name")) {
            let mut message = message::new(SHAPE, adder::VERSION);
            (message.bytes, message.len) = (bytes, len as u8);
            message.bytes[at] = byte;
            let reply = hears(&mut server, 1, &message.to_words());
            prop_assert!(matches!(reply.code, answer::DONE | answer::MALFORMED | answer::TOO_LONG));
        }
    }

    #[test]
    fn no_words_bring_a_client_down(words: Words) {
        let mut client = client(Message::from_words(&words));
        let _ = client.decode::<Shape, Overflow>();
        let _ = client.decode::<Vec<String>, Overflow>();
        let _ = client.decode::<&str, Overflow>();
    }
}
