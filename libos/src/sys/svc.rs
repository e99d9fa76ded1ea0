//! The `svc` instruction with the kernel's two register conventions.
//!
//! The stubs are inlined, so that the compiler itself decides what has to be saved around a call: a loop of calls saves
//! what it needs once. x19 and x29 belong to the compiler and cannot be clobbered, so the switching stubs push them.
//! FPCR counts as a floating-point register: the other side of a gate may leave rounding modes behind, see the README.

use core::arch::asm;
use exo_abi::calls::immediate;

macro_rules! plain {
    ($(#[$doc:meta])* $name:ident($($argument:ident $register:tt),*) also $($lost:tt),*) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As the call demands.
        #[inline(always)]
        pub unsafe fn $name<const NUMBER: u64>(x0: u64, x1: u64, x2: u64 $(, $argument: u64)*) -> [u64; 3] {
            let (r0, r1, r2);
            // SAFETY: the kernel keeps x19 to x30 and FP/SIMD; all it loses is named here. The rest is the caller's promise.
            unsafe {
                asm!(
                    "svc #{number}",
                    number = const immediate(NUMBER),
                    inlateout("x0") x0 => r0, inlateout("x1") x1 => r1, inlateout("x2") x2 => r2,
                    $(inlateout($register) $argument => _,)*
                    $(lateout($lost) _,)*
                    options(nostack),
                );
            }
            [r0, r1, r2]
        }
    };
}

plain! {
    /// A plain call with up to three arguments.
    plain_3() also "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18"
}
plain! {
    /// A plain call with up to five arguments.
    plain_5(x3 "x3", x4 "x4") also "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18"
}
/// A plain call with up to eight arguments.
///
/// # Safety
/// As the call demands.
#[inline(always)]
pub unsafe fn plain_8<const NUMBER: u64>(x: [u64; 8]) -> [u64; 3] {
    let (r0, r1, r2);
    // SAFETY: the kernel keeps x19 to x30 and FP/SIMD; all it loses is named here. The rest is the caller's promise.
    unsafe {
        asm!(
            "svc #{number}",
            number = const immediate(NUMBER),
            inlateout("x0") x[0] => r0, inlateout("x1") x[1] => r1, inlateout("x2") x[2] => r2, inlateout("x3") x[3] => _,
            inlateout("x4") x[4] => _, inlateout("x5") x[5] => _, inlateout("x6") x[6] => _, inlateout("x7") x[7] => _,
            lateout("x8") _, lateout("x9") _, lateout("x10") _, lateout("x11") _, lateout("x12") _, lateout("x13") _,
            lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _, lateout("x18") _,
            options(nostack),
        );
    }
    [r0, r1, r2]
}

/// A plain call with two arguments.
///
/// # Safety
/// As the call demands.
#[inline(always)]
pub unsafe fn plain_2<const NUMBER: u64>(x0: u64, x1: u64) -> [u64; 3] {
    let (r0, r1, r2);
    // SAFETY: the kernel keeps x19 to x30 and FP/SIMD; all it loses is named here. The rest is the caller's promise.
    unsafe {
        asm!(
            "svc #{number}",
            number = const immediate(NUMBER),
            inlateout("x0") x0 => r0, inlateout("x1") x1 => r1, lateout("x2") r2, lateout("x3") _, lateout("x4") _,
            lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _,
            lateout("x11") _, lateout("x12") _, lateout("x13") _, lateout("x14") _, lateout("x15") _, lateout("x16") _,
            lateout("x17") _, lateout("x18") _,
            options(nostack),
        );
    }
    [r0, r1, r2]
}

/// A plain call without arguments.
///
/// # Safety
/// As the call demands.
#[inline(always)]
pub unsafe fn plain_0<const NUMBER: u64>() -> u64 {
    let r0;
    // SAFETY: the kernel keeps x19 to x30 and FP/SIMD; all it loses is named here. The rest is the caller's promise.
    unsafe {
        asm!(
            "svc #{number}",
            number = const immediate(NUMBER),
            lateout("x0") r0, lateout("x1") _, lateout("x2") _, lateout("x3") _, lateout("x4") _, lateout("x5") _,
            lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _, lateout("x11") _,
            lateout("x12") _, lateout("x13") _, lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _,
            lateout("x18") _,
            options(nostack),
        );
    }
    r0
}

/// Everything but sp is lost in here; x19 and x29 are pushed.
macro_rules! switching_svc {
    ($($operands:tt)*) => {
        asm!(
            "stp x19, x29, [sp, #-16]!",
            "svc #{number}",
            "ldp x19, x29, [sp], #16",
            number = const immediate(NUMBER),
            $($operands)*
            lateout("x11") _, lateout("x12") _, lateout("x13") _, lateout("x14") _, lateout("x15") _, lateout("x16") _,
            lateout("x17") _, lateout("x18") _, lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _,
            lateout("x24") _, lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _, lateout("x30") _,
            lateout("v0") _, lateout("v1") _, lateout("v2") _, lateout("v3") _, lateout("v4") _, lateout("v5") _,
            lateout("v6") _, lateout("v7") _, lateout("v8") _, lateout("v9") _, lateout("v10") _, lateout("v11") _,
            lateout("v12") _, lateout("v13") _, lateout("v14") _, lateout("v15") _, lateout("v16") _, lateout("v17") _,
            lateout("v18") _, lateout("v19") _, lateout("v20") _, lateout("v21") _, lateout("v22") _, lateout("v23") _,
            lateout("v24") _, lateout("v25") _, lateout("v26") _, lateout("v27") _, lateout("v28") _, lateout("v29") _,
            lateout("v30") _, lateout("v31") _,
        )
    };
}

/// A switching call with two arguments and two results.
///
/// # Safety
/// As the call demands.
#[inline(always)]
pub unsafe fn switching_2<const NUMBER: u64>(x0: u64, x1: u64) -> [u64; 2] {
    let (r0, r1);
    // SAFETY: every register but sp is named or pushed. The rest is the caller's promise.
    unsafe {
        switching_svc!(
            inlateout("x0") x0 => r0, inlateout("x1") x1 => r1, lateout("x2") _, lateout("x3") _, lateout("x4") _,
            lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _,
        );
    }
    [r0, r1]
}

/// A switching call whose words nobody looks at: x0 in and out.
///
/// # Safety
/// As the call demands.
#[inline(always)]
pub unsafe fn switching_0<const NUMBER: u64>(x0: u64) -> u64 {
    let r0;
    // SAFETY: every register but sp is named or pushed. The rest is the caller's promise.
    unsafe {
        switching_svc!(
            inlateout("x0") x0 => r0, lateout("x1") _, lateout("x2") _, lateout("x3") _, lateout("x4") _, lateout("x5") _,
            lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _,
        );
    }
    r0
}

/// A switching call that carries seven words: x0 to x7 in, x0 to x8 out.
///
/// # Safety
/// As the call demands.
#[inline(always)]
pub unsafe fn switching_8<const NUMBER: u64>(x0: u64, words: [u64; 7]) -> [u64; 9] {
    let mut r = [0; 9];
    // SAFETY: every register but sp is named or pushed. The rest is the caller's promise.
    unsafe {
        switching_svc!(
            inlateout("x0") x0 => r[0], inlateout("x1") words[0] => r[1], inlateout("x2") words[1] => r[2],
            inlateout("x3") words[2] => r[3], inlateout("x4") words[3] => r[4], inlateout("x5") words[4] => r[5],
            inlateout("x6") words[5] => r[6], inlateout("x7") words[6] => r[7], lateout("x8") r[8],
            lateout("x9") _, lateout("x10") _,
        );
    }
    r
}

/// A switching call with everything a message can have: x0 to x10 in, x0 to x8 out.
///
/// # Safety
/// As the call demands.
#[inline(always)]
pub unsafe fn switching_11<const NUMBER: u64>(x0: u64, words: [u64; 7], x8: u64, x9: u64, x10: u64) -> [u64; 9] {
    let mut r = [0; 9];
    // SAFETY: every register but sp is named or pushed. The rest is the caller's promise.
    unsafe {
        switching_svc!(
            inlateout("x0") x0 => r[0], inlateout("x1") words[0] => r[1], inlateout("x2") words[1] => r[2],
            inlateout("x3") words[2] => r[3], inlateout("x4") words[3] => r[4], inlateout("x5") words[4] => r[5],
            inlateout("x6") words[5] => r[6], inlateout("x7") words[6] => r[7], inlateout("x8") x8 => r[8],
            inlateout("x9") x9 => _, inlateout("x10") x10 => _,
        );
    }
    r
}
