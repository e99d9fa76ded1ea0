//! Whether a promise held.

use alloc::format;
use alloc::string::String;
use core::fmt;
use exo_abi::Refusal;
use libos::sys::Stopped;

/// It held, or why not.
pub type Held = Result<(), Broken>;

/// Why a promise did not hold.
pub struct Broken(pub String);

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Broken {
        Broken(format!("a call was refused: {refusal:?}"))
    }
}

impl From<Stopped> for Broken {
    fn from(stopped: Stopped) -> Broken {
        Broken(format!("a batch stopped: {stopped:?}"))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Goes on only if something is so.
#[macro_export]
macro_rules! ensure {
    ($so:expr, $($why:tt)*) => {
        if !$so {
            return Err($crate::held::Broken(alloc::format!($($why)*)));
        }
    };
}

/// A result must be this refusal.
pub fn refused<T: fmt::Debug>(what: &str, result: Result<T, impl Into<Refusal>>, wanted: Refusal) -> Held {
    match result.map_err(Into::into) {
        Err(refusal) if refusal == wanted => Ok(()),
        other => Err(Broken(format!("{what}: {other:?} instead of {wanted:?}"))),
    }
}
