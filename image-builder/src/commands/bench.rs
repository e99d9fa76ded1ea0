//! `cargo image bench`: what operations cost in instructions, and whether that stays within budgets.

use super::doctor;
use crate::build::{self, Built};
use crate::emulator::{self, End};
use crate::error::{Error, Result};
use crate::machine::MachineOptions;
use crate::progress::Progress;
use crate::{folders, source_lines};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How long one boot of the bench image may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Boots that the boot figure is the mean of.
const BOOTS: u64 = 10;
/// The operation that a boot itself is.
const BOOT: &str = "boot_to_first_user_instruction";
/// How far the calibration loop may be off, in thousandths.
const CALIBRATION_TOLERANCE: u64 = 10;
/// Every operation that must be measured.
pub const OPERATIONS: [&str; 29] = [
    "null_call",
    "gate_round_trip_0",
    "gate_round_trip_7",
    "fault_resume",
    "fault_resume_fp",
    "fault_map_resume",
    "map_page_batched",
    "unmap_page_batched",
    "protect_page_batched",
    "map_page_single",
    "frame_alloc_batched",
    "frame_alloc_zeroed",
    "notify_running",
    "notify_waiter_runs",
    "notify_cycle",
    "irq_to_handler",
    "yield_to",
    "grant",
    "take_back",
    "env_create_destroy",
    BOOT,
    "demand_zero_fault",
    "rpc_round_trip",
    "rpc_round_trip_deadline",
    "rpc_round_trip_u64",
    "rpc_round_trip_4k",
    "ring_message",
    "pipe_round_trip_1b",
    "frame_handover",
];

/// What can be said after `bench`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What the guest measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Instructions of the calibration loop: as counted by hand, as measured.
    pub calibration: Option<(u64, u64)>,
    /// Instructions in all, and how often.
    pub operations: BTreeMap<String, (u64, u64)>,
    /// The guest came to its end.
    pub done: bool,
}

/// `image-builder/budgets.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// Instructions an operation may take.
    pub operations: BTreeMap<String, u64>,
    /// Bytes and lines.
    pub sizes: BTreeMap<String, u64>,
    /// Figures that do not reach their budget yet, and what they must not exceed until they do.
    #[serde(default)]
    pub missed: BTreeMap<String, u64>,
}

impl Budgets {
    /// What a figure must not exceed now: its budget, or the ceiling of one that is known to miss it.
    fn ceiling(&self, name: &str, budget: u64) -> u64 {
        self.missed.get(name).map_or(budget, |ceiling| budget.max(*ceiling))
    }
}

/// Measures, prints a table, writes JSON; the exit code is 1 if a budget is exceeded.
pub fn bench(arguments: &Arguments) -> Result<i32> {
    doctor::ensure()?;
    let progress = Progress::shown();
    let options = MachineOptions { icount: Some(0), ..MachineOptions::default() };
    let (built, mut figures) = measure(&options, &progress)?;
    let boots: Vec<u64> = (0..BOOTS).map(|_| boot(&options, &progress)).collect::<Result<_>>()?;
    figures.operations.insert(BOOT.to_string(), (boots.iter().sum(), BOOTS));
    drop(progress);
    let sizes = sizes(&built)?;
    let budgets = read_budgets()?;
    let complaints = compare(&figures, &sizes, &budgets);
    print_table(&figures, &sizes, &budgets);
    for missed in missed(&figures, &sizes, &budgets) {
        println!("fell short: {missed}");
    }
    for complaint in &complaints {
        println!("TOO MUCH: {complaint}");
    }
    if let Some(file) = &arguments.json {
        let text = format!("{:#}\n", as_json(&figures, &sizes));
        folders::write(file, text.as_bytes())?;
    }
    Ok(i32::from(!complaints.is_empty()))
}

fn measure(options: &MachineOptions, progress: &Progress) -> Result<(Built, Figures)> {
    let built = build::build(&build::find("bench")?, options, progress)?;
    progress.step("measuring");
    let captured = emulator::captured(&emulator::arguments(&built, options, &[]), b"", LIMIT)?;
    let figures = read(&captured.output);
    if captured.end != End::Code(0) || !figures.done {
        return Err(Error::new(format!("the bench image ended with {:?}\n{}", captured.end, captured.output)));
    }
    Ok((built, figures))
}

/// Instructions from the kernel's first to the first of `demo`'s first environment, as its shell tells.
fn boot(options: &MachineOptions, progress: &Progress) -> Result<u64> {
    let built = build::build(&build::find("demo")?, options, progress)?;
    progress.step("booting");
    let captured = emulator::captured(&emulator::arguments(&built, options, &[]), b"mem\noff\n", LIMIT)?;
    read_boot(&captured.output)
        .ok_or_else(|| Error::new(format!("`mem` of the demo image tells no boot time\n{}", captured.output)))
}

/// Reads the shell's line `boot N ns`: under `-icount` a nanosecond is an instruction.
pub fn read_boot(output: &str) -> Option<u64> {
    output.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["boot", nanoseconds, "ns"] => nanoseconds.parse().ok(),
        _ => None,
    })
}

