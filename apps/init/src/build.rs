//! Building a program's environment: by calls alone, each step checked, and undone when a later one fails.

mod gifts;
mod space;

use crate::archive::Archive;
use crate::failed::{Failed, While};
use crate::numbers::Numbers;
use crate::places::Places;
use alloc::vec::Vec;
use exo_abi::binding::{Rights, first};
use exo_abi::exposed::MachineInfo;
use exo_abi::page::Prot;
use exo_abi::{BINDINGS_PER_FRAME, Handle, NAMES_PER_CALL, Pfn, Refusal};
use gifts::Gifts;
use libos::protocol::supervisor::Given;
use libos::start::Layout;
use libos::sys::{self, EnvFrames, NameKind, Progress, VcoreStart};
use libos::{mem, slots};
use space::Space;
use velvet_manifest::{Manifest, Program};

/// Steps of a destruction before init gives up on it.
const MOST_DESTROY_STEPS: u32 = 1_000_000;

/// What building needs to know and never changes.
#[derive(Debug)]
pub struct Ground {
    /// The image.
    pub manifest: Manifest,
    /// Program texts.
    pub archive: Archive,
    /// The machine.
    pub machine: MachineInfo,
    /// The frame of `machine`.
    pub machine_frame: u64,
    /// The cell of init's own gate and events.
    pub own_cell: u64,
    /// First position of core 0 that is not init's own.
    pub first_position: u64,
}

/// One program to be built.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// Its number in the manifest.
    pub index: usize,
    /// Its line in the manifest.
    pub program: &'a Program,
    /// Its numbers.
    pub numbers: Numbers,
    /// How many lives it had.
    pub life: u64,
    /// The event bit of init's that its signs of life raise.
    pub watchdog_bit: Option<u64>,
    /// The gates of services that run now: the program behind, the program they are for, the binding.
    pub services: &'a [ServiceGate],
}

/// A binding in init's table: the gate of a service, with the badge of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceGate {
    /// Who serves.
    pub server: usize,
    /// Whose badge it carries.
    pub client: usize,
    /// Where it lies.
    pub handle: Handle,
}

/// A built program.
#[derive(Debug)]
pub struct Child {
    /// Its environment, with RUN and DESTROY.
    pub environment: Handle,
    /// Its pool, when the manifest says `debug`.
    pub pool: Option<Handle>,
    /// The gates of its own services, one for each client.
    pub gates: Vec<ServiceGate>,
    /// What lies where.
    pub places: Places,
    /// The bindings it was given.
    pub given: Vec<Given>,
}

/// Builds a program. It does not run yet.
pub fn build(ground: &Ground, order: &Order) -> Result<Child, Failed> {
    if order.program.abi_version != exo_abi::ABI_VERSION {
        return Err(Failed::because(
            "accept it",
            "it was built for another version of the kernel's contract: build the image anew",
        ));
    }
    for segment in &order.program.segments {
        ground.archive.check(segment)?;
    }
    let space = Space::plan(ground, order)?;
    let pool = create_pool(order)?;
    let mut child =
        Child { environment: pool, pool: Some(pool), gates: Vec::new(), places: space.places(), given: Vec::new() };
    match fill(ground, order, &space, pool, &mut child) {
        Ok(()) => Ok(child),
        Err(failed) => {
            // Before there is an environment its place still holds the pool.
            if child.environment == pool {
                destroy_pool(pool)
            } else {
                let _ = destroy(child);
            }
            Err(failed)
        }
    }
}

/// Ends a program and frees what it had; its numbers are init's again. `false`: the kernel does not come to an end with it.
pub fn destroy(child: Child) -> bool {
    let done = steps(|cursor| sys::env_destroy(child.environment, cursor));
    for gate in &child.gates {
        slots::empty(gate.handle);
    }
    slots::empty(child.environment);
    if let Some(pool) = child.pool {
        slots::empty(pool);
    }
    done
}

fn create_pool(order: &Order) -> Result<Handle, Failed> {
    const STEP: &str = "create its pool";
    let slot = slot(STEP)?;
    let Numbers { pool, pool_cell, .. } = order.numbers;
    let created = sys::pool_create(Handle::POOL, pool, pool_cell, order.program.frames, order.program.minimum, slot);
    if created.is_err() {
        slots::give_back(slot);
    }
    created.while_doing(STEP).map(|()| slot)
}

fn fill(ground: &Ground, order: &Order, space: &Space, pool: Handle, child: &mut Child) -> Result<(), Failed> {
    let mut frames = Frames::take(pool, 3 + space.frames())?;
    create_environment(order, pool, &mut frames, child)?;
    let environment = child.environment;
    give_names(order, environment)?;
    space.install_tables(environment, pool, &mut frames)?;
    space.map_segments(ground, order, environment, pool, &mut frames)?;
    create_vcore(order, space.layout(), environment, pool, frames.next())?;
    let mut gifts = Gifts::new(ground, order, environment);
    gifts.give_all()?;
    let info = gifts.start_info(space.layout())?;
    space.map_start_pages(environment, pool, &info, &mut frames)?;
    child.given = gifts.into_given();
    claim_slices(ground, order, environment)?;
    bind_service_gates(ground, order, environment, child)?;
    if !order.program.debug {
        make_private(environment, pool)?;
        child.pool = None;
    }
    Ok(())
}

fn create_environment(order: &Order, pool: Handle, frames: &mut Frames, child: &mut Child) -> Result<(), Failed> {
    const STEP: &str = "create its environment";
    let slot = slot(STEP)?;
    let parts = EnvFrames { environment: frames.next(), root: frames.next(), bindings: frames.next() };
    let Numbers { environment, environment_cell, .. } = order.numbers;
    let created = sys::env_create(pool, environment, environment_cell, parts, slot);
    if created.is_err() {
        slots::give_back(slot);
    } else {
        child.environment = slot;
    }
    created.while_doing(STEP)
}

