//! When a program ends: whether it is started again, and after which pause.

use libos::protocol::supervisor::State;
use velvet_manifest::{Restart, RestartWhen};

/// How a program's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It called `halt` with this code.
    Halted(u64),
    /// It faulted and did not handle it.
    Faulted,
    /// It gave no sign of life for too long.
    Hung,
    /// Somebody who may do so ended it.
    Killed,
    /// It could not be built.
    Refused,
}

impl End {
    /// It did not end as it should.
    pub const fn is_failure(self) -> bool {
        !matches!(self, End::Halted(0))
    }

    /// The machine's exit code, when this end is the machine's.
    pub const fn exit_code(self) -> u64 {
        match self {
            End::Halted(code) => code,
            End::Faulted => 128,
            End::Hung => 129,
            End::Killed => 130,
            End::Refused => 131,
        }
    }
}

/// What follows from an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// It is built anew when the timer passes this.
    StartAt(u64),
    /// It stays down.
    StaysDown,
}

/// The lives of one program: what it is doing, and how often it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// What it is doing.
    pub state: State,
    /// Times it was started again.
    pub restarts: u16,
    /// Times it failed.
    pub failures: u16,
    /// How it ended last.
    pub last: Option<End>,
    /// Failures since it last ran long enough to count as well.
    in_a_row: u32,
    /// When its present life began, or its next one shall: ticks.
    since: u64,
}

/// A pause doubles at most so often, whatever the cap.
const MOST_DOUBLINGS: u32 = 16;

impl Life {
    /// Of a program that nobody has started.
    pub const fn new() -> Life {
        Life { state: State::Idle, restarts: 0, failures: 0, last: None, in_a_row: 0, since: 0 }
    }

    /// It begins to run.
    pub fn began(&mut self, now: u64) {
        self.state = State::Running;
        self.since = now;
    }

    /// It ended; `ticks_a_ms` converts the rule's times.
    pub fn ended(&mut self, end: End, rule: &Restart, now: u64, ticks_a_ms: u64) -> Next {
        let cap = ticks(rule.cap_ms.max(rule.base_ms), ticks_a_ms);
        if self.state == State::Running && now.saturating_sub(self.since) > cap.saturating_mul(2) {
            self.in_a_row = 0;
        }
        self.last = Some(end);
        if end.is_failure() {
            self.failures = self.failures.saturating_add(1);
        }
        let again = match rule.when {
            RestartWhen::Never => false,
            RestartWhen::OnFailure => end.is_failure(),
            RestartWhen::Always => true,
        };
        if again && (rule.tries == 0 || self.in_a_row < rule.tries) {
            let doublings = self.in_a_row.min(MOST_DOUBLINGS);
            let pause = ticks(rule.base_ms, ticks_a_ms).saturating_mul(1 << doublings).min(cap);
            self.in_a_row = self.in_a_row.saturating_add(1);
            self.restarts = self.restarts.saturating_add(1);
            self.state = State::Waiting;
            self.since = now.saturating_add(pause);
            return Next::StartAt(self.since);
        }
        self.state = match end {
            End::Halted(_) => State::Ended,
            End::Faulted | End::Hung => State::Failed,
            End::Killed => State::Killed,
            End::Refused => State::Refused,
        };
        Next::StaysDown
    }

    /// Somebody asks for it by name: what failed before is forgiven.
    pub fn asked_for(&mut self) {
        self.in_a_row = 0;
    }

    /// When it is to be started again, if it waits for that.
    pub fn due(&self) -> Option<u64> {
        (self.state == State::Waiting).then_some(self.since)
    }
}

impl Default for Life {
    fn default() -> Life {
        Life::new()
    }
}

fn ticks(ms: u32, ticks_a_ms: u64) -> u64 {
    u64::from(ms).saturating_mul(ticks_a_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Restart = Restart { when: RestartWhen::OnFailure, base_ms: 10, cap_ms: 100, tries: 0 };

    fn pause(life: &mut Life, rule: &Restart, now: u64) -> Option<u64> {
        life.began(now);
        match life.ended(End::Faulted, rule, now, 1) {
            Next::StartAt(at) => Some(at - now),
            Next::StaysDown => None,
        }
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_pause_up_to_the_cap() {
        let mut life = Life::new();
        let pauses: [_; 6] = core::array::from_fn(|i| pause(&mut life, &RULE, i as u64));
        assert_eq!(pauses, [Some(10), Some(20), Some(40), Some(80), Some(100), Some(100)]);
        assert_eq!((life.restarts, life.failures), (6, 6));
    }

    #[test]
    fn a_long_life_makes_the_next_pause_short_again() {
        let mut life = Life::new();
        for now in 0..5 {
            let _ = pause(&mut life, &RULE, now);
        }
        life.began(1000);
        assert_eq!(life.ended(End::Faulted, &RULE, 1201, 1), Next::StartAt(1211));
    }

    #[test]
    fn a_program_is_given_up_after_its_tries() {
        let mut life = Life::new();
        let rule = Restart { tries: 2, ..RULE };
        assert!(pause(&mut life, &rule, 0).is_some());
        assert!(pause(&mut life, &rule, 0).is_some());
        assert_eq!(pause(&mut life, &rule, 0), None);
        assert_eq!(life.state, State::Failed);
        life.asked_for();
        assert!(pause(&mut life, &rule, 0).is_some());
    }

    #[test]
    fn an_orderly_end_is_no_failure() {
        let mut life = Life::new();
        life.began(0);
        assert_eq!(life.ended(End::Halted(0), &RULE, 5, 1), Next::StaysDown);
        assert_eq!((life.state, life.failures), (State::Ended, 0));
        life.began(6);
        assert_eq!(life.ended(End::Halted(3), &RULE, 7, 1), Next::StartAt(17));
    }

    #[test]
    fn the_rule_decides_who_comes_back() {
        for (when, end, back) in [
            (RestartWhen::Never, End::Faulted, false),
            (RestartWhen::Never, End::Killed, false),
            (RestartWhen::OnFailure, End::Hung, true),
            (RestartWhen::OnFailure, End::Killed, true),
            (RestartWhen::OnFailure, End::Refused, true),
            (RestartWhen::Always, End::Halted(0), true),
        ] {
            let mut life = Life::new();
            life.began(0);
            let next = life.ended(end, &Restart { when, ..RULE }, 1, 1);
            assert_eq!(matches!(next, Next::StartAt(_)), back, "{when:?} {end:?}");
            assert_eq!(life.due().is_some(), back);
        }
    }

    #[test]
    fn extreme_rules_do_not_overflow() {
        let rule = Restart { when: RestartWhen::Always, base_ms: u32::MAX, cap_ms: u32::MAX, tries: 0 };
        let mut life = Life::new();
        for _ in 0..70_000u32 {
            life.began(u64::MAX - 1);
            assert_eq!(life.ended(End::Faulted, &rule, u64::MAX, u64::MAX), Next::StartAt(u64::MAX));
        }
        assert_eq!(life.restarts, u16::MAX);
    }
}
