//! The bindings a program is given, exactly those the manifest names, and how it is told of them.

use super::{Ground, Order, SLOTS, slot, space};
use crate::failed::{Failed, While};
use crate::numbers;
use alloc::vec::Vec;
use exo_abi::binding::{Rights, first};
use exo_abi::{BindingKind, Handle, SLICES_PER_CORE};
use libos::protocol::Name;
use libos::protocol::name_to_words;
use libos::protocol::supervisor::Given;
use libos::start::{DeviceInfo, FileInfo, Layout, LineInfo, Named, StartInfo};
use libos::{slots, sys};
use velvet_manifest::{Device, Manifest};

/// What is granted, in the order of its handles.
pub struct Gifts<'a> {
    ground: &'a Ground,
    order: &'a Order<'a>,
    environment: Handle,
    next: u16,
    named: Vec<Named<'a>>,
    devices: Vec<DeviceInfo<'a>>,
    given: Vec<Given>,
}

impl<'a> Gifts<'a> {
    /// Nothing yet.
    pub fn new(ground: &'a Ground, order: &'a Order<'a>, environment: Handle) -> Gifts<'a> {
        let next = Handle::FIRST_FREE.0;
        Gifts { ground, order, environment, next, named: Vec::new(), devices: Vec::new(), given: Vec::new() }
    }

    /// Grants everything.
    pub fn give_all(&mut self) -> Result<(), Failed> {
        let program = self.order.program;
        self.own_gate()?;
        for peer in program.calls.iter().filter(|peer| peer.program as usize != Manifest::FIRST) {
            self.service(&peer.service, peer.program as usize)?;
        }
        if let Some(bit) = self.order.watchdog_bit {
            self.watchdog(bit)?;
        }
        for device in &program.devices {
            self.device(device)?;
        }
        self.power()?;
        self.cores()
    }

    /// What the program is told, as bytes.
    pub fn start_info(&self, layout: &Layout) -> Result<Vec<u8>, Failed> {
        let Order { program, numbers, .. } = *self.order;
        let (cell, cells) = numbers.given_cells;
        let small = |(first, count): (u64, u64)| (first as u32, count as u32);
        let files = program.files.iter().filter_map(|handed| {
            let file = self.ground.manifest.files.get(handed.file as usize)?;
            Some(FileInfo { name: &file.name, va: handed.va, bytes: file.bytes })
        });
        space::encode(&StartInfo {
            abi_version: exo_abi::ABI_VERSION,
            name: &program.name,
            args: program.args.iter().map(|arg| arg.as_str()).collect(),
            environment: numbers.environment as u32,
            pool: numbers.pool as u32,
            core: program.slices.first().map_or(0, |slices| slices.core),
            frames: program.frames,
            layout: *layout,
            machine_frame: self.ground.machine_frame,
            timer_hz: self.ground.machine.timer_hz,
            slots: (self.next, SLOTS - self.next),
            // The first is the one its gate's bindings carry.
            cells: small((cell + 1, cells - 1)),
            environments: small(numbers.given_environments),
            pools: small(numbers.given_pools),
            bindings: self.named.clone(),
            devices: self.devices.clone(),
            files: files.collect(),
        })
    }

    /// What was given, for who asks.
    pub fn into_given(self) -> Vec<Given> {
        self.given
    }

    /// Init's own gate: for who may call init, who may have to find a service again, and who is watched.
    fn own_gate(&mut self) -> Result<(), Failed> {
        const STEP: &str = "give it init's gate";
        if self.order.program.calls.is_empty() && self.order.program.watchdog_ms.is_none() {
            return Ok(());
        }
        let badge = numbers::badge(self.order.index, self.order.life);
        let own = slot(STEP)?;
        let bound = sys::gate_bind(Handle::SELF, 0, self.ground.own_cell, own, badge);
        self.pass_on(own, bound, "init", BindingKind::Gate, Rights::GATE_CALL, STEP)
    }

    fn watchdog(&mut self, bit: u64) -> Result<(), Failed> {
        const STEP: &str = "give it its watchdog's event";
        let own = slot(STEP)?;
        let bound = sys::event_bind(Handle::SELF, 0, self.ground.own_cell, own, bit);
        self.pass_on(own, bound, "watchdog", BindingKind::Event, Rights::EVENT_NOTIFY, STEP)
    }

    /// Grants a binding that was just made in a slot of init's own, and empties that.
    fn pass_on(
        &mut self,
        own: Handle,
        made: Result<(), exo_abi::Refusal>,
        name: &'a str,
        kind: BindingKind,
        rights: Rights,
        step: &'static str,
    ) -> Result<(), Failed> {
        if let Err(refusal) = made {
            slots::give_back(own);
            return Err(refusal).while_doing(step);
        }
        let granted = self.grant(own, name, kind, rights, None, step);
        slots::empty(own);
        self.named.push(Named { name, handle: granted?.0, kind: kind as u8 });
        Ok(())
    }

    /// The gate of a service. When the service is down its slot stays empty and the program asks init for it later.
    fn service(&mut self, name: &'a str, server: usize) -> Result<(), Failed> {
        const STEP: &str = "give it the gate of a service";
        let services = self.order.services;
        let gate = services.iter().find(|gate| gate.server == server && gate.client == self.order.index);
        let handle = match gate {
            Some(gate) => self.grant(gate.handle, name, BindingKind::Gate, Rights::GATE_CALL, None, STEP)?,
            None => self.next_handle(STEP)?,
        };
        self.named.push(Named { name, handle: handle.0, kind: BindingKind::Gate as u8 });
        Ok(())
    }

    fn device(&mut self, device: &'a Device) -> Result<(), Failed> {
        const STEP: &str = "give it a device";
        let rights = Rights::from_bits_truncate(device.rights);
        let pages = Some((device.first_frame, device.frames));
        let handle = self.grant(first::DEVICES, &device.compatible, BindingKind::Device, rights, pages, STEP)?;
        let mut lines = Vec::new();
        for line in &device.lines {
            let range = Some((u64::from(line.number), 1));
            let name = &device.compatible;
            let handle = self.grant(first::INTERRUPTS, name, BindingKind::Irq, Rights::IRQ_BIND, range, STEP)?;
            lines.push(LineInfo { handle: handle.0, number: line.number, edge: line.edge });
        }
        self.devices.push(DeviceInfo {
            compatible: &device.compatible,
            name: &device.name,
            handle: handle.0,
            first_frame: device.first_frame,
            frames: device.frames,
            offset: device.offset,
            lines,
        });
        Ok(())
    }

    fn power(&mut self) -> Result<(), Failed> {
        let program = self.order.program;
        let mut rights = Rights::empty();
        rights.set(Rights::POWER_OFF, program.power);
        rights.set(Rights::POWER_AUDIT, program.audit);
        if rights.is_empty() {
            return Ok(());
        }
        let handle =
            self.grant(first::POWER, "power", BindingKind::Power, rights, None, "give it power over the machine")?;
        self.named.push(Named { name: "power", handle: handle.0, kind: BindingKind::Power as u8 });
        Ok(())
    }

    /// Its positions, where they are more than its vcore 0 needs: for vcores that it makes itself.
    fn cores(&mut self) -> Result<(), Failed> {
        const STEP: &str = "give it its slices";
        let groups = &self.order.program.slices;
        if let [only] = groups.as_slice()
            && only.count < 2
        {
            return Ok(());
        }
        for (group, slices) in groups.iter().enumerate() {
            let position = position(self.ground, self.order, group, STEP)?;
            // A Core binding counts the positions of all cores through.
            let first_position = u64::from(slices.core) * SLICES_PER_CORE + position;
            let range = Some((first_position, u64::from(slices.count)));
            let rights = Rights::CORE_CLAIM | Rights::GRANT;
            let handle = self.grant(first::CORES, "cores", BindingKind::Core, rights, range, STEP)?;
            self.named.push(Named { name: "cores", handle: handle.0, kind: BindingKind::Core as u8 });
        }
        Ok(())
    }

    fn grant(
        &mut self,
        binding: Handle,
        name: &str,
        kind: BindingKind,
        rights: Rights,
        range: Option<(u64, u64)>,
        step: &'static str,
    ) -> Result<Handle, Failed> {
        let handle = self.next_handle(step)?;
        sys::grant(binding, self.environment, handle, rights, 0, range).while_doing(step)?;
        let (first, count) = range.unwrap_or((0, 0));
        let name = Name::from_words(&name_to_words(name));
        self.given.push(Given { name, handle: handle.0, kind: kind as u8, rights: rights.bits(), first, count });
        Ok(handle)
    }

    fn next_handle(&mut self, step: &'static str) -> Result<Handle, Failed> {
        if self.next >= SLOTS {
            return Err(Failed::because(step, "its binding table is full"));
        }
        self.next += 1;
        Ok(Handle(self.next - 1))
    }
}

/// The first position of a program's slices `group` on their core.
pub fn position(ground: &Ground, order: &Order, group: usize, step: &'static str) -> Result<u64, Failed> {
    numbers::position(&ground.manifest, order.index, group, ground.first_position)
        .ok_or(Failed::because(step, "all positions of the core are given: lower `slices` in the manifest"))
}
