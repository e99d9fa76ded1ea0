//! Servers and clients, and what is done to them.

use crate::Dice;
use crate::code::{Code, FACTOR, GATES, OWN_EVENT, TAKE_BACK, word};
use crate::places::{Place, Places};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::time::Duration;
use exo_abi::binding::Rights;
use exo_abi::{Handle, Refusal};
use libos::sys::{self, Report, StopReason};
use libos::time::{self, Instant};
use libos::{println, slots};
use workshop::{Child, DATA_VA, Ground};

/// Servers; each but the last calls the next.
const SERVERS: usize = 4;
/// Clients, who call all of them.
const CLIENTS: usize = 6;
/// So long without an answer, and something is lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// Answers from one line to the next.
const PROGRESS: u64 = 50_000;
/// Steps until somebody else runs.
const STEPS_AT_ONCE: u64 = 4;
/// Refusals that are counted.
const REFUSALS: usize = 32;
/// Words of its page that a new environment inherits.
const KEPT: u64 = 64;

/// What is done.
const DEEDS: [&str; 8] = [
    "servers restarted",
    "servers rebuilt",
    "gates taken back",
    "clients restarted",
    "clients rebuilt",
    "slices moved",
    "events raised",
    "servers that died revived",
];

/// What went wrong.
pub enum Wrong {
    /// The kernel refused what it must not.
    Refused(Refusal),
    /// This was seen.
    Seen(String),
}

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Wrong {
        Wrong::Refused(refusal)
    }
}

/// A refusal of something done to an actor.
fn seen(what: &str, index: usize, refusal: Refusal) -> Wrong {
    Wrong::Seen(format!("{what} number {}: {refusal:?}", index + 1))
}

/// A server or client: an environment with one vcore.
struct Actor {
    code: Code,
    id: u64,
    core: u64,
    child: Child,
    /// The cell that its gates carry, and the one of its event.
    cells: [u64; 2],
    /// Events of it: to take its gates back, and another one.
    events: [Handle; 2],
    place: Option<Place>,
}

/// All of them.
pub struct Cast<'a> {
    ground: &'a Ground,
    places: &'a Places,
    dice: Dice,
    calls: u64,
    /// Servers first.
    actors: Vec<Actor>,
    deeds: [u64; DEEDS.len()],
    /// What it is at, for who reads why it failed.
    pub doing: &'static str,
    /// How often each refusal was met.
    pub refusals: [u64; REFUSALS],
}

/// The badge that actor `id` has at server `server`: never 0.
const fn badge(id: u64, server: usize) -> u64 {
    id << 8 | (server as u64 + 1)
}

