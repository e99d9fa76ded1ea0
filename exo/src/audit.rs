//! The kernel's invariants, checked one frame at a time.

use crate::frame::{Kind, Word};
use crate::machine::Machine;
use crate::{environment, fault, page_table};
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

/// Checks one frame: see [`exo_abi::exposed::audit`].
pub fn frame(m: &impl Machine, pfn: Pfn) -> Result<u64, Refusal> {
    let word = m.frames().read(pfn).ok_or(Refusal::BadArgument)?;
    let more = if m.frames().read(Pfn(pfn.0 + 1)).is_some() { MORE } else { 0 };
    Ok(more | check(m, pfn, word).unwrap_or_else(|rule| BROKEN | (rule as u64) << 32))
}

fn check(m: &impl Machine, pfn: Pfn, word: Word) -> Result<u64, Rule> {
    match word.kind() {
        Kind::Busy => Err(Rule::NoFrameIsBusy),
        // What stands there is a ticket.
        Kind::Free if word.count() > m.tables().tickets.load(Relaxed) => Err(Rule::FreeIsUncounted),
        Kind::Free => Ok(0),
        Kind::Table => table(m, pfn, word),
        Kind::Environment => {
            let listed = environment::by_number(m, m.environment(pfn).number());
            listed.filter(|listed| listed.frame() == pfn).map(|_| 0).ok_or(Rule::EnvironmentsAreListed)
        }
        Kind::Bindings | Kind::Device => Ok(0),
        _ => Ok(word.count()),
    }
}

fn table(m: &impl Machine, pfn: Pfn, word: Word) -> Result<u64, Rule> {
    let is_root = environment::by_number(m, word.environment()).map(|owner| owner.root() == pfn);
    fault::when(is_root != Some(word.level() == 1), Rule::TablesHaveOwners)?;
    let mut leaves = 0;
    for (index, slot) in m.words(pfn).iter().enumerate() {
        let entry = Descriptor::from_bits_retain(slot.load(Relaxed));
        if word.level() == 1 && index == 511 {
            fault::when(entry != page_table::window(pfn), Rule::WindowIsTheRoot)?;
        } else if entry.contains(Descriptor::VALID) && word.level() == 3 {
            leaves += leaf(m, entry)?;
        } else if entry.contains(Descriptor::VALID) {
            let below = Word::table(word.pool(), word.level() + 1, word.environment());
            let right = m.frames().read(entry.pfn()) == Some(below) && entry == page_table::table(entry.pfn());
            fault::when(!right, Rule::UpperEntriesAreTables)?;
        }
    }
    Ok(TABLE | leaves)
}

/// Checks a leaf; answers 1 if its frame counts it, 0 for device pages.
fn leaf(m: &impl Machine, entry: Descriptor) -> Result<u64, Rule> {
    let user_page = Descriptor::EL0 | Descriptor::NOT_GLOBAL | Descriptor::PRIVILEGED_EXECUTE_NEVER;
    let writable = entry.contains(Descriptor::WRITABLE) || !entry.contains(Descriptor::READ_ONLY);
    let executable = !entry.contains(Descriptor::EXECUTE_NEVER);
    let counted = m.frames().read(entry.pfn()).filter(|word| word.kind() != Kind::Device);
    let kind = counted.map_or(Kind::Device, Word::kind);
    let mappable = matches!(kind, Kind::Data | Kind::Control | Kind::Code | Kind::Device);
    fault::when(!entry.contains(user_page), Rule::LeavesAreUserPages)?;
    fault::when(counted.is_some_and(|word| word.count() == 0), Rule::LeavesAreCounted)?;
    fault::when(writable && !matches!(kind, Kind::Data | Kind::Control | Kind::Device), Rule::WritableIsData)?;
    fault::when(executable && (writable || kind != Kind::Code), Rule::ExecutableIsCode)?;
    fault::when(!mappable && !counted.is_some_and(Word::exposed), Rule::LeavesAreCounted)?;
    Ok(counted.is_some().into())
}
