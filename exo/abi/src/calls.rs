//! The calls: `svc` with the immediate 65535 - number ([`immediate`]), arguments in x0 to x10.
//!
//! (One instruction gives the kernel the syndrome of call 0, and one subtraction the number of the others.) `svc #0` is never a call of Velvet's: it arrives at the library as an upcall, so that a library can carry another system's programs.
//! A call answers with x0 = 0, or the number of a [`Refusal`] in x0; further results follow in x1 and up.
//!
//! - **Plain calls** keep x19 to x30, sp and flags' meaning as the procedure call standard does; x0 to x18 are lost (where no result is named: zero, as they were, the number of the call, or a word of the caller's own control page), FP/SIMD is kept.
//! - **Switching calls** ([`Call::switches`]) may run somebody else before they return: everything but sp is lost, FP/SIMD and `TPIDR_EL0` included.
//!   What a caller wants kept from the other side of a gate it clears itself.
//!
//! *Handle* arguments name bindings in the caller's own table. *Slot* arguments name empty places there. Times are ticks of the generic timer
//! (`CNTVCT_EL0`), absolute. Every argument is checked in full: bits that mean nothing must be 0.

use crate::Refusal;

/// One row of the table of calls.
#[derive(Clone, Copy, Debug)]
pub struct CallInfo {
    /// The call.
    pub call: Call,
    /// Its name, as the library's stub spells it.
    pub name: &'static str,
    /// Every refusal it can answer with.
    pub refusals: &'static [Refusal],
}

