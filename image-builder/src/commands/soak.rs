//! `cargo image soak`: long tests with random choices that a seed repeats.

use super::doctor;
use crate::cases::{self, CPUS, Case};
use crate::emulator::{self, End};
use crate::error::{Error, Result};
use crate::machine::MachineOptions;
use crate::progress::Progress;
use crate::{build, folders};
use clap::{Args, ValueEnum};
use std::time::{Duration, SystemTime};

/// How long a damaged image may take to say what is wrong with it, or to run all the same.
const DAMAGED_LIMIT: Duration = Duration::from_secs(60);

/// How long ten million calls may take on a slow host.
const GATES_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// What can be said after `soak`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this test.
    name: Option<Name>,
    /// Repeat the round with this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds of each test: by default 50, of `gates` one; with a seed one.
    #[arg(long)]
    rounds: Option<u64>,
    /// Calls in a round of `gates`.
    #[arg(long, default_value_t = 10_000_000)]
    calls: u64,
}

/// The long tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// demo, tiny, trial and rogue on random machines.
    Machines,
    /// Images with damaged bytes in header or archive: the machine stops with a reason, or runs; it never hangs silently.
    Damage,
    /// Calls between servers and clients that are killed, revoked and restarted all the time, on a random machine.
    Gates,
}

/// The exit code is 1 if a round failed.
pub fn soak(arguments: &Arguments) -> Result<i32> {
    doctor::ensure()?;
    let names = arguments.name.map_or(vec![Name::Machines, Name::Damage, Name::Gates], |name| vec![name]);
    let begin = arguments.seed.unwrap_or_else(seed_of_now);
    let mut failed = 0;
    for name in names {
        let shown = name.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
        let usual = if name == Name::Gates { 1 } else { 50 };
        let rounds = if arguments.seed.is_some() { 1 } else { arguments.rounds.unwrap_or(usual) };
        for seed in (0..rounds).map(|round| begin.wrapping_add(round)) {
            match one(name, seed, arguments.calls) {
                Ok(what) => println!("ok      {shown} --seed {seed}: {what}"),
                Err(error) => {
                    failed += 1;
                    println!("FAILED  cargo image soak {shown} --seed {seed}: {error}");
                }
            }
        }
    }
    println!("{failed} failed");
    Ok(i32::from(failed > 0))
}

fn one(name: Name, seed: u64, calls: u64) -> Result<String> {
    let dice = &mut Dice(seed);
    match name {
        Name::Machines => {
            let case = random_case(dice);
            let nanos = 1u32 << case.options.icount.unwrap_or(0);
            case.run().map(|_| format!("{}, {nanos} ns an instruction", case.name()))
        }
        Name::Damage => damage(dice),
        Name::Gates => gates(seed, calls, dice),
    }
}

fn gates(seed: u64, calls: u64, dice: &mut Dice) -> Result<String> {
    let mut options = random_machine(dice);
    if options.smp > 1 {
        // Counted, one core would run after the other.
        options.icount = None;
    }
    let mut case = cases::gates(seed, calls, options);
    case.limit = GATES_LIMIT;
    let output = case.run()?;
    let counts = output.lines().find(|line| line.contains(" answered, ")).unwrap_or_default();
    Ok(format!("{}, {counts}", case.name()))
}

fn random_case(dice: &mut Dice) -> Case {
    let mut options = random_machine(dice);
    let case = match dice.below(4) {
        0 => cases::demo(),
        1 => {
            options.memory_kib = 1024 << dice.below(4);
            cases::tiny()
        }
        2 => cases::attack("trial", options.clone()),
        _ => cases::attack("rogue", options.clone()),
    };
    case.on(options)
}

fn random_machine(dice: &mut Dice) -> MachineOptions {
    MachineOptions {
        cpu: CPUS[dice.below(CPUS.len())].to_string(),
        smp: 1 + dice.below(4) as u32,
        memory_kib: (16 * 1024) << dice.below(7),
        gic: 2 + dice.below(2) as u32,
        el: 1 + dice.below(2) as u32,
        // Counted, so that a seed repeats it; at different speeds, so that slices and alarms end at other instructions.
        icount: Some(dice.below(4) as u32),
    }
}

/// Runs `demo` with some bytes of its boot header or archive changed, or its end cut off.
fn damage(dice: &mut Dice) -> Result<String> {
    let options = cases::machine();
    let built = build::build(&build::find("demo")?, &options, &Progress::Silent)?;
    let mut bytes = built.image.bytes.clone();
    let archive = built.kernel.bytes.len();
    let what = match dice.below(3) {
        0 => {
            let at = 64 + dice.below(size_of::<exo_abi::boot::BootHeader>());
            bytes[at] ^= 1 << dice.below(8);
            format!("boot header, byte {at}")
        }
        1 => {
            let at = archive + dice.below(4096);
            bytes[at] ^= 1 << dice.below(8);
            format!("archive, byte {}", at - archive)
        }
        _ => {
            bytes.truncate(archive + dice.below(bytes.len() - archive));
            format!("cut to {} bytes", bytes.len())
        }
    };
    let mut damaged = built;
    damaged.image_file = folders::scratch_name(&damaged.image_file);
    folders::write(&damaged.image_file, &bytes)?;
    let arguments = emulator::arguments(&damaged, &options, &[]);
    let captured = emulator::captured(&arguments, b"off\n", DAMAGED_LIMIT);
    // The file was for this run alone; one that stays behind does no harm.
    let _ = std::fs::remove_file(&damaged.image_file);
    let captured = captured?;
    if captured.end == End::TimedOut && captured.output.trim().is_empty() {
        return Err(Error::new(format!("{what}: it hangs, and says nothing")));
    }
    Ok(format!("{what}: {:?}", captured.end))
}

fn seed_of_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

/// Random numbers that a seed repeats: SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_choices() {
        for seed in 0..100 {
            let [first, again] = [(); 2].map(|()| random_case(&mut Dice(seed)));
            assert_eq!((&first.image, &first.options), (&again.image, &again.options));
            assert!(first.options.icount.is_some(), "a run in real time is not repeated by its choices");
        }
    }
}
