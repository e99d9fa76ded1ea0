//! Who may ask what: the answers to programs that are made up, on a host where every call of the kernel is refused.

use super::*;
use crate::archive::Archive;
use crate::build::{Child, Ground, ServiceGate};
use crate::example::manifest;
use crate::numbers::{Supply, badge};
use crate::out::Out;
use crate::places::Places;
use crate::restart::Life;
use exo_abi::exposed::MachineInfo;
use libos::protocol::supervisor::{Given, request, request_named};
use velvet_manifest::Peer;

const DRIVER: usize = 1;
const SHELL: usize = 2;

/// The machine of a host: nothing is there.
fn machine() -> MachineInfo {
    MachineInfo {
        layout_version: 1,
        abi_version: 1,
        build_id: [0; 16],
        features: 0,
        timer_hz: 1_000_000,
        cores: 1,
        gic_version: 2,
        interrupt_lines: 64,
        first_frame: 0,
        frames: 256,
        frames_of_ram: 256,
        frames_free_at_start: 200,
        frames_ignored: 0,
        bitmap_frame: 0,
        bitmap_frames: 0,
        slices_frame: 0,
        device_tree_frame: 0,
        device_tree_offset: 0,
        device_tree_bytes: 0,
        archive_frame: 100,
        archive_frames: 12,
        uart_frame: 0,
        kernel_frames: 40,
        entry_ticks: 0,
        first_user_ticks: 0,
        kernel_text_bytes: 0,
        kernel_data_bytes: 0,
    }
}

/// A driver and a shell that live, each in its first life.
fn world() -> World {
    let ground = Ground {
        manifest: manifest(),
        archive: Archive::of(&machine()),
        machine: machine(),
        machine_frame: 7,
        own_cell: 5,
        first_position: 1,
    };
    let mut world = World::new(ground, Supply::from(2, 3, 6), Out::new());
    for index in [DRIVER, SHELL] {
        world.programs[index].lives = 1;
        world.programs[index].life.began(0);
        world.programs[index].child = Some(child(index));
    }
    world
}

fn child(index: usize) -> Child {
    let name = Name::from_words(&name_to_words("arm,pl011"));
    let gate = ServiceGate { server: DRIVER, client: SHELL, handle: Handle(33) };
    Child {
        environment: Handle(40 + index as u16),
        pool: None,
        gates: if index == DRIVER { vec![gate] } else { vec![] },
        places: Places::default(),
        given: vec![Given { name, handle: 2, kind: 7, rights: 3, first: 0x9000, count: 1 }],
    }
}

fn code(world: &mut World, caller: usize, words: &Words) -> u8 {
    answer(world, badge(caller, 0), words).words[0] as u8
}

#[test]
fn a_service_is_sent_to_who_may_call_it_without_the_right_to_pass_it_on() {
    let mut world = world();
    let sent = answer(&mut world, badge(SHELL, 0), &request_named(RESOLVE, "console"));
    assert_eq!(sent.send, Some((Handle(33), Rights::GATE_CALL)));
    let refused = answer(&mut world, badge(DRIVER, 0), &request_named(RESOLVE, "console"));
    assert_eq!((refused.words[0] as u8, refused.send), (status::FORBIDDEN, None));
    assert_eq!(code(&mut world, SHELL, &request_named(RESOLVE, "nothing")), status::FORBIDDEN);
}

#[test]
fn a_service_that_is_down_is_asked_for_again_later() {
    let mut world = world();
    world.programs[DRIVER].child = None;
    let later = answer(&mut world, badge(SHELL, 0), &request_named(RESOLVE, "console"));
    assert_eq!((later.words[0] as u8, later.send), (status::STATE, None));
}

