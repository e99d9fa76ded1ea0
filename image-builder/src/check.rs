//! Whether an image file makes sense for a machine; names become numbers here.

mod devices;
mod slices;

use crate::error::{Error, Place, Result};
use crate::folders;
use crate::machine::Machine;
use crate::policy::{Policy, ProgramToml, StartToml, WhenToml};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;
use velvet_manifest as manifest;

/// Pages of stack a program gets unless it says otherwise.
pub const DEFAULT_STACK_PAGES: u32 = 8;
/// Programs an image may have.
const MAX_PROGRAMS: usize = 40;
/// Bytes of a name: what fits into the messages of `init`.
const MAX_NAME_BYTES: usize = 24;
/// Most environment or pool numbers that one program may use.
const MAX_NAMES: u32 = 128;
/// Most revocation cells that one program may use.
const MAX_CELLS: u32 = 512;

/// A checked image: what will stand in the manifest, and where its contents come from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The image's name.
    pub name: String,
    /// The programs, the first environment first. Their segments are still empty.
    pub programs: Vec<PlannedProgram>,
    /// The files.
    pub files: Vec<PlannedFile>,
    /// Frames that the quotas add up to, with the line of the largest.
    pub quota: u64,
    /// The line of the largest quota.
    pub largest_quota: Place,
}

/// A program and its crate.
#[derive(Clone, Debug)]
pub struct PlannedProgram {
    /// What the manifest will say.
    pub program: manifest::Program,
    /// The crate's folder.
    pub folder: PathBuf,
    /// Which of its binaries.
    pub bin: Option<String>,
    /// Where the image file names the crate.
    pub place: Place,
}

/// A file and its name.
#[derive(Clone, Debug)]
pub struct PlannedFile {
    /// Its name in the image.
    pub name: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// Checks everything that can be known before anything is built.
pub fn check(policy: &Policy, machine: &Machine) -> Result<Plan> {
    let programs = &policy.image.programs;
    if programs.is_empty() || programs.len() > MAX_PROGRAMS {
        return Err(Error::new(format!("an image has 1 to {MAX_PROGRAMS} programs"))
            .at(&policy.top())
            .remedy("add a [[program]]; the first one is the first environment, normally `init`"));
    }
    let checker = Checker { policy, machine, offers: offers(policy)? };
    let files = planned_files(policy)?;
    let mut plan =
        Plan { name: policy.name.clone(), programs: Vec::new(), quota: 0, largest_quota: policy.top(), files };
    let mut largest = 0;
    for spanned in programs {
        let program = spanned.get_ref();
        plan.programs.push(checker.program(program, &plan.files)?);
        let frames = *program.frames.get_ref();
        plan.quota = plan.quota.saturating_add(frames);
        if frames > largest {
            (largest, plan.largest_quota) = (frames, policy.place(&program.frames));
        }
    }
    checker.one_ends_the_machine(&plan)?;
    checker.devices_have_one_owner(&plan)?;
    checker.slices_fit(&plan)?;
    quota_fits(&plan, machine, 0)?;
    Ok(plan)
}

/// The quotas, `image_pages` and what the kernel keeps for each frame fit the RAM.
pub fn quota_fits(plan: &Plan, machine: &Machine, image_pages: u64) -> Result<()> {
    let ram = machine.frames_of_ram;
    // 8 bytes and one bit a frame (design: the frame word and the free bitmap).
    let bookkeeping = (ram * 8 + ram / 8).div_ceil(exo_abi::PAGE_BYTES);
    let available = ram.saturating_sub(image_pages + bookkeeping);
    if plan.quota <= available {
        return Ok(());
    }
    Err(Error::new(format!(
        "the quotas add up to {} frames, but of {ram} frames of RAM only {available} are left for them",
        plan.quota
    ))
    .at(&plan.largest_quota)
    .remedy(format!("lower `frames` by {} in all, or give the machine more --memory", plan.quota - available)))
}

/// Every service, with the program that offers it.
fn offers(policy: &Policy) -> Result<BTreeMap<String, usize>> {
    let mut names = BTreeMap::new();
    let mut offers = BTreeMap::new();
    for (index, spanned) in policy.image.programs.iter().enumerate() {
        let program = spanned.get_ref();
        let place = policy.place(&program.name);
        let name = program.name.get_ref();
        good_name(name, &place)?;
        if names.insert(name.clone(), index).is_some() {
            return Err(Error::new(format!("a second program is called `{name}`"))
                .at(&place)
                .remedy("give each program a name of its own"));
        }
        let own = [program.name.clone()];
        for service in program.offers.as_deref().unwrap_or(&own) {
            let place = policy.place(service);
            good_name(service.get_ref(), &place)?;
            if let Some(other) = offers.insert(service.get_ref().clone(), index) {
                let other = policy.image.programs[other].get_ref().name.get_ref();
                return Err(Error::new(format!("`{other}` offers `{}` already", service.get_ref()))
                    .at(&place)
                    .remedy("a service has one program behind it: rename one of the two"));
            }
        }
    }
    Ok(offers)
}

fn planned_files(policy: &Policy) -> Result<Vec<PlannedFile>> {
    let mut files: Vec<PlannedFile> = Vec::new();
    for spanned in &policy.image.files {
        let file = spanned.get_ref();
        let place = policy.place(&file.name);
        let name = file.name.get_ref();
        if name.is_empty() || files.iter().any(|other| other.name == *name) {
            return Err(Error::new(format!("a second file is called `{name}`"))
                .at(&place)
                .remedy("give each file a name of its own"));
        }
        let path = beside(&policy.file, file.path.get_ref());
        let bytes = std::fs::read(&path).map_err(|cause| {
            Error::io("read", &path, &cause)
                .at(&policy.place(&file.path))
                .remedy("`path` is taken from the image file's folder")
        })?;
        files.push(PlannedFile { name: name.clone(), bytes });
    }
    Ok(files)
}

struct Checker<'a> {
    policy: &'a Policy,
    machine: &'a Machine,
    offers: BTreeMap<String, usize>,
}

