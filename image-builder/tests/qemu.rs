//! Images in QEMU: one test an image and machine.

use exo_abi::boot::BOOT_HEADER_OFFSET;
use image_builder::cargo::Paths;
use image_builder::cases::{self, Case};
use image_builder::commands::doctor;
use image_builder::emulator::{self, End};
use image_builder::machine::MachineOptions;
use image_builder::progress::Progress;
use image_builder::{build, folders};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Once;

fn tools() {
    static TOOLS: Once = Once::new();
    TOOLS.call_once(|| doctor::ensure().expect("the tools are there, or can be installed"));
}

fn pass(case: &Case) -> String {
    tools();
    match case.run() {
        Ok(output) => output,
        Err(error) => panic!("{error}"),
    }
}

fn machine(gic: u32, cpu: &str, el: u32) -> MachineOptions {
    MachineOptions { cpu: cpu.to_string(), gic, el, ..cases::machine() }
}

/// A module for each machine, with `trial` and `rogue` as its tests.
macro_rules! machines {
    ($($name:ident: $gic:literal $cpu:literal $el:literal;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn trial_keeps_every_promise() {
                pass(&cases::attack("trial", machine($gic, $cpu, $el)));
            }

            #[test]
            fn rogue_harms_nobody_and_provokes_every_refusal() {
                every_refusal(&pass(&cases::attack("rogue", machine($gic, $cpu, $el))));
            }
        })*

        #[test]
        fn the_list_above_names_every_machine() {
            let listed = [$(machine($gic, $cpu, $el),)*];
            assert_eq!(listed.as_slice(), cases::machines());
        }
    };
}

machines! {
    gicv2_cortex_a53_el1: 2 "cortex-a53" 1;
    gicv2_cortex_a53_el2: 2 "cortex-a53" 2;
    gicv2_cortex_a72_el1: 2 "cortex-a72" 1;
    gicv2_cortex_a72_el2: 2 "cortex-a72" 2;
    gicv2_cortex_a76_el1: 2 "cortex-a76" 1;
    gicv2_cortex_a76_el2: 2 "cortex-a76" 2;
    gicv2_neoverse_n1_el1: 2 "neoverse-n1" 1;
    gicv2_neoverse_n1_el2: 2 "neoverse-n1" 2;
    gicv2_max_el1: 2 "max" 1;
    gicv2_max_el2: 2 "max" 2;
    gicv3_cortex_a53_el1: 3 "cortex-a53" 1;
    gicv3_cortex_a53_el2: 3 "cortex-a53" 2;
    gicv3_cortex_a72_el1: 3 "cortex-a72" 1;
    gicv3_cortex_a72_el2: 3 "cortex-a72" 2;
    gicv3_cortex_a76_el1: 3 "cortex-a76" 1;
    gicv3_cortex_a76_el2: 3 "cortex-a76" 2;
    gicv3_neoverse_n1_el1: 3 "neoverse-n1" 1;
    gicv3_neoverse_n1_el2: 3 "neoverse-n1" 2;
    gicv3_max_el1: 3 "max" 1;
    gicv3_max_el2: 3 "max" 2;
}

/// The same on several cores.
macro_rules! several_cores {
    ($($name:ident: $gic:literal $smp:literal;)*) => {
        $(mod $name {
            use super::*;

            fn options() -> MachineOptions {
                MachineOptions { smp: $smp, gic: $gic, ..MachineOptions::default() }
            }

            #[test]
            fn trial_keeps_every_promise() {
                pass(&cases::attack("trial", options()));
            }

            #[test]
            fn rogue_harms_nobody_and_provokes_every_refusal() {
                every_refusal(&pass(&cases::attack("rogue", options())));
            }
        })*

        #[test]
        fn the_list_above_names_every_machine_with_several_cores() {
            let listed = [$(MachineOptions { smp: $smp, gic: $gic, ..MachineOptions::default() },)*];
            assert_eq!(listed.as_slice(), cases::several_cores());
        }
    };
}

several_cores! {
    gicv2_two_cores: 2 2;
    gicv2_four_cores: 2 4;
    gicv2_eight_cores: 2 8;
    gicv3_two_cores: 3 2;
    gicv3_four_cores: 3 4;
    gicv3_eight_cores: 3 8;
}

#[test]
fn the_prompt_comes_up_on_many_cores() {
    cases::MANY_CORES.map(cases::many_cores).iter().for_each(|case| drop(pass(case)));
}

#[test]
fn promises_hold_on_sixty_four_cores() {
    let options = MachineOptions { smp: 64, memory_kib: 1024 * 1024, ..MachineOptions::default() };
    pass(&cases::attack("trial", options));
}

