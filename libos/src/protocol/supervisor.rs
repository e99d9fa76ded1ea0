//! What the supervisor (`init`) serves. Requests and replies are bare words: the first holds the code (low byte) and a
//! number (bits 63:32), names stand in three words.

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
        let what =
            self.program as u64 | (self.reason as u64) << 8 | (self.region as u64) << 16 | (self.at_ms as u64) << 32;
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
