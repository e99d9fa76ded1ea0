//! Where upcalls enter and leave: the only code that sees the interrupted registers.
//!
//! On entry the registers are the program's, but x16 and x17, which the kernel keeps in `upcall` with pc and flags.
//! What the light way does not save (x19 to x29, floating point) it does not change: a Rust function keeps the former,
//! and the light way contains no instruction that touches the latter.

use crate::control::{LIBRARY, Library};
use core::arch::global_asm;
use core::mem::offset_of;
use exo_abi::Call;
use exo_abi::calls::immediate;
use exo_abi::control_page::{ControlPage, Frame};

/// Offset of x0 in the control page.
const X: usize = offset_of!(ControlPage, upcall) + offset_of!(Frame, x);
const SP: usize = offset_of!(ControlPage, upcall) + offset_of!(Frame, sp);
const SPARE: usize = offset_of!(ControlPage, upcall) + offset_of!(Frame, spare);
const UPCALL_STACK: usize = LIBRARY + offset_of!(Library, upcall_stack);

/// What the light way answers when it wants the full one; anything else is a number of batch entries.
pub const FULL_WAY: u64 = 1 << 63;

global_asm!(
    ".pushsection .text.velvet_upcall, \"ax\", %progbits",
    ".balign 64",
    ".globl velvet_upcall",
    "velvet_upcall:",
    "mrs x16, tpidrro_el0",
    "stp x0, x1, [x16, #{x}]",
    "stp x2, x3, [x16, #{x} + 16]",
    "stp x4, x5, [x16, #{x} + 32]",
    "stp x6, x7, [x16, #{x} + 48]",
    "stp x8, x9, [x16, #{x} + 64]",
    "stp x10, x11, [x16, #{x} + 80]",
    "stp x12, x13, [x16, #{x} + 96]",
    "stp x14, x15, [x16, #{x} + 112]",
    "str x18, [x16, #{x} + 144]",
    "mov x17, sp",
    "stp x30, x17, [x16, #{x} + 240]",
    "ldr x17, [x16, #{upcall_stack}]",
    "mov sp, x17",
    "mov x0, x16",
    "bl velvet_upcall_light",
    "tbnz x0, #63, 2f",
    // Back to the program. x0: entries of the batch.
    "1:",
    "mrs x17, tpidrro_el0",
    "mov x16, x0",
    "ldp x30, x0, [x17, #{x} + 240]",
    "mov sp, x0",
    "ldr x18, [x17, #{x} + 144]",
    "ldp x14, x15, [x17, #{x} + 112]",
    "ldp x12, x13, [x17, #{x} + 96]",
    "ldp x10, x11, [x17, #{x} + 80]",
    "ldp x8, x9, [x17, #{x} + 64]",
    "ldp x6, x7, [x17, #{x} + 48]",
    "ldp x4, x5, [x17, #{x} + 32]",
    "ldp x2, x3, [x17, #{x} + 16]",
    "ldp x0, x1, [x17, #{x}]",
    "svc #{resume}",
    // Refused: every register but x16 (why) and x17 (entries done) is the program's, as on entry. The next round sees both.
    "orr x16, x16, x17, lsl #16",
    "mrs x17, tpidrro_el0",
    "str x16, [x17, #{spare}]",
    "b velvet_upcall",
    // The full way: x19 to x29 are still the program's.
    "2:",
    "mrs x16, tpidrro_el0",
    "str x19, [x16, #{x} + 152]",
    "stp x20, x21, [x16, #{x} + 160]",
    "stp x22, x23, [x16, #{x} + 176]",
    "stp x24, x25, [x16, #{x} + 192]",
    "stp x26, x27, [x16, #{x} + 208]",
    "stp x28, x29, [x16, #{x} + 224]",
    "sub sp, sp, #528",
    "stp q0, q1, [sp]",
    "stp q2, q3, [sp, #32]",
    "stp q4, q5, [sp, #64]",
    "stp q6, q7, [sp, #96]",
    "stp q8, q9, [sp, #128]",
    "stp q10, q11, [sp, #160]",
    "stp q12, q13, [sp, #192]",
    "stp q14, q15, [sp, #224]",
    "stp q16, q17, [sp, #256]",
    "stp q18, q19, [sp, #288]",
    "stp q20, q21, [sp, #320]",
    "stp q22, q23, [sp, #352]",
    "stp q24, q25, [sp, #384]",
    "stp q26, q27, [sp, #416]",
    "stp q28, q29, [sp, #448]",
    "stp q30, q31, [sp, #480]",
    "mrs x1, fpcr",
    "mrs x2, fpsr",
    "str x1, [sp, #512]",
    "str x2, [sp, #520]",
    // Rust counts on the default rounding.
    "msr fpcr, xzr",
    "mov x0, x16",
    "bl velvet_upcall_full",
    "ldr x1, [sp, #512]",
    "ldr x2, [sp, #520]",
    "msr fpcr, x1",
    "msr fpsr, x2",
    "ldp q0, q1, [sp]",
    "ldp q2, q3, [sp, #32]",
    "ldp q4, q5, [sp, #64]",
    "ldp q6, q7, [sp, #96]",
    "ldp q8, q9, [sp, #128]",
    "ldp q10, q11, [sp, #160]",
    "ldp q12, q13, [sp, #192]",
    "ldp q14, q15, [sp, #224]",
    "ldp q16, q17, [sp, #256]",
    "ldp q18, q19, [sp, #288]",
    "ldp q20, q21, [sp, #320]",
    "ldp q22, q23, [sp, #352]",
    "ldp q24, q25, [sp, #384]",
    "ldp q26, q27, [sp, #416]",
    "ldp q28, q29, [sp, #448]",
    "ldp q30, q31, [sp, #480]",
    "mrs x16, tpidrro_el0",
    "ldr x19, [x16, #{x} + 152]",
    "ldp x20, x21, [x16, #{x} + 160]",
    "ldp x22, x23, [x16, #{x} + 176]",
    "ldp x24, x25, [x16, #{x} + 192]",
    "ldp x26, x27, [x16, #{x} + 208]",
    "ldp x28, x29, [x16, #{x} + 224]",
    "b 1b",
    ".popsection",
    x = const X,
    spare = const SPARE,
    upcall_stack = const UPCALL_STACK,
    resume = const immediate(Call::Resume as u64),
);

// x30 and sp are neighbours in the frame: one instruction saves both.
const _: () = assert!(SP == X + 31 * 8);

unsafe extern "C" {
    #[link_name = "velvet_upcall"]
    safe fn entry();
}

/// Where upcalls enter.
pub fn address() -> u64 {
    entry as *const () as u64
}
