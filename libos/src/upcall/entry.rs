//! Where upcalls enter and leave: the only code that sees the interrupted registers.
//!
//! On entry from the kernel the registers are the program's, but x16 and x17, which the kernel keeps in `upcall` with pc and flags.
//! What an entry does not save it does not change:
//!
//! - `velvet_upcall` saves x0 to x18, x30 and sp for the light way, then everything for the full one. A Rust function keeps x19 to x29,
//!   and the light way contains no instruction that touches floating point.
//! - `velvet_upcall_short` saves x0, x1 and x8 to x11, for a light handler whose machine code changes no other ([`super::registers`]).
//! - `velvet_upcall_quick` saves x0 to x18, x30, sp and floating point, for a handler that is any Rust function.
//!
//! What the last two cannot do they leave to `velvet_upcall`, with the program's registers as on entry.

use super::Entry;
use crate::control::{LIBRARY, Library};
use core::arch::global_asm;
use core::mem::offset_of;
use exo_abi::Call;
use exo_abi::calls::immediate;
use exo_abi::control_page::{ControlPage, Frame};
use exo_abi::page::MapOp;

const UPCALL: usize = offset_of!(ControlPage, upcall);
/// Offset of x0 in the control page.
const X: usize = UPCALL + offset_of!(Frame, x);
const SP: usize = UPCALL + offset_of!(Frame, sp);
const SPARE: usize = UPCALL + offset_of!(Frame, spare);
const BATCH: usize = offset_of!(ControlPage, batch);
const UPCALL_STACK: usize = LIBRARY + offset_of!(Library, upcall_stack);
const BATCH_USED: usize = LIBRARY + offset_of!(Library, batch_used);
const LIGHT_HANDLER: usize = LIBRARY + offset_of!(Library, light_handler);
const QUICK_HANDLER: usize = LIBRARY + offset_of!(Library, quick_handler);
const KEPT: usize = LIBRARY + offset_of!(Library, kept);
const ANSWERED: usize = LIBRARY + offset_of!(Library, answered);

/// What the light way answers when it wants the full one, and a quick handler's answer when `velvet_upcall` is to follow; anything else is a
/// number of batch entries.
pub const FULL_WAY: u64 = 1 << 63;

