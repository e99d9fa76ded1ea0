//! The heap: first fit over a demand-zero region, so that it takes frames as it is touched.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use linked_list_allocator::Heap;
use spin::Mutex;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::empty()));

struct LockedHeap(Mutex<Heap>);

/// Declares the stretch the heap lives in; it must be a region already.
pub(crate) fn begin(start: u64, end: u64) {
    // SAFETY: the layout gives this stretch to the heap alone, and its pages fill themselves.
    unsafe { HEAP.0.lock().init(start as *mut u8, (end - start) as usize) }
}

/// Bytes handed out, and bytes left.
pub(crate) fn usage() -> (u64, u64) {
    let heap = HEAP.0.lock();
    (heap.used() as u64, heap.free() as u64)
}

impl LockedHeap {
    /// Upcalls get nothing: the program may be inside, and what a page fault would mend elsewhere ends a vcore that is masked.
    fn with<R>(&self, use_heap: impl FnOnce(&mut Heap) -> R) -> Option<R> {
        (!crate::control::in_upcall()).then(|| use_heap(&mut self.0.lock()))
    }
}

// SAFETY: blocks come from a heap under a lock, which hands out each byte once.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.with(|heap| heap.allocate_first_fit(layout).ok()).flatten().map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // A block freed by an upcall is lost.
        self.with(|heap| {
            if let Some(block) = NonNull::new(block) {
                // SAFETY: the caller got this block from `alloc` with this layout.
                unsafe { heap.deallocate(block, layout) }
            }
        });
    }
}
