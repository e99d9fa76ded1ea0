//! The words of the two protocols every program speaks: the console's and the supervisor's.
//!
//! A call carries seven words each way. The first says what is asked for (or how it ended), how many bytes follow,
//! and flags; up to [`MAX_BYTES`] bytes fill the other six. Nothing here allocates, and everything can be checked on a host.

/// The seven words of a message.
pub type Words = [u64; 7];

/// Bytes that fit behind the first word.
pub const MAX_BYTES: usize = 48;
/// Longest name of a program or service.
pub const NAME_BYTES: usize = 24;

/// A message taken apart: what it is, its bytes, its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What is asked for; in a reply how it ended.
    pub code: u8,
    /// How many of `bytes` count.
    pub len: u8,
    /// Bits whose meaning depends on the code.
    pub flags: u16,
    /// A number beside the bytes.
    pub number: u32,
    /// The bytes.
    pub bytes: [u8; MAX_BYTES],
}

impl Message {
    /// A message without bytes.
    pub const fn new(code: u8) -> Message {
        Message { code, len: 0, flags: 0, number: 0, bytes: [0; MAX_BYTES] }
    }

    /// The same with flags.
    pub const fn with_flags(mut self, flags: u16) -> Message {
        self.flags = flags;
        self
    }

    /// The same with a number.
    pub const fn with_number(mut self, number: u32) -> Message {
        self.number = number;
        self
    }

    /// The same with as many of `bytes` as fit.
    pub fn with_bytes(mut self, bytes: &[u8]) -> Message {
        let len = bytes.len().min(MAX_BYTES);
        self.bytes[..len].copy_from_slice(&bytes[..len]);
        self.len = len as u8;
        self
    }

    /// The bytes that count.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..(self.len as usize).min(MAX_BYTES)]
    }

    /// The registers that carry it.
    pub fn to_words(&self) -> Words {
        let mut words = [0; 7];
        words[0] = self.code as u64 | (self.len as u64) << 8 | (self.flags as u64) << 16 | (self.number as u64) << 32;
        for (word, bytes) in words[1..].iter_mut().zip(self.bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8]));
        }
        words
    }

    /// What registers carry. A length beyond [`MAX_BYTES`] counts as that.
    pub fn from_words(words: &Words) -> Message {
        let mut bytes = [0; MAX_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(&words[1..]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Message {
            code: words[0] as u8,
            len: ((words[0] >> 8) as u8).min(MAX_BYTES as u8),
            flags: (words[0] >> 16) as u16,
            number: (words[0] >> 32) as u32,
            bytes,
        }
    }
}

/// A name in three words, cut at [`NAME_BYTES`].
pub fn name_to_words(name: &str) -> [u64; 3] {
    let mut bytes = [0u8; NAME_BYTES];
    let len = name.len().min(NAME_BYTES);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    let mut words = [0; 3];
    for (word, part) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(part.try_into().unwrap_or([0; 8]));
    }
    words
}

/// A name received in three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name([u8; NAME_BYTES]);

impl Name {
    /// From the words of a message.
    pub fn from_words(words: &[u64]) -> Name {
        let mut bytes = [0u8; NAME_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Name(bytes)
    }

    /// The name; what is not UTF-8 is nobody's name and reads as empty.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(NAME_BYTES);
        core::str::from_utf8(&self.0[..len]).unwrap_or("")
    }
}

/// How a request ended: the code of every reply.
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// There is no such request.
    pub const UNKNOWN: u8 = 1;
    /// An argument makes no sense.
    pub const BAD: u8 = 2;
    /// The caller may not ask for this.
    pub const FORBIDDEN: u8 = 3;
    /// There is nothing of that name or number.
    pub const NOT_FOUND: u8 = 4;
    /// It is not in a state that permits this.
    pub const STATE: u8 = 5;
    /// No place is left.
    pub const FULL: u8 = 6;

    /// What a status says, for people.
    pub const fn text(status: u8) -> &'static str {
        match status {
            OK => "done",
            UNKNOWN => "there is no such request",
            BAD => "an argument makes no sense",
            FORBIDDEN => "the manifest does not permit this",
            NOT_FOUND => "there is nothing of that name",
            STATE => "its state does not permit this",
            FULL => "no place is left",
            _ => "an unknown answer",
        }
    }
}

