//! Why the machine cannot be started.

/// One sentence for people, said on the early UART.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault(pub &'static str);

impl Fault {
    /// No boot header.
    pub const NO_HEADER: Fault = Fault("the image has no boot header: build it with `cargo image build`");
    /// The header's checksum does not fit.
    pub const CHECKSUM: Fault = Fault("the boot header is damaged: its checksum does not fit");
    /// The image was made for another version of the contract.
    pub const VERSION: Fault = Fault("the image was built for another version of the kernel's contract");
    /// The archive is not where, or as long as, the header says.
    pub const ARCHIVE: Fault = Fault("the archive is cut short or damaged");
    /// The first environment's pages are not as they must be.
    pub const RUNS: Fault = Fault("the boot header describes the first environment wrongly");
    /// There is not enough memory.
    pub const MEMORY: Fault = Fault("there is not enough memory for the first environment");
    /// The image is not in one piece of usable memory.
    pub const IMAGE: Fault =
        Fault("the image is larger than the memory it is in: give the machine more, or the image fewer programs");
    /// What is there does not begin as a device tree does.
    pub const NO_TREE: Fault = Fault("there is no device tree where the boot protocol puts it");
    /// The tree is longer than the memory it is in, or absurdly long.
    pub const LENGTH: Fault = Fault("the device tree's length is wrong: it is cut short, or damaged");
    /// The tree is damaged.
    pub const DAMAGED: Fault = Fault("the device tree is damaged");
    /// The tree names no memory.
    pub const NO_MEMORY: Fault = Fault("the device tree names no memory");
    /// The tree names no interrupt controller that the kernel knows.
    pub const NO_CONTROLLER: Fault = Fault("the device tree names no GICv2 or GICv3");
    /// The tree reserves more ranges of memory than the kernel can keep clear of.
    pub const RESERVED: Fault =
        Fault("the device tree reserves more ranges of memory than the kernel can keep clear of");
    /// The kernel's address space has no room left for devices.
    pub const DEVICES: Fault = Fault("the interrupt controller's registers do not fit the kernel's address space");
    /// No redistributor has this core's affinity.
    pub const NO_INTERFACE: Fault = Fault("the interrupt controller has no interface for this core");
}

/// Fails for a reason when something is wrong.
pub fn when<T>(wrong: bool, reason: T) -> Result<(), T> {
    if wrong { Err(reason) } else { Ok(()) }
}