/// Reads the guest's lines: `calibration EXPECTED MEASURED`, `bench NAME TOTAL ITERATIONS`, `bench done`.
pub fn read(output: &str) -> Figures {
    let mut figures = Figures::default();
    for line in output.lines() {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["calibration", expected, measured] => {
                figures.calibration = expected.parse().ok().zip(measured.parse().ok());
            }
            ["bench", "done"] => figures.done = true,
            ["bench", name, total, iterations] => {
                if let (Ok(total), Ok(iterations)) = (total.parse(), iterations.parse()) {
                    figures.operations.insert(name.to_string(), (total, iterations));
                }
            }
            _ => {}
        }
    }
    figures
}

fn sizes(built: &Built) -> Result<BTreeMap<String, u64>> {
    let sizes = built.kernel.sizes;
    Ok(BTreeMap::from([
        ("kernel_text_rodata".to_string(), sizes.text + sizes.rodata),
        ("kernel_data_bss".to_string(), sizes.data + sizes.bss),
        ("kernel_lines".to_string(), source_lines::count(&folders::repository().join("exo/src"))?),
    ]))
}

/// Reads the budgets.
pub fn read_budgets() -> Result<Budgets> {
    let file = folders::repository().join("image-builder/budgets.toml");
    let text = std::fs::read_to_string(&file).map_err(|cause| Error::io("read", &file, &cause))?;
    toml::from_str(&text).map_err(|error| Error::new(format!("{}: {error}", file.display())))
}

/// Everything that is missing, or above its budget.
pub fn compare(figures: &Figures, sizes: &BTreeMap<String, u64>, budgets: &Budgets) -> Vec<String> {
    let mut complaints = Vec::new();
    match figures.calibration {
        None => complaints.push("there was no calibration".to_string()),
        Some((expected, measured)) if expected.abs_diff(measured) * 1000 > expected * CALIBRATION_TOLERANCE => {
            complaints.push(format!("the calibration loop has {expected} instructions, {measured} were measured"));
        }
        Some(_) => {}
    }
    for name in OPERATIONS {
        match figures.operations.get(name) {
            None | Some((_, 0)) => complaints.push(format!("{name} was not measured")),
            Some(&(total, iterations)) => {
                let ceiling = budgets.operations.get(name).map(|budget| budgets.ceiling(name, *budget));
                if let Some(ceiling) = ceiling.filter(|ceiling| total > ceiling * iterations) {
                    complaints.push(format!("{name} takes {:.1}, at most {ceiling}", mean(total, iterations)));
                }
            }
        }
    }
    for (name, budget) in &budgets.sizes {
        match sizes.get(name) {
            None => complaints.push(format!("{name} was not measured")),
            Some(size) if *size > budgets.ceiling(name, *budget) => {
                complaints.push(format!("{name} is {size}, at most {}", budgets.ceiling(name, *budget)));
            }
            Some(_) => {}
        }
    }
    complaints
}

/// The figures that do not reach their budget, though they stay below the ceiling agreed for now.
pub fn missed(figures: &Figures, sizes: &BTreeMap<String, u64>, budgets: &Budgets) -> Vec<String> {
    let operations = figures.operations.iter().filter_map(|(name, &(total, iterations))| {
        let budget = budgets.operations.get(name)?;
        (total > budget * iterations).then(|| format!("{name}: {:.1} instead of {budget}", mean(total, iterations)))
    });
    let sizes = sizes.iter().filter_map(|(name, size)| {
        let budget = budgets.sizes.get(name)?;
        (size > budget).then(|| format!("{name}: {size} instead of {budget}"))
    });
    operations.chain(sizes).collect()
}

/// The figures in the form that other tools read.
pub fn as_json(figures: &Figures, sizes: &BTreeMap<String, u64>) -> Value {
    let (expected, measured) = figures.calibration.unwrap_or_default();
    let operation = |(name, &(total, iterations)): (&String, &(u64, u64))| {
        (name.clone(), json!({"instructions": mean(total, iterations), "iterations": iterations}))
    };
    let operations: serde_json::Map<String, Value> = figures.operations.iter().map(operation).collect();
    json!({
        "calibration": {"expected": expected, "measured": measured},
        "operations": operations,
        "sizes": sizes,
    })
}

fn print_table(figures: &Figures, sizes: &BTreeMap<String, u64>, budgets: &Budgets) {
    println!("{:<34}{:>12}{:>12}{:>12}", "operation (instructions)", "mean", "at most", "times");
    for (name, &(total, iterations)) in &figures.operations {
        let budget = budgets.operations.get(name).map_or("-".to_string(), u64::to_string);
        println!("{name:<34}{:>12.1}{budget:>12}{iterations:>12}", mean(total, iterations));
    }
    for (name, size) in sizes {
        let budget = budgets.sizes.get(name).map_or("-".to_string(), u64::to_string);
        println!("{name:<34}{size:>12}{budget:>12}");
    }
}

fn mean(total: u64, iterations: u64) -> f64 {
    if iterations == 0 { 0.0 } else { total as f64 / iterations as f64 }
}
