//! Why a program could not be built: the step, the refusal, the remedy.

use core::fmt;
use exo_abi::Refusal;
use libos::sys::Stopped;

/// What went wrong, and while doing what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What was being done, as "could not ..." goes on.
    pub step: &'static str,
    /// Why it could not be done.
    pub why: Why,
}

/// Why a step could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The kernel said no.
    Refused(Refusal),
    /// Something of init's own has a bound, or the manifest makes no sense.
    Because(&'static str),
}

impl Failed {
    /// `step` failed because of `why`.
    pub const fn because(step: &'static str, why: &'static str) -> Failed {
        Failed { step, why: Why::Because(why) }
    }

    fn remedy(&self) -> Option<&'static str> {
        match self.why {
            Why::Refused(Refusal::QuotaExceeded) => {
                Some("lower `frames` in the manifest, or give the machine more memory")
            }
            Why::Refused(Refusal::NotFree) => Some("give the machine more memory"),
            Why::Refused(Refusal::WrongFrame | Refusal::NotYours) => {
                Some("build the image anew: its archive is damaged")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "could not {}: ", self.step)?;
        match self.why {
            Why::Refused(refusal) => write!(out, "{refusal}")?,
            Why::Because(why) => out.write_str(why)?,
        }
        match self.remedy() {
            Some(remedy) => write!(out, " ({remedy})"),
            None => Ok(()),
        }
    }
}

/// Says while doing what a call was refused.
pub trait While<T> {
    /// The refusal as a failure of `step`.
    fn while_doing(self, step: &'static str) -> Result<T, Failed>;
}

impl<T> While<T> for Result<T, Refusal> {
    fn while_doing(self, step: &'static str) -> Result<T, Failed> {
        self.map_err(|refusal| Failed { step, why: Why::Refused(refusal) })
    }
}

impl<T> While<T> for Result<T, Stopped> {
    fn while_doing(self, step: &'static str) -> Result<T, Failed> {
        self.map_err(|stopped| Failed { step, why: Why::Refused(stopped.refusal) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_failure_names_step_reason_and_remedy() {
        let refused: Result<(), _> = Err(Refusal::QuotaExceeded);
        assert_eq!(
            refused.while_doing("create its pool").unwrap_err().to_string(),
            "could not create its pool: the quota does not suffice (lower `frames` in the manifest, or give the machine more memory)"
        );
        assert_eq!(Failed::because("number it", "no more cells").to_string(), "could not number it: no more cells");
    }
}
