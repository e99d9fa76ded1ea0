//! Who promised a sign of life, and who broke the promise.

/// Programs that can be watched: each has an event of init's own.
pub const MOST_WATCHED: usize = 32;

/// One promise: a sign of life every `period` ticks.
#[derive(Clone, Copy, Debug)]
struct Watched {
    program: usize,
    period: u64,
    until: u64,
}

/// The promises, each at the place of its event bit.
#[derive(Debug)]
pub struct Watchdog {
    watched: [Option<Watched>; MOST_WATCHED],
}

impl Watchdog {
    /// Nobody is watched.
    pub const fn new() -> Watchdog {
        Watchdog { watched: [None; MOST_WATCHED] }
    }

    /// Watches `program` from now on. Answers the event bit of its signs; `None`: too many are watched.
    pub fn watch(&mut self, program: usize, period: u64, now: u64) -> Option<u64> {
        let place = self.place(program).or_else(|| self.watched.iter().position(Option::is_none))?;
        self.watched[place] = Some(Watched { program, period, until: now.saturating_add(period) });
        Some(place as u64)
    }

    /// It is gone: nothing is expected of it.
    pub fn forget(&mut self, program: usize) {
        if let Some(place) = self.place(program) {
            self.watched[place] = None;
        }
    }

    /// `program` lives.
    pub fn sign_of(&mut self, program: usize, now: u64) {
        if let Some(place) = self.place(program) {
            self.signs(1 << place, now);
        }
    }

    /// Whoever has an event bit in `events` lives.
    pub fn signs(&mut self, events: u64, now: u64) {
        for (place, watched) in self.watched.iter_mut().enumerate() {
            if let Some(watched) = watched.as_mut().filter(|_| events >> place & 1 == 1) {
                watched.until = now.saturating_add(watched.period);
            }
        }
    }

    /// A program that broke its promise by `now`; it is forgotten.
    pub fn silent(&mut self, now: u64) -> Option<usize> {
        let place = self.watched.iter().position(|w| w.is_some_and(|w| w.until <= now))?;
        self.watched[place].take().map(|watched| watched.program)
    }

    /// When to look again.
    pub fn next(&self) -> Option<u64> {
        self.watched.iter().flatten().map(|watched| watched.until).min()
    }

    /// The event bits of all that could be watched.
    pub const EVENTS: u64 = (1 << MOST_WATCHED) - 1;

    fn place(&self, program: usize) -> Option<usize> {
        self.watched.iter().position(|w| w.is_some_and(|w| w.program == program))
    }
}

impl Default for Watchdog {
    fn default() -> Watchdog {
        Watchdog::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_signs_in_time_is_left_alone() {
        let mut dog = Watchdog::new();
        let bit = dog.watch(4, 100, 0).unwrap();
        for now in (50..1000).step_by(50) {
            assert_eq!(dog.silent(now), None);
            dog.signs(1 << bit, now);
        }
        dog.sign_of(4, 1000);
        assert_eq!(dog.next(), Some(1100));
    }

    #[test]
    fn who_is_silent_is_named_once() {
        let mut dog = Watchdog::new();
        let _ = dog.watch(4, 100, 0);
        let _ = dog.watch(5, 200, 0);
        assert_eq!(dog.silent(99), None);
        assert_eq!(dog.silent(100), Some(4));
        assert_eq!(dog.silent(100), None);
        assert_eq!(dog.next(), Some(200));
    }

    #[test]
    fn a_sign_of_one_is_no_sign_of_another() {
        let mut dog = Watchdog::new();
        let one = dog.watch(1, 10, 0).unwrap();
        let _ = dog.watch(2, 10, 0);
        dog.signs(1 << one, 9);
        assert_eq!(dog.silent(10), Some(2));
        assert_eq!(dog.silent(10), None);
    }

    #[test]
    fn a_program_started_anew_keeps_its_event() {
        let mut dog = Watchdog::new();
        let bit = dog.watch(1, 10, 0);
        assert_eq!(dog.watch(1, 10, 5), bit);
        dog.forget(1);
        assert_eq!(dog.next(), None);
    }

    #[test]
    fn there_is_a_bound_on_who_is_watched() {
        let mut dog = Watchdog::new();
        for program in 0..MOST_WATCHED {
            assert!(dog.watch(program, 1, 0).is_some());
        }
        assert_eq!(dog.watch(99, 1, 0), None);
    }
}
