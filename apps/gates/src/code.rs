//! Machine code for servers and clients. What each knows lies in the page at its stack pointer, and outlives it.

use workshop::{EXTRA_VA, svc};

/// Words of the page, by their offsets.
pub mod word {
    /// The state of a random sequence.
    pub const DICE: u64 = 0;
    /// Who it is, from 1 on.
    pub const ID: u64 = 8;
    /// Calls that are still to be answered (clients).
    pub const REMAINING: u64 = 16;
    /// Calls it made: with [`ID`] above, what tells each call from every other.
    pub const CALLS: u64 = 24;
    /// Not 0: it saw what must not be.
    pub const WRONG: u64 = 40;
    /// x0 to x8 when it did.
    pub const REGISTERS: u64 = 48;
    /// The cell of its gates (servers).
    pub const CELL: u64 = 168;
    /// The badge it has at the next server (servers).
    pub const BADGE: u64 = 192;
    /// What badges are multiplied with.
    pub const FACTOR: u64 = 200;
    /// How often it met each refusal.
    pub const REFUSED: u64 = 256;
}

/// What badges are multiplied with in an answer.
pub const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// The handle of the first server's gate in a client's table; servers have the next server's there.
pub const GATES: u64 = 8;
/// An event of its own, to be sent along.
pub const OWN_EVENT: u64 = 5;
/// A server that gets this event takes its gates back.
pub const TAKE_BACK: u64 = 1;

impl Code {
    /// Its address in a child.
    pub fn va(self) -> u64 {
        EXTRA_VA + self.offset()
    }
}

/// Something is wrong: what the registers hold is left in the page, and the actor halts.
macro_rules! wrong {
    () => {
        concat!(
            "stp x0, x1, [sp, #48]\n",
            "stp x2, x3, [sp, #64]\n",
            "stp x4, x5, [sp, #80]\n",
            "stp x6, x7, [sp, #96]\n",
            "str x8, [sp, #112]\n",
            "mov x9, #1\n",
            "str x9, [sp, #40]\n",
            "mov x0, #0xbad\n",
            svc!(halt)
        )
    };
}

