//! A copy that survives the loss of what it copies: where the page vanishes in the middle, it answers so.
//!
//! The copy is one function without calls, known by its addresses. A fault in it that nobody else answers (`upcall::handlers`)
//! goes on at its second end, which says that the copy failed. It keeps no state and needs no stack, so that is all there is to undo.

/// Copies from a mapping; `false`: a page of it is gone, and an unknown part of `out` was written. The callers have checked the range against it.
#[inline]
pub(super) fn copy_out(va: u64, out: &mut [u8]) -> bool {
    // SAFETY: the range lies in the place of a mapping, where no Rust object lives; a fault there ends the copy.
    unsafe { machine::copy(out.as_mut_ptr(), va as *const u8, out.len()) == 0 }
}

/// Copies into a mapping; `false`: a page of it is gone, and an unknown part was written. The callers have checked the range against it.
#[inline]
pub(super) fn copy_in(va: u64, bytes: &[u8]) -> bool {
    // SAFETY: as above.
    unsafe { machine::copy(va as *mut u8, bytes.as_ptr(), bytes.len()) == 0 }
}

/// Where a program goes on that faulted at `pc` in a copy.
#[cfg(target_os = "none")]
pub(crate) fn way_out(pc: u64) -> Option<u64> {
    machine::way_out(pc)
}

#[cfg(target_os = "none")]
mod machine {
    use core::arch::global_asm;

    // 256 bytes a round; then what is left, by the bits of its length.
    global_asm!(
        ".pushsection .text.velvet_guarded_copy, \"ax\", %progbits",
        ".balign 64",
        ".globl velvet_guarded_copy",
        ".globl velvet_guarded_copy_failed",
        "velvet_guarded_copy:",
        "subs x2, x2, #256",
        "b.lo 2f",
        "1:",
        "ldp q0, q1, [x1]",
        "ldp q2, q3, [x1, #32]",
        "ldp q4, q5, [x1, #64]",
        "ldp q6, q7, [x1, #96]",
        "ldp q16, q17, [x1, #128]",
        "ldp q18, q19, [x1, #160]",
        "ldp q20, q21, [x1, #192]",
        "ldp q22, q23, [x1, #224]",
        "add x1, x1, #256",
        "stp q0, q1, [x0]",
        "stp q2, q3, [x0, #32]",
        "stp q4, q5, [x0, #64]",
        "stp q6, q7, [x0, #96]",
        "stp q16, q17, [x0, #128]",
        "stp q18, q19, [x0, #160]",
        "stp q20, q21, [x0, #192]",
        "stp q22, q23, [x0, #224]",
        "add x0, x0, #256",
        "subs x2, x2, #256",
        "b.hs 1b",
        // The low eight bits of a length are not changed by taking 256 away.
        "2:",
        "tbz x2, #7, 22f",
        "ldp q0, q1, [x1], #32",
        "ldp q2, q3, [x1], #32",
        "ldp q4, q5, [x1], #32",
        "ldp q6, q7, [x1], #32",
        "stp q0, q1, [x0], #32",
        "stp q2, q3, [x0], #32",
        "stp q4, q5, [x0], #32",
        "stp q6, q7, [x0], #32",
        "22:",
        "tbz x2, #6, 3f",
        "ldp q0, q1, [x1], #32",
        "ldp q2, q3, [x1], #32",
        "stp q0, q1, [x0], #32",
        "stp q2, q3, [x0], #32",
        "3:",
        "tbz x2, #5, 4f",
        "ldp q0, q1, [x1], #32",
        "stp q0, q1, [x0], #32",
        "4:",
        "tbz x2, #4, 5f",
        "ldr q0, [x1], #16",
        "str q0, [x0], #16",
        "5:",
        "tbz x2, #3, 6f",
        "ldr x3, [x1], #8",
        "str x3, [x0], #8",
        "6:",
        "tbz x2, #2, 7f",
        "ldr w3, [x1], #4",
        "str w3, [x0], #4",
        "7:",
        "tbz x2, #1, 8f",
        "ldrh w3, [x1], #2",
        "strh w3, [x0], #2",
        "8:",
        "tbz x2, #0, 9f",
        "ldrb w3, [x1]",
        "strb w3, [x0]",
        "9:",
        "mov x0, xzr",
        "ret",
        "velvet_guarded_copy_failed:",
        "mov x0, #1",
        "ret",
        ".popsection",
    );

    unsafe extern "C" {
        #[link_name = "velvet_guarded_copy"]
        pub fn copy(to: *mut u8, from: *const u8, len: usize) -> u64;
        #[link_name = "velvet_guarded_copy_failed"]
        fn failed();
    }

    pub fn way_out(pc: u64) -> Option<u64> {
        let (first, failed) = (copy as *const () as u64, failed as *const () as u64);
        (first..failed).contains(&pc).then_some(failed)
    }
}

/// A host's pages do not vanish.
#[cfg(not(target_os = "none"))]
mod machine {
    /// Copies.
    ///
    /// # Safety
    /// As `core::ptr::copy_nonoverlapping`.
    pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::copy_nonoverlapping(from, to, len) };
        0
    }
}