impl Checker<'_> {
    fn program(&self, toml: &ProgramToml, files: &[PlannedFile]) -> Result<PlannedProgram> {
        let frames = *toml.frames.get_ref();
        let minimum = toml.minimum.as_ref().map_or(0, |minimum| *minimum.get_ref());
        if let Some(place) = toml.minimum.as_ref().filter(|_| minimum > frames) {
            return Err(Error::new(format!("`minimum` {minimum} is above the quota of {frames} frames"))
                .at(&self.policy.place(place))
                .remedy("raise `frames` or lower `minimum`"));
        }
        let (folder, place) = self.crate_folder(toml)?;
        let own_name = vec![toml.name.get_ref().clone()];
        let services = toml.offers.as_ref().map(|list| list.iter().map(|s| s.get_ref().clone()).collect());
        let program = manifest::Program {
            name: toml.name.get_ref().clone(),
            abi_version: exo_abi::ABI_VERSION,
            entry: 0,
            segments: Vec::new(),
            stack_pages: self.within(&toml.stack_pages, DEFAULT_STACK_PAGES, 1, 1024, "stack_pages")?,
            frames,
            minimum,
            names: manifest::Names {
                environments: self.within(&toml.environments, 0, 0, MAX_NAMES, "environments")?,
                pools: self.within(&toml.pools, 0, 0, MAX_NAMES, "pools")?,
                cells: self.within(&toml.cells, 0, 0, MAX_CELLS, "cells")?,
            },
            slices: self.slices(toml)?,
            devices: toml.devices.iter().map(|device| self.device(device)).collect::<Result<_>>()?,
            calls: toml.calls.iter().map(|call| self.peer(toml, call)).collect::<Result<_>>()?,
            services: services.unwrap_or(own_name),
            restart: self.restart(toml)?,
            watchdog_ms: match &toml.watchdog_ms {
                None => None,
                Some(_) => Some(self.within(&toml.watchdog_ms, 0, 1, 3_600_000, "watchdog_ms")?),
            },
            args: toml.args.clone(),
            files: self.handed_files(toml, files)?,
            start: match toml.start {
                StartToml::Boot => manifest::Start::AtBoot,
                StartToml::Demand => manifest::Start::OnDemand,
            },
            ends_machine: toml.ends_machine,
            debug: toml.debug,
            power: toml.power,
            audit: toml.audit,
        };
        let bin = toml.bin.as_ref().map(|bin| bin.get_ref().clone());
        Ok(PlannedProgram { program, folder, bin, place })
    }

    fn peer(&self, toml: &ProgramToml, call: &Spanned<String>) -> Result<manifest::Peer> {
        let (service, place) = (call.get_ref(), self.policy.place(call));
        let Some(&program) = self.offers.get(service) else {
            let known: Vec<&str> = self.offers.keys().map(String::as_str).collect();
            return Err(Error::new(format!("nobody offers `{service}`"))
                .at(&place)
                .remedy(format!("call one of {}, or add a program that offers it", known.join(", "))));
        };
        if self.policy.image.programs[program].get_ref().name.get_ref() == toml.name.get_ref() {
            return Err(Error::new(format!("`{}` would call itself", toml.name.get_ref()))
                .at(&place)
                .remedy("remove this call"));
        }
        Ok(manifest::Peer { service: service.clone(), program: program as u32 })
    }

    fn restart(&self, toml: &ProgramToml) -> Result<manifest::Restart> {
        let Some(spanned) = &toml.restart else {
            return Ok(manifest::Restart::default());
        };
        let restart = spanned.get_ref();
        if restart.base_ms == 0 || restart.base_ms > restart.cap_ms {
            return Err(Error::new(format!(
                "the pause before a restart goes from {} to {} ms",
                restart.base_ms, restart.cap_ms
            ))
            .at(&self.policy.place(spanned))
            .remedy("choose `base_ms` from 1 to `cap_ms`"));
        }
        Ok(manifest::Restart {
            when: match restart.when {
                WhenToml::Never => manifest::RestartWhen::Never,
                WhenToml::OnFailure => manifest::RestartWhen::OnFailure,
                WhenToml::Always => manifest::RestartWhen::Always,
            },
            base_ms: restart.base_ms,
            cap_ms: restart.cap_ms,
            tries: restart.tries,
        })
    }

    fn handed_files(&self, toml: &ProgramToml, files: &[PlannedFile]) -> Result<Vec<manifest::HandedFile>> {
        let mut va = manifest::FILES_VA;
        let mut handed = Vec::new();
        for wish in &toml.files {
            let Some(file) = files.iter().position(|file| file.name == *wish.get_ref()) else {
                return Err(Error::new(format!("there is no file `{}`", wish.get_ref()))
                    .at(&self.policy.place(wish))
                    .remedy("add a [[file]] with this name"));
            };
            handed.push(manifest::HandedFile { file: file as u32, va });
            va += (files[file].bytes.len() as u64).next_multiple_of(exo_abi::PAGE_BYTES);
        }
        Ok(handed)
    }

    fn crate_folder(&self, toml: &ProgramToml) -> Result<(PathBuf, Place)> {
        let named = toml.crate_.as_ref().unwrap_or(&toml.name);
        let (name, place) = (named.get_ref(), self.policy.place(named));
        let candidates = if name.contains('/') {
            vec![beside(&self.policy.file, name)]
        } else {
            ["apps", "drivers"].map(|kind| folders::repository().join(kind).join(name)).into()
        };
        if let Some(folder) = candidates.iter().find(|folder| folder.join("Cargo.toml").is_file()) {
            return Ok((folder.clone(), place));
        }
        let tried: Vec<String> = candidates.iter().map(|folder| folder.display().to_string()).collect();
        Err(Error::new(format!("there is no crate `{name}`: no Cargo.toml in {}", tried.join(" or ")))
            .at(&place)
            .remedy("`crate` is a name in apps/ or drivers/, or a path with a `/`, taken from the image file's folder"))
    }

    fn one_ends_the_machine(&self, plan: &Plan) -> Result<()> {
        let mut ending = plan.programs.iter().filter(|planned| planned.program.ends_machine);
        let (Some(first), Some(second)) = (ending.next(), ending.next()) else {
            return Ok(());
        };
        Err(Error::new(format!(
            "`{}` ends the machine, and `{}` does so already",
            second.program.name, first.program.name
        ))
        .at(&second.place)
        .remedy("remove `ends_machine` from one of them"))
    }

    fn within(&self, value: &Option<Spanned<u32>>, default: u32, low: u32, high: u32, key: &str) -> Result<u32> {
        let Some(spanned) = value else {
            return Ok(default);
        };
        let value = *spanned.get_ref();
        if (low..=high).contains(&value) {
            return Ok(value);
        }
        Err(Error::new(format!("`{key}` is {value}"))
            .at(&self.policy.place(spanned))
            .remedy(format!("choose a value from {low} to {high}")))
    }
}

fn good_name(name: &str, place: &Place) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(good) {
        return Ok(());
    }
    Err(Error::new(format!("`{name}` is not a name"))
        .at(place)
        .remedy(format!("use 1 to {MAX_NAME_BYTES} letters, digits, `-` and `_`")))
}

fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new(".")).join(path)
}
