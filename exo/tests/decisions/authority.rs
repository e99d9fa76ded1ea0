//! Authority, by a model of its own: bindings are granted, sent with calls and replies, reduced and taken back in any order, and after each step every
//! table holds what the model says. In the model authority comes from a live binding with GRANT and no more of it than that binding has, and what carries a cell dies with it.

use crate::fake::world::*;
use crate::fake::{Fake, TICKS};
use crate::player::Dice;
use exo::vcore::VcoreRef;
use exo::{binding, environment, slice};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::calls::{call_flag, reply_flag};
use exo_abi::{Call, Refusal};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// The slots that everything happens in.
const SLOTS: std::ops::Range<u64> = 60..68;
/// In each table: the other environments, to grant to; the mailboxes, to send to.
const ENVIRONMENTS: u64 = 70;
const MAILBOXES: u64 = 75;
const PARTIES: usize = 3;
const GRANT: u64 = 0x80;

/// A binding as the model knows it. Its cells are named with the life in which they were when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    kind: BindingKind,
    object: u64,
    rights: u64,
    root: bool,
    badge: Option<u64>,
    cells: [(u64, u64); 2],
}

struct Party {
    number: u64,
    vcore: VcoreRef,
    /// Who takes messages in.
    mailbox: Option<VcoreRef>,
    /// Cells of its own that carry no object.
    cells: Vec<u64>,
    slots: BTreeMap<u64, Held>,
}

struct World {
    fake: Fake,
    parties: Vec<Party>,
    /// How often each cell was taken back.
    lives: HashMap<u64, u64>,
}

/// Lets time pass until a vcore runs, without looking at everything each time.
fn until(fake: &Fake, vcore: VcoreRef) {
    for _ in 0..200 {
        if fake.running() == vcore {
            return;
        }
        fake.now.set(fake.now.get() + 1000 * TICKS);
        slice::timer_fired(fake);
        let outcome = slice::after_interrupt(fake);
        fake.settle(outcome, &mut [0; 11]);
    }
    panic!("{vcore:?} does not run, but is {:?}", fake.state(vcore));
}

impl World {
    /// Three environments that can grant and send to each other, with bindings of several kinds.
    fn new() -> World {
        let fake = Fake::with(800, 1);
        let children = [fake.child(3, 40), fake.child(4, 40)];
        let mut parties = vec![Party {
            number: 1,
            vcore: fake.init(),
            mailbox: None,
            cells: vec![CELL, CELL + 1],
            slots: BTreeMap::new(),
        }];
        for (index, child) in children.iter().enumerate() {
            fake.must(Call::SliceClaim, &[CORES, 0, 10 + index as u64, child.env, 1, 0, 0]);
            fake.must(Call::VcoreStart, &[child.env, 1]);
            fake.must(Call::GateBind, &[child.env, 1, child.cell + 3, SLOT + index as u64, 7]);
            parties.push(Party {
                number: 3 + index as u64,
                vcore: child.vcore,
                mailbox: Some(VcoreRef::new(child.frame, 1)),
                cells: vec![child.cell, child.cell + 1],
                slots: BTreeMap::new(),
            });
        }
        for (index, child) in children.iter().enumerate() {
            for (other, target) in children.iter().enumerate() {
                fake.give(child, target.env, ENVIRONMENTS + 1 + other as u64, 0x81);
                fake.give(child, SLOT + other as u64, MAILBOXES + 1 + other as u64, 0x01);
            }
            let (from, to) = (child.env, index as u64 + 1);
            fake.must(Call::Grant, &[from, SELF, ENVIRONMENTS + to, 0x81, 0, 0, 0]);
            fake.must(Call::Grant, &[SLOT + index as u64, SELF, MAILBOXES + to, 1, 0, 0, 0]);
        }
        // What there is to pass on: a gate and an event of the first environment, a gate of a child's, a pool, a range of interrupt lines.
        fake.must(Call::GateBind, &[SELF, 0, CELL, 60, 11]);
        fake.must(Call::EventBind, &[SELF, 0, CELL + 1, 61, 3]);
        fake.must(Call::GateBind, &[children[0].env, 0, children[0].cell, 62, 12]);
        fake.must(Call::PoolCreate, &[POOL, POOL_NUMBER, CELL + 2, 4, 0, 63]);
        fake.must(Call::Grant, &[INTERRUPTS, SELF, 64, 0x81, 0, 40, 10]);
        fake.give(&children[0], 63, 60, 0x83);
        fake.give(&children[1], 62, 60, 0x81);
        let mut world = World { fake, parties, lives: HashMap::new() };
        for child in 1..PARTIES {
            until(&world.fake, world.parties[child].mailbox.unwrap());
            world.fake.svc(Call::ReplyWait, &[0]);
        }
        for party in 0..PARTIES {
            world.parties[party].slots = world.shown(party).into_iter().map(|(slot, (held, _))| (slot, held)).collect();
        }
        world
    }

