//! Devices: their registers and interrupt lines, without any `unsafe` in the driver.

use crate::control;
use crate::mem::Mapping;
use crate::start::{self, DeviceInfo, LineInfo};
use crate::sys::{self, Trigger};
use exo_abi::page::Prot;
use exo_abi::{Handle, Pfn, Refusal};

/// A device that this program was given.
#[derive(Clone, Copy, Debug)]
pub struct Device(&'static DeviceInfo<'static>);

impl Device {
    /// The first device of that `compatible` string or device-tree node.
    pub fn named(name: &str) -> Option<Device> {
        start::info_if_known()?
            .devices
            .iter()
            .find(|device| device.compatible == name || device.name == name)
            .map(Device)
    }

    /// What this program was told about it.
    pub fn info(&self) -> &'static DeviceInfo<'static> {
        self.0
    }

    /// Its Device binding.
    pub fn handle(&self) -> Handle {
        Handle(self.0.handle)
    }

    /// Maps its registers.
    pub fn registers(&self) -> Result<Registers, Refusal> {
        let mapping = Mapping::new(self.handle(), Pfn(self.0.first_frame), self.0.frames, Prot::READ | Prot::WRITE)?;
        Ok(Registers { mapping, offset: u64::from(self.0.offset) })
    }

    /// Its interrupt line with that index.
    pub fn interrupt(&self, index: usize) -> Option<Interrupt> {
        self.0.lines.get(index).copied().map(Interrupt)
    }
}

/// A device's registers. Reads and writes reach it in program order, whole, once each.
#[derive(Debug)]
pub struct Registers {
    mapping: Mapping,
    offset: u64,
}

impl Registers {
    /// Reads the register at `offset`.
    ///
    /// # Panics
    /// Outside of the device's pages, or misaligned.
    #[inline(always)]
    pub fn read32(&self, offset: u64) -> u32 {
        self.mapping.read_u32(self.offset + offset)
    }

    /// Writes the register at `offset`.
    ///
    /// # Panics
    /// Outside of the device's pages, or misaligned.
    #[inline(always)]
    pub fn write32(&self, offset: u64, value: u32) {
        self.mapping.write_u32(self.offset + offset, value);
    }
}

/// An interrupt line that this program was given.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt(LineInfo);

impl Interrupt {
    /// Routes it as event `bit` to this vcore, and unmasks it.
    pub fn bind(&self, bit: u64) -> Result<(), Refusal> {
        let trigger = if self.0.edge { Trigger::Edge } else { Trigger::Level };
        sys::irq_bind(Handle(self.0.handle), u64::from(self.0.number), control::vcore(), bit, trigger)
    }

    /// Unmasks it, after its event was handled.
    #[inline(always)]
    pub fn acknowledge(&self) -> Result<(), Refusal> {
        sys::irq_ack(Handle(self.0.handle), u64::from(self.0.number))
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.0.number
    }
}
