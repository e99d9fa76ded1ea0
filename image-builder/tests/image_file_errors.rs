//! What is wrong with an image file is said with its line and a remedy.

mod common;

use common::{checked, wrong};

/// `init` and whatever else; line 5 is the first line of `rest`.
fn with_init(rest: &str) -> String {
    format!("[[program]]\nname = \"init\"\ncrate = \"./hello/\"\nframes = 10\n{rest}")
        .replace("./hello/", "../../apps/hello")
}

#[track_caller]
fn says(text: &str, line: usize, what: &str, remedy: &str) {
    let error = wrong(text);
    let said = error.to_string();
    assert_eq!(error.line(), Some(line), "{said}");
    assert!(said.contains(&format!("test.toml:{line}: ")), "{said}");
    assert!(said.contains(what), "{said}");
    assert!(said.contains("remedy: ") && said.contains(remedy), "{said}");
}

fn program(keys: &str) -> String {
    with_init(&format!("[[program]]\nname = \"other\"\ncrate = \"hello\"\nframes = 20\n{keys}"))
}

#[test]
fn a_good_image_file_is_accepted() {
    let plan = checked(&program(
        "minimum = 5\ndevices = [{ compatible = \"arm,pl011\" }]\ncalls = [\"init\"]\nwatchdog_ms = 100\n",
    ));
    let plan = plan.unwrap();
    let other = &plan.programs[1].program;
    assert_eq!((other.frames, other.minimum, other.stack_pages), (20, 5, 8));
    assert_eq!(other.calls[0].program, 0);
    assert_eq!(other.services, ["other"]);
    let uart = &other.devices[0];
    assert_eq!((uart.first_frame, uart.frames, uart.name.as_str()), (0x9000, 1, "/pl011@9000000"));
    assert_eq!(uart.lines.len(), 1);
    assert_eq!((uart.lines[0].number, uart.lines[0].edge), (33, false));
    assert_eq!(plan.quota, 30);
}

#[test]
fn every_image_of_this_repository_is_accepted() {
    for name in image_builder::build::names().unwrap() {
        let policy = image_builder::build::find(&name).unwrap();
        image_builder::check::check(&policy, common::machine()).unwrap();
    }
}

#[test]
fn text_that_is_no_toml_is_refused() {
    says("[[program]]\nname = init\n", 2, "", "README");
}

#[test]
fn an_unknown_key_is_refused() {
    says(&program("memory = 4\n"), 9, "unknown field `memory`", "README");
    says(&with_init("[files]\n"), 5, "unknown field `files`", "README");
}

#[test]
fn a_missing_key_is_refused() {
    says("[[program]]\nname = \"init\"\n", 1, "missing field `frames`", "README");
}

#[test]
fn a_value_of_the_wrong_kind_is_refused() {
    says(&program("power = 1\n"), 9, "invalid type", "README");
    says(&program("start = \"never\"\n"), 9, "unknown variant", "README");
}

#[test]
fn an_image_without_programs_is_refused() {
    says("", 1, "1 to 40 programs", "[[program]]");
}

#[test]
fn a_name_that_is_taken_or_no_name_is_refused() {
    says(
        &with_init("[[program]]\nname = \"init\"\nframes = 1\n"),
        6,
        "a second program is called `init`",
        "name of its own",
    );
    says("[[program]]\nname = \"a b\"\nframes = 1\n", 2, "`a b` is not a name", "letters");
}

#[test]
fn a_missing_crate_is_refused() {
    says(&with_init("[[program]]\nname = \"nobody\"\nframes = 1\n"), 6, "there is no crate `nobody`", "apps/");
    says(&program("").replace("\"hello\"", "\"./nowhere\""), 7, "there is no crate `./nowhere`", "path");
}

#[test]
fn an_unknown_device_is_refused() {
    says(&program("devices = [\n  { compatible = \"acme,laser\" },\n]\n"), 10, "no device `acme,laser`", "arm,pl011");
}

#[test]
fn a_device_of_which_there_are_several_is_named_by_its_address() {
    says(&program("devices = [{ compatible = \"virtio,mmio\" }]\n"), 9, "has 32 `virtio,mmio`", "0xa000000");
    says(&program("devices = [{ compatible = \"virtio,mmio\", at = 1 }]\n"), 9, "no `virtio,mmio` at 0x1", "0xa000000");
    assert!(checked(&program("devices = [{ compatible = \"virtio,mmio\", at = 0xa000200 }]\n")).is_ok());
}

#[test]
fn the_kernels_devices_cannot_be_claimed() {
    says(
        &program("devices = [{ compatible = \"arm,gic-v3\" }]\n"),
        9,
        "the kernel itself drives `arm,gic-v3`",
        "remove",
    );
}

