//! Which page tables a set of address ranges needs, and how frames join into runs.

use alloc::vec::Vec;
use exo_abi::Pfn;

/// Bytes a level-2 table serves.
const LEVEL_2_SPAN: u64 = 1 << 30;
/// Bytes a level-3 table serves.
const LEVEL_3_SPAN: u64 = 1 << 21;
/// Tables of one program at most: what init maps is small; the rest is its own matter.
pub const MOST_TABLES: usize = 64;

/// A table to install: its level, and an address it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// 2 or 3.
    pub level: u64,
    /// The first address it serves.
    pub va: u64,
}

/// The tables that `ranges` (first address, first beyond) need, each level-2 table before what hangs on it.
/// `None`: more than [`MOST_TABLES`].
pub fn tables_for(ranges: &[(u64, u64)]) -> Option<Vec<Table>> {
    let mut tables = Vec::new();
    for (level, span) in [(2, LEVEL_2_SPAN), (3, LEVEL_3_SPAN)] {
        for &(start, end) in ranges.iter().filter(|(start, end)| start < end) {
            let mut va = start / span * span;
            while va < end {
                let table = Table { level, va };
                if !tables.contains(&table) {
                    if tables.len() == MOST_TABLES {
                        return None;
                    }
                    tables.push(table);
                }
                va = va.checked_add(span)?;
            }
        }
    }
    Some(tables)
}

/// Frames that follow each other, joined: (first, how many), in their order.
pub fn runs(frames: &[Pfn]) -> impl Iterator<Item = (Pfn, u64)> + '_ {
    frames.chunk_by(|a, b| a.0 + 1 == b.0).map(|run| (run[0], run.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_program_needs_one_table_of_each_level() {
        let tables = tables_for(&[(0x20_0000, 0x20_8000), (0x20_9000, 0x20_f000)]).unwrap();
        assert_eq!(tables, [Table { level: 2, va: 0 }, Table { level: 3, va: 0x20_0000 }]);
    }

    #[test]
    fn a_range_over_a_border_needs_both_sides() {
        let tables = tables_for(&[(0x3f_f000, 0x40_1000), (0x10_0000_0000, 0x10_0000_1000)]).unwrap();
        let of = |level| tables.iter().filter(|t| t.level == level).count();
        assert_eq!((of(2), of(3)), (2, 3));
        assert!(tables[0].level == 2 && tables[1].level == 2);
    }

    #[test]
    fn nothing_needs_nothing_and_too_much_is_refused() {
        assert_eq!(tables_for(&[(0x1000, 0x1000)]), Some(Vec::new()));
        assert_eq!(tables_for(&[(0, 1 << 39)]), None);
        assert_eq!(tables_for(&[(u64::MAX - 5, u64::MAX)]), None);
    }

    #[test]
    fn neighbouring_frames_are_one_run() {
        let frames = [5, 6, 7, 9, 8, 10].map(Pfn);
        let joined: Vec<_> = runs(&frames).map(|(first, count)| (first.0, count)).collect();
        assert_eq!(joined, [(5, 3), (9, 1), (8, 1), (10, 1)]);
    }
}
