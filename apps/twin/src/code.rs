//! Machine code for the actors of a case.

use core::mem::offset_of;
use exo_abi::control_page::{ControlPage, Frame};
use workshop::{EXTRA_VA, svc};

/// Bytes of an order and its record.
pub const ORDER_BYTES: u64 = 384;
/// Orders in an actor's page; the first place is the head.
pub const ORDERS: usize = 9;
/// Where the record begins in an order.
pub const RECORD: u64 = 112;
/// No call: loads the word at x0 into x0.
pub const LOAD: u64 = 35;
/// No call: stores x1 at x0.
pub const STORE: u64 = 36;
/// No call: uses FP/SIMD, so that the registers come in.
pub const FLOAT: u64 = 37;
/// No call of Velvet's: `svc #0`, which is an upcall.
pub const FOREIGN: u64 = 38;

/// Words of the control page that [`Code::Upcall`] and its maker share. Others it fills alone: upcalls so far at 0, all events at 16, a refusal of `resume` at 24.
pub mod told {
    /// Entries of the batch with which the next upcall ends.
    pub const ENTRIES: u64 = 8;
    /// What the flags of the interrupted program get besides.
    pub const FLAGS: u64 = 40;
}

/// Where the library's words begin in the control page.
pub const LIBRARY: u64 = offset_of!(ControlPage, library) as u64;

impl Code {
    /// Its address in a child.
    pub fn va(self) -> u64 {
        EXTRA_VA + self.offset()
    }
}

workshop::snippets! {
    /// What actors run.
    pub enum Code in "velvet_twin" {
        /// Goes through the orders at sp, and leaves of each x0 to x30, TPIDR_EL0 and the flags; then halts with 0.
        Act: [
            "1:",
            "ldp x11, x12, [sp]",
            "cmp x11, x12",
            "b.hs 9f",
            "add x13, x11, #1",
            "str x13, [sp]",
            "mov x14, #384",
            "mov x13, sp",
            "madd x15, x11, x14, x13",
            "add x15, x15, #384",
            "ldr x17, [x15]",
            "ldp x0, x1, [x15, #8]",
            "ldp x2, x3, [x15, #24]",
            "ldp x4, x5, [x15, #40]",
            "ldp x6, x7, [x15, #56]",
            "ldp x8, x9, [x15, #72]",
            "ldr x10, [x15, #88]",
            "ldr x16, [x15, #96]",
            ".irp n,19,20,21,22,23,24,25,26,27,28,29,30",
            "mov x\\n, #(0x100 + \\n)",
            ".endr",
            "msr tpidr_el0, x19",
            "adr x18, 2f",
            "add x17, x18, x17, lsl #3",
            "br x17",
            "2:",
            ".irp number,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34",
            svc!(number),
            "b 3f",
            ".endr",
            "ldr x0, [x0]",
            "b 3f",
            "str x1, [x0]",
            "b 3f",
            "fmov d0, x0",
            "b 3f",
            "svc #0",
            "b 3f",
            "3:",
            "stp x16, x17, [sp, #16]",
            "stp x14, x15, [sp, #32]",
            "mrs x14, nzcv",
            "str x14, [sp, #48]",
            "ldr x16, [sp]",
            "mov x17, #384",
            "mov x15, sp",
            "madd x15, x16, x17, x15",
            "add x15, x15, #112",
            ".irp n,0,2,4,6,8,10,12",
            "str x\\n, [x15, #(8 * \\n)]",
            ".endr",
            ".irp n,1,3,5,7,9,11,13",
            "str x\\n, [x15, #(8 * \\n)]",
            ".endr",
            "ldp x0, x1, [sp, #32]",
            "stp x0, x1, [x15, #112]",
            "ldp x0, x1, [sp, #16]",
            "stp x0, x1, [x15, #128]",
            ".irp n,18,19,20,21,22,23,24,25,26,27,28,29,30",
            "str x\\n, [x15, #(8 * \\n)]",
            ".endr",
            "mrs x0, tpidr_el0",
            "ldr x1, [sp, #48]",
            "stp x0, x1, [x15, #248]",
            "mov x0, #1",
            "str x0, [x15, #264]",
            "b 1b",
            "9:",
            "mov x0, #0",
            svc!(halt),
            "b 9b",
        ],
        /// Serves one call by spinning, for ever.
        Spin: ["mov x0, #0", svc!(reply_wait), "1:", "b 1b"],
        /// An upcall's handler: counts and notes in the library's words, ends with the batch it is told of, and behind a load or store that cannot be.
        Upcall: [
            "mrs x16, tpidrro_el0",
            "add x16, x16, #3112",
            "stp x0, x1, [x16, #64]",
            "stp x2, x3, [x16, #80]",
            "mrs x17, tpidrro_el0",
            "ldr x0, [x16]",
            "add x0, x0, #1",
            "str x0, [x16]",
            // The events, the cause, where it goes on, and its flags: behind one another in the frame.
            "ldr x0, [x17, #(144 + 32)]",
            "ldr x1, [x16, #16]",
            "orr x0, x0, x1",
            "str x0, [x16, #16]",
            "ldr x0, [x17, #(144 + 24)]",
            "ldr x1, [x16, #40]",
            "orr x0, x0, x1",
            "str x0, [x17, #(144 + 24)]",
            "ldr x3, [x16, #8]",
            "str xzr, [x16, #8]",
            "ldr x0, [x17, #144]",
            "lsr x0, x0, #26",
            "cmp x0, #0x24",
            "ccmp x3, #0, #0, eq",
            "b.ne 1f",
            "ldr x0, [x17, #(144 + 16)]",
            "add x0, x0, #4",
            "str x0, [x17, #(144 + 16)]",
            "1:",
            "mov x17, x3",
            "ldp x0, x1, [x16, #64]",
            "ldp x2, x3, [x16, #80]",
            "mov x16, x17",
            svc!(resume),
            // Refused.
            "stp x16, x17, [sp, #56]",
            "mrs x16, tpidrro_el0",
            "add x16, x16, #3112",
            "mrs x17, tpidrro_el0",
            "stp x0, x1, [x16, #64]",
            "ldp x0, x1, [sp, #56]",
            "stp x0, x1, [x16, #24]",
            "ldr x0, [x17, #144]",
            "lsr x0, x0, #26",
            "cmp x0, #0x24",
            "b.ne 1f",
            "ldr x0, [x17, #(144 + 16)]",
            "add x0, x0, #4",
            "str x0, [x17, #(144 + 16)]",
            "1:",
            "ldp x0, x1, [x16, #64]",
            "mov x16, #0",
            svc!(resume),
            "b .",
        ],
    }
}

// The numbers above are those of the contract.
const _: () = {
    assert!(LIBRARY == 3112 && offset_of!(ControlPage, upcall) == 144);
    assert!(offset_of!(Frame, cause) == 0 && offset_of!(Frame, pc) == 16 && offset_of!(Frame, flags) == 24);
    assert!(offset_of!(Frame, events) == 32 && ORDER_BYTES * (ORDERS as u64 + 1) <= exo_abi::PAGE_BYTES);
};
