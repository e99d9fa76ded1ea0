//! A stage: environments and actors of one case, and all that can be seen of what happened on it.

use crate::code::{Code, FOREIGN, LIBRARY, LOAD, ORDER_BYTES, ORDERS, RECORD, STORE};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::mem::offset_of;
use exo_abi::binding::Rights;
use exo_abi::control_page::{ControlPage, Frame};
use exo_abi::page::{ADDRESS_MASK, WINDOW_LEVEL_3};
use exo_abi::{BindingKind, Call, Handle, PAGE_BYTES, Refusal};
use libos::slots;
use libos::sys::{self, StopReason};
use workshop::{CONTROL_VA, Child, DATA_VA, Ground, Order, end_of};

/// Words of a control page.
const WORDS: u64 = PAGE_BYTES / 8;
/// First address that no child has anything at.
const CHILD_END: u64 = 0x2c_0000;

/// The high bits of the kernel's addresses.
const KERNEL: u64 = (1 << 25) - 1;

/// A vcore with orders.
struct Actor {
    child: usize,
    vcore: u64,
    orders: Vec<Order>,
    before: Vec<u64>,
}

/// The stage.
pub struct Stage<'g> {
    /// What the test owns.
    pub ground: &'g Ground,
    children: Vec<Option<Child>>,
    actors: Vec<Actor>,
    handles: Vec<Handle>,
    cells: Vec<u64>,
    line: String,
}

/// An actor of the stage, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who(usize);

