//! Faults and their answers.

use crate::machine::{self, WINDOW, WINDOW_PAGES};
use crate::meter::{Failed, Measured, Stretches};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Handle, Pfn};
use libos::mem::{self, Region, tables};
use libos::upcall::{self, Entry, Frame, LightHandler, Resume};
use libos::{light_handler, quick_handler, sys};
use workshop::Ground;

/// Exception class of `brk` (Arm ARM D24.2.37).
const CLASS_BRK: u64 = 0x3c;
/// Of a data abort from EL0.
const CLASS_DATA_ABORT: u64 = 0x24;
/// Pages of the demand-zero region.
const REGION_PAGES: u64 = 2048;

/// The frame that faults in the window map.
static FRAME: AtomicU64 = AtomicU64::new(0);

light_handler!(
    /// Goes on behind the fault, seen with the registers that a Rust function may change.
    SKIP_LIGHT = skip
);
light_handler!(
    /// Maps [`FRAME`] where the window was touched.
    MAP_LIGHT = map_frame
);

#[inline(always)]
fn skip(frame: &mut Frame) -> Resume {
    if frame.cause >> 26 != CLASS_BRK {
        return Resume::NotMine;
    }
    frame.pc += 4;
    Resume::Continue
}

#[inline(always)]
fn map_frame(frame: &mut Frame) -> Resume {
    if frame.cause >> 26 != CLASS_DATA_ABORT || frame.address.wrapping_sub(WINDOW) >= WINDOW_PAGES << 12 {
        return Resume::NotMine;
    }
    let prot = Prot::READ | Prot::WRITE | Prot::ACCESSED | Prot::DIRTY;
    Resume::Mapping(MapEntry::map(frame.address, Pfn(FRAME.load(Relaxed)), 1, prot, Handle::POOL))
}

quick_handler!(
    /// The same, seen with every register that a Rust function may change, FP/SIMD included.
    SKIP_QUICK = skip
);

fn with_light(handler: LightHandler, measure: impl FnOnce() -> Measured) -> Measured {
    match upcall::set_light_handler(Some(handler)) {
        Ok(Entry::Short) => {}
        Ok(_) => {
            return Err(Failed::Lacks("the handler is not fit for the short entry: it changes too many registers"));
        }
        Err(_) => return Err(Failed::Lacks("the library refuses the handler: it touches floating point, or calls")),
    }
    let figure = measure();
    let _ = upcall::set_light_handler(None);
    figure
}

/// A `brk`, the application's Rust handler, and back behind the `brk`; every register is kept, and of those only six can change meanwhile.
pub fn fault_resume(_: &Ground) -> Measured {
    with_light(SKIP_LIGHT, || Stretches::ONE.measure(|_| machine::brk(), |_| Ok(())))
}

/// The same with a handler that may do anything: the library saves and restores FP/SIMD, too.
pub fn fault_resume_fp(_: &Ground) -> Measured {
    upcall::set_quick_handler(Some(SKIP_QUICK));
    let figure = Stretches::ONE.measure(|_| machine::brk(), |_| Ok(()));
    upcall::set_quick_handler(None);
    figure
}

/// A load from an unmapped page, a Rust handler that names an owned frame, `resume` which maps it, the load again.
/// The pages are unmapped outside of the measured part.
pub fn fault_map_resume(_: &Ground) -> Measured {
    machine::open_window()?;
    let mut frame = [Pfn(0)];
    mem::alloc_frames(Handle::POOL, &mut frame)?;
    FRAME.store(frame[0].0, Relaxed);
    let figure = with_light(MAP_LIGHT, || {
        Stretches::of(WINDOW_PAGES).measure(machine::touch_window, |_| {
            for page in (0..WINDOW_PAGES).step_by(64) {
                machine::change_window(&[MapEntry::unmap(WINDOW + (page << 12), 64)])?;
            }
            Ok(())
        })
    });
    mem::free_frames(Handle::POOL, &frame);
    figure
}

/// The first touch of a page of the library's demand-zero region, until the load is done: the fault, the library's answer from
/// its stock of frames, and every eighth time the search for eight zeroed frames that fills the stock. In the first of the
/// stretches also the tables, one for 512 pages. The pages go back outside of the measured part.
pub fn demand_zero_fault(_: &Ground) -> Measured {
    let region = Region::demand_zero(REGION_PAGES).ok_or(Failed::Lacks("there is no room for a region"))?;
    Stretches::of(REGION_PAGES).measure(
        |page| machine::touch_region(&region, page),
        |_| {
            for page in (0..REGION_PAGES).step_by(64) {
                let frames: Vec<Pfn> = (page..page + 64)
                    .filter_map(|page| tables::leaf(region.start + (page << 12)))
                    .map(|leaf| leaf.pfn())
                    .collect();
                machine::empty_region(&region, page, 64)?;
                sys::frame_free(Handle::POOL, &frames)?;
            }
            Ok(())
        },
    )
}