/// What a console serves. Every request and reply is a [`Message`].
pub mod console {
    /// Begin anew. An Event binding sent along is notified when what was asked for is there.
    pub const OPEN: u8 = 1;
    /// Write the bytes. The reply's `number` says how many were taken; the event comes when there is space for more.
    pub const WRITE: u8 = 2;
    /// Take the focus and read at most `number` raw bytes. None: the event comes.
    pub const READ: u8 = 3;
    /// Take the focus and read a line, echoed and edited by the driver, in pieces. Nothing and no [`flag::END`]: the event comes.
    pub const READ_LINE: u8 = 4;
    /// Put everything out; the reply's `number` says how many bytes are still on their way.
    pub const DRAIN: u8 = 5;

    /// Flags of requests and replies.
    pub mod flag {
        /// WRITE: put the unfinished line out now.
        pub const FLUSH: u16 = 1;
        /// Reply to READ_LINE: the line ends here.
        pub const END: u16 = 1;
        /// Reply to READ_LINE: the input ended (Ctrl-D on an empty line).
        pub const END_OF_INPUT: u16 = 2;
    }

    /// Ctrl-D: the end of input.
    pub const END_OF_INPUT: u8 = 0x04;
}

/// What the supervisor (`init`) serves. Requests and replies are bare words: the first holds the code (low byte) and a
/// number (bits 63:32), names stand in three words.
pub mod supervisor {
    use super::{Name, Words, name_to_words};

    /// Describe program `number`: a [`Program`].
    pub const LIST: u8 = 1;
    /// The machine's memory: a [`Memory`].
    pub const MEMORY: u8 = 2;
    /// Binding `words[1]` that program `number` was given: a [`Given`].
    pub const BINDINGS: u8 = 3;
    /// The failure `number` places back: a [`Failure`].
    pub const FAULTS: u8 = 4;
    /// Start the program named in `words[1..4]`.
    pub const START: u8 = 5;
    /// End the program named in `words[1..4]`; its restart rule then applies.
    pub const KILL: u8 = 6;
    /// Do `number` ([`exo_abi::calls::power`]) with exit code `words[1]`.
    pub const POWER: u8 = 7;
    /// Send the gate of the service named in `words[1..4]` with the reply.
    pub const RESOLVE: u8 = 8;
    /// The caller lives: its watchdog starts anew.
    pub const KICK: u8 = 9;

    /// A request.
    pub const fn request(code: u8, number: u32) -> Words {
        [code as u64 | (number as u64) << 32, 0, 0, 0, 0, 0, 0]
    }

    /// A request about a name.
    pub fn request_named(code: u8, name: &str) -> Words {
        let mut words = request(code, 0);
        words[1..4].copy_from_slice(&name_to_words(name));
        words
    }

    /// The code and the number of a request or reply.
    pub const fn head(words: &Words) -> (u8, u32) {
        (words[0] as u8, (words[0] >> 32) as u32)
    }