fn give_names(order: &Order, environment: Handle) -> Result<(), Failed> {
    let Numbers { given_environments, given_pools, given_cells, .. } = order.numbers;
    for (kind, (first, count)) in
        [(NameKind::Environments, given_environments), (NameKind::Pools, given_pools), (NameKind::Cells, given_cells)]
    {
        let mut done = 0;
        while done < count {
            let part = (count - done).min(NAMES_PER_CALL);
            sys::names_give(environment, kind, first + done, part).while_doing("give it numbers")?;
            done += part;
        }
    }
    Ok(())
}

fn create_vcore(order: &Order, layout: &Layout, environment: Handle, pool: Handle, control: Pfn) -> Result<(), Failed> {
    let start = VcoreStart {
        control_frame: control,
        control_va: layout.control,
        pc: order.program.entry,
        sp: layout.upcall_stack_end,
        x0: layout.info,
        core: order.program.slices.first().map_or(0, |slices| u64::from(slices.core)),
    };
    sys::vcore_create_other(environment, 0, &start).while_doing("create its vcore")?;
    space::map(environment, "map its control page", layout.control, &[control], Prot::READ | Prot::WRITE, pool)
}

/// Its first positions are claimed for its vcore; the others wait for vcores it makes itself.
fn claim_slices(ground: &Ground, order: &Order, environment: Handle) -> Result<(), Failed> {
    const STEP: &str = "claim its slices";
    let Some(slices) = order.program.slices.first() else {
        return Err(Failed::because(STEP, "the manifest gives it none"));
    };
    let position = gifts::position(ground, order, 0, STEP)?;
    let terms = sys::SliceTerms { micros: u64::from(slices.micros), exact: slices.exact };
    for index in 0..u64::from(slices.count) {
        sys::slice_claim(first::CORES, u64::from(slices.core), position + index, environment, 0, terms)
            .while_doing(STEP)?;
    }
    Ok(())
}

/// A binding for each program that may call it: later init cannot make any, since it gives the right away.
fn bind_service_gates(ground: &Ground, order: &Order, environment: Handle, child: &mut Child) -> Result<(), Failed> {
    const STEP: &str = "bind its gate";
    let cell = order.numbers.given_cells.0;
    for (client, program) in ground.manifest.programs.iter().enumerate() {
        let calls = program.calls.iter().any(|peer| peer.program as usize == order.index);
        // Init itself says what it has to say through the console.
        let says = client == Manifest::FIRST && is_console(order.program);
        if !calls && !says {
            continue;
        }
        let handle = slot(STEP)?;
        let bound = sys::gate_bind(environment, 0, cell, handle, crate::numbers::badge(client, 0));
        if bound.is_err() {
            slots::give_back(handle);
        }
        bound.while_doing(STEP)?;
        child.gates.push(ServiceGate { server: order.index, client, handle });
    }
    Ok(())
}

/// From here on init can neither see nor change the program: only let it run, and end it.
fn make_private(environment: Handle, pool: Handle) -> Result<(), Failed> {
    const STEP: &str = "give up the rights on it";
    sys::restrict(environment, Rights::ENV_RUN | Rights::ENV_DESTROY).while_doing(STEP)?;
    sys::restrict(pool, Rights::empty()).while_doing(STEP)?;
    slots::give_back(pool);
    Ok(())
}

/// It offers the service that init speaks through.
pub fn is_console(program: &Program) -> bool {
    program.services.iter().any(|service| service == "console")
}

/// Its vcore runs from now on.
pub fn start(child: &Child) -> Result<(), Failed> {
    sys::vcore_start(child.environment, 0).while_doing("start its vcore")
}

/// Frames of a child's pool, handed out one by one.
struct Frames {
    frames: Vec<Pfn>,
    used: usize,
}

impl Frames {
    fn take(pool: Handle, count: u64) -> Result<Frames, Failed> {
        const STEP: &str = "find frames for it";
        let mut frames = alloc::vec![Pfn(0); count as usize];
        match mem::alloc_frames(pool, &mut frames) {
            Err(Refusal::QuotaExceeded) => {
                Err(Failed::because(STEP, "its quota is too small: raise `frames` in the manifest"))
            }
            taken => taken.while_doing(STEP).map(|()| Frames { frames, used: 0 }),
        }
    }

    /// The next one. There are as many as the plan counted.
    fn next(&mut self) -> Pfn {
        self.used += 1;
        self.frames[self.used - 1]
    }

    /// The next `count`.
    fn next_many(&mut self, count: u64) -> &[Pfn] {
        let from = self.used;
        self.used += count as usize;
        &self.frames[from..self.used]
    }
}

fn slot(step: &'static str) -> Result<Handle, Failed> {
    slots::take().ok_or(Failed::because(step, "init's binding table is full"))
}

fn destroy_pool(pool: Handle) {
    steps(|cursor| sys::pool_destroy(pool, cursor));
    slots::empty(pool);
}

fn steps(mut step: impl FnMut(u64) -> Result<Progress, Refusal>) -> bool {
    let mut cursor = 0;
    for _ in 0..MOST_DESTROY_STEPS {
        match step(cursor) {
            Ok(Progress::Done) => return true,
            Ok(Progress::Again(next)) => cursor = next,
            Err(_) => return false,
        }
    }
    false
}

/// Slots of a new binding table.
const SLOTS: u16 = BINDINGS_PER_FRAME as u16;
