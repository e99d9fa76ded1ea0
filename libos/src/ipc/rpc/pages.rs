//! The server's side of shared frames: who lent which, within bounds.

use super::message::{WORD_BYTES, answer, flag};
use crate::mem::Shared;
use crate::protocol::Message;
use crate::{slots, sys};
use alloc::vec::Vec;
use exo_abi::binding::Rights;
use exo_abi::{Handle, PAGE_BYTES, Pfn};

/// Most frames of a connection: their numbers fit into one message.
pub const MAX_PAGES: usize = WORD_BYTES / 8;
/// Most connections of a server: beyond, the one that was used least recently is forgotten, and its client lends anew.
pub const MOST_CONNECTIONS: usize = 16;
/// Most connections of one badge: beyond, it loses its own.
const MOST_OF_A_BADGE: usize = 4;
/// Calls for which a slot stays open after somebody wanted to lend: a turn with a slot is slower than one without.
const EXPECTED_CALLS: u8 = 4;

/// Frames that a client lent.
struct Connection {
    /// 1 to 255; with the badge what a request names it by.
    number: u8,
    badge: u64,
    /// The binding of their pool.
    pool: Handle,
    shared: Shared,
    /// When it was used last: turns of [`Connections::clock`].
    used: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        slots::empty(self.pool);
    }
}

/// All connections of a server.
pub struct Connections {
    list: Vec<Connection>,
    pages: usize,
    /// Set aside for the next binding.
    slot: Option<Handle>,
    /// Calls for which the slot stays open.
    expected: u8,
    last_number: u8,
    clock: u64,
    /// Where requests are copied to before they are decoded. Empty until somebody lends.
    buffer: Vec<u8>,
}

impl Connections {
    /// None, of `pages` frames each.
    pub const fn new(pages: usize) -> Connections {
        assert!(pages <= MAX_PAGES, "an interface has MAX_PAGES pages at most");
        Connections { list: Vec::new(), pages, slot: None, expected: 0, last_number: 0, clock: 0, buffer: Vec::new() }
    }

    /// The slot to open for a binding with the next call; `None`: nobody is expected to send one.
    #[inline(always)]
    pub fn accept(&mut self) -> Option<Handle> {
        if self.expected == 0 {
            return None;
        }
        self.expected -= 1;
        self.slot
    }

    /// A binding came with a call that has no use for it: its slot is emptied.
    #[cold]
    pub fn drop_binding(&mut self, binding: Handle) {
        let _ = sys::restrict(binding, Rights::empty());
    }

    /// Somebody wants to lend: a slot is opened.
    pub fn open(&mut self) -> u8 {
        if self.pages == 0 {
            return answer::NO_ROOM;
        }
        if self.slot.is_none() {
            self.slot = slots::take().or_else(|| {
                self.forget_least_used(|_| true);
                slots::take()
            });
        }
        if self.slot.is_none() {
            return answer::NO_ROOM;
        }
        self.expected = EXPECTED_CALLS;
        answer::READY
    }

    /// Somebody lends: maps the frames. Answers with the connection's number.
    pub fn lend(&mut self, badge: u64, request: &Message, binding: Option<Handle>) -> Result<u8, u8> {
        let Some(pool) = binding else { return Err(answer::NO_PAGES) };
        let mut frames = [Pfn(0); MAX_PAGES];
        for (frame, bytes) in frames.iter_mut().zip(request.bytes.chunks_exact(8)) {
            *frame = Pfn(u64::from_le_bytes(bytes.try_into().unwrap_or_default()));
        }
        match Shared::map(pool, &frames[..self.pages]) {
            Err(_) => {
                self.drop_binding(pool);
                Err(answer::NO_ROOM)
            }
            Ok(shared) => {
                self.slot = None;
                self.expected = 0;
                self.list.retain(|connection| connection.shared.is_there());
                Ok(self.keep(badge, pool, shared))
            }
        }
    }

    /// A new connection, in whose hands the binding is from now on. Answers with its number.
    fn keep(&mut self, badge: u64, pool: Handle, shared: Shared) -> u8 {
        self.make_room(badge);
        self.buffer.resize(self.pages * PAGE_BYTES as usize, 0);
        let (number, used) = (self.free_number(), self.tick());
        self.list.push(Connection { number, badge, pool, shared, used });
        number
    }