impl<'g> Stage<'g> {
    /// Nobody is there.
    pub fn new(ground: &'g Ground) -> Stage<'g> {
        Stage {
            ground,
            children: Vec::new(),
            actors: Vec::new(),
            handles: Vec::new(),
            cells: Vec::new(),
            line: String::new(),
        }
    }

    /// An environment for so many actors.
    pub fn environment(&mut self, actors: usize) -> Result<usize, Refusal> {
        self.children.push(Some(Child::build(self.ground, actors)?.with(Code::blob())?));
        Ok(self.children.len() - 1)
    }

    /// An environment of the stage.
    pub fn child(&self, index: usize) -> Result<&Child, Refusal> {
        self.children[index].as_ref().ok_or(Refusal::WrongState)
    }

    fn child_mut(&mut self, index: usize) -> Result<&mut Child, Refusal> {
        self.children[index].as_mut().ok_or(Refusal::WrongState)
    }

    /// A vcore that will run this code; it is not started.
    pub fn extra(&mut self, environment: usize, code: Code) -> Result<Who, Refusal> {
        let child = self.child_mut(environment)?;
        let page = child.controls.len() as u64;
        let vcore = child.vcore(code.va(), DATA_VA + page * PAGE_BYTES, 0)?;
        self.actors.push(Actor { child: environment, vcore, orders: Vec::new(), before: Vec::new() });
        Ok(Who(self.actors.len() - 1))
    }

    /// A vcore with these orders; it is not started.
    pub fn idle_actor(&mut self, environment: usize, orders: &[Order]) -> Result<Who, Refusal> {
        let who = self.extra(environment, Code::Act)?;
        self.tell(who, orders)?;
        Ok(who)
    }

    /// The same, ready.
    pub fn actor(&mut self, environment: usize, orders: &[Order]) -> Result<Who, Refusal> {
        let who = self.idle_actor(environment, orders)?;
        self.start(who)?;
        Ok(who)
    }

    /// Writes its orders.
    pub fn tell(&mut self, who: Who, orders: &[Order]) -> Result<(), Refusal> {
        if orders.len() > ORDERS {
            return Err(Refusal::BadArgument);
        }
        let actor = &self.actors[who.0];
        let mut page = self.child(actor.child)?.view(actor.vcore as usize)?;
        for (index, order) in orders.iter().enumerate() {
            let at = (index as u64 + 1) * ORDER_BYTES;
            page.write_u64(at, order.number);
            for (word, value) in order.x.iter().enumerate() {
                page.write_u64(at + 8 + word as u64 * 8, *value);
            }
            page.write_u64(at + 96, order.x16);
        }
        page.write_u64(0, 0);
        page.write_u64(8, orders.len() as u64);
        self.actors[who.0].orders = orders.to_vec();
        Ok(())
    }

    /// Starts it, and notes what its control page holds.
    pub fn start(&mut self, who: Who) -> Result<(), Refusal> {
        self.actors[who.0].before = self.control_words(who)?;
        let actor = &self.actors[who.0];
        sys::vcore_start(self.child(actor.child)?.env, actor.vcore)
    }

    /// Lends it this program's slice until it waits or stops.
    pub fn run(&self, who: Who) -> Result<(), Refusal> {
        let actor = &self.actors[who.0];
        self.child(actor.child)?.settle(actor.vcore)
    }

    /// Lends it the slice once, and notes what comes of that.
    pub fn lend(&mut self, who: Who) -> Result<(), Refusal> {
        let actor = &self.actors[who.0];
        let said = sys::yield_to(self.child(actor.child)?.env, actor.vcore);
        self.say(&format!("lent {}", shown(said)));
        Ok(())
    }

    /// Stops its vcore.
    pub fn stop(&mut self, who: Who) -> Result<(), Refusal> {
        let actor = &self.actors[who.0];
        let said = sys::vcore_stop(self.child(actor.child)?.env, actor.vcore);
        self.say(&format!("stopped {}", shown(said)));
        Ok(())
    }

    /// Gives it a position of its own.
    pub fn claim(&mut self, who: Who) -> Result<(), Refusal> {
        let (ground, vcore, child) = (self.ground, self.actors[who.0].vcore, self.actors[who.0].child);
        self.child_mut(child)?.claim(ground, vcore, 1000).map(|_| ())
    }

    /// Its environment, and its vcore there.
    pub fn place(&self, who: Who) -> Result<(&Child, u64), Refusal> {
        let actor = &self.actors[who.0];
        Ok((self.child(actor.child)?, actor.vcore))
    }

    /// Gives an environment a binding to the gate of an actor.
    pub fn gate(&mut self, to: Who, badge: u64, environment: usize, slot: u64, rights: Rights) -> Result<(), Refusal> {
        let handle = {
            let (child, vcore) = self.place(to)?;
            child.gate(self.ground, vcore, badge)?
        };
        self.hand(handle, environment, slot, rights)
    }

    /// Gives an environment a binding to an event of an actor; answers this program's own.
    pub fn event(&mut self, of: Who, bit: u64, environment: usize, slot: u64) -> Result<Handle, Refusal> {
        let handle = self.own_event(of, bit)?;
        self.child(environment)?.give(handle, Handle(slot as u16), Rights::EVENT_NOTIFY | Rights::GRANT)?;
        Ok(handle)
    }

    /// A binding of this program's to an event of an actor.
    pub fn own_event(&mut self, of: Who, bit: u64) -> Result<Handle, Refusal> {
        let (child, vcore) = self.place(of)?;
        let handle = child.event(self.ground, vcore, bit)?;
        self.handles.push(handle);
        Ok(handle)
    }

    /// Gives an environment a binding of this program's, which ends with the stage.
    pub fn hand(&mut self, binding: Handle, environment: usize, slot: u64, rights: Rights) -> Result<(), Refusal> {
        self.handles.push(binding);
        self.child(environment)?.give(binding, Handle(slot as u16), rights)
    }

    /// Gives an environment a binding that was taken back, of this kind.
    pub fn stale(&mut self, kind: BindingKind, environment: usize, slot: u64) -> Result<(), Refusal> {
        let (cell, own) = (self.ground.take_cell()?, self.ground.take_slot()?);
        self.cells.push(cell);
        let child = self.child(environment)?;
        match kind {
            BindingKind::Gate => sys::gate_bind(Handle::SELF, 0, cell, own, 9)?,
            BindingKind::Event => sys::event_bind(Handle::SELF, 0, cell, own, 1)?,
            BindingKind::Env => sys::grant(child.env, Handle::SELF, own, Rights::EVERYTHING, cell, None)?,
            _ => sys::grant(child.pool, Handle::SELF, own, Rights::EVERYTHING, cell, None)?,
        }
        let rights = match kind {
            BindingKind::Gate | BindingKind::Event => Rights::GATE_CALL | Rights::GRANT,
            _ => Rights::EVERYTHING,
        };
        self.hand(own, environment, slot, rights)?;
        sys::take_back(cell)
    }

    /// Raises an event.
    pub fn notify(&mut self, event: Handle) {
        let said = sys::notify(event);
        self.say(&format!("notified {}", shown(said)));
    }

    /// Writes a word of an actor's control page.
    pub fn set_control(&self, who: Who, offset: u64, value: u64) -> Result<(), Refusal> {
        let (child, vcore) = self.place(who)?;
        child.control(vcore)?.write_u64(offset, value);
        Ok(())
    }

    /// Its library takes upcalls, also for these events.
    pub fn take_upcalls(&self, who: Who, events: u64) -> Result<(), Refusal> {
        self.set_control(who, offset_of!(ControlPage, upcall_entry) as u64, Code::Upcall.va())?;
        self.set_control(who, offset_of!(ControlPage, upcall_events) as u64, events)
    }

    /// Destroys an environment; the stage goes on without it.
    pub fn destroy(&mut self, environment: usize) -> Result<(), Refusal> {
        self.say("destroyed");
        match self.children[environment].take() {
            Some(child) => child.destroy(self.ground),
            None => Ok(()),
        }
    }

    /// Adds to the line.
    pub fn say(&mut self, what: &str) {
        self.line.push_str(what);
        self.line.push_str("; ");
    }

    fn control_words(&self, who: Who) -> Result<Vec<u64>, Refusal> {
        let (child, vcore) = self.place(who)?;
        let page = child.control(vcore)?;
        Ok((0..WORDS).map(|word| page.read_u64(word * 8)).collect())
    }

    /// Everything that can be seen; the stage is empty afterwards.
    pub fn finish(mut self) -> Result<String, Refusal> {
        for index in 0..self.actors.len() {
            if self.children[self.actors[index].child].is_some() {
                let seen = self.seen(Who(index))?;
                self.line.push_str(&seen);
            }
        }
        let Stage { ground, children, handles, cells, line, .. } = self;
        for child in children.into_iter().flatten() {
            child.destroy(ground)?;
        }
        handles.into_iter().for_each(slots::empty);
        cells.into_iter().for_each(|cell| ground.give_back_cell(cell));
        Ok(line)
    }

    /// What is to be seen of an actor.
    fn seen(&self, who: Who) -> Result<String, Refusal> {
        let actor = &self.actors[who.0];
        let child = self.child(actor.child)?;
        let mut out = format!("| {}:", who.0);
        let page = child.view(actor.vcore as usize)?;
        for (index, order) in actor.orders.iter().enumerate() {
            let at = (index as u64 + 1) * ORDER_BYTES + RECORD;
            let record: Vec<u64> = (0..34).map(|word| page.read_u64(at + word * 8)).collect();
            if record[33] != 0 {
                self.record(&mut out, order, &record);
            }
        }
        match sys::vcore_report(child.env, actor.vcore) {
            Ok(report) if report.reason == StopReason::Stopped => out.push_str(" stopped"),
            Ok(report) if report.reason == StopReason::New => out.push_str(" new"),
            Ok(report) => drop(write!(out, " end {:x}", end_of(&report))),
            Err(_) => out.push_str(" there"),
        }
        let runs = sys::vcore_report(child.env, actor.vcore).is_err();
        let now = self.control_words(who)?;
        for (word, (before, after)) in actor.before.iter().zip(&now).enumerate() {
            if before != after && shown_word(word * 8, runs) {
                let _ = write!(out, " @{:x}={after:x}", word * 8);
            }
        }
        out.push(' ');
        Ok(out)
    }

    /// One order and what came of it.
    fn record(&self, out: &mut String, order: &Order, record: &[u64]) {
        let call = Call::from_number(order.number);
        let _ = write!(out, " {}[", call.map_or_else(|| format!("{}", order.number), |call| format!("{call:?}")));
        let count = match call {
            Some(Call::Call) => {
                if record[0] == 0 {
                    9
                } else {
                    1
                }
            }
            Some(Call::ReplyWait) => {
                if record[0] != 0 {
                    9
                } else if record[1] != 0 {
                    2
                } else {
                    3
                }
            }
            Some(Call::Wait) => {
                if record[0] == 0 {
                    2
                } else {
                    1
                }
            }
            Some(Call::Notify | Call::YieldTo) => 1,
            _ if order.number == LOAD => 1,
            _ if order.number == STORE => 0,
            _ => 3,
        };
        for (index, value) in record[..count].iter().enumerate() {
            // Which frame it is, each kernel's size decides.
            let window = order.number == LOAD && order.x[0] >= WINDOW_LEVEL_3;
            let value = if window { value & !ADDRESS_MASK } else { *value };
            let _ = write!(out, "{}{value:x}", if index == 0 { "" } else { " " });
        }
        // What is kept.
        let loaded = |index: usize| match index {
            0..11 => order.x[index],
            16 => order.x16,
            _ => 0x100 + index as u64,
        };
        let kept = match call {
            Some(call) if call.switches() => 0..0,
            // Everything, but what the next case says.
            None if order.number == FOREIGN => 0..11,
            _ => 0..0,
        };
        for index in kept.chain(if call.is_some_and(Call::switches) { 0..0 } else { 19..31 }) {
            if record[index] != loaded(index) {
                let _ = write!(out, " LOST x{index}={:x}", record[index]);
            }
        }
        if order.number == FOREIGN {
            let _ = write!(out, " x16={:x} flags={:x}", record[16], record[32]);
        }
        for (index, value) in record[..32].iter().enumerate() {
            // What the call answers with is compared; and what was loaded may be anything.
            let answer = index < count && (value >> 39 != KERNEL || order.number == LOAD);
            if !answer && !self.harmless(*value) {
                let _ = write!(out, " LEAK {index}={value:x}");
            }
        }
        out.push(']');
    }

    /// A value that a program knows already: small, the syndrome of a call, an address of an actor's, or something that an actor had in a register or its control page.
    fn harmless(&self, value: u64) -> bool {
        value < 0x1000
            || value >> 16 == 0x5600
            || (workshop::CODE_VA..CHILD_END).contains(&value)
            || self.actors.iter().any(|actor| {
                actor.orders.iter().any(|order| order.x.contains(&value) || order.x16 == value)
                    || actor.before.contains(&value)
            })
    }
}

/// What of the control page is the program's to see: not where the kernel keeps registers of somebody who runs on or has stopped.
fn shown_word(offset: usize, runs: bool) -> bool {
    let within = |first: usize, bytes: usize| (first..first + bytes).contains(&offset);
    let scratch = LIBRARY as usize + 64;
    let kept = within(offset_of!(ControlPage, preempted), size_of::<Frame>())
        || within(offset_of!(ControlPage, fp), offset_of!(ControlPage, batch) - offset_of!(ControlPage, fp))
        || within(offset_of!(ControlPage, result), 72)
        || within(scratch, 32);
    !kept && (runs || !within(offset_of!(ControlPage, pc), 16))
}

/// A result in a word.
fn shown(result: Result<(), Refusal>) -> &'static str {
    match result {
        Ok(()) => "ok",
        Err(refusal) => refusal.name(),
    }
}

/// Where a vcore's control page lies in its environment.
pub fn control_va(vcore: u64) -> u64 {
    CONTROL_VA + vcore * PAGE_BYTES
}
