//! What init answers to the programs it made: the supervisor's protocol.

use crate::numbers;
use crate::restart::End;
use crate::world::World;
use exo_abi::Handle;
use exo_abi::binding::Rights;
use exo_abi::calls::power;
use libos::protocol::supervisor::{
    BINDINGS, FAULTS, KICK, KILL, LIST, MEMORY, Memory, POWER, Program, RESOLVE, START, State, head,
};
use libos::protocol::{Name, Words, name_to_words, status};
use libos::time::{self, Instant};
use velvet_manifest::{Manifest, Start};

/// A reply, perhaps with a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The words.
    pub words: Words,
    /// The binding, and the rights that arrive.
    pub send: Option<(Handle, Rights)>,
}

impl Answer {
    /// Words alone.
    pub const fn words(words: Words) -> Answer {
        Answer { words, send: None }
    }

    /// A status alone.
    pub const fn status(status: u8) -> Answer {
        Answer::words([status as u64, 0, 0, 0, 0, 0, 0])
    }
}

/// Answers a call of the program behind `badge`.
pub fn answer(world: &mut World, badge: u64, words: &Words) -> Answer {
    let caller = numbers::program_of(badge);
    let living = world.programs.get(caller).is_some_and(|program| {
        program.child.is_some() && numbers::badge(caller, program.lives.wrapping_sub(1)) == badge
    });
    if !living {
        return Answer::status(status::FORBIDDEN);
    }
    let (code, number) = head(words);
    let number = number as usize;
    match code {
        KICK => {
            world.watchdog.sign_of(caller, Instant::now().0);
            Answer::status(status::OK)
        }
        RESOLVE => resolve(world, caller, words),
        LIST | MEMORY | BINDINGS | FAULTS if !may_look(world, caller) => Answer::status(status::FORBIDDEN),
        LIST => list(world, number),
        MEMORY => memory(world),
        BINDINGS => binding(world, number, words[1] as usize),
        FAULTS => world.failures.get(number).map_or(Answer::status(status::NOT_FOUND), |f| Answer::words(f.to_words())),
        START | KILL | POWER if !world.ground.manifest.programs[caller].power => Answer::status(status::FORBIDDEN),
        START => start(world, words),
        KILL => kill(world, caller, words),
        POWER => switch(world, number as u64, words[1]),
        _ => Answer::status(status::UNKNOWN),
    }
}

/// Who may call init by the manifest may look at everything it tells; the others have its gate for their own matters.
fn may_look(world: &World, caller: usize) -> bool {
    world.ground.manifest.programs[caller].calls.iter().any(|peer| peer.program as usize == Manifest::FIRST)
}

fn list(world: &World, index: usize) -> Answer {
    let Some(program) = world.programs.get(index) else {
        return Answer::status(status::NOT_FOUND);
    };
    let environment = match index {
        Manifest::FIRST => numbers::FIRST_ENVIRONMENT,
        _ => program.numbers.filter(|_| program.child.is_some()).map_or(0, |numbers| numbers.environment),
    };
    let code = match program.life.last {
        None => 0,
        Some(end) => end.exit_code(),
    };
    let used = if environment == 0 { 0 } else { time::used_by(environment) };
    let answer = Program {
        name: Name::from_words(&name_to_words(&world.ground.manifest.programs[index].name)),
        state: program.life.state,
        environment: environment as u8,
        restarts: program.life.restarts,
        failures: program.life.failures,
        code,
        cpu_us: time::duration(used).as_micros() as u64,
    };
    Answer::words(answer.to_words())
}

fn memory(world: &World) -> Answer {
    let machine = &world.ground.machine;
    let alive =
        world.programs.iter().zip(&world.ground.manifest.programs).filter(|(program, _)| program.child.is_some());
    let answer = Memory {
        ram: machine.frames_of_ram,
        free: libos::machine::free_frames(),
        kernel: machine.kernel_frames,
        archive: machine.archive_frames,
        promised: alive.map(|(_, program)| program.frames).sum(),
        machine_info: world.ground.machine_frame,
    };
    Answer::words(answer.to_words())
}

fn binding(world: &World, program: usize, index: usize) -> Answer {
    let child = world.programs.get(program).and_then(|program| program.child.as_ref());
    match child.and_then(|child| child.given.get(index)) {
        Some(given) => Answer::words(given.to_words()),
        None => Answer::status(status::NOT_FOUND),
    }
}

/// Sends the gate of a service to a program that the manifest lets call it. A server that starts on demand does so now.
fn resolve(world: &mut World, caller: usize, words: &Words) -> Answer {
    let name = Name::from_words(&words[1..4]);
    let calls = &world.ground.manifest.programs[caller].calls;
    let Some(peer) = calls.iter().find(|peer| peer.service == name.as_str()) else {
        return Answer::status(status::FORBIDDEN);
    };
    let server = peer.program as usize;
    if world.state(server) == Some(State::Idle) && world.ground.manifest.programs[server].start == Start::OnDemand {
        world.asked_for(server);
    }
    match world.gate(server, caller) {
        Some(gate) => Answer { words: [status::OK as u64, 0, 0, 0, 0, 0, 0], send: Some((gate, Rights::GATE_CALL)) },
        None => Answer::status(status::STATE),
    }
}

fn named(world: &World, words: &Words) -> Option<usize> {
    world.ground.manifest.program(Name::from_words(&words[1..4]).as_str())
}

fn start(world: &mut World, words: &Words) -> Answer {
    match named(world, words) {
        None => Answer::status(status::NOT_FOUND),
        Some(index) if index == Manifest::FIRST || world.programs[index].child.is_some() => {
            Answer::status(status::STATE)
        }
        Some(index) => {
            world.asked_for(index);
            let runs = world.state(index) == Some(State::Running);
            Answer::status(if runs { status::OK } else { status::FULL })
        }
    }
}

/// Ends a program. When the answer comes it is gone; who ends itself gets none.
fn kill(world: &mut World, caller: usize, words: &Words) -> Answer {
    match named(world, words) {
        None => Answer::status(status::NOT_FOUND),
        Some(Manifest::FIRST) => Answer::status(status::FORBIDDEN),
        Some(index) => match world.end(index, End::Killed) {
            Err(_) => Answer::status(status::STATE),
            Ok(()) => {
                if index != caller {
                    world.look_at_children();
                }
                Answer::status(status::OK)
            }
        },
    }
}

fn switch(world: &mut World, what: u64, code: u64) -> Answer {
    match what {
        power::OFF => world.power_off(code),
        power::RESET => world.reset(),
        _ => return Answer::status(status::BAD),
    }
    Answer::status(status::STATE)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
