//! Who uses the console: a bounded table in which a program's new life replaces its old one.

use crate::ring::Ring;

/// Programs that can have output waiting at a time.
pub const MOST_CLIENTS: usize = 16;
/// Output a client can have waiting. No line longer than this is kept in one piece.
pub const CLIENT_BYTES: usize = 256;

/// A place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub usize);

/// A program that called.
#[derive(Debug)]
pub struct Client {
    /// What it showed when it called.
    pub badge: u64,
    /// Its output that is not in the common queue yet.
    pub output: Ring<CLIENT_BYTES>,
    /// As many bytes at the front of `output` may go, whether they end a line or not.
    pub flush: usize,
    /// It was told that there is no space, or that all is not out yet, and wants to know when that changes.
    pub wants_space: bool,
    /// It was told that there is no input, and wants to know when that changes.
    pub wants_input: bool,
    /// When it called last, counted in calls.
    used: u64,
}

/// The clients.
#[derive(Debug)]
pub struct Clients {
    places: [Option<Client>; MOST_CLIENTS],
    calls: u64,
}

impl Clients {
    /// None.
    pub const fn new() -> Clients {
        Clients { places: [const { None }; MOST_CLIENTS], calls: 0 }
    }

    /// The place of `badge`: its own, else that of the same program's former life, else a new one, for which who called
    /// longest ago gives way. `keep` never gives way.
    pub fn place(&mut self, badge: u64, keep: Option<Place>) -> Place {
        self.calls += 1;
        let place = self.find(badge).or_else(|| self.former_life(badge)).unwrap_or_else(|| self.least_used(keep));
        let client = &mut self.places[place.0];
        match client {
            Some(client) if client.badge == badge => client.used = self.calls,
            _ => {
                *client = Some(Client {
                    badge,
                    output: Ring::new(),
                    flush: 0,
                    wants_space: false,
                    wants_input: false,
                    used: self.calls,
                });
            }
        }
        place
    }

    /// The client at `place`.
    pub fn get(&mut self, place: Place) -> Option<&mut Client> {
        self.places.get_mut(place.0)?.as_mut()
    }

    /// Every place that is taken, beginning behind `after`.
    pub fn from(&self, after: usize) -> impl Iterator<Item = Place> + use<> {
        let taken: [bool; MOST_CLIENTS] = core::array::from_fn(|i| self.places[i].is_some());
        (1..=MOST_CLIENTS).map(move |step| (after + step) % MOST_CLIENTS).filter(move |&i| taken[i]).map(Place)
    }

    fn find(&self, badge: u64) -> Option<Place> {
        self.position(|client| client.badge == badge)
    }

    /// Bits 15:0 of a badge name the program (see init): one that has the same there is dead.
    fn former_life(&self, badge: u64) -> Option<Place> {
        self.position(|client| client.badge & 0xffff == badge & 0xffff)
    }

    fn least_used(&self, keep: Option<Place>) -> Place {
        let used = |i: usize| self.places[i].as_ref().map_or(0, |client| client.used);
        let others = (0..MOST_CLIENTS).filter(|&i| Some(Place(i)) != keep);
        Place(others.min_by_key(|&i| used(i)).unwrap_or(0))
    }

    fn position(&self, is: impl Fn(&Client) -> bool) -> Option<Place> {
        self.places.iter().position(|client| client.as_ref().is_some_and(&is)).map(Place)
    }
}

impl Default for Clients {
    fn default() -> Clients {
        Clients::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_badge_keeps_its_place() {
        let mut clients = Clients::new();
        let place = clients.place(5, None);
        let _ = clients.place(6, None);
        assert_eq!(clients.place(5, None), place);
    }

    #[test]
    fn a_new_life_replaces_the_former_one() {
        let mut clients = Clients::new();
        let place = clients.place(5 | 1 << 16, None);
        clients.get(place).unwrap().wants_input = true;
        assert_eq!(clients.place(5 | 2 << 16, None), place);
        assert!(!clients.get(place).unwrap().wants_input);
    }

    #[test]
    fn who_called_longest_ago_gives_way_but_not_the_one_to_keep() {
        let mut clients = Clients::new();
        let first = clients.place(1, None);
        let second = clients.place(2, None);
        for badge in 3..=MOST_CLIENTS as u64 {
            let _ = clients.place(badge, None);
        }
        assert_eq!(clients.place(100, Some(first)), second);
        assert_eq!(clients.from(0).count(), MOST_CLIENTS);
    }

    #[test]
    fn the_round_begins_behind_the_last_one() {
        let mut clients = Clients::new();
        for badge in 1..=3 {
            let _ = clients.place(badge, None);
        }
        let round: [usize; 3] = {
            let mut places = clients.from(0).map(|place| place.0);
            core::array::from_fn(|_| places.next().unwrap())
        };
        assert_eq!(round, [1, 2, 0]);
    }
}