    /// What a program is doing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum State {
        /// Not asked for.
        Idle = 0,
        /// It runs.
        Running = 1,
        /// It failed and waits for its restart.
        Waiting = 2,
        /// It ended by itself.
        Ended = 3,
        /// It failed and is not started again.
        Failed = 4,
        /// It could not be built.
        Refused = 5,
        /// It was ended by request.
        Killed = 6,
    }

    impl State {
        /// The state a number stands for.
        pub const fn from_number(number: u8) -> State {
            match number {
                1 => State::Running,
                2 => State::Waiting,
                3 => State::Ended,
                4 => State::Failed,
                5 => State::Refused,
                6 => State::Killed,
                _ => State::Idle,
            }
        }

        /// For people.
        pub const fn text(self) -> &'static str {
            match self {
                State::Idle => "idle",
                State::Running => "running",
                State::Waiting => "restarting",
                State::Ended => "ended",
                State::Failed => "failed",
                State::Refused => "refused",
                State::Killed => "killed",
            }
        }
    }

    /// The answer to [`LIST`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Program {
        /// What it is called.
        pub name: Name,
        /// What it is doing.
        pub state: State,
        /// Its environment's number; 0: none.
        pub environment: u8,
        /// Times it was started again.
        pub restarts: u16,
        /// Times it failed.
        pub failures: u16,
        /// The code it ended with last.
        pub code: u64,
        /// Microseconds its slices have used since the start of the machine.
        pub cpu_us: u64,
    }

    impl Program {
        /// The words of the reply.
        pub fn to_words(&self) -> Words {
            let [a, b, c] = name_to_words(self.name.as_str());
            let state = self.state as u64
                | (self.environment as u64) << 8
                | (self.restarts as u64) << 16
                | (self.failures as u64) << 32;
            [super::status::OK as u64, a, b, c, state, self.code, self.cpu_us]
        }

        /// What the words of a reply say.
        pub fn from_words(words: &Words) -> Program {
            Program {
                name: Name::from_words(&words[1..4]),
                state: State::from_number(words[4] as u8),
                environment: (words[4] >> 8) as u8,
                restarts: (words[4] >> 16) as u16,
                failures: (words[4] >> 32) as u16,
                code: words[5],
                cpu_us: words[6],
            }
        }
    }

    /// The answer to [`MEMORY`], in frames.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Memory {
        /// Frames of RAM.
        pub ram: u64,
        /// Free now.
        pub free: u64,
        /// The kernel's.
        pub kernel: u64,
        /// The archive's: program texts, mapped in place.
        pub archive: u64,
        /// Promised to programs as quotas.
        pub promised: u64,
        /// Frame of [`exo_abi::exposed::MachineInfo`], which anybody may map.
        pub machine_info: u64,
    }

    impl Memory {
        /// The words of the reply.
        pub const fn to_words(&self) -> Words {
            [super::status::OK as u64, self.ram, self.free, self.kernel, self.archive, self.promised, self.machine_info]
        }

        /// What the words of a reply say.
        pub const fn from_words(words: &Words) -> Memory {
            Memory {
                ram: words[1],
                free: words[2],
                kernel: words[3],
                archive: words[4],
                promised: words[5],
                machine_info: words[6],
            }
        }
    }

    /// The answer to [`BINDINGS`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Given {
        /// What it is called there.
        pub name: Name,
        /// Its handle.
        pub handle: u16,
        /// [`exo_abi::BindingKind`].
        pub kind: u8,
        /// [`exo_abi::binding::Rights`].
        pub rights: u8,
        /// First page, line or position.
        pub first: u64,
        /// How many.
        pub count: u64,
    }

    impl Given {
        /// The words of the reply.
        pub fn to_words(&self) -> Words {
            let [a, b, c] = name_to_words(self.name.as_str());
            let what = self.handle as u64 | (self.kind as u64) << 16 | (self.rights as u64) << 24;
            [super::status::OK as u64, a, b, c, what, self.first, self.count]
        }

        /// What the words of a reply say.
        pub fn from_words(words: &Words) -> Given {
            Given {
                name: Name::from_words(&words[1..4]),
                handle: words[4] as u16,
                kind: (words[4] >> 16) as u8,
                rights: (words[4] >> 24) as u8,
                first: words[5],
                count: words[6],
            }
        }
    }

    /// Where an address lies in a program.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum Region {
        /// In nothing it owns.
        None = 0,
        /// Program text.
        Text = 1,
        /// Constants.
        Constants = 2,
        /// Writable data.
        Data = 3,
        /// A stack.
        Stack = 4,
        /// The page under a stack.
        Guard = 5,
        /// The area its heap grows in.
        Heap = 6,
        /// A file.
        File = 7,
        /// The first page: a null pointer.
        Null = 8,
        /// What init hands over at the start, and the control page.
        Start = 9,
        /// The window on the page tables, or beyond user space.
        Kernel = 10,
        /// Where the library maps devices and other frames.
        Mappings = 11,
    }

    impl Region {
        /// The region a number stands for.
        pub const fn from_number(number: u8) -> Region {
            match number {
                1 => Region::Text,
                2 => Region::Constants,
                3 => Region::Data,
                4 => Region::Stack,
                5 => Region::Guard,
                6 => Region::Heap,
                7 => Region::File,
                8 => Region::Null,
                9 => Region::Start,
                10 => Region::Kernel,
                11 => Region::Mappings,
                _ => Region::None,
            }
        }

        /// For people.
        pub const fn text(self) -> &'static str {
            match self {
                Region::None => "no region",
                Region::Text => "text",
                Region::Constants => "constants",
                Region::Data => "data",
                Region::Stack => "the stack",
                Region::Guard => "the guard page: the stack is full",
                Region::Heap => "the heap's area",
                Region::File => "a file",
                Region::Null => "the first page: a null pointer",
                Region::Start => "the start pages",
                Region::Kernel => "the kernel's part",
                Region::Mappings => "the area of mappings",
            }
        }
    }

    /// The answer to [`FAULTS`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Failure {
        /// Number of the program in the manifest.
        pub program: u8,
        /// [`exo_abi::calls::stop_reason`].
        pub reason: u8,
        /// Where `address` lies.
        pub region: Region,
        /// Milliseconds since the machine started.
        pub at_ms: u32,
        /// `ESR_EL1`.
        pub cause: u64,
        /// The address it touched.
        pub address: u64,
        /// Where it stood.
        pub pc: u64,
        /// The code it ended with.
        pub code: u64,
        /// Failures recorded since the machine started.
        pub total: u64,
    }

    impl Failure {
        /// The words of the reply.
        pub const fn to_words(&self) -> Words {
            let what = self.program as u64
                | (self.reason as u64) << 8
                | (self.region as u64) << 16
                | (self.at_ms as u64) << 32;
            [super::status::OK as u64, what, self.cause, self.address, self.pc, self.code, self.total]
        }

        /// What the words of a reply say.
        pub const fn from_words(words: &Words) -> Failure {
            Failure {
                program: words[1] as u8,
                reason: (words[1] >> 8) as u8,
                region: Region::from_number((words[1] >> 16) as u8),
                at_ms: (words[1] >> 32) as u32,
                cause: words[2],
                address: words[3],
                pc: words[4],
                code: words[5],
                total: words[6],
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::supervisor::{Failure, Given, Memory, Program, Region, State};
    use super::*;

    #[test]
    fn a_message_survives_the_registers() {
        let sent = Message::new(console::WRITE).with_flags(console::flag::FLUSH).with_number(7).with_bytes(b"velvet> ");
        let received = Message::from_words(&sent.to_words());
        assert_eq!(received, sent);
        assert_eq!(received.as_bytes(), b"velvet> ");
    }

    #[test]
    fn a_length_beyond_the_words_is_cut() {
        let hostile = Message::from_words(&[0xff << 8, 1, 2, 3, 4, 5, 6]);
        assert_eq!(hostile.as_bytes().len(), MAX_BYTES);
        assert_eq!(Message::new(1).with_bytes(&[7; 100]).as_bytes(), &[7; MAX_BYTES]);
    }

    #[test]
    fn names_are_cut_and_nonsense_is_nobody() {
        assert_eq!(Name::from_words(&name_to_words("pl011")).as_str(), "pl011");
        assert_eq!(
            Name::from_words(&name_to_words("a name far longer than four and twenty")).as_str().len(),
            NAME_BYTES
        );
        assert_eq!(Name::from_words(&[u64::MAX; 3]).as_str(), "");
    }

    #[test]
    fn the_supervisors_answers_survive_the_registers() {
        let name = Name::from_words(&name_to_words("shell"));
        let program = Program {
            name,
            state: State::Waiting,
            environment: 9,
            restarts: 65535,
            failures: 3,
            code: 101,
            cpu_us: 77,
        };
        assert_eq!(Program::from_words(&program.to_words()), program);
        let memory = Memory { ram: 1, free: 2, kernel: 3, archive: 4, promised: 5, machine_info: 6 };
        assert_eq!(Memory::from_words(&memory.to_words()), memory);
        let given = Given { name, handle: 300, kind: 7, rights: 3, first: 0x9000, count: 1 };
        assert_eq!(Given::from_words(&given.to_words()), given);
        let failure = Failure {
            program: 2,
            reason: 2,
            region: Region::Guard,
            at_ms: 5,
            cause: 6,
            address: 7,
            pc: 8,
            code: 9,
            total: 10,
        };
        assert_eq!(Failure::from_words(&failure.to_words()), failure);
    }
}