impl<'a> Cast<'a> {
    /// Everybody begins.
    pub fn begin(ground: &'a Ground, places: &'a Places, seed: u64, calls: u64) -> Result<Cast<'a>, Refusal> {
        let mut cast = Cast {
            ground,
            places,
            dice: Dice(seed),
            calls,
            actors: Vec::new(),
            deeds: [0; DEEDS.len()],
            doing: "",
            refusals: [0; REFUSALS],
        };
        let cores = places.cores();
        for index in 0..SERVERS + CLIENTS {
            let code = if index < SERVERS { Code::Server } else { Code::Client };
            let mut page = [0; KEPT as usize];
            page[(word::DICE / 8) as usize] = cast.dice.roll() | 1;
            page[(word::ID / 8) as usize] = index as u64 + 1;
            page[(word::FACTOR / 8) as usize] = FACTOR;
            if index < SERVERS {
                page[(word::BADGE / 8) as usize] = badge(index as u64 + 1, index + 1);
            } else {
                let client = (index - SERVERS) as u64;
                let share = calls / CLIENTS as u64 + u64::from(client < calls % CLIENTS as u64);
                page[(word::REMAINING / 8) as usize] = share;
            }
            let actor = cast.make(code, index as u64 + 1, cores[index % cores.len()], &page)?;
            cast.actors.push(actor);
        }
        for index in 0..SERVERS + CLIENTS {
            cast.connect_all(index)?;
        }
        for actor in &cast.actors {
            sys::vcore_start(actor.child.env, 0)?;
        }
        Ok(cast)
    }

    /// An environment for a role, whose page holds this; it has a slice and is not started.
    fn make(&mut self, code: Code, id: u64, core: u64, page: &[u64]) -> Result<Actor, Refusal> {
        let mut child = Child::build(self.ground, 1)?.with(Code::blob())?;
        child.vcore_on(core, code.va(), DATA_VA, 0)?;
        let cells = [child.own_cell(self.ground)?, child.own_cell(self.ground)?];
        let mut view = child.view(0)?;
        page.iter().enumerate().for_each(|(index, value)| view.write_u64(index as u64 * 8, *value));
        view.write_u64(word::CELL, cells[0]);
        drop(view);
        let mut events = [Handle(0); 2];
        for (event, bit) in events.iter_mut().zip([TAKE_BACK, 2]) {
            *event = self.ground.take_slot()?;
            sys::event_bind(child.env, 0, cells[1], *event, bit)?;
        }
        let own = self.ground.take_slot()?;
        sys::event_bind(child.env, 0, cells[1], own, 7)?;
        child.give(own, Handle(OWN_EVENT as u16), Rights::EVENT_NOTIFY | Rights::GRANT)?;
        slots::empty(own);
        let place = Some(self.places.claim(core, child.env, 20 + self.dice.below(60))?);
        Ok(Actor { code, id, core, child, cells, events, place })
    }

    /// Gives an actor the gate of a server, unless it has one there still.
    fn connect(&self, server: usize, actor: usize) -> Result<(), Refusal> {
        let (callee, caller) = (&self.actors[server], &self.actors[actor]);
        let handle = if actor < SERVERS { GATES } else { GATES + server as u64 };
        let own = self.ground.take_slot()?;
        sys::gate_bind(callee.child.env, 0, callee.cells[0], own, badge(caller.id, server))?;
        let given = caller.child.give(own, Handle(handle as u16), Rights::GATE_CALL);
        slots::empty(own);
        match given {
            // Its owner may take it back at this very moment.
            Err(Refusal::SlotTaken | Refusal::Stale) => Ok(()),
            given => given,
        }
    }

    /// All connections of an actor.
    fn connect_all(&self, index: usize) -> Result<(), Refusal> {
        for server in 0..SERVERS {
            let clients = SERVERS..SERVERS + CLIENTS;
            for actor in clients.chain(server.checked_sub(1)) {
                if server == index || actor == index {
                    self.connect(server, actor)?;
                }
            }
        }
        Ok(())
    }

    fn begin_anew(&self, index: usize) -> Result<(), Refusal> {
        let actor = &self.actors[index];
        actor.child.start_at(0, actor.code.va(), DATA_VA, 0)
    }

    fn word(&self, index: usize, offset: u64) -> Result<u64, Refusal> {
        Ok(self.actors[index].child.view(0)?.read_u64(offset))
    }

    /// Does something to somebody.
    fn step(&mut self) -> Result<(), Wrong> {
        let server = self.dice.below(SERVERS as u64) as usize;
        let client = SERVERS + self.dice.below(CLIENTS as u64) as usize;
        let deed = [0, 0, 1, 2, 2, 3, 3, 4, 5, 5, 5, 6, 6, 6, 6, 6][self.dice.below(16) as usize];
        self.doing = DEEDS[deed];
        match deed {
            0 => self.kill(server)?,
            1 => self.rebuild(server)?,
            2 => sys::notify(self.actors[server].events[0])?,
            3 => self.kill(client)?,
            4 => self.rebuild(client)?,
            5 => {
                let who = self.dice.below((SERVERS + CLIENTS) as u64) as usize;
                self.move_slice(who)?;
            }
            _ => sys::notify(self.actors[server].events[1])?,
        }
        self.deeds[deed] += 1;
        self.doing = "gates given";
        // Whose gates went gets others, as soon as it has dropped the old ones.
        for _ in 0..4 {
            let server = self.dice.below(SERVERS as u64) as usize;
            let caller = SERVERS + self.dice.below(CLIENTS as u64) as usize;
            self.connect(server, caller)?;
            if server > 0 {
                self.connect(server, server - 1)?;
            }
        }
        Ok(())
    }

    /// Stops it in the middle of whatever it does, and lets it begin anew.
    fn kill(&mut self, index: usize) -> Result<(), Wrong> {
        let report = self.actors[index].child.stop(0).map_err(|refusal| seen("stopping", index, refusal))?;
        self.judge(index, &report)?;
        if self.is_done(index)? {
            return Ok(());
        }
        self.begin_anew(index).map_err(|refusal| seen("starting again", index, refusal))
    }

    /// Destroys its environment in the middle of whatever it does; another one takes its part.
    fn rebuild(&mut self, index: usize) -> Result<(), Wrong> {
        let report = self.actors[index].child.stop(0)?;
        self.judge(index, &report)?;
        if self.is_done(index)? {
            return Ok(());
        }
        let view = self.actors[index].child.view(0)?;
        let page: Vec<u64> = (0..KEPT).map(|word| view.read_u64(word * 8)).collect();
        drop(view);
        let (code, id, core) = (self.actors[index].code, self.actors[index].id, self.actors[index].core);
        // The old one ends after the new one began: no number and no frame of it comes back at once.
        let fresh = self.make(code, id, core, &page)?;
        let old = core::mem::replace(&mut self.actors[index], fresh);
        self.destroy(old)?;
        self.connect_all(index)?;
        Ok(sys::vcore_start(self.actors[index].child.env, 0)?)
    }

    fn destroy(&self, actor: Actor) -> Result<(), Refusal> {
        actor.events.into_iter().for_each(slots::empty);
        let place = actor.place;
        actor.child.destroy(self.ground)?;
        place.into_iter().for_each(|place| self.places.give_back(place));
        Ok(())
    }

    /// Takes its slice away, or gives it one.
    fn move_slice(&mut self, index: usize) -> Result<(), Refusal> {
        let micros = 20 + self.dice.below(60);
        let actor = &mut self.actors[index];
        match actor.place.take() {
            Some(place) => self.places.release(place)?,
            None => actor.place = Some(self.places.claim(actor.core, actor.child.env, micros)?),
        }
        Ok(())
    }

    /// Whether it stopped as it may.
    fn judge(&self, index: usize, report: &Report) -> Result<(), Wrong> {
        let wrong = self.word(index, word::WRONG)? != 0;
        let server = index < SERVERS;
        let may = match report.reason {
            StopReason::Halted(0) => !server,
            StopReason::Faulted => server && report.frame.address == 0,
            StopReason::Stopped | StopReason::New => true,
            StopReason::Halted(_) => false,
        };
        if may && !wrong {
            return Ok(());
        }
        let view = self.actors[index].child.view(0)?;
        let registers: Vec<u64> = (0..9).map(|word| view.read_u64(word::REGISTERS + word * 8)).collect();
        Err(Wrong::Seen(format!(
            "{} {} ended with {:?} at {:#x}; it had seen {registers:x?} in call {:#x}",
            if server { "server" } else { "client" },
            self.actors[index].id,
            report.reason,
            report.frame.pc,
            view.read_u64(word::CALLS),
        )))
    }

    fn is_done(&self, index: usize) -> Result<bool, Refusal> {
        Ok(index >= SERVERS && self.word(index, word::REMAINING)? == 0)
    }

    /// Calls that were answered.
    pub fn answered(&self) -> u64 {
        let remaining: u64 =
            (SERVERS..self.actors.len()).map(|index| self.word(index, word::REMAINING).unwrap_or(0)).sum();
        self.calls.saturating_sub(remaining)
    }

    /// Until all calls are answered; somebody is disturbed all the time.
    pub fn play(&mut self) -> Result<(), Wrong> {
        let begin = Instant::now();
        let (mut answered, mut since, mut said) = (0, Instant::now(), 0);
        while answered < self.calls {
            for _ in 0..self.dice.below(STEPS_AT_ONCE) {
                self.step()?;
            }
            self.doing = DEEDS[7];
            self.look()?;
            // Somebody without slices, and nobody to lend any: time goes on all the same.
            time::sleep(Duration::from_micros(20 + self.dice.below(200)));
            let now = self.answered();
            if now / PROGRESS != said {
                said = now / PROGRESS;
                println!("gates: {now} so far, in {:?}", Instant::now() - begin);
            }
            if now != answered {
                (answered, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                return Err(Wrong::Seen(format!("after {answered} answers none comes any more: something is lost")));
            }
        }
        // The last answers are in: whoever asked halts.
        for index in SERVERS..self.actors.len() {
            if self.actors[index].place.is_none() {
                self.move_slice(index)?;
            }
            let report = self.actors[index].child.await_stop(0, PATIENCE)?;
            self.judge(index, &report)?;
        }
        Ok(())
    }

    /// Whoever died by itself is revived, if it was allowed to.
    fn look(&mut self) -> Result<(), Wrong> {
        for index in 0..self.actors.len() {
            let Ok(report) = sys::vcore_report(self.actors[index].child.env, 0) else { continue };
            self.judge(index, &report)?;
            if !self.is_done(index)? {
                self.deeds[7] += 1;
                self.begin_anew(index)?;
            }
        }
        Ok(())
    }

    /// Says what happened.
    pub fn tell(&mut self) {
        for index in 0..self.actors.len() {
            let Ok(view) = self.actors[index].child.view(0) else { continue };
            for (refusal, count) in self.refusals.iter_mut().enumerate() {
                *count += view.read_u64(word::REFUSED + refusal as u64 * 8);
            }
        }
        let mut line = format!("gates: {} answered", self.answered());
        for refusal in Refusal::ALL.iter().filter(|refusal| self.refusals[**refusal as usize] != 0) {
            let _ = write!(line, ", {} {}", self.refusals[*refusal as usize], refusal.name());
        }
        println!("{line}");
        let mut line = String::from("gates:");
        for (what, count) in DEEDS.iter().zip(self.deeds) {
            let _ = write!(line, " {count} {what};");
        }
        println!("{line}");
    }

    /// Says who saw what must not be.
    pub fn witnesses(&self) {
        for (index, actor) in self.actors.iter().enumerate() {
            let Ok(view) = actor.child.view(0) else { continue };
            let state = sys::vcore_report(actor.child.env, 0).map(|report| report.reason);
            if index < SERVERS || view.read_u64(word::WRONG) != 0 || state.is_ok() {
                let words: Vec<u64> = (0..KEPT / 2).map(|word| view.read_u64(word * 8)).collect();
                println!("gates: number {} on core {}, {state:?}, has {words:x?}", actor.id, actor.core);
            }
        }
    }

    /// Everybody ends.
    pub fn end(mut self) -> Result<(), Refusal> {
        while let Some(actor) = self.actors.pop() {
            self.destroy(actor)?;
        }
        Ok(())
    }
}
