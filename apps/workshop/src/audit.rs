//! The audit: the kernel checks its invariants frame by frame, and the sums are compared here.

use core::fmt;
use exo_abi::exposed::audit::{BROKEN, TABLE};
use exo_abi::{Handle, Pfn, Refusal};
use libos::{machine, sys};

/// What an audit of all frames found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Frames looked at.
    pub frames: u64,
    /// Page tables among them.
    pub tables: u64,
    /// Mappings that the tables hold.
    pub leaves: u64,
    /// Mappings that the frames count.
    pub counts: u64,
    /// The first frame with a broken invariant, and the rule's number.
    pub broken: Option<(Pfn, u64)>,
}

impl Found {
    /// Nothing is broken, and every mapping is counted once.
    pub fn is_clean(&self) -> bool {
        self.broken.is_none() && self.leaves == self.counts
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        if let Some((frame, rule)) = self.broken {
            write!(out, "frame {:#x} breaks rule {rule}; ", frame.0)?;
        }
        write!(
            out,
            "{} frames, {} tables with {} mappings, {} counted",
            self.frames, self.tables, self.leaves, self.counts
        )
    }
}

/// Has every frame of RAM checked.
pub fn audit(power: Handle) -> Result<Found, Refusal> {
    let info = machine::info();
    let mut found = Found::default();
    for index in 0..info.frames {
        let frame = Pfn(info.first_frame + index);
        let word = sys::audit(power, frame)?;
        found.frames += 1;
        if word & BROKEN != 0 {
            found.broken.get_or_insert((frame, word >> 32 & 0xff));
        } else if word & TABLE != 0 {
            found.tables += 1;
            found.leaves += word & 0xffff_ffff;
        } else {
            found.counts += word & 0xffff_ffff;
        }
    }
    Ok(found)
}
