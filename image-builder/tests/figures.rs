//! What the bench image says, and what is made of it.

use image_builder::commands::bench::{Figures, OPERATIONS, as_json, compare, missed, read, read_boot, read_budgets};
use std::collections::BTreeMap;

fn output() -> String {
    let mut text = String::from("Velvet\ncalibration 1000 1001\n");
    for name in OPERATIONS {
        text.push_str(&format!("bench {name} 100000 10000\n"));
    }
    text + "bench done\n"
}

fn sizes() -> BTreeMap<String, u64> {
    ["kernel_text_rodata", "kernel_data_bss", "kernel_lines"].map(|name| (name.to_string(), 3000)).into()
}

#[test]
fn figures_are_read_from_the_guests_lines() {
    let figures = read(&output());
    assert_eq!(figures.calibration, Some((1000, 1001)));
    assert_eq!(figures.operations["null_call"], (100_000, 10_000));
    assert!(figures.done);
}

#[test]
fn lines_that_are_cut_or_garbled_are_no_figures() {
    let figures = read("bench null_call 12\nbench null_call x 3\ncalibration 5\nbenchdone\n");
    assert_eq!(figures, Figures::default());
}

#[test]
fn figures_within_budgets_are_accepted() {
    assert_eq!(compare(&read(&output()), &sizes(), &read_budgets().unwrap()), Vec::<String>::new());
}

#[test]
fn every_excess_and_every_gap_is_named() {
    let mut budgets = read_budgets().unwrap();
    budgets.missed.clear();
    let slow = output().replace("null_call 100000", "null_call 170000");
    assert_eq!(compare(&read(&slow), &sizes(), &budgets), ["null_call takes 17.0, at most 16"]);
    let gap = output().replace("bench grant 100000 10000\n", "");
    assert_eq!(compare(&read(&gap), &sizes(), &budgets), ["grant was not measured"]);
    let skewed = output().replace("1000 1001", "1000 1011");
    assert!(compare(&read(&skewed), &sizes(), &budgets)[0].contains("calibration"));
    let mut large = sizes();
    large.insert("kernel_lines".to_string(), 4001);
    assert_eq!(compare(&read(&output()), &large, &budgets), ["kernel_lines is 4001, at most 4000"]);
}

#[test]
fn what_is_known_to_miss_its_budget_has_a_ceiling_and_is_named() {
    let mut budgets = read_budgets().unwrap();
    budgets.missed = [("kernel_lines".to_string(), 5000)].into();
    let mut large = sizes();
    large.insert("kernel_lines".to_string(), 4500);
    assert_eq!(compare(&read(&output()), &large, &budgets), Vec::<String>::new());
    assert_eq!(missed(&read(&output()), &large, &budgets), ["kernel_lines: 4500 instead of 4000"]);
    large.insert("kernel_lines".to_string(), 5001);
    assert_eq!(compare(&read(&output()), &large, &budgets), ["kernel_lines is 5001, at most 5000"]);
}

#[test]
fn budgets_are_for_operations_that_exist() {
    for name in read_budgets().unwrap().operations.keys() {
        assert!(OPERATIONS.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn the_json_has_the_agreed_form() {
    let json = as_json(&read(&output()), &sizes());
    assert_eq!(json["calibration"]["expected"], 1000);
    assert_eq!(json["calibration"]["measured"], 1001);
    assert_eq!(json["operations"]["null_call"]["instructions"], 10.0);
    assert_eq!(json["operations"]["null_call"]["iterations"], 10_000);
    assert_eq!(json["sizes"]["kernel_lines"], 3000);
}

#[test]
fn the_boot_is_read_from_what_the_shell_says() {
    assert_eq!(read_boot("free  3 frames\nboot 123456 ns\nvelvet> off\n"), Some(123_456));
    assert_eq!(read_boot("boot soon\nbooted 5 ns\n"), None);
}
