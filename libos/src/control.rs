//! The control page: where the library, its upcalls and the kernel meet.
//!
//! Each vcore has its own, found by `TPIDRRO_EL0` alone. Its last words are the library's: [`Library`].
//! The batch buffer serves the running program and the upcalls that interrupt it. Whoever fills it says so in
//! [`Library::batch_used`] first; an upcall that finds it in use keeps those entries aside and puts them back ([`with_batch`]).
//! So upcalls need not be masked around a batch, and a fault in the middle of one is an ordinary fault.

use core::mem::{offset_of, size_of};
use core::ptr::{addr_of, addr_of_mut};
use exo_abi::BATCH_ENTRIES;
use exo_abi::control_page::{ControlPage, Frame};

/// Frames that an upcall can hand out without asking the kernel.
pub const STOCK: usize = 8;

/// What the library keeps in the control page.
#[repr(C)]
pub struct Library {
    /// Top of the stack that upcalls run on.
    pub upcall_stack: u64,
    /// Entries of the batch buffer that the running program counts on.
    pub batch_used: u64,
    /// The application's [`crate::upcall::LightHandler`], or 0.
    pub light_handler: u64,
    /// The application's [`crate::upcall::QuickHandler`], or 0.
    pub quick_handler: u64,
    /// An entry for the full way to apply, which the short entry could not put into the batch buffer; its first word is 0: there is none.
    pub kept: [u64; 2],
    /// Frames in [`Library::stock`].
    pub stocked: u64,
    /// Zeroed frames of the own pool, for demand-zero faults. Only upcalls touch them: nobody interrupts an upcall.
    pub stock: [u64; STOCK],
    /// Demand-zero faults answered.
    pub demand_faults: u64,
    /// Upcalls that took the long way.
    pub full_upcalls: u64,
    /// Resumes refused in a row at [`Library::refused_address`].
    pub refusals: u64,
    /// Address of the fault whose answer was refused last.
    pub refused_address: u64,
    /// Entries of the last answer to a fault whose frames came from the stock.
    pub answered: u64,
    /// Index of this vcore in its environment.
    pub vcore: u64,
    /// Not 0: this vcore is printing a panic.
    pub panicking: u64,
}

const _: () = assert!(size_of::<Library>() <= size_of::<[u64; 112]>());

/// Offset of [`Library`] in the page.
pub const LIBRARY: usize = offset_of!(ControlPage, library);

/// The running vcore's control page.
#[cfg(target_os = "none")]
#[inline(always)]
pub fn page() -> *mut ControlPage {
    let page: *mut ControlPage;
    // SAFETY: reading TPIDRRO_EL0 has no effect; it never changes while a vcore lives.
    unsafe { core::arch::asm!("mrs {}, tpidrro_el0", out(reg) page, options(pure, nomem, nostack, preserves_flags)) }
    page
}

/// A page for each thread of a test.
#[cfg(not(target_os = "none"))]
pub fn page() -> *mut ControlPage {
    use core::cell::UnsafeCell;
    use std::boxed::Box;
    std::thread_local! {
        // SAFETY: every field is an integer, for which zero is a value.
        static PAGE: Box<UnsafeCell<ControlPage>> = Box::new(unsafe { core::mem::zeroed() });
    }
    PAGE.with(|page| page.get())
}

/// The library's words of the running vcore.
#[inline(always)]
pub fn library() -> *mut Library {
    // SAFETY: `library` lies inside the page, is 8-byte aligned, and is as long as `Library` at least.
    unsafe { addr_of_mut!((*page()).library).cast() }
}

/// Reads a word of [`Library`].
macro_rules! library_get {
    ($($field:tt)*) => {
        // SAFETY: the page is mapped while its vcore lives, and only this vcore touches the field.
        unsafe { core::ptr::addr_of!((*$crate::control::library()).$($field)*).read_volatile() }
    };
}
/// Writes a word of [`Library`].
macro_rules! library_set {
    ($value:expr, $($field:tt)*) => {{
        let value = $value;
        // SAFETY: the page is mapped while its vcore lives, and only this vcore touches the field.
        unsafe { core::ptr::addr_of_mut!((*$crate::control::library()).$($field)*).write_volatile(value) }
    }};
}

/// Index of the running vcore in its environment.
pub fn vcore() -> u64 {
    library_get!(vcore)
}

/// Frames in this vcore's stock.
pub fn stocked() -> usize {
    library_get!(stocked) as usize
}

/// Takes a frame of this vcore's stock, for a fault. Only upcalls may: nothing interrupts them.
#[inline(always)]
pub fn take_stocked() -> Option<u64> {
    let stocked = library_get!(stocked);
    if stocked == 0 {
        return None;
    }
    library_set!(stocked - 1, stocked);
    library_set!(library_get!(demand_faults) + 1, demand_faults);
    Some(library_get!(stock[(stocked - 1) as usize % STOCK]))
}

/// Adds a frame to this vcore's stock, if there is room. Only upcalls may.
pub fn add_to_stock(frame: u64) {
    let stocked = stocked();
    if stocked < STOCK {
        library_set!(frame, stock[stocked]);
        library_set!(stocked as u64 + 1, stocked);
    }
}

/// What the running vcore counted: demand-zero faults answered, upcalls that took the long way.
pub fn counted() -> (u64, u64) {
    (library_get!(demand_faults), library_get!(full_upcalls))
}

/// Whether this is an upcall: they are masked exactly then.
pub fn in_upcall() -> bool {
    // SAFETY: the page is mapped while its vcore lives.
    unsafe { addr_of!((*page()).masked).read_volatile() != 0 }
}