    fn life(&self, cell: u64) -> u64 {
        self.lives.get(&cell).copied().unwrap_or(0)
    }

    fn is_live(&self, held: &Held) -> bool {
        held.cells.iter().all(|(cell, life)| self.life(*cell) == *life)
    }

    /// What a party's table really holds, and whether that is live.
    fn shown(&self, party: usize) -> BTreeMap<u64, (Held, bool)> {
        let environment = environment::by_number(&self.fake, self.parties[party].number).unwrap();
        let look = |slot| {
            let found = binding::read(&self.fake, environment, slot).ok()?;
            let gate = matches!(kind(&found), BindingKind::Gate | BindingKind::Event);
            let root = if gate { found.cell() } else { found.head >> 48 };
            let held = Held {
                kind: kind(&found),
                object: found.object,
                rights: rights(&found).bits().into(),
                root: found.root(),
                badge: gate.then_some(found.badge),
                cells: [found.cell(), root].map(|cell| (cell, self.life(cell))),
            };
            Some((slot, (held, found.check(&self.fake, Rights::empty()).is_ok())))
        };
        SLOTS.filter_map(look).collect()
    }

    /// Every table holds what the model says, live or dead.
    fn compare(&self, step: &str) {
        for (index, party) in self.parties.iter().enumerate() {
            let shown = self.shown(index);
            assert_eq!(
                shown.keys().collect::<Vec<_>>(),
                party.slots.keys().collect::<Vec<_>>(),
                "slots of party {index} after {step}"
            );
            for (slot, held) in &party.slots {
                let (there, live) = shown[slot];
                assert_eq!(live, self.is_live(held), "slot {slot} of party {index} after {step}: {held:?}");
                // The life of a dead one's cells is over: only its model knows in which it was made.
                assert_eq!(Held { cells: held.cells, ..there }, *held, "slot {slot} of party {index} after {step}");
                assert_eq!(there.cells.map(|(cell, _)| cell), held.cells.map(|(cell, _)| cell));
            }
        }
    }

    /// The copy of a party's binding that may be passed on with these rights; none if it may not.
    fn copy(&self, party: usize, slot: u64, rights: u64) -> Option<Held> {
        let held = *self.parties[party].slots.get(&slot)?;
        let allowed = self.is_live(&held) && held.rights & GRANT != 0 && rights != 0 && rights & !held.rights == 0;
        allowed.then_some(Held { rights, root: false, ..held })
    }

    fn grant(&mut self, dice: &mut Dice) -> String {
        let (from, to) = (dice.below(3) as usize, dice.below(3) as usize);
        let (source, slot, rights) = (dice_slot(dice), dice_slot(dice), dice_rights(dice));
        let cell = if dice.one_in(4) { dice.of(&self.parties[from].cells) } else { 0 };
        // Nobody but itself has a binding to the first environment.
        let environment = match (from == to, to) {
            (true, _) => SELF,
            (false, 0) => ENVIRONMENTS,
            (false, to) => ENVIRONMENTS + to as u64,
        };
        let step = format!("grant by {from} of {source} to {to} in {slot} with {rights:x}, cell {cell}");
        let mut copy = self.copy(from, source, rights);
        if cell != 0 {
            copy = copy.filter(|_| {
                let held = self.parties[from].slots[&source];
                held.root && !matches!(held.kind, BindingKind::Gate | BindingKind::Event)
            });
            copy = copy.map(|copy| Held { cells: [(cell, self.life(cell)), copy.cells[1]], ..copy });
        }
        let fits = environment != ENVIRONMENTS && !self.parties[to].slots.contains_key(&slot);
        until(&self.fake, self.parties[from].vcore);
        let said = self.fake.ask(Call::Grant, &[source, environment, slot, rights, cell, 0, 0]);
        assert_eq!(said.is_ok(), copy.is_some() && fits, "{step}: {said:?}");
        if let Some(copy) = copy.filter(|_| fits) {
            self.parties[to].slots.insert(slot, copy);
        }
        step
    }

