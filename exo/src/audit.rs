//! The kernel's invariants, checked one frame at a time.

use crate::environment;
use crate::frame::{Kind, Word};
use crate::machine::Machine;
use crate::page_table;
use core::sync::atomic::Ordering::*;
use exo_abi::exposed::audit::{BROKEN, MORE, TABLE};
use exo_abi::page::Descriptor;
use exo_abi::{Pfn, Refusal};

/// The rules, by the number that the answer names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Rule {
    /// A frame is in the middle of a change while nobody is in the kernel.
    NoFrameIsBusy = 1,
    /// A table belongs to a living environment, and a root is that environment's.
    TablesHaveOwners = 2,
    /// An entry of an upper table is a table of the next level and the same environment, read-only for EL0, never executed, never DBM.
    UpperEntriesAreTables = 3,
    /// The root's last entry is the window.
    WindowIsTheRoot = 4,
    /// A leaf points at a frame that counts it.
    LeavesAreCounted = 5,
    /// A writable leaf points at data or a control page.
    WritableIsData = 6,
    /// An executable leaf points at code and is not writable.
    ExecutableIsCode = 7,
    /// A leaf is an EL0 page that is not global.
    LeavesAreUserPages = 8,
    /// A free frame is counted nowhere.
    FreeIsUncounted = 9,
    /// An environment knows its frame and number.
    EnvironmentsAreListed = 10,
}

const fn broken(rule: Rule) -> u64 {
    BROKEN | (rule as u64) << 32
}

/// Checks one frame: see [`exo_abi::exposed::audit`].
pub fn frame(m: &impl Machine, pfn: Pfn) -> Result<u64, Refusal> {
    let word = m.frames().read(pfn).ok_or(Refusal::BadArgument)?;
    let more = if m.frames().read(Pfn(pfn.0 + 1)).is_some() { MORE } else { 0 };
    let found = match word.kind() {
        Kind::Busy => broken(Rule::NoFrameIsBusy),
        Kind::Free if word.count() != 0 => broken(Rule::FreeIsUncounted),
        Kind::Table => table(m, pfn, word),
        Kind::Environment => {
            let number = m.environment(pfn).number();
            let listed = environment::by_number(m, number).is_some_and(|environment| environment.frame() == pfn);
            if listed { 0 } else { broken(Rule::EnvironmentsAreListed) }
        }
        Kind::Bindings | Kind::Device => 0,
        _ => word.count(),
    };
    Ok(found | more)
}

fn table(m: &impl Machine, pfn: Pfn, word: Word) -> u64 {
    let owner = environment::by_number(m, word.environment());
    if owner.is_none_or(|owner| (owner.root() == pfn) != (word.level() == 1)) {
        return broken(Rule::TablesHaveOwners);
    }
    let mut leaves = 0;
    for (index, slot) in m.words(pfn).iter().enumerate() {
        let entry = Descriptor::from_bits_retain(slot.load(Relaxed));
        if word.level() == 1 && index == 511 {
            if entry != page_table::window(pfn) {
                return broken(Rule::WindowIsTheRoot);
            }
        } else if !entry.contains(Descriptor::VALID) {
            continue;
        } else if word.level() < 3 {
            let below = m.frames().read(entry.pfn());
            let right = below.is_some_and(|below| {
                below.kind() == Kind::Table
                    && below.level() == word.level() + 1
                    && below.environment() == word.environment()
            });
            if !right || entry != page_table::table(entry.pfn()) {
                return broken(Rule::UpperEntriesAreTables);
            }
        } else {
            match leaf(m, entry) {
                Ok(counted) => leaves += counted,
                Err(rule) => return broken(rule),
            }
        }
    }
    TABLE | leaves
}

/// Checks a leaf; answers 1 if its frame counts it, 0 for device pages.
fn leaf(m: &impl Machine, entry: Descriptor) -> Result<u64, Rule> {
    if !entry.contains(Descriptor::EL0 | Descriptor::NOT_GLOBAL | Descriptor::PRIVILEGED_EXECUTE_NEVER) {
        return Err(Rule::LeavesAreUserPages);
    }
    let writable = entry.contains(Descriptor::WRITABLE) || !entry.contains(Descriptor::READ_ONLY);
    let executable = !entry.contains(Descriptor::EXECUTE_NEVER);
    let Some(word) = m.frames().read(entry.pfn()).filter(|word| word.kind() != Kind::Device) else {
        return if executable { Err(Rule::ExecutableIsCode) } else { Ok(0) };
    };
    if word.count() == 0 {
        return Err(Rule::LeavesAreCounted);
    }
    if writable && !matches!(word.kind(), Kind::Data | Kind::Control) {
        return Err(Rule::WritableIsData);
    }
    if executable && (writable || word.kind() != Kind::Code) {
        return Err(Rule::ExecutableIsCode);
    }
    let mappable = matches!(word.kind(), Kind::Data | Kind::Control | Kind::Code) || word.exposed();
    if mappable { Ok(1) } else { Err(Rule::LeavesAreCounted) }
}
