//! Devices: found in the device tree, each with one driver.

use super::{Checker, Plan};
use crate::error::{Error, Result};
use crate::machine::MachineDevice;
use crate::policy::{AccessToml, DeviceToml};
use exo_abi::binding::Rights;
use std::collections::BTreeMap;
use toml::Spanned;
use velvet_manifest as manifest;

impl Checker<'_> {
    pub(super) fn device(&self, spanned: &Spanned<DeviceToml>) -> Result<manifest::Device> {
        let (wish, place) = (spanned.get_ref(), self.policy.place(spanned));
        let all: Vec<&MachineDevice> =
            self.machine.devices.iter().filter(|device| device.compatible.contains(&wish.compatible)).collect();
        let addresses = || all.iter().map(|d| format!("{:#x}", d.address)).collect::<Vec<_>>().join(", ");
        let device = match (wish.at, all.as_slice()) {
            (_, []) => return Err(self.unknown_device(&wish.compatible).at(&place)),
            (None, [only]) => only,
            (None, several) => {
                return Err(Error::new(format!("this machine has {} `{}`", several.len(), wish.compatible))
                    .at(&place)
                    .remedy(format!("say which by `at`, one of {}", addresses())));
            }
            (Some(at), several) => several.iter().find(|device| device.address == at).ok_or_else(|| {
                Error::new(format!("this machine has no `{}` at {at:#x}", wish.compatible))
                    .at(&place)
                    .remedy(format!("choose `at` from {}", addresses()))
            })?,
        };
        if device.is_the_kernels() {
            return Err(Error::new(format!("the kernel itself drives `{}`", wish.compatible))
                .at(&place)
                .remedy("remove it: interrupts and time come as events"));
        }
        Ok(resolved(wish, device))
    }

    pub(super) fn devices_have_one_owner(&self, plan: &Plan) -> Result<()> {
        let mut lines: BTreeMap<u32, &str> = BTreeMap::new();
        let mut frames: BTreeMap<u64, &str> = BTreeMap::new();
        for (planned, toml) in plan.programs.iter().zip(&self.policy.image.programs) {
            let name = planned.program.name.as_str();
            for (device, wish) in planned.program.devices.iter().zip(&toml.get_ref().devices) {
                let taken = |what: String, owner: &str| {
                    Error::new(format!("{what} of `{}` is claimed by `{owner}` already", device.compatible))
                        .at(&self.policy.place(wish))
                        .remedy("a device has one driver: let this program call it instead")
                };
                for line in &device.lines {
                    if let Some(owner) = lines.insert(line.number, name) {
                        return Err(taken(format!("interrupt line {}", line.number), owner));
                    }
                }
                if device.rights & Rights::DEVICE_WRITE.bits() == 0 {
                    continue;
                }
                for frame in device.first_frame..device.first_frame + device.frames {
                    if let Some(owner) = frames.insert(frame, name) {
                        return Err(taken(format!("register frame {frame:#x}"), owner));
                    }
                }
            }
        }
        Ok(())
    }

    fn unknown_device(&self, compatible: &str) -> Error {
        let mut known: Vec<&str> = Vec::new();
        for device in self.machine.devices.iter().filter(|device| !device.is_the_kernels()) {
            known.extend(device.compatible.iter().map(String::as_str).filter(|name| !name.contains("simple-bus")));
        }
        known.sort_unstable();
        known.dedup();
        Error::new(format!("this machine has no device `{compatible}`")).remedy(format!("it has {}", known.join("; ")))
    }
}

fn resolved(wish: &DeviceToml, device: &MachineDevice) -> manifest::Device {
    let (first_frame, frames) = device.frames();
    let full = wish.access == AccessToml::Full;
    let rights = match wish.access {
        AccessToml::Full => Rights::DEVICE_READ | Rights::DEVICE_WRITE | Rights::DEVICE_DEBUG,
        AccessToml::Debug => Rights::DEVICE_DEBUG,
    };
    manifest::Device {
        compatible: wish.compatible.clone(),
        name: device.path.clone(),
        first_frame,
        frames,
        offset: (device.address % exo_abi::PAGE_BYTES) as u32,
        rights: rights.bits(),
        lines: if full { device.lines.clone() } else { Vec::new() },
    }
}