    fn restrict(&mut self, dice: &mut Dice) -> String {
        let (party, slot, rights) = (dice.below(3) as usize, dice_slot(dice), dice.of(&[0u64, 0, 0x81, 0x7f, 0x80, 1]));
        let step = format!("restrict by {party} of {slot} to {rights:x}");
        until(&self.fake, self.parties[party].vcore);
        let said = self.fake.ask(Call::Restrict, &[slot, rights]);
        let held = self.parties[party].slots.get_mut(&slot);
        assert_eq!(said.is_ok(), held.is_some(), "{step}: {said:?}");
        if let Some(held) = held {
            held.rights &= rights;
            if held.rights == 0 {
                self.parties[party].slots.remove(&slot);
            }
        }
        step
    }

    /// Whoever's cell it is: only its owner takes it back.
    fn take_back(&mut self, dice: &mut Dice) -> String {
        let (party, owner) = (dice.below(3) as usize, dice.below(3) as usize);
        let object = dice.one_in(8);
        let cell = if object { CELL + 2 } else { dice.of(&self.parties[owner].cells) };
        let step = format!("take_back by {party} of cell {cell}");
        until(&self.fake, self.parties[party].vcore);
        let said = self.fake.ask(Call::TakeBack, &[cell]);
        let allowed = party == owner && !object;
        assert_eq!(said.is_ok(), allowed, "{step}: {said:?}");
        if allowed {
            *self.lives.entry(cell).or_default() += 1;
            // Dead for whoever uses it, in whatever way: the first right refused is that it is stale.
            for user in 0..PARTIES {
                until(&self.fake, self.parties[user].vcore);
                for (slot, held) in self.parties[user].slots.iter().filter(|(_, held)| !self.is_live(held)) {
                    self.fake.refused(Refusal::Stale, Call::Grant, &[*slot, SELF, 100, 1, 0, 0, 0]);
                    match held.kind {
                        BindingKind::Gate => self.fake.refused(Refusal::Stale, Call::Call, &[*slot]),
                        BindingKind::Event => self.fake.refused(Refusal::Stale, Call::Notify, &[*slot]),
                        BindingKind::Pool => self.fake.refused(Refusal::Stale, Call::FrameFree, &[*slot, 1]),
                        _ => self.fake.refused(Refusal::Stale, Call::IrqAck, &[*slot, 40]),
                    }
                }
            }
        }
        step
    }