/// Chooses the events that interrupt the program; returns what was chosen before.
pub fn set_upcall_events(mask: u64) -> u64 {
    let at = {
        // SAFETY: the field lies in the page.
        unsafe { addr_of_mut!((*page()).upcall_events) }
    };
    // SAFETY: the page is mapped while its vcore lives; the kernel reads the word at its own time.
    unsafe {
        let before = at.read_volatile();
        at.write_volatile(mask);
        before
    }
}

/// Chooses where upcalls of the running vcore enter; 0: nowhere.
pub fn set_upcall_entry(address: u64) {
    // SAFETY: the page is mapped while its vcore lives; the kernel reads the word at the next fault or event.
    unsafe { addr_of_mut!((*page()).upcall_entry).write_volatile(address) }
}

/// Publishes the frames to take first when some are taken by force.
pub fn set_sacrifice(index: usize, frame: u64) {
    assert!(index < 32);
    // SAFETY: the index was checked; the kernel reads the word at its own time.
    unsafe { addr_of_mut!((*page()).sacrifice[index]).write_volatile(frame) }
}

/// Frames lost by force so far, and the frame lost as number `n` (of the last 64).
pub fn lost(n: u64) -> (u64, u64) {
    // SAFETY: the index is below 64.
    unsafe { (addr_of!((*page()).lost).read_volatile(), addr_of!((*page()).losses[(n % 64) as usize]).read_volatile()) }
}

/// Whether nobody counts on the batch buffer.
#[inline(always)]
pub fn batch_is_free() -> bool {
    library_get!(batch_used) == 0
}

/// Puts `count` entries in the batch buffer, makes the call, and looks at the buffer after it.
///
/// `call` must not fill the buffer itself.
#[inline(always)]
pub fn with_batch<R>(count: usize, entry: impl Fn(usize) -> [u64; 2], call: impl FnOnce() -> R) -> R {
    assert!(count <= BATCH_ENTRIES as usize);
    if batch_is_free() {
        return with_own_batch(count, entry, call);
    }
    let (mut call, mut result) = (Some(call), None);
    keeping_outer(&mut || result = call.take().map(|call| with_own_batch(count, &entry, call)));
    // The line above ran the call once.
    result.unwrap_or_else(|| unreachable!())
}

/// The same where nobody counts on the buffer ([`batch_is_free`]).
#[inline(always)]
pub fn with_own_batch<R>(count: usize, entry: impl Fn(usize) -> [u64; 2], call: impl FnOnce() -> R) -> R {
    // From here on an upcall keeps its hands off these entries. At least one: the call may write even if it reads none.
    library_set!(count.max(1) as u64, batch_used);
    // Four at a time: the loop itself costs as much as an entry.
    let fours = count & !3;
    for index in (0..fours).step_by(4) {
        (index..index + 4).for_each(|index| write_batch(index, entry(index)));
    }
    (fours..count).for_each(|index| write_batch(index, entry(index)));
    let result = call();
    library_set!(0, batch_used);
    result
}

/// An upcall came while the program was using the buffer: its entries are kept on the upcall's stack meanwhile.
#[cold]
#[inline(never)]
fn keeping_outer(inside: &mut dyn FnMut()) {
    let outer = library_get!(batch_used);
    let mut kept = [[0u64; 2]; BATCH_ENTRIES as usize];
    for (index, entry) in kept.iter_mut().enumerate() {
        *entry = read_batch(index);
    }
    inside();
    for (index, entry) in kept.iter().enumerate() {
        write_batch(index, *entry);
    }
    library_set!(outer, batch_used);
}

/// Writes an entry of the batch buffer.
#[inline(always)]
pub fn write_batch(index: usize, entry: [u64; 2]) {
    assert!(index < BATCH_ENTRIES as usize);
    // SAFETY: the index was checked; the page is mapped while its vcore lives.
    let words = unsafe { addr_of_mut!((*page()).batch[index]) }.cast::<u64>();
    // Each word for itself: an array would be put together on the stack first.
    // SAFETY: as above; an entry is two words.
    unsafe {
        words.write_volatile(entry[0]);
        words.add(1).write_volatile(entry[1]);
    }
}

/// Reads an entry of the batch buffer.
#[inline(always)]
pub fn read_batch(index: usize) -> [u64; 2] {
    assert!(index < BATCH_ENTRIES as usize);
    // SAFETY: the index was checked; the page is mapped while its vcore lives.
    unsafe { addr_of!((*page()).batch[index]).read_volatile() }
}

/// The report that `vcore_report` left in the batch buffer.
pub fn frame_in_batch() -> Frame {
    const { assert!(size_of::<Frame>() <= BATCH_ENTRIES as usize * 16) };
    // SAFETY: a frame is integers only, fits, and the buffer is 8-byte aligned.
    unsafe { addr_of!((*page()).batch).cast::<Frame>().read_volatile() }
}

pub(crate) use library_get;
pub(crate) use library_set;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_inside_a_batch_leaves_the_outer_one_as_it_was() {
        with_batch(
            3,
            |index| [index as u64, 7],
            || {
                with_batch(64, |_| [99, 99], || assert_eq!(read_batch(2), [99, 99]));
                for index in 0..3 {
                    assert_eq!(read_batch(index), [index as u64, 7]);
                }
                assert_eq!(library_get!(batch_used), 3);
            },
        );
        assert_eq!(library_get!(batch_used), 0);
    }

    #[test]
    fn a_frame_is_read_where_the_kernel_puts_it() {
        with_batch(
            23,
            |index| [2 * index as u64, 2 * index as u64 + 1],
            || {
                let frame = frame_in_batch();
                assert_eq!((frame.cause, frame.address, frame.pc), (0, 1, 2));
                assert_eq!((frame.x[0], frame.x[30]), (6, 36));
            },
        );
    }
}