#[test]
fn a_line_claimed_twice_is_refused() {
    let claim = "devices = [{ compatible = \"arm,pl011\" }]\n";
    let third = format!("[[program]]\nname = \"third\"\ncrate = \"hello\"\nframes = 20\n{claim}");
    says(
        &format!("{}{third}", program(claim)),
        14,
        "interrupt line 33 of `arm,pl011` is claimed by `other`",
        "one driver",
    );
}

#[test]
fn registers_claimed_twice_are_refused() {
    let claim = |at: &str| format!("devices = [{{ compatible = \"virtio,mmio\", at = {at} }}]\n");
    let third = format!("[[program]]\nname = \"third\"\ncrate = \"hello\"\nframes = 20\n{}", claim("0xa000200"));
    says(&format!("{}{third}", program(&claim("0xa000000"))), 14, "register frame 0xa000", "one driver");
}

#[test]
fn debug_output_through_a_claimed_device_is_no_second_claim() {
    let claim = "devices = [{ compatible = \"arm,pl011\" }]\n";
    let debug = "devices = [{ compatible = \"arm,pl011\", access = \"debug\" }]\n";
    let third = format!("[[program]]\nname = \"third\"\ncrate = \"hello\"\nframes = 20\n{debug}");
    let plan = checked(&format!("{}{third}", program(claim))).unwrap();
    assert!(plan.programs[2].program.devices[0].lines.is_empty());
}

#[test]
fn quotas_above_the_ram_are_refused() {
    says(&program("").replace("20", "65536"), 8, "the quotas add up to 65546 frames", "--memory");
}

#[test]
fn a_minimum_above_the_quota_is_refused() {
    says(&program("minimum = 21\n"), 9, "`minimum` 21 is above the quota of 20", "raise");
}

#[test]
fn a_call_to_nobody_is_refused() {
    says(&program("calls = [\n  \"init\",\n  \"ghost\",\n]\n"), 11, "nobody offers `ghost`", "init, other");
    says(&program("calls = [\"other\"]\n"), 9, "`other` would call itself", "remove");
}

#[test]
fn a_service_has_one_program_behind_it() {
    says(&program("offers = [\"init\"]\n"), 9, "`init` offers `init` already", "rename");
}

#[test]
fn slices_that_a_machine_cannot_give_are_refused() {
    says(&program("slices = []\n"), 9, "never runs", "slices");
    says(&program("slices = [{ core = 1 }]\n"), 9, "no core 1", "--smp");
    says(&program("slices = [{ count = 0 }]\n"), 9, "`count` is 0", "1 to 64");
    says(&program("slices = [{ micros = 19 }]\n"), 9, "19 microseconds", "20 to 1000000");
    says(&program("slices = [{ count = 64 }]\n"), 9, "core 0 has no 65 slices", "64");
    says(&program("slices = [{}, { whole = true }]\n"), 9, "core 0 has no 66 slices", "64");
    says(&program("slices = [{ core = 1, whole = true }]\n"), 9, "no slices of its own", "before");
    says(&program("slices = [{}, { core = 1, whole = true, count = 3 }]\n"), 9, "`count` beside `whole`", "remove");
}

#[test]
fn numbers_out_of_their_range_are_refused() {
    says(&program("stack_pages = 0\n"), 9, "`stack_pages` is 0", "1 to 1024");
    says(&program("watchdog_ms = 0\n"), 9, "`watchdog_ms` is 0", "1 to");
    says(&program("cells = 5000\n"), 9, "`cells` is 5000", "0 to 512");
    says(&program("frames = 5\n"), 9, "duplicate key", "README");
    says(&program("restart = { when = \"always\", base_ms = 9, cap_ms = 8 }\n"), 9, "from 9 to 8 ms", "base_ms");
}

#[test]
fn files_that_are_not_there_are_refused() {
    says(&program("files = [\"motd\"]\n"), 9, "there is no file `motd`", "[[file]]");
    says(&program("[[file]]\nname = \"motd\"\npath = \"nowhere.txt\"\n"), 11, "cannot read", "folder");
    let twice = "[[file]]\nname = \"a\"\npath = \"demo.toml\"\n".repeat(2);
    says(&program(&twice), 13, "a second file is called `a`", "name of its own");
}

#[test]
fn an_image_that_does_not_exist_is_named_with_those_that_do() {
    let error = image_builder::build::find("nothing").unwrap_err().to_string();
    assert!(error.contains("there is no image `nothing`") && error.contains("demo"), "{error}");
}

#[test]
fn one_program_at_most_ends_the_machine() {
    let text = with_init("ends_machine = true\n") + &program("ends_machine = true\n").split_off(with_init("").len());
    says(&text, 8, "`other` ends the machine, and `init` does so already", "remove");
}