macro_rules! calls {
    ($($(#[$doc:meta])* $number:literal $name:ident $stub:ident [$($refusal:ident)*];)*) => {
        /// The calls, by number.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u64)]
        pub enum Call { $($(#[$doc])* $name = $number,)* }

        /// Every call with every refusal it can answer with.
        pub const CALLS: &[CallInfo] = &[$(CallInfo {
            call: Call::$name,
            name: stringify!($stub),
            refusals: &[$(Refusal::$refusal,)*],
        },)*];

        impl Call {
            /// The call a number stands for.
            pub const fn from_number(number: u64) -> Option<Call> {
                match number { $($number => Some(Call::$name),)* _ => None }
            }
        }
    };
}

/// The immediate of the `svc` instruction that makes a call.
pub const fn immediate(number: u64) -> u64 {
    0xffff - number
}

impl Call {
    /// First number that is no call.
    pub const END: u64 = CALLS.len() as u64;

    /// Everything but sp is lost.
    pub const fn switches(self) -> bool {
        matches!(self, Call::Call | Call::ReplyWait | Call::Wait | Call::Notify | Call::YieldTo | Call::Halt)
    }
}

/// Flags of x0 in [`Call::Call`], above the handle.
pub mod call_flag {
    /// x8 is the deadline.
    pub const DEADLINE: u64 = 1 << 16;
    /// x9 is a binding to send along: its handle in bits 15:0, the rights that arrive in bits 23:16; it needs GRANT.
    pub const SEND: u64 = 1 << 17;
    /// x10 is an empty slot for a binding that comes with the reply.
    pub const ACCEPT: u64 = 1 << 18;
}

/// Flags of x0 in [`Call::ReplyWait`], above the mask of events.
pub mod reply_flag {
    /// x8 is an alarm: when the timer passes it while the gate is open, the event ALARM is raised.
    pub const ALARM: u64 = 1 << 48;
    /// x9 is a binding to send along, as in a call.
    pub const SEND: u64 = 1 << 49;
    /// x10 is an empty slot for a binding that comes with the next call.
    pub const ACCEPT: u64 = 1 << 50;
}

/// What [`Call::NamesGive`] hands over.
pub mod name_kind {
    /// Environment numbers.
    pub const ENVIRONMENTS: u64 = 0;
    /// Pool numbers.
    pub const POOLS: u64 = 1;
    /// Revocation cells.
    pub const CELLS: u64 = 2;
}

/// What [`Call::Power`] does.
pub mod power {
    /// Switch the machine off (x2: the exit code for an emulator).
    pub const OFF: u64 = 0;
    /// Restart it.
    pub const RESET: u64 = 1;
}

/// Flags of [`Call::SliceClaim`].
pub mod slice_flag {
    /// Lends nothing, borrows nothing: the same instants every round.
    pub const EXACT: u64 = 1;
}

/// Flags of [`Call::FrameAlloc`].
pub mod alloc_flag {
    /// Zero the frames even when they were in this pool before.
    pub const ZERO: u64 = 1;
}

/// Kinds a frame can be given by [`Call::FrameKind`].
pub mod frame_kind {
    /// Readable and writable, never executable.
    pub const DATA: u64 = 0;
    /// Readable and executable, nowhere writable.
    pub const CODE: u64 = 1;
}

/// Why a vcore stopped: x1 of [`Call::VcoreReport`].
pub mod stop_reason {
    /// It has not been started.
    pub const NEW: u64 = 0;
    /// It called `halt`; x2 is its code.
    pub const HALTED: u64 = 1;
    /// It faulted while upcalls were masked, or had no upcall entry.
    pub const FAULTED: u64 = 2;
    /// `vcore_stop`.
    pub const STOPPED: u64 = 3;
}

calls! {
    /// Calls gate x0 (handle and [`call_flag`]s) with words x1 to x7; returns when the other side replies, with its words in x1 to x7 and, if a binding arrived, x8 = 1.
    /// Needs GATE_CALL; a sent binding needs GRANT.
    /// `Busy`: the gate is shut, or belongs to a vcore that already serves in this chain. `Died`: the callee died, stopped, or its environment is dying.
    0 Call call [BadHandle WrongKind Stale NoRight BadArgument SlotTaken Busy TooDeep Died DeadlineMissed];
    /// Replies to the current caller, if there is one, with words x1 to x7; opens the gate; returns at the next call (x0 = its badge, never 0; x1 to x7 its words; x8 = 1 if a binding arrived)
    /// or when an event of the mask (x0 bits 47:0) is pending (x0 = 0, x1 = the events, which are taken; it may be 0, when one came between two waits of which only the first was for it). A refusal changes nothing: x0 = 0, x1 = 0 and x2 = the refusal.
    1 ReplyWait reply_wait [BadHandle Stale NoRight BadArgument SlotTaken];
    /// Does nothing: the price of a crossing.
    2 Null null [];
    /// Applies x1 (1 to 64) [`crate::page::MapEntry`]s of the batch buffer to the tables of Env x0. Needs ENV_MAP, and for each entry what [`crate::page::MapOp`] says.
    /// x1 = entries done; x2 = pages done of the entry after them. `Again`: the bound on pages; call again with the rest.
    /// `NotMapped`: no table, or no page, is there. `WrongFrame`: the frame's kind does not permit the mapping. `NotFree`: it is in the middle of a change.
    3 Map map [BadHandle WrongKind Stale NoRight BadArgument NotYours WrongFrame InUse NotMapped AlreadyMapped Again];
    /// Ends an upcall: x16 (0 to 64) entries of the batch buffer are applied to the own tables as `map` does, then the program in the control page's `upcall` goes on with its
    /// pc, flags, x16 and x17 from there, and upcalls are unmasked. A refusal returns behind the `svc` with x16 = the refusal and x17 = entries done, other registers kept.
    4 Resume resume [BadArgument];
    /// Waits until an event of mask x0 is pending or the timer passes x1 (0: never). Returns x0 = 0 and x1 = the events of the mask, taken; it may be 0.
    /// There is one alarm a vcore: it stays set when the wait ends early, and raises ALARM when it passes later, until the next call that sets one.
    5 Wait wait [BadArgument];
    /// Raises the event of x0. Needs EVENT_NOTIFY. A waiting vcore that owns a later slice of this round on this core runs at once and pays with that slice.
    6 Notify notify [BadHandle WrongKind Stale NoRight];
    /// Gives the rest of the slice, until it waits, to vcore x1 of Env x0 (needs ENV_RUN), or to whoever works behind Gate x0 (needs GATE_CALL; x1 must be 0) until it replies. Returns when the core comes back.
    /// `Busy`: it cannot run now.
    7 YieldTo yield_to [BadHandle WrongKind Stale NoRight BadArgument WrongState Busy];
    /// Takes the x1 (1 to 64) free frames named in the first words of the batch buffer's entries into pool x0, as data. Needs POOL_ALLOC. A frame that was in another pool last is zeroed, with [`alloc_flag::ZERO`] in x2 every frame;
    /// x1 = frames taken; after a refusal the entry numbered x1 is the one refused. `Again`: the bound on zeroing.
    8 FrameAlloc frame_alloc [BadHandle WrongKind Stale NoRight BadArgument NotFree QuotaExceeded Again];
    /// Gives back the x1 (1 to 64) frames named in the batch buffer; they must be data or code, unmapped. Needs POOL_ALLOC. x1 = frames given back.
    9 FrameFree frame_free [BadHandle WrongKind Stale NoRight BadArgument NotYours WrongFrame InUse];
    /// Makes the x1 (1 to 64) frames named in the batch buffer [`frame_kind`] x2; they must be data or code, unmapped. To code: caches are maintained. Needs POOL_EXECUTE. x1 = frames changed.
    10 FrameKind frame_kind [BadHandle WrongKind Stale NoRight BadArgument NotYours WrongFrame InUse];
    /// Checks the invariants of frame x1 by Power binding x0 (POWER_AUDIT): x1 = what [`crate::exposed::audit`] says.
    11 Audit audit [BadHandle WrongKind Stale NoRight BadArgument];
    /// Creates pool number x1 (owned, unused) with revocation cell x2 (owned, unused) and quota x3, of which x4 is its minimum, carved from pool x0; the root binding goes to slot x5. Needs POOL_CARVE.
    12 PoolCreate pool_create [BadHandle WrongKind Stale NoRight BadArgument NotYours InUse QuotaExceeded SlotTaken TooDeep];
    /// Destroys pool x0 (root binding, POOL_REVOKE): its bindings are dead at once, then its mappings are removed and its frames freed in steps: `Again` with the cursor for x1 (first 0) in x1.
    /// `InUse`: it is an environment's own pool, or has child pools.
    13 PoolDestroy pool_destroy [BadHandle WrongKind Stale NoRight BadArgument InUse NotRoot Again];
    /// Creates environment number x1 (owned, unused) with own pool x0 (root binding, POOL_ALLOC and POOL_CARVE), cell x2 (owned, unused), from the data frames of that pool x3 (environment), x4 (root table), x5 (first frame of bindings).
    /// Its root Env binding goes to slot x6 (bits 15:0); the CHILD event goes to the calling vcore. The new table holds [`crate::Handle::SELF`] (all but DESTROY) and [`crate::Handle::POOL`].
    14 EnvCreate env_create [BadHandle WrongKind Stale NoRight BadArgument NotYours InUse WrongFrame SlotTaken NotRoot];
    /// Destroys Env x0 (ENV_DESTROY; not the caller's own) and its own pool, in steps: `Again` with the cursor for x1 (first 0) in x1. Its names and children pass to its supervisor.
    15 EnvDestroy env_destroy [BadHandle WrongKind Stale NoRight BadArgument Again];
    /// Adds data frame x1 of Env x0's own pool to its binding table. Needs ENV_MAP. x1 = frames the table has now.
    16 BindingsAdd bindings_add [BadHandle WrongKind Stale NoRight BadArgument NotYours InUse WrongFrame QuotaExceeded];
    /// Gives the x3 (1 to 64) unused [`name_kind`] x1 numbers from x2 on to Env x0. Needs ENV_MAP.
    17 NamesGive names_give [BadHandle WrongKind Stale NoRight BadArgument NotYours InUse];
    /// Creates vcore x1 of Env x0 (ENV_MAP) with home core x7: data frame x2 of the environment's own pool becomes its control page, which the environment sees at x3 (page-aligned; mapping it is a matter of `map`). It will begin at pc x4 with sp x5 and x0 = x6.
    18 VcoreCreate vcore_create [BadHandle WrongKind Stale NoRight BadArgument NotYours InUse WrongFrame WrongState];
    /// Makes vcore x1 of Env x0 (ENV_RUN) runnable. A vcore that stopped can be started again: by a new pc x2 with sp x3 and x0 = x4 (x2 = 0 keeps what it began with; only when new).
    19 VcoreStart vcore_start [BadHandle WrongKind Stale NoRight BadArgument WrongState];
    /// Stops vcore x1 of Env x0 (ENV_DESTROY): who called it is told `Died`, whom it called is told CUT. `Again` while it runs on another core, which stops it now.
    20 VcoreStop vcore_stop [BadHandle WrongKind Stale NoRight BadArgument WrongState];
    /// Reports on stopped vcore x1 of Env x0 (ENV_DESTROY): x1 = [`stop_reason`], x2 = the code of `halt`; its registers, as a [`crate::control_page::Frame`], are copied over the caller's batch buffer.
    21 VcoreReport vcore_report [BadHandle WrongKind Stale NoRight BadArgument WrongState];
    /// Stops the calling vcore with code x0; the supervisor is told. Returns only when it is started again.
    22 Halt halt [];
    /// Makes a binding to the gate of vcore x1 of Env x0 (ENV_MAP) with badge x4 (not 0), revoked by cell x2 (owned by that environment), in the caller's slot x3.
    23 GateBind gate_bind [BadHandle WrongKind Stale NoRight BadArgument NotYours InUse SlotTaken WrongState];
    /// Makes a binding to event x4 (below [`crate::event::FIRST_OF_KERNEL`]) of vcore x1 of Env x0 (ENV_MAP), revoked by cell x2 (owned by that environment), in the caller's slot x3.
    24 EventBind event_bind [BadHandle WrongKind Stale NoRight BadArgument NotYours InUse SlotTaken WrongState];
    /// Copies binding x0 (needs GRANT) with rights x3 (a subset) to slot x2 of Env x1 (needs ENV_MAP). x4 = 0: it shares the revocation cell; else an owned cell of its own, for root bindings only.
    /// For Core, Irq and Device x5 and x6 narrow the range to first and count (count 0: all of it).
    25 Grant grant [BadHandle WrongKind Stale NoRight BadArgument NotYours InUse SlotTaken NotRoot];
    /// Makes everything that carries cell x0 (owned) stale, however often it was granted on. `InUse`: the cell of an object, which ends with the object.
    26 TakeBack take_back [BadArgument NotYours InUse];
    /// Reduces the rights of binding x0 to x1; 0 empties the slot. Always allowed, also for stale bindings.
    27 Restrict restrict [BadHandle BadArgument];
    /// Claims position x2 of core x1 (within Core binding x0, CORE_CLAIM) for vcore x4 of Env x3 (ENV_RUN), whose home is that core, for x5 microseconds a round (0: the default), with [`slice_flag`]s x6.
    28 SliceClaim slice_claim [BadHandle WrongKind Stale NoRight BadArgument InUse WrongState];
    /// Releases position x2 of core x1 (within Core binding x0, CORE_CLAIM).
    29 SliceRelease slice_release [BadHandle WrongKind Stale NoRight BadArgument WrongState];
    /// Routes line x1 (within Irq binding x0, IRQ_BIND) as event x3 to the own vcore x2, and unmasks it; x4 = 1: edge-triggered. Binding it anew moves it.
    30 IrqBind irq_bind [BadHandle WrongKind Stale NoRight BadArgument InUse WrongState];
    /// Unmasks line x1 (within Irq binding x0, IRQ_BIND), which is bound to a vcore of the caller's.
    31 IrqAck irq_ack [BadHandle WrongKind Stale NoRight BadArgument NotYours];
    /// Writes x1 (1 to 48) bytes from x2 to x7, little-endian, to the debug UART, which lies in Device binding x0 (DEVICE_DEBUG).
    32 DebugWrite debug_write [BadHandle WrongKind Stale NoRight BadArgument Claimed];
    /// Does [`power`] x1 by Power binding x0 (POWER_OFF).
    33 Power power [BadHandle WrongKind Stale NoRight BadArgument];
}