    /// The frames of a request's connection, and the bytes it says lie there, copied out of them. `Err`: how to answer it.
    pub fn request(&mut self, badge: u64, request: &Message, long: Option<usize>) -> Result<(&Shared, &[u8]), u8> {
        let (number, now) = ((request.flags & flag::CONNECTION) as u8, self.tick());
        let named = |connection: &&mut Connection| connection.number == number && connection.badge == badge;
        let connection = self.list.iter_mut().find(named).ok_or(answer::NO_PAGES)?;
        connection.used = now;
        let bytes = self.buffer.get_mut(..long.unwrap_or(0)).ok_or(answer::MALFORMED)?;
        connection.shared.read(0, bytes).map_err(|_| answer::NO_PAGES)?;
        Ok((&connection.shared, bytes))
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The next number that no connection has: 255 are more than there are connections.
    fn free_number(&mut self) -> u8 {
        loop {
            self.last_number = self.last_number % u8::MAX + 1;
            if self.list.iter().all(|connection| connection.number != self.last_number) {
                return self.last_number;
            }
        }
    }

    fn make_room(&mut self, badge: u64) {
        if self.list.iter().filter(|connection| connection.badge == badge).count() >= MOST_OF_A_BADGE {
            self.forget_least_used(|connection| connection.badge == badge);
        }
        if self.list.len() >= MOST_CONNECTIONS {
            self.forget_least_used(|_| true);
        }
    }

    fn forget_least_used(&mut self, among: impl Fn(&Connection) -> bool) {
        let least = self.list.iter().enumerate().filter(|(_, connection)| among(connection));
        if let Some((index, _)) = least.min_by_key(|(_, connection)| connection.used) {
            self.list.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message;
    use super::*;
    use crate::ipc::rpc::Version;
    use std::vec;

    const POOL: Handle = Handle(40);

    fn named(number: u8) -> Message {
        message::new(3, Version::new(1, "")).with_flags(u16::from(number))
    }

    /// Frames that are ordinary memory, for the whole run of the tests.
    fn frames(pages: usize, byte: u8) -> Shared {
        Shared::over(vec![u64::from_ne_bytes([byte; 8]); pages * 512].leak())
    }

    #[test]
    fn a_request_reaches_the_frames_of_its_own_badge_only() {
        let mut connections = Connections::new(1);
        let (first, second) = (connections.keep(7, POOL, frames(1, 0x11)), connections.keep(8, POOL, frames(1, 0x22)));
        assert_eq!(connections.request(7, &named(first), Some(2)).unwrap().1, [0x11; 2]);
        assert_eq!(connections.request(8, &named(second), Some(4096)).unwrap().1, [0x22; 4096]);
        for (badge, number) in [(8, first), (7, second), (7, 0), (9, first), (7, 200)] {
            assert_eq!(connections.request(badge, &named(number), Some(2)).unwrap_err(), answer::NO_PAGES);
        }
        for bytes in [4097, usize::MAX] {
            assert_eq!(connections.request(7, &named(first), Some(bytes)).unwrap_err(), answer::MALFORMED);
        }
    }

    #[test]
    fn who_lends_again_and_again_loses_its_own_and_the_oldest_go_first() {
        let mut connections = Connections::new(1);
        let honest = connections.keep(1, POOL, frames(1, 1));
        let greedy: Vec<u8> = (0..1000).map(|_| connections.keep(2, POOL, frames(1, 2))).collect();
        assert_eq!(connections.list.len(), 1 + MOST_OF_A_BADGE);
        assert!(connections.request(1, &named(honest), Some(1)).is_ok());
        let (last, before) = (greedy[999], greedy[999 - MOST_OF_A_BADGE]);
        assert!(connections.request(2, &named(last), Some(1)).is_ok());
        assert_eq!(connections.request(2, &named(before), Some(1)).unwrap_err(), answer::NO_PAGES);
        assert!(greedy.iter().all(|number| *number != 0 && *number != honest));
        // Many badges together: the one that was used least recently is forgotten.
        for badge in 10..100 {
            assert!(connections.request(1, &named(honest), Some(1)).is_ok());
            connections.keep(badge, POOL, frames(1, 3));
        }
        assert_eq!(connections.list.len(), MOST_CONNECTIONS);
        assert!(connections.request(1, &named(honest), Some(1)).is_ok());
    }

    #[test]
    fn a_slot_is_open_for_a_few_calls_after_somebody_wants_to_lend() {
        let mut connections = Connections::new(1);
        assert_eq!(connections.accept(), None);
        // A host has no slots.
        assert_eq!(connections.open(), answer::NO_ROOM);
        connections.slot = Some(Handle(9));
        assert_eq!(connections.open(), answer::READY);
        let open = (0..100).take_while(|_| connections.accept() == Some(Handle(9))).count();
        assert_eq!(open, usize::from(EXPECTED_CALLS));
        assert_eq!(Connections::new(0).open(), answer::NO_ROOM);
    }
}