workshop::snippets! {
    /// What they run.
    pub enum Code in "velvet_gates" {
        /// Calls one of four servers until enough calls are answered: with a deadline, a binding, a slot for one, or plainly. Halts with 0, or with 0xbad.
        Client: [
            "1:",
            "ldr x19, [sp]",
            "eor x19, x19, x19, lsl #13",
            "eor x19, x19, x19, lsr #7",
            "eor x19, x19, x19, lsl #17",
            "str x19, [sp]",
            "ldr x20, [sp, #16]",
            "cbz x20, 8f",
            "ldr x21, [sp, #24]",
            "add x21, x21, #1",
            "str x21, [sp, #24]",
            "ldr x23, [sp, #8]",
            "and x22, x19, #3",
            "orr x1, x21, x23, lsl #48",
            "mov x2, x19",
            "ubfx x3, x19, #8, #12",
            "mov x4, #3",
            "str x1, [sp, #120]",
            "str x2, [sp, #128]",
            "str x22, [sp, #136]",
            "add x0, x22, #8",
            "ubfx x5, x19, #32, #3",
            "cbz x5, 2f",
            "cmp x5, #1",
            "b.eq 3f",
            "cmp x5, #2",
            "b.eq 4f",
            "b 5f",
            // A deadline, soon.
            "2:",
            "mrs x8, cntvct_el0",
            "ubfx x6, x19, #36, #11",
            "add x8, x8, x6",
            "orr x0, x0, #(1 << 16)",
            "b 5f",
            // The own event travels.
            "3:",
            "mov x9, #5",
            "movk x9, #1, lsl #16",
            "orr x0, x0, #(1 << 17)",
            "b 5f",
            "4:",
            "mov x10, #30",
            "orr x0, x0, #(1 << 18)",
            "5:",
            svc!(call),
            "cbnz x0, 6f",
            // Is it the answer to this very call, of this server, to this badge?
            "ldr x9, [sp, #120]",
            "cmp x9, x1",
            "b.ne 9f",
            "ldr x10, [sp, #128]",
            "ror x10, x10, #7",
            "ldr x11, [sp, #136]",
            "add x11, x11, #1",
            "ldr x12, [sp, #8]",
            "orr x11, x11, x12, lsl #8",
            "ldr x13, [sp, #200]",
            "madd x11, x11, x13, x10",
            "cmp x11, x2",
            "b.ne 9f",
            "ldr x9, [sp, #16]",
            "sub x9, x9, #1",
            "str x9, [sp, #16]",
            "cbz x8, 1b",
            // A binding came: it is used, and dropped.
            "mov x0, #30",
            svc!(notify),
            "cbz x0, 51f",
            "cmp x0, #4",
            "b.ne 9f",
            "51:",
            "mov x0, #30",
            "mov x1, #0",
            svc!(restrict),
            "b 1b",
            // Refused: by what may happen here?
            "6:",
            "cmp x0, #32",
            "b.hs 9f",
            "add x9, sp, #256",
            "ldr x10, [x9, x0, lsl #3]",
            "add x10, x10, #1",
            "str x10, [x9, x0, lsl #3]",
            // BadHandle, Stale, Busy, Died, DeadlineMissed, SlotTaken.
            "mov x11, #0x4014",
            "movk x11, #0xe, lsl #16",
            "lsr x11, x11, x0",
            "tbz x11, #0, 9f",
            "cmp x0, #14",
            "b.eq 61f",
            "cmp x0, #18",
            "b.eq 1b",
            "cmp x0, #19",
            "b.eq 51b",
            "cmp x0, #4",
            "b.ne 62f",
            // A gate that was taken back: its slot is emptied for another one.
            "ldr x9, [sp, #136]",
            "add x0, x9, #8",
            "mov x1, #0",
            svc!(restrict),
            // There is no such server now: it waits a little.
            "62:",
            "mrs x1, cntvct_el0",
            "add x1, x1, #400",
            "mov x0, #0",
            svc!(wait),
            "b 1b",
            // Whoever is busy is lent the slice.
            "61:",
            "ldr x9, [sp, #136]",
            "add x0, x9, #8",
            "mov x1, #0",
            svc!(yield_to),
            // It runs elsewhere, or nobody lets it run: it waits too.
            "cbnz x0, 62b",
            "b 1b",
            "8:",
            "mov x0, #0",
            svc!(halt),
            "b 8b",
            "9:",
            wrong!(),
        ],
        /// Serves: at once, after calling the next server, slowly, after a pause, with a binding, or never, since it dies.
        Server: [
            "1:",
            "mov x0, #0xff",
            "orr x0, x0, #(1 << 42)",
            "orr x0, x0, #(1 << 50)",
            "2:",
            "mov x10, #20",
            svc!(reply_wait),
            "cbz x0, 7f",
            "str x0, [sp, #160]",
            "str x1, [sp, #120]",
            "str x2, [sp, #128]",
            "str x3, [sp, #144]",
            "str x4, [sp, #136]",
            "ldr x9, [sp, #32]",
            "add x9, x9, #1",
            "str x9, [sp, #32]",
            "cbz x8, 4f",
            // A binding came: it is used, and dropped.
            "mov x0, #20",
            svc!(notify),
            "mov x0, #20",
            "mov x1, #0",
            svc!(restrict),
            "4:",
            "ldr x3, [sp, #144]",
            "and x5, x3, #15",
            "cmp x5, #8",
            "b.lo 6f",
            "cmp x5, #10",
            "b.lo 5f",
            "b.eq 41f",
            "cmp x5, #11",
            "b.eq 42f",
            "cmp x5, #12",
            "b.eq 43f",
            "cmp x5, #13",
            "b.ne 6f",
            // It dies, now and then.
            "ubfx x6, x3, #4, #8",
            "cbnz x6, 6f",
            "ldr x0, [x6]",
            "41:",
            "mov x6, #1500",
            "3:",
            "sub x6, x6, #1",
            "cbnz x6, 3b",
            "b 6f",
            "42:",
            "mrs x1, cntvct_el0",
            "add x1, x1, #100",
            "mov x0, #0",
            svc!(wait),
            "b 6f",
            // It calls the next server, and answers only if that answered rightly or not at all.
            "5:",
            "ldr x4, [sp, #136]",
            "cbz x4, 6f",
            "ldr x9, [sp, #24]",
            "add x9, x9, #1",
            "str x9, [sp, #24]",
            "ldr x10, [sp, #8]",
            "orr x1, x9, x10, lsl #48",
            "str x1, [sp, #176]",
            "ldr x2, [sp, #128]",
            "ror x2, x2, #11",
            "str x2, [sp, #184]",
            "ubfx x3, x2, #20, #12",
            "sub x4, x4, #1",
            "mov x0, #8",
            svc!(call),
            "cbnz x0, 55f",
            "ldr x9, [sp, #176]",
            "cmp x9, x1",
            "b.ne 9f",
            "ldr x10, [sp, #184]",
            "ror x10, x10, #7",
            "ldr x11, [sp, #192]",
            "ldr x13, [sp, #200]",
            "madd x11, x11, x13, x10",
            "cmp x11, x2",
            "b.ne 9f",
            "b 6f",
            "55:",
            "cmp x0, #32",
            "b.hs 9f",
            "add x9, sp, #256",
            "ldr x10, [x9, x0, lsl #3]",
            "add x10, x10, #1",
            "str x10, [x9, x0, lsl #3]",
            // BadHandle, Stale, Busy, Died.
            "mov x11, #0x4014",
            "movk x11, #0x2, lsl #16",
            "lsr x11, x11, x0",
            "tbz x11, #0, 9f",
            "cmp x0, #4",
            "b.ne 6f",
            "mov x0, #8",
            "mov x1, #0",
            svc!(restrict),
            "6:",
            "ldr x1, [sp, #120]",
            "ldr x2, [sp, #128]",
            "ror x2, x2, #7",
            "ldr x9, [sp, #160]",
            "ldr x13, [sp, #200]",
            "madd x2, x9, x13, x2",
            "b 1b",
            // With a binding, for who accepts one.
            "43:",
            "ldr x1, [sp, #120]",
            "ldr x2, [sp, #128]",
            "ror x2, x2, #7",
            "ldr x9, [sp, #160]",
            "ldr x13, [sp, #200]",
            "madd x2, x9, x13, x2",
            "mov x0, #0xff",
            "orr x0, x0, #(1 << 42)",
            "orr x0, x0, #(3 << 49)",
            "mov x9, #5",
            "movk x9, #1, lsl #16",
            "b 2b",
            // Events, or a refusal: of a slot that is full, or a binding that nobody wants. The reply is still owed then.
            "7:",
            "cbnz x1, 71f",
            // Neither: an event came between two waits, and this one is not for it.
            "cbz x2, 1b",
            "add x9, sp, #256",
            "ldr x10, [x9, x2, lsl #3]",
            "add x10, x10, #1",
            "str x10, [x9, x2, lsl #3]",
            "cmp x2, #19",
            "b.ne 9f",
            "mov x0, #20",
            "mov x1, #0",
            svc!(restrict),
            "b 6b",
            "71:",
            "tbz x1, #1, 1b",
            "ldr x0, [sp, #168]",
            svc!(take_back),
            "b 1b",
            "9:",
            wrong!(),
        ],
    }
}

// The handles, words and refusals above are those of the contract and of this page.
const _: () = {
    use exo_abi::Refusal::*;
    assert!(1 << BadHandle as u64 | 1 << Stale as u64 | 1 << Busy as u64 == 0x4014);
    assert!(1 << Died as u64 | 1 << DeadlineMissed as u64 | 1 << SlotTaken as u64 == 0xe_0000);
    assert!(word::CELL == 168 && word::BADGE == 192 && word::FACTOR == 200 && word::REFUSED == 256);
    assert!(GATES == 8 && OWN_EVENT == 5 && TAKE_BACK == 1);
};