global_asm!(
    // Pairs of registers, each in its place from `base` + `offset` on.
    ".macro velvet_pairs op, base, offset, list:vararg",
    ".irp pair, \\list",
    "velvet_pair \\op, \\base, \\offset, \\pair",
    ".endr",
    ".endm",
    ".macro velvet_pair op, base, offset, first, second",
    "\\op x\\first, x\\second, [\\base, #(\\offset + 8 * \\first)]",
    ".endm",
    // x0 to x15, in the control page at `base`.
    ".macro velvet_low op, base",
    "velvet_pairs \\op, \\base, {x}, \"14, 15\", \"12, 13\", \"10, 11\", \"8, 9\", \"6, 7\", \"4, 5\", \"2, 3\", \"0, 1\"",
    ".endm",
    // x0, x1, x8 to x11: those that a short handler may change.
    ".macro velvet_few op",
    "velvet_pairs \\op, x16, {x}, \"10, 11\", \"8, 9\", \"0, 1\"",
    ".endm",
    // x19 to x29.
    ".macro velvet_kept store_or_load, op",
    "\\store_or_load x19, [x16, #{x} + 152]",
    "velvet_pairs \\op, x16, {x}, \"20, 21\", \"22, 23\", \"24, 25\", \"26, 27\", \"28, 29\"",
    ".endm",
    // q0 to q31, from sp + `offset` on.
    ".macro velvet_vectors op, offset",
    ".irp pair, \"0, 1\", \"2, 3\", \"4, 5\", \"6, 7\", \"8, 9\", \"10, 11\", \"12, 13\", \"14, 15\", \"16, 17\", \"18, 19\", \"20, 21\", \"22, 23\", \"24, 25\", \"26, 27\", \"28, 29\", \"30, 31\"",
    "velvet_vector \\op, \\offset, \\pair",
    ".endr",
    ".endm",
    ".macro velvet_vector op, offset, first, second",
    "\\op q\\first, q\\second, [sp, #(\\offset + 16 * \\first)]",
    ".endm",
    // What a Rust function may change, floating point excepted; on the upcall stack then.
    ".macro velvet_save",
    "mrs x16, tpidrro_el0",
    "velvet_low stp, x16",
    "str x18, [x16, #{x} + 144]",
    "mov x17, sp",
    "stp x30, x17, [x16, #{x} + 240]",
    "ldr x17, [x16, #{upcall_stack}]",
    "mov sp, x17",
    ".endm",
    //
    ".pushsection .text.velvet_upcall, \"ax\", %progbits",
    ".balign 64",
    ".globl velvet_upcall",
    "velvet_upcall:",
    "velvet_save",
    "bl velvet_upcall_light",
    "tbnz x0, #63, 2f",
    // Back to the program. x0: entries of the batch.
    "1:",
    "mrs x17, tpidrro_el0",
    "mov x16, x0",
    "ldp x30, x0, [x17, #{x} + 240]",
    "mov sp, x0",
    "ldr x18, [x17, #{x} + 144]",
    "velvet_low ldp, x17",
    "svc #{resume}",
    // Refused: every register but x16 (why) and x17 (entries done) is the program's, as on entry. The full way sees both.
    ".globl velvet_upcall_refused",
    "velvet_upcall_refused:",
    "orr x16, x16, x17, lsl #16",
    "mrs x17, tpidrro_el0",
    "str x16, [x17, #{spare}]",
    "velvet_save",
    // The full way: x19 to x29 are still the program's.
    "2:",
    "mrs x16, tpidrro_el0",
    "velvet_kept str, stp",
    "sub sp, sp, #528",
    "velvet_vectors stp, 0",
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
    "velvet_vectors ldp, 0",
    "mrs x16, tpidrro_el0",
    "velvet_kept ldr, ldp",
    "b 1b",
    ".popsection",
    //
    ".pushsection .text.velvet_upcall_short, \"ax\", %progbits",
    ".balign 64",
    ".globl velvet_upcall_short",
    "velvet_upcall_short:",
    "mrs x16, tpidrro_el0",
    "velvet_few stp",
    "mov x17, x30",
    "ldr x8, [x16, #{light_handler}]",
    "add x0, x16, #{upcall}",
    "blr x8",
    "cbnz x0, 1f",
    "mov x30, x17",
    "velvet_few ldp",
    "mov x16, xzr",
    "svc #{resume}",
    "b velvet_upcall_refused",
    // A mapping may add pages and tables (`handlers::adds`).
    "1:",
    "and x8, x0, #0xf",
    "cmp x8, #{map}",
    "ccmp x8, #{install_table}, #4, ne",
    "b.ne 2f",
    "ldr x8, [x16, #{batch_used}]",
    "cbnz x8, 3f",
    "str x0, [x16, #{batch}]",
    "str x1, [x16, #{batch} + 8]",
    "str xzr, [x16, #{answered}]",
    "mov x30, x17",
    "velvet_few ldp",
    "mov x16, #1",
    "svc #{resume}",
    "b velvet_upcall_refused",
    // The buffer is the program's: the light way sees that, too, and the full one applies the entry.
    "3:",
    "str x0, [x16, #{kept}]",
    "str x1, [x16, #{kept} + 8]",
    "2:",
    "mov x30, x17",
    "velvet_few ldp",
    "b velvet_upcall",
    ".popsection",
    //
    ".pushsection .text.velvet_upcall_quick, \"ax\", %progbits",
    // Everything but x0 to x15, which the frame has: x18, x30, sp, fpsr, q0 to q31.
    ".macro velvet_quick_restore",
    "velvet_vectors ldp, 32",
    "ldp x18, x30, [sp]",
    "ldp x0, x1, [sp, #16]",
    "mov sp, x0",
    "msr fpsr, x1",
    "velvet_low ldp, x17",
    ".endm",
    ".balign 64",
    ".globl velvet_upcall_quick",
    "velvet_upcall_quick:",
    "mrs x16, tpidrro_el0",
    "velvet_low stp, x16",
    "ldr x0, [x16, #{upcall_stack}]",
    "mov x1, sp",
    "sub sp, x0, #560",
    "mrs x2, fpsr",
    "mrs x3, fpcr",
    "stp x18, x30, [sp]",
    "stp x1, x2, [sp, #16]",
    "velvet_vectors stp, 32",
    "cbnz x3, 4f",
    "ldr x8, [x16, #{quick_handler}]",
    "add x0, x16, #{upcall}",
    "blr x8",
    "cbnz x0, 2f",
    // Back to the program. x0: entries of the batch.
    "1:",
    "mrs x17, tpidrro_el0",
    "mov x16, x0",
    "velvet_quick_restore",
    "svc #{resume}",
    "b velvet_upcall_refused",
    "2:",
    "bl velvet_upcall_quick_answer",
    "3:",
    "tbz x0, #63, 1b",
    "mrs x17, tpidrro_el0",
    "velvet_quick_restore",
    "b velvet_upcall",
    // Rust counts on the default rounding, and does not change it.
    "4:",
    "str x3, [sp, #544]",
    "msr fpcr, xzr",
    "ldr x8, [x16, #{quick_handler}]",
    "add x0, x16, #{upcall}",
    "blr x8",
    "cbz x0, 5f",
    "bl velvet_upcall_quick_answer",
    "5:",
    "ldr x8, [sp, #544]",
    "msr fpcr, x8",
    "b 3b",
    ".popsection",
    x = const X,
    upcall = const UPCALL,
    spare = const SPARE,
    batch = const BATCH,
    upcall_stack = const UPCALL_STACK,
    batch_used = const BATCH_USED,
    light_handler = const LIGHT_HANDLER,
    quick_handler = const QUICK_HANDLER,
    answered = const ANSWERED,
    kept = const KEPT,
    map = const MapOp::Map as u64,
    install_table = const MapOp::InstallTable as u64,
    resume = const immediate(Call::Resume as u64),
);

// x30 and sp are neighbours in the frame: one instruction saves both.
const _: () = assert!(SP == X + 31 * 8);

unsafe extern "C" {
    safe fn velvet_upcall();
    safe fn velvet_upcall_short();
    safe fn velvet_upcall_quick();
}

/// Where upcalls enter.
pub fn address(entry: Entry) -> u64 {
    let entry: extern "C" fn() = match entry {
        Entry::Common => velvet_upcall,
        Entry::Short => velvet_upcall_short,
        Entry::Quick => velvet_upcall_quick,
    };
    entry as *const () as u64
}
