//! Time: the generic timer's ticks, spans, and what a program used of its cores.

use core::ops::{Add, AddAssign, Sub};
use core::time::Duration;
use exo_abi::exposed::SLICE_CLAIMED;

const NANOS: u64 = 1_000_000_000;

/// A moment, in ticks of the generic timer (`CNTVCT_EL0`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// This moment.
    #[inline(always)]
    pub fn now() -> Instant {
        Instant(crate::sys::ticks())
    }

    /// How long ago it was; nothing if it is still to come.
    pub fn elapsed(self) -> Duration {
        Instant::now() - self
    }

    /// This moment and a span from now.
    pub fn after(span: Duration) -> Instant {
        Instant::now() + span
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, span: Duration) -> Instant {
        Instant(self.0.saturating_add(ticks(span)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        duration(self.0.saturating_sub(earlier.0))
    }
}

/// A span in ticks, rounded up.
pub fn ticks(span: Duration) -> u64 {
    ticks_at(span, crate::machine::timer_hz())
}

/// Ticks as a span, rounded down.
pub fn duration(ticks: u64) -> Duration {
    duration_at(ticks, crate::machine::timer_hz())
}

fn ticks_at(span: Duration, hz: u64) -> u64 {
    // Below 18 GHz the product fits; the architecture's fastest timer counts at 1 GHz.
    let part = (u64::from(span.subsec_nanos()) * hz).div_ceil(NANOS);
    span.as_secs().saturating_mul(hz).saturating_add(part)
}

fn duration_at(ticks: u64, hz: u64) -> Duration {
    let hz = hz.max(1);
    Duration::new(ticks / hz, (ticks % hz * NANOS / hz) as u32)
}

/// Waits. Events that come meanwhile stay pending.
pub fn sleep(span: Duration) {
    let until = Instant::after(span);
    // A wait may return early; each round ends at the alarm at the latest.
    while Instant::now() < until {
        if crate::sys::wait(0, until.0).is_err() {
            return;
        }
    }
}

/// The time that the slices of this program's vcore 0 to 55 used so far, on all cores.
pub fn cpu_time() -> Duration {
    let Some(info) = crate::start::info_if_known() else {
        return Duration::ZERO;
    };
    duration(used_by(u64::from(info.environment)))
}

/// Ticks that the slices of environment `environment` used so far, on all cores.
pub fn used_by(environment: u64) -> u64 {
    let cores = crate::machine::info().cores;
    (0..cores)
        .flat_map(|core| {
            (0..exo_abi::SLICES_PER_CORE).filter_map(move |position| crate::machine::slice(core, position))
        })
        .filter(|slice| slice.owner & SLICE_CLAIMED != 0 && (slice.owner >> 8) & 0xff == environment)
        .map(|slice| slice.used)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 62_500_000;

    #[test]
    fn spans_become_ticks_rounded_up_so_that_no_wait_is_short() {
        assert_eq!(ticks_at(Duration::from_nanos(16), HZ), 1);
        assert_eq!(ticks_at(Duration::from_nanos(17), HZ), 2);
        assert_eq!(ticks_at(Duration::from_secs(3), HZ), 3 * HZ);
        assert_eq!(ticks_at(Duration::MAX, HZ), u64::MAX);
    }

    #[test]
    fn ticks_become_spans_also_where_they_would_overflow() {
        assert_eq!(duration_at(1, HZ), Duration::from_nanos(16));
        assert_eq!(duration_at(u64::MAX, 1_000_000_000).as_secs(), u64::MAX / 1_000_000_000);
        assert_eq!(duration_at(HZ * 86_400 * 365, HZ), Duration::from_secs(86_400 * 365));
        assert_eq!(duration_at(5, 0), Duration::from_secs(5));
    }

    #[test]
    fn moments_do_not_wrap() {
        assert_eq!(Instant(5) - Instant(9), Duration::ZERO);
        assert_eq!(Instant(u64::MAX) + Duration::from_secs(1), Instant(u64::MAX));
    }
}