    /// A call to a mailbox: a binding with it, another one with the reply.
    fn send(&mut self, dice: &mut Dice) -> String {
        let (from, to) = (dice.below(3) as usize, 1 + dice.below(2) as usize);
        let (there, back) = (dice.one_in(2), dice.one_in(2));
        let (source, slot, rights) = (dice_slot(dice), dice_slot(dice), dice_rights(dice));
        let (answer, own, less) = (dice_slot(dice), dice_slot(dice), dice_rights(dice));
        let step = format!("send by {from} to {to}: {source} to {slot} {there}, {answer} to {own} {back}");
        let Some(mailbox) = self.parties[to].mailbox else { return step };
        let (fake, caller, gate) = (&self.fake, self.parties[from].vcore, MAILBOXES + to as u64);
        let reply = |x0: u64, x9: u64, x10: u64| fake.svc(Call::ReplyWait, &[x0, 9, 0, 0, 0, 0, 0, 0, 0, x9, x10]);
        // A first call lets it say in which slot it accepts, if in any.
        until(fake, caller);
        fake.svc(Call::Call, &[gate]);
        assert_eq!(fake.running(), mailbox, "{step}");
        let open = !self.parties[to].slots.contains_key(&slot);
        let x = reply(if there { reply_flag::ACCEPT } else { 0 }, 0, slot);
        if there && !open {
            assert_eq!((fake.running(), x[0], x[1], x[2]), (mailbox, 0, 0, Refusal::SlotTaken as u64), "{step}");
            reply(0, 0, 0);
            return step;
        }
        until(fake, caller);
        let copy = self.copy(from, source, rights);
        let takes = !self.parties[from].slots.contains_key(&own);
        let flags = if there { call_flag::SEND } else { 0 } | if back { call_flag::ACCEPT } else { 0 };
        let x = fake.svc(Call::Call, &[gate | flags, 1, 0, 0, 0, 0, 0, 0, 0, source | rights << 16, own]);
        let goes = (!there || copy.is_some()) && (!back || takes);
        assert_eq!(fake.running() == mailbox, goes, "{step}: {:?}", Refusal::from_number(x[0]));
        if !goes {
            return step;
        }
        assert_eq!(x[8], there.into(), "{step}");
        if let Some(copy) = copy.filter(|_| there) {
            self.parties[to].slots.insert(slot, copy);
        }
        // The reply; what may not travel is refused, and nothing of it counts.
        let copy = self.copy(to, answer, less);
        let free = !self.parties[from].slots.contains_key(&own);
        let x = reply(if back { reply_flag::SEND } else { 0 }, answer | less << 16, 0);
        if back && (copy.is_none() || !free) {
            assert_eq!((fake.running(), x[0], x[1]), (mailbox, 0, 0), "{step}");
            assert!(Refusal::from_number(x[2]).is_some(), "{step}");
            reply(0, 0, 0);
        } else if let Some(copy) = copy.filter(|_| back) {
            self.parties[from].slots.insert(own, copy);
        }
        step
    }
}

fn dice_slot(dice: &mut Dice) -> u64 {
    SLOTS.start + dice.below(SLOTS.end - SLOTS.start)
}

fn dice_rights(dice: &mut Dice) -> u64 {
    dice.of(&[0x81, 0x81, 0x81, 0x01, 0x80, 0x83, 0x03, 0xff, 0])
}

fn play(seed: u64, steps: usize) {
    let mut world = World::new();
    let mut dice = Dice(seed);
    world.compare("the beginning");
    for _ in 0..steps {
        let step = match dice.below(8) {
            0..3 => world.grant(&mut dice),
            3..6 => world.send(&mut dice),
            6 => world.restrict(&mut dice),
            _ => world.take_back(&mut dice),
        };
        world.compare(&step);
    }
}

fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { asked.cases } else { 200 };
    ProptestConfig { cases, failure_persistence: None, ..asked }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn authority_comes_from_a_live_binding_and_ends_with_its_cell_everywhere_at_once(seed in any::<u64>()) {
        play(seed, 60);
    }
}

#[test]
fn the_steps_do_what_they_are_for() {
    // A property that is only ever refused proves nothing: over some seeds each party gets and loses bindings.
    let mut most = [0; PARTIES];
    let mut dead = 0;
    for seed in 0..12 {
        let mut world = World::new();
        let mut dice = Dice(seed);
        for _ in 0..60 {
            let _ = match dice.below(8) {
                0..3 => world.grant(&mut dice),
                3..6 => world.send(&mut dice),
                6 => world.restrict(&mut dice),
                _ => world.take_back(&mut dice),
            };
            for (most, party) in most.iter_mut().zip(&world.parties) {
                *most = (*most).max(party.slots.len());
            }
            dead +=
                world.parties.iter().flat_map(|party| party.slots.values()).filter(|held| !world.is_live(held)).count();
        }
    }
    assert!(most.iter().all(|most| *most >= 4) && dead > 100, "{most:?} bindings at most, {dead} looks at dead ones");
}
