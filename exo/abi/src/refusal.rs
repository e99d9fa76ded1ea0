//! Why the kernel said no.

macro_rules! refusals {
    ($($(#[$doc:meta])* $number:literal $name:ident $text:literal;)*) => {
        /// Why a call was refused: the value of `x0` after a call that changed nothing (or, for [`Refusal::Again`], only part).
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u64)]
        pub enum Refusal { $($(#[$doc])* $name = $number,)* }

        impl Refusal {
            /// Every refusal, in the order of their numbers.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name,)*];

            /// The refusal a call's `x0` stands for; `None` for success and for numbers nobody gave.
            pub const fn from_number(number: u64) -> Option<Refusal> {
                match number { $($number => Some(Refusal::$name),)* _ => None }
            }

            /// One sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(Refusal::$name => $text,)* }
            }

            /// Its name, as it is spelled here.
            pub const fn name(self) -> &'static str {
                match self { $(Refusal::$name => stringify!($name),)* }
            }
        }
    };
}

refusals! {
    /// The `svc` immediate names no call.
    1 NoSuchCall "there is no such call";
    /// The handle is beyond the table, or its slot is empty.
    2 BadHandle "the handle names no binding";
    /// The binding is of another kind.
    3 WrongKind "the binding is of another kind";
    /// The binding's revocation cell moved on: it was taken back, or its object is gone.
    4 Stale "the binding was taken back";
    /// The binding lacks the right.
    5 NoRight "the binding lacks the right";
    /// An argument is out of its range.
    6 BadArgument "an argument is out of range";
    /// The frame is not free, or in the middle of a change.
    7 NotFree "the frame is not free";
    /// The frame belongs to another pool, or the number to another environment.
    8 NotYours "this belongs to somebody else";
    /// The thing is still used: a frame is mapped, a number or position is taken, a pool has frames.
    9 InUse "this is still in use";
    /// The pool's quota, or the parent's, does not suffice.
    10 QuotaExceeded "the quota does not suffice";
    /// The frame's kind does not permit this.
    11 WrongFrame "the frame's kind does not permit this";
    /// No table, or no page, is there.
    12 NotMapped "nothing is mapped there";
    /// A page or table is there already.
    13 AlreadyMapped "something is mapped there already";
    /// The gate is not open, or the vcore cannot run now.
    14 Busy "the other side is busy";
    /// The chain of calls has its full depth.
    15 TooDeep "the chain of calls is too deep";
    /// The bounded part is done; call again with the cursor in `x1`.
    16 Again "there is more to do: call again";
    /// The other side died or was stopped before it replied.
    17 Died "the other side died";
    /// The deadline passed before the reply.
    18 DeadlineMissed "the deadline passed";
    /// The slot already holds a binding.
    19 SlotTaken "the slot is taken";
    /// Only the binding that came with the object's creation may do this.
    20 NotRoot "this is not the object's first binding";
    /// The debug UART is with a driver.
    21 Claimed "a driver has claimed the device";
    /// The vcore does not exist, or is not in a state that permits this.
    22 WrongState "the vcore's state does not permit this";
}

impl Refusal {
    /// Refuses when something is wrong.
    #[inline(always)]
    pub const fn when(self, wrong: bool) -> Result<(), Refusal> {
        if wrong { Err(self) } else { Ok(()) }
    }
}

/// What `x0` means: nothing refused, or why. (A reason unknown here would be another version's, which no kernel loads.)
#[inline(always)]
pub const fn check(number: u64) -> Result<(), Refusal> {
    match Refusal::from_number(number) {
        _ if number == 0 => Ok(()),
        None => Err(Refusal::NoSuchCall),
        Some(refusal) => Err(refusal),
    }
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str(self.text())
    }
}

impl core::error::Error for Refusal {}