/// `rogue` prints a line `refused CALL REFUSAL` for each pair it provoked: none of the table of calls may be missing.
fn every_refusal(output: &str) {
    let seen: Vec<&str> = output.lines().filter_map(|line| line.trim().strip_prefix("refused ")).collect();
    let mut missing = Vec::new();
    for info in exo_abi::calls::CALLS {
        for refusal in info.refusals {
            let pair = format!("{} {}", info.name, refusal.name());
            if !seen.contains(&pair.as_str()) {
                missing.push(pair);
            }
        }
    }
    assert!(missing.is_empty(), "rogue did not provoke {} refusals: {}", missing.len(), missing.join(", "));
}

/// What `twin` prints on a machine, by a kernel whose calls take these paths: one line a case.
fn transcript(cpu: &str, paths: Paths) -> Vec<String> {
    let case = Case::new("twin").on(machine(3, cpu, 1)).through(paths);
    let output = pass(&case.forbidding(&["BROKEN", "LEAK", "LOST"]));
    output.lines().filter(|line| line.starts_with("twin")).map(str::to_string).collect()
}

/// Short and general path have the same effects, in every case in which they could differ.
fn twins_agree(cpu: &str) {
    let (short, general) = (transcript(cpu, Paths::Short), transcript(cpu, Paths::General));
    for (short, general) in short.iter().zip(&general) {
        assert_eq!(short, general, "first the short path, then the general one");
    }
    assert_eq!(short.len(), general.len());
    let count = short.len() - 1;
    assert_eq!(short[count], format!("twin: {count} cases, 0 broken, clean true, 0 frames lost"));
    // Each of them does something, and there are those that everything above was written for.
    assert!(count >= 300, "{count} cases");
    for call in ["Call", "ReplyWait", "Notify", "Wait", "YieldTo", "Map"] {
        let begin = format!(" {call}[");
        let answers: BTreeSet<&str> = short
            .iter()
            .flat_map(|line| line.split(&begin).skip(1))
            .filter_map(|text| text.split([' ', ']']).next())
            .collect();
        let refusals = exo_abi::calls::CALLS.iter().find(|info| format!("{:?}", info.call) == call).unwrap().refusals;
        for refusal in refusals {
            // `reply_wait` tells its refusals in x2.
            let number = format!("{:x}", *refusal as u64);
            let told = short.iter().any(|line| line.contains(&format!("{call}[0 0 {number}]")));
            assert!(answers.contains(number.as_str()) || told, "{call} was never refused with {refusal:?}");
        }
    }
}

#[test]
fn both_paths_through_the_kernel_have_the_same_effects_on_cortex_a72() {
    twins_agree("cortex-a72");
}

#[test]
fn both_paths_through_the_kernel_have_the_same_effects_on_cortex_a76() {
    twins_agree("cortex-a76");
}

#[test]
fn calls_are_answered_rightly_whoever_is_killed_revoked_and_restarted_on_cortex_a72() {
    pass(&cases::gates(1, 200_000, machine(2, "cortex-a72", 1)));
}

#[test]
fn calls_are_answered_rightly_whoever_is_killed_revoked_and_restarted_on_cortex_a76() {
    pass(&cases::gates(2, 200_000, machine(3, "cortex-a76", 1)));
}

#[test]
fn channels_between_environments_keep_every_promise() {
    for options in cases::plain_machines() {
        pass(&cases::attack("channels", options));
    }
}

#[test]
fn gates_carry_two_hundred_thousand_calls_between_four_cores_while_servers_come_and_go() {
    for (seed, gic) in [(3, 2), (4, 3)] {
        pass(&cases::gates(seed, 200_000, MachineOptions { smp: 4, gic, ..MachineOptions::default() }));
    }
}

#[test]
fn demo_answers_piped_input_and_switches_off() {
    pass(&cases::demo());
}

#[test]
fn demo_switches_off_at_the_end_of_input() {
    pass(&Case::new("demo").typing("echo so far\n").expecting(&["\nso far\n"]));
}

#[test]
fn demo_restarts_a_killed_console_driver() {
    pass(&Case::new("demo").typing("kill pl011\necho still here\noff\n").expecting(&["\nstill here\n"]));
}

#[test]
fn a_flood_of_near_alarms_starves_nobody_on_a_slow_machine() {
    // Four nanoseconds an instruction: what an interrupt costs is longer than the alarms are apart.
    pass(&cases::attack("rogue", MachineOptions { icount: Some(2), ..cases::machine() }));
}

#[test]
fn peers_keep_every_promise_to_each_other() {
    for options in
        [cases::machine(), machine(2, "cortex-a72", 2), MachineOptions { icount: Some(2), ..cases::machine() }]
    {
        pass(&cases::attack("peers", options));
    }
}