#[test]
fn a_service_that_starts_on_demand_is_started_by_who_may_call_it() {
    let mut world = world();
    for start in [Start::AtBoot, Start::OnDemand] {
        world.programs[DRIVER].child = None;
        world.programs[DRIVER].life = Life::new();
        world.ground.manifest.programs[DRIVER].start = start;
        assert_eq!(code(&mut world, DRIVER, &request_named(RESOLVE, "console")), status::FORBIDDEN);
        assert_eq!(code(&mut world, SHELL, &request_named(RESOLVE, "console")), status::STATE);
        // A host cannot build it: it was tried, and waits for its restart.
        let expected = if start == Start::OnDemand { State::Waiting } else { State::Idle };
        assert_eq!(world.state(DRIVER), Some(expected));
    }
}

#[test]
fn a_former_life_and_a_stranger_are_told_nothing() {
    let mut world = world();
    for badge in [0, badge(SHELL, 1), badge(SHELL, 9), badge(70, 0), u64::MAX] {
        let words = answer(&mut world, badge, &request(MEMORY, 0)).words;
        assert_eq!(words, Answer::status(status::FORBIDDEN).words, "{badge:#x}");
    }
    world.programs[SHELL].child = None;
    assert_eq!(code(&mut world, SHELL, &request(KICK, 0)), status::FORBIDDEN);
}

#[test]
fn only_who_may_call_init_may_look() {
    let mut world = world();
    world.failures.record(libos::protocol::supervisor::Failure::from_words(&[0; 7]));
    for words in [request(MEMORY, 0), request(BINDINGS, 1), request(FAULTS, 0)] {
        assert_eq!(code(&mut world, SHELL, &words), status::OK);
        assert_eq!(code(&mut world, DRIVER, &words), status::FORBIDDEN);
    }
    assert_eq!(code(&mut world, DRIVER, &request(KICK, 0)), status::OK);
}

#[test]
fn only_who_has_power_may_change_anything() {
    let mut world = world();
    for words in [request_named(START, "pl011"), request_named(KILL, "pl011"), request(POWER, power::OFF as u32)] {
        assert_eq!(code(&mut world, SHELL, &words), status::FORBIDDEN);
    }
    world.ground.manifest.programs[SHELL].power = true;
    assert_eq!(code(&mut world, SHELL, &request_named(START, "pl011")), status::STATE, "it runs already");
    assert_eq!(code(&mut world, SHELL, &request_named(START, "nobody")), status::NOT_FOUND);
    assert_eq!(code(&mut world, SHELL, &request_named(KILL, "nobody")), status::NOT_FOUND);
    assert_eq!(code(&mut world, SHELL, &request_named(KILL, "init")), status::FORBIDDEN);
    assert_eq!(code(&mut world, SHELL, &request(POWER, 77)), status::BAD);
}

#[test]
fn numbers_beyond_the_end_find_nothing() {
    let mut world = world();
    for code_asked in [LIST, BINDINGS, FAULTS] {
        for number in [99, u32::MAX] {
            assert_eq!(code(&mut world, SHELL, &request(code_asked, number)), status::NOT_FOUND);
        }
    }
    let mut far = request(BINDINGS, 1);
    far[1] = u64::MAX;
    assert_eq!(code(&mut world, SHELL, &far), status::NOT_FOUND);
    assert_eq!(code(&mut world, SHELL, &request(200, 0)), status::UNKNOWN);
}

#[test]
fn what_cannot_be_built_is_said_and_waits_for_its_restart() {
    let mut world = world();
    world.programs[SHELL].child = None;
    world.ground.manifest.programs[SHELL].power = true;
    world.ground.manifest.programs[DRIVER].power = true;
    world.ground.manifest.programs[DRIVER].calls = vec![Peer { service: "init".into(), program: 0 }];
    assert_eq!(code(&mut world, DRIVER, &request_named(START, "shell")), status::FULL);
    assert_eq!(world.state(SHELL), Some(State::Waiting));
    let told = format!("{:?}", world.out);
    assert!(told.contains("shell: could not check its pages in the archive"), "{told}");
}
