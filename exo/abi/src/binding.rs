//! Bindings: what an environment may do, and to what.

use bitflags::bitflags;

/// The index of a binding in its environment's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Handle(pub u16);

impl Handle {
    /// The environment itself, in every table: kernel-made.
    pub const SELF: Handle = Handle(0);
    /// The environment's own pool, in every table: kernel-made.
    pub const POOL: Handle = Handle(1);
    /// First slot that the kernel does not fill.
    pub const FIRST_FREE: Handle = Handle(2);
}

/// What the first environment finds in its table besides [`Handle::SELF`] and [`Handle::POOL`].
pub mod first {
    use super::Handle;
    /// Every position of every core's slice vector.
    pub const CORES: Handle = Handle(2);
    /// Every shared interrupt line.
    pub const INTERRUPTS: Handle = Handle(3);
    /// Every physical page that is not RAM.
    pub const DEVICES: Handle = Handle(4);
    /// Power off, reset and audit.
    pub const POWER: Handle = Handle(5);
    /// The archive's pool: program texts and files, mapped in place.
    pub const ARCHIVE: Handle = Handle(6);
    /// First slot the kernel leaves empty.
    pub const FREE: Handle = Handle(7);
}

/// What a binding refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum BindingKind {
    /// Frames under a quota.
    Pool = 1,
    /// A protection domain.
    Env = 2,
    /// An entry point of a vcore.
    Gate = 3,
    /// One event bit of a vcore.
    Event = 4,
    /// Positions of slice vectors: `first..first+count` on every core the binding's cores name.
    Core = 5,
    /// Shared interrupt lines `first..first+count`.
    Irq = 6,
    /// Physical pages outside RAM, `first..first+count`.
    Device = 7,
    /// A device's stream through the SMMU.
    Dma = 8,
    /// The machine's power state and the kernel's audit.
    Power = 9,
}

impl BindingKind {
    /// The kind a number stands for.
    pub const fn from_number(number: u64) -> Option<BindingKind> {
        Some(match number {
            1 => BindingKind::Pool,
            2 => BindingKind::Env,
            3 => BindingKind::Gate,
            4 => BindingKind::Event,
            5 => BindingKind::Core,
            6 => BindingKind::Irq,
            7 => BindingKind::Device,
            8 => BindingKind::Dma,
            9 => BindingKind::Power,
            _ => return None,
        })
    }
}

bitflags! {
    /// What a binding lets its holder do. The meaning of the low seven bits depends on the kind; GRANT is one for all.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Rights: u8 {
        /// Pool, Device: map for reading.
        const POOL_READ = 1;
        /// Pool, Device: map for writing.
        const POOL_WRITE = 1 << 1;
        /// Pool: map for execution, and turn data into code.
        const POOL_EXECUTE = 1 << 2;
        /// Pool: allocate and free frames, make kernel objects of them.
        const POOL_ALLOC = 1 << 3;
        /// Pool: create child pools from its quota.
        const POOL_CARVE = 1 << 4;
        /// Pool: take frames back, destroy.
        const POOL_REVOKE = 1 << 5;

        /// Env: change its tables, vcores and bindings.
        const ENV_MAP = 1;
        /// Env: read its registers while it is stopped without a report of its own.
        const ENV_READ = 1 << 1;
        /// Env: `yield_to` its vcores, start them.
        const ENV_RUN = 1 << 2;
        /// Env: stop, read the report of what stopped, destroy.
        const ENV_DESTROY = 1 << 3;

        /// Gate: call, and lend to the callee.
        const GATE_CALL = 1;
        /// Event: notify.
        const EVENT_NOTIFY = 1;
        /// Core: claim and release slices.
        const CORE_CLAIM = 1;
        /// Irq: bind and acknowledge.
        const IRQ_BIND = 1;

        /// Device: map for reading.
        const DEVICE_READ = 1;
        /// Device: map for writing.
        const DEVICE_WRITE = 1 << 1;
        /// Device: write to the kernel's debug UART when the range holds it.
        const DEVICE_DEBUG = 1 << 2;

        /// Power: off and reset.
        const POWER_OFF = 1;
        /// Power: audit the kernel's invariants.
        const POWER_AUDIT = 1 << 1;

        /// Grant on, and send in messages.
        const GRANT = 1 << 7;
    }
}

impl Rights {
    /// Every right there is.
    pub const EVERYTHING: Rights = Rights::from_bits_retain(0xff);
}