#[test]
fn tiny_runs_in_one_mebibyte() {
    pass(&cases::tiny());
}

#[test]
fn tiny_runs_on_every_machine_that_is_small() {
    for (memory_kib, gic, el) in [(1024, 2, 1), (1024, 3, 2), (2048, 3, 1), (4096, 2, 2), (16 * 1024, 3, 1)] {
        let options = MachineOptions { memory_kib, gic, el, ..cases::machine() };
        pass(&cases::tiny().on(options));
    }
}

#[test]
fn a_crates_folder_is_an_image_too() {
    let folder = folders::repository().join("apps/hello");
    pass(&Case::new(&folder.display().to_string()).expecting(&["Hello"]));
}

/// Block `number` (from 1 on) of this language (with a capital where it is for machines only: rustdoc then leaves it alone) behind a heading of the README in a folder of the repository.
fn readme(folder: &str, heading: &str, language: &str, number: usize) -> String {
    let text = fs::read_to_string(folders::repository().join(folder).join("README.md")).unwrap();
    let (_, section) = text.split_once(heading).unwrap();
    let block = section.split(&format!("\n```{language}\n")).nth(number).unwrap();
    block.split("\n```").next().unwrap().to_string()
}

/// A folder with the crate and the manifest of a README's section, which name the library as it lies beside them.
fn readmes_image(folder: &str, heading: &str, crate_: &str, manifest: &str) -> PathBuf {
    let place = std::env::temp_dir().join(format!("velvet-readme-{crate_}-{}", std::process::id()));
    fs::create_dir_all(place.join(crate_).join("src")).unwrap();
    let libos = folders::repository().join("libos").display().to_string();
    let block = |language, number| readme(folder, heading, language, number);
    fs::write(place.join(crate_).join("Cargo.toml"), block("toml", 1).replace("../velvet/libos", &libos)).unwrap();
    fs::write(place.join(crate_).join("src/main.rs"), block("Rust", 1)).unwrap();
    fs::write(place.join(manifest), block("toml", 2)).unwrap();
    place
}

#[test]
fn the_readmes_own_program_runs_from_its_folder_and_from_its_manifest() {
    let folder = readmes_image("", "## Your own program", "mine", "my.toml");
    for image in ["mine", "my.toml"] {
        pass(&Case::new(&folder.join(image).display().to_string()).expecting(&["Hello from mine."]));
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_service_and_its_client_are_forty_lines() {
    let heading = "## A service and its client";
    let code = readme("libos", heading, "Rust", 1);
    let lines = code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    assert!(lines <= 40, "{lines} lines");
    let folder = readmes_image("libos", heading, "account", "accounts.toml");
    let image = folder.join("accounts.toml").display().to_string();
    pass(&Case::new(&image).expecting(&["After 70 there are 70.", "100 more: Err(Service(30))."]));
    fs::remove_dir_all(folder).unwrap();
}

/// Boots `demo` with changed bytes: the kernel says `reason` and stops.
fn refuses_to_start(name: &str, change: impl Fn(&mut Vec<u8>, u64), reason: &str) {
    tools();
    let options = MachineOptions::default();
    let mut built = build::build(&build::find("demo").unwrap(), &options, &Progress::Silent).unwrap();
    let mut bytes = built.image.bytes.clone();
    change(&mut bytes, built.kernel.bytes.len() as u64);
    built.image_file = folders::output("damaged").unwrap().join(name);
    folders::write(&built.image_file, &bytes).unwrap();
    let arguments = emulator::arguments(&built, &options, &[]);
    let captured = emulator::captured(&arguments, b"", cases::HANGS).unwrap();
    assert!(captured.output.contains(reason), "{}", captured.output);
    assert!(matches!(captured.end, End::Code(code) if code != 0), "{:?}", captured.end);
}

#[test]
fn an_archive_that_is_cut_short_is_named_and_nothing_starts() {
    let cut = |bytes: &mut Vec<u8>, _| bytes.truncate(bytes.len() - 5000);
    refuses_to_start("cut.img", cut, "the archive is cut short");
}

#[test]
fn a_damaged_boot_header_is_named_and_nothing_starts() {
    let flip = |bytes: &mut Vec<u8>, _| bytes[BOOT_HEADER_OFFSET as usize + 60] ^= 4;
    refuses_to_start("header.img", flip, "the boot header is damaged");
}

#[test]
fn a_damaged_manifest_is_named_and_nothing_starts() {
    let flip = |bytes: &mut Vec<u8>, archive| bytes[archive as usize + 100] ^= 4;
    refuses_to_start("manifest.img", flip, "checksum");
}
