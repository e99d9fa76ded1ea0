//! Machine code for children: assembled into read-only data, copied, never run in place.

/// Assembled snippets that belong together: their bytes, and where each begins.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// All of them.
    pub bytes: &'static [u8],
    /// Where each begins.
    pub offsets: &'static [u32],
}

/// Declares an enumeration of snippets and assembles them.
///
/// `snippets! { /// Doc. pub enum NAME in "symbol" { /// Doc. Variant: ["instruction", …], … } }`; numeric labels only.
/// `NAME::BLOB` gives the bytes, `NAME::Variant.offset()` the place.
#[macro_export]
macro_rules! snippets {
    ($(#[$doc:meta])* $vis:vis enum $name:ident in $symbol:literal { $($(#[$each:meta])* $variant:ident: [$($line:expr),* $(,)?],)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        $vis enum $name { $($(#[$each])* $variant,)* }

        ::core::arch::global_asm!(
                concat!(".pushsection .rodata.", $symbol, ", \"a\", %progbits"),
                ".balign 16",
                concat!($symbol, ":"),
                $(concat!($symbol, "_", stringify!($variant), ":"), $($line,)*)*
                ".balign 4",
                concat!($symbol, "_table:"),
                $(concat!(".word ", $symbol, "_", stringify!($variant), " - ", $symbol),)*
                concat!(".globl ", $symbol),
                concat!(".globl ", $symbol, "_table"),
                ".popsection",
            );

        impl $name {
            /// Every snippet of this blob.
            #[allow(dead_code)]
            $vis const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The assembled bytes.
            $vis fn blob() -> $crate::snippets::Blob {
                unsafe extern "C" {
                    #[link_name = $symbol]
                    static START: u8;
                    #[link_name = concat!($symbol, "_table")]
                    static TABLE: [u32; [$(stringify!($variant)),*].len()];
                }
                // SAFETY: the assembler put both there, one behind the other, in read-only data.
                unsafe {
                    let offsets: &'static [u32] = &*(&raw const TABLE);
                    let length = (&raw const TABLE).addr() - (&raw const START).addr();
                    $crate::snippets::Blob { bytes: ::core::slice::from_raw_parts(&raw const START, length), offsets }
                }
            }

            /// Where it begins in the blob.
            $vis fn offset(self) -> u64 {
                u64::from(Self::blob().offsets[self as usize])
            }
        }
    };
}

/// The instruction that makes a call, by the name that the table of calls gives it; `number` is for an assembler's variable.
#[macro_export]
macro_rules! svc {
    (call) => {
        "svc #(65535 - 0)"
    };
    (reply_wait) => {
        "svc #(65535 - 1)"
    };
    (null) => {
        "svc #(65535 - 2)"
    };
    (map) => {
        "svc #(65535 - 3)"
    };
    (resume) => {
        "svc #(65535 - 4)"
    };
    (wait) => {
        "svc #(65535 - 5)"
    };
    (notify) => {
        "svc #(65535 - 6)"
    };
    (yield_to) => {
        "svc #(65535 - 7)"
    };
    (halt) => {
        "svc #(65535 - 22)"
    };
    (take_back) => {
        "svc #(65535 - 26)"
    };
    (restrict) => {
        "svc #(65535 - 27)"
    };
    (number) => {
        "svc #(65535 - \\number)"
    };
}

// The names above are those of the contract.
const _: () = {
    use exo_abi::Call;
    assert!(Call::Call as u64 == 0 && Call::ReplyWait as u64 == 1 && Call::Null as u64 == 2);
    assert!(Call::Map as u64 == 3 && Call::Resume as u64 == 4);
    assert!(Call::Wait as u64 == 5 && Call::Notify as u64 == 6 && Call::YieldTo as u64 == 7);
    assert!(Call::Halt as u64 == 22 && Call::TakeBack as u64 == 26 && Call::Restrict as u64 == 27);
};

impl Common {
    /// Its address in a child.
    pub fn va(self) -> u64 {
        crate::CODE_VA + self.offset()
    }
}

snippets! {
    /// What every test needs.
    pub enum Common in "velvet_common" {
        /// Runs the orders of a [`crate::Script`] at sp, then halts with 0. Progress and results go there too.
        Execute: [
            "1:",
            "ldp x11, x12, [sp]",
            "cmp x11, x12",
            "b.hs 9f",
            "add x13, x11, #1",
            "str x13, [sp]",
            "mov x14, #128",
            "mov x13, sp",
            "madd x15, x11, x14, x13",
            "add x15, x15, #128",
            "ldr x17, [x15]",
            "ldp x0, x1, [x15, #8]",
            "ldp x2, x3, [x15, #24]",
            "ldp x4, x5, [x15, #40]",
            "ldp x6, x7, [x15, #56]",
            "ldp x8, x9, [x15, #72]",
            "ldr x10, [x15, #88]",
            "ldr x16, [x15, #96]",
            "adr x18, 2f",
            "add x17, x18, x17, lsl #3",
            "br x17",
            "2:",
            ".irp number,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            svc!(number),
            "b 3f",
            ".endr",
            ".irp number,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63",
            svc!(number),
            "b 3f",
            ".endr",
            "svc #(65535 - 0x8000)",
            "b 3f",
            "svc #(65535 - 0xfffe)",
            "b 3f",
            "svc #0",
            "b 3f",
            "3:",
            "ldr x11, [sp]",
            "sub x11, x11, #1",
            "mov x14, #128",
            "mov x13, sp",
            "madd x15, x11, x14, x13",
            "add x15, x15, #128",
            "stp x0, x1, [x15, #8]",
            "stp x2, x3, [x15, #24]",
            "stp x4, x5, [x15, #40]",
            "stp x6, x7, [x15, #56]",
            "str x8, [x15, #72]",
            "b 1b",
            "9:",
            "mov x0, #0",
            svc!(halt),
            "b 9b",
        ],
        /// Halts with the code in x0.
        Halt: ["1:", svc!(halt), "b 1b"],
        /// Counts at the address in x0, for ever.
        Spin: ["mov x2, #0", "1:", "add x2, x2, #1", "str x2, [x0]", "b 1b"],
        /// Waits for the events in x0; halts with those that came.
        WaitHalt: ["mov x1, #0", svc!(wait), "mov x0, x1", svc!(halt)],
        /// Serves: replies with what came, the badge in x7.
        Echo: ["mov x0, #0", "1:", svc!(reply_wait), "mov x7, x0", "mov x0, #0", "b 1b"],
        /// Serves nothing: with its gate open it waits for the first call, then halts with its x1.
        DieOnCall: ["mov x0, #0", svc!(reply_wait), "mov x0, x1", svc!(halt)],
        /// Serves its first call by spinning, with a 1 stored at sp; when the event CUT (bit 42) comes, halts with 42.
        SpinOnCall: ["mov x0, #0", svc!(reply_wait), "mov x1, #1", "str x1, [sp]", "1:", "mov x0, #(1 << 42)", "mov x1, #1", svc!(wait), "cbz x1, 1b", "mov x0, #42", svc!(halt)],
        /// Passes calls on: x1 is the handle of the next gate, and counts up. Replies with the refusal of the last call in x2 and the calls that came to it in x3.
        PassOn: [
            "mov x0, #0",
            "1:",
            svc!(reply_wait),
            "mov x0, x1",
            "add x1, x1, #1",
            svc!(call),
            "cbz x0, 2f",
            "mov x2, x0",
            "mov x3, #0",
            "2:",
            "add x3, x3, #1",
            "mov x0, #0",
            "b 1b",
        ],
        /// Calls handle 9, and halts with the refusal.
        CallNine: ["mov x0, #9", svc!(call), svc!(halt)],
        /// Calls handle 9 with 77 until it was echoed as often as x0 says, which it counts at sp; halts with 0. `Busy` is no answer; another refusal it halts with.
        CallMany: [
            "stp xzr, x0, [sp]",
            "1:",
            "mov x0, #9",
            "mov x1, #77",
            svc!(call),
            "cmp x0, #14",
            "b.eq 1b",
            "cbnz x0, 2f",
            "mov x0, #99",
            "cmp x1, #77",
            "b.ne 2f",
            "ldp x2, x3, [sp]",
            "add x2, x2, #1",
            "str x2, [sp]",
            "cmp x2, x3",
            "b.lo 1b",
            "mov x0, #0",
            "2:",
            svc!(halt),
        ],
        /// Yields to vcore 0 of the environment in handle 2, for ever.
        YieldBack: ["1:", "mov x0, #2", "mov x1, #0", svc!(yield_to), "b 1b"],
        /// Waits for event 0, and notifies handle 2 each time.
        NotifyBack: ["1:", "mov x0, #1", "mov x1, #0", svc!(wait), "mov x0, #2", svc!(notify), "b 1b"],
        /// Waits for event 0, and counts it at the address in x0.
        CountEvents: ["mov sp, x0", "1:", "mov x0, #1", "mov x1, #0", svc!(wait), "cbz x1, 1b", "ldr x2, [sp]", "add x2, x2, #1", "str x2, [sp]", "b 1b"],
        /// Serves one call with a binding, taken into slot 20: an event, which it notifies; then echoes.
        TakeBinding: [
            "mov x0, #(1 << 50)",
            "mov x10, #20",
            svc!(reply_wait),
            "mov x9, x8",
            "mov x0, #20",
            svc!(notify),
            "mov x1, x0",
            "mov x0, #0",
            "1:",
            svc!(reply_wait),
            "mov x0, #0",
            "b 1b",
        ],
        /// Halts with the sum of the registers it began with, FP/SIMD included, but x0 and sp.
        Residue: [
            "orr x1, x1, x2",
            "orr x3, x3, x4",
            "orr x5, x5, x6",
            "orr x7, x7, x8",
            "orr x9, x9, x10",
            "orr x11, x11, x12",
            "orr x13, x13, x14",
            "orr x15, x15, x16",
            "orr x17, x17, x18",
            "orr x19, x19, x20",
            "orr x21, x21, x22",
            "orr x23, x23, x24",
            "orr x25, x25, x26",
            "orr x27, x27, x28",
            "orr x29, x29, x30",
            "orr x1, x1, x3",
            "orr x5, x5, x7",
            "orr x9, x9, x11",
            "orr x13, x13, x15",
            "orr x17, x17, x19",
            "orr x21, x21, x23",
            "orr x25, x25, x27",
            "orr x1, x1, x5",
            "orr x9, x9, x13",
            "orr x17, x17, x21",
            "orr x25, x25, x29",
            "orr x1, x1, x9",
            "orr x17, x17, x25",
            "orr x0, x1, x17",
            "umov x1, v0.d[0]",
            "umov x2, v0.d[1]",
            "umov x3, v31.d[0]",
            "umov x4, v31.d[1]",
            "orr x1, x1, x2",
            "orr x3, x3, x4",
            "orr x1, x1, x3",
            "orr x0, x0, x1",
            "mrs x1, tpidr_el0",
            "orr x0, x0, x1",
            svc!(halt),
        ],
        /// Waits for event 0, for ever.
        WaitLoop: ["1:", "mov x0, #1", "mov x1, #0", svc!(wait), "b 1b"],
        /// Loads from x0, halts with 1.
        Load: ["ldr x1, [x0]", "mov x0, #1", svc!(halt)],
        /// Stores to x0, halts with 2.
        Store: ["str x0, [x0]", "mov x0, #2", svc!(halt)],
        /// Jumps to x0.
        Jump: ["br x0"],
        /// Fills q0 to q31 from x0, lets go of the core for ever so long, and halts with 1 if they are as they were, else 3.
        KeepFp: [
            "dup v0.2d, x0",
            "dup v31.2d, x0",
            "mov x9, #0",
            "movk x9, #60, lsl #16",
            "1:",
            "sub x9, x9, #1",
            "cbnz x9, 1b",
            "umov x1, v0.d[0]",
            "umov x2, v0.d[1]",
            "umov x3, v31.d[1]",
            "cmp x0, x1",
            "b.ne 2f",
            "cmp x0, x2",
            "b.ne 2f",
            "cmp x0, x3",
            "b.ne 2f",
            "mov x0, #1",
            svc!(halt),
            "2:",
            "mov x0, #3",
            svc!(halt),
        ],
    }
}
