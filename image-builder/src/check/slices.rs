//! Time: slices on cores that the machine has.

use super::{Checker, Plan};
use crate::error::{Error, Result};
use crate::policy::{ProgramToml, SlicesToml};
use std::collections::BTreeMap;
use toml::Spanned;
use velvet_manifest as manifest;

impl Checker<'_> {
    pub(super) fn slices(&self, toml: &ProgramToml) -> Result<Vec<manifest::Slices>> {
        let Some(list) = &toml.slices else {
            return Ok(vec![manifest::Slices {
                core: 0,
                count: 1,
                micros: exo_abi::DEFAULT_SLICE_US as u32,
                exact: false,
            }]);
        };
        if list.get_ref().is_empty() {
            return Err(Error::new("a program without a slice never runs")
                .at(&self.policy.place(list))
                .remedy("leave `slices` out for one slice on core 0, or name one"));
        }
        let slices: Result<Vec<_>> = list.get_ref().iter().map(|spanned| self.one_slices(spanned)).collect();
        let slices: Vec<manifest::Slices> = slices?.into_iter().filter(|slices| slices.count != 0).collect();
        if slices.first().is_none_or(|first| u64::from(first.count) > exo_abi::SLICES_PER_CORE) {
            return Err(Error::new("its first vcore has no slices of its own")
                .at(&self.policy.place(list))
                .remedy("put slices on one core before those that are `whole`"));
        }
        Ok(slices)
    }

    pub(super) fn slices_fit(&self, plan: &Plan) -> Result<()> {
        let mut used: BTreeMap<u32, u64> = BTreeMap::new();
        for (planned, toml) in plan.programs.iter().zip(&self.policy.image.programs) {
            let slices = &planned.program.slices;
            let on_cores = |core| slices.iter().map(move |slices| (core, slices.of_core(core)));
            for (core, count) in (0..self.machine.cores).flat_map(on_cores) {
                let sum = used.entry(core).or_default();
                *sum += count;
                if *sum > exo_abi::SLICES_PER_CORE {
                    let place = match &toml.get_ref().slices {
                        Some(list) => self.policy.place(list),
                        None => self.policy.place(&toml.get_ref().name),
                    };
                    return Err(Error::new(format!("core {core} has no {sum} slices")).at(&place).remedy(format!(
                        "a core has {}: lower `count`, or use another core",
                        exo_abi::SLICES_PER_CORE
                    )));
                }
            }
        }
        Ok(())
    }

    fn one_slices(&self, spanned: &Spanned<SlicesToml>) -> Result<manifest::Slices> {
        let SlicesToml { core, count, whole, micros, exact } = *spanned.get_ref();
        let wrong = |what: String, remedy: String| Err(Error::new(what).at(&self.policy.place(spanned)).remedy(remedy));
        if whole && count.is_some() {
            return wrong("`count` beside `whole`".to_string(), "remove one of them".to_string());
        }
        if whole {
            let count = self.machine.cores.saturating_sub(core) * exo_abi::SLICES_PER_CORE as u32;
            return Ok(manifest::Slices { core, count, micros, exact });
        }
        let count = count.unwrap_or(1);
        if core >= self.machine.cores {
            let cores = self.machine.cores;
            return wrong(
                format!("there is no core {core}"),
                format!("this machine has cores 0 to {}: choose one, or more with --smp", cores.saturating_sub(1)),
            );
        }
        if count == 0 || u64::from(count) > exo_abi::SLICES_PER_CORE {
            return wrong(format!("`count` is {count}"), format!("choose 1 to {}", exo_abi::SLICES_PER_CORE));
        }
        let allowed = exo_abi::MIN_SLICE_US..=exo_abi::MAX_SLICE_US;
        if !allowed.contains(&u64::from(micros)) {
            return wrong(
                format!("a slice of {micros} microseconds"),
                format!("choose {} to {}", allowed.start(), allowed.end()),
            );
        }
        Ok(manifest::Slices { core, count, micros, exact })
    }
}
