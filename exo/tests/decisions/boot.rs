//! The boot header, and the first environment made from it.

use crate::fake::{ARCHIVE, ARCHIVE_FRAMES, CONTROL, DATA, FREE, Fake, INFO, TEXT, header};
use exo::environment;
use exo::fault::Fault;
use exo::first::{build, check_header};
use exo::frame::Kind;
use exo::machine::Machine;
use exo_abi::ABI_VERSION;
use exo_abi::boot::{BootHeader, InitRun, crc32};
use exo_abi::page::MAPPABLE_END;
use proptest::prelude::*;

fn with(change: impl FnOnce(&mut BootHeader)) -> Result<(), Fault> {
    built(64, change)
}

#[test]
fn a_header_that_is_not_one_is_refused_by_name() {
    let bytes = [1, 2, 3];
    let good = BootHeader { checksum: crc32(&bytes), ..header() };
    let check_header = |header: &BootHeader, bytes: &[u8]| check_header(header, bytes, 0x10000);
    assert_eq!(check_header(&good, &bytes), Ok(()));
    assert_eq!(check_header(&BootHeader { magic: 0, ..good }, &bytes), Err(Fault::NO_HEADER));
    assert_eq!(check_header(&good, &[1, 2, 4]), Err(Fault::CHECKSUM));
    assert_eq!(check_header(&BootHeader { checksum: 0, ..good }, &bytes), Err(Fault::CHECKSUM));
    for version in [0, ABI_VERSION + 1, u32::MAX] {
        assert_eq!(check_header(&BootHeader { abi_version: version, ..good }, &bytes), Err(Fault::VERSION));
    }
}

#[test]
fn an_archive_that_is_not_where_the_header_says_is_refused() {
    let check = |offset: u64, length: u64| {
        let header = BootHeader { archive_offset: offset, archive_bytes: length, checksum: crc32(&[]), ..header() };
        check_header(&header, &[], 0x10000)
    };
    assert_eq!(check(0x10000, 4096), Ok(()));
    for (offset, length) in [
        (0xf000, 4096),
        (0x10008, 4096),
        (0x10000, 8),
        (0x10000, 0),
        (1 << 40, 4096),
        (0x10000, 1 << 63),
        (!0xfff, !0xfff),
    ] {
        assert_eq!(check(offset, length), Err(Fault::ARCHIVE), "{offset:#x} {length:#x}");
    }
    // Its last eight bytes are not there.
    for pages in [0, 1, 7, 9, 60, 61, u64::MAX / 4096] {
        assert_eq!(with(|header| header.archive_bytes = pages * 4096), Err(Fault::ARCHIVE), "{pages}");
    }
}

#[test]
fn runs_lie_in_user_space_and_in_the_archive() {
    assert_eq!(with(|_| {}), Ok(()));
    for va in [TEXT + 1, TEXT - 4096 * 3 + 0x800, MAPPABLE_END, MAPPABLE_END - 4096, 1 << 39, u64::MAX - 4095, u64::MAX]
    {
        assert_eq!(with(|header| header.init_runs[0].va = va), Err(Fault::RUNS), "{va:#x}");
    }
    for (page, pages) in [(6, 3), (8, 1), (u32::MAX, 3), (0, u32::MAX), (u32::MAX, u32::MAX)] {
        assert_eq!(
            with(|header| (header.init_runs[0].archive_page, header.init_runs[0].pages) = (page, pages)),
            Err(Fault::RUNS)
        );
    }
}

#[test]
fn runs_are_never_writable_and_executable() {
    for prot in [0, 2, 4, 6, 7, 8, 0x11, 0x21, 0x41, 0x101, 1 << 31, u32::MAX] {
        assert_eq!(with(|header| header.init_runs[0].prot = prot), Err(Fault::RUNS), "{prot:#x}");
    }
}

#[test]
fn runs_overlap_neither_each_other_nor_the_control_page() {
    assert_eq!(with(|header| header.init_runs[2].va = TEXT + 0x3000), Err(Fault::RUNS));
    assert_eq!(with(|header| header.init_runs[2].va = TEXT - 0x1000), Err(Fault::RUNS));
    for control in [TEXT, TEXT + 0x3000, DATA + 0x2000, CONTROL + 8, MAPPABLE_END, u64::MAX, 0, 0x20_0000 - 4096] {
        assert_eq!(with(|header| header.init_control = control), Err(Fault::RUNS), "{control:#x}");
    }
    assert_eq!(with(|header| header.init_runs = [InitRun::default(); 8]), Err(Fault::RUNS));
}

fn built(frames: u64, change: impl FnOnce(&mut BootHeader)) -> Result<(), Fault> {
    let fake = Fake::bare(frames, 1);
    let mut header = header();
    change(&mut header);
    build(&fake, &header, ARCHIVE, frames - 16, INFO, 1)
}

#[test]
fn a_page_of_the_archive_is_in_one_writable_run_and_in_no_other() {
    assert_eq!(built(64, |_| {}), Ok(()));
    let twice = |first: usize, second: usize| {
        built(64, |header| {
            header.init_runs[3] = header.init_runs[second];
            header.init_runs[3].va = TEXT + 0x10_0000;
            header.init_runs[3].archive_page = header.init_runs[first].archive_page;
            header.init_runs[3].pages = 1;
        })
    };
    assert_eq!(twice(2, 2), Err(Fault::RUNS));
    assert_eq!(twice(2, 1), Err(Fault::RUNS));
    assert_eq!(twice(0, 2), Err(Fault::RUNS));
    // Text may be there twice.
    assert_eq!(twice(0, 0), Ok(()));
}

#[test]
fn too_little_memory_is_said_not_panicked() {
    for frames in 16..22 {
        assert_eq!(built(frames, |_| {}), Err(Fault::MEMORY), "{frames} frames");
    }
    assert_eq!(built(22, |_| {}), Ok(()));
}

#[test]
fn what_the_first_environment_writes_is_its_own_and_the_rest_is_code() {
    let fake = Fake::new();
    let word = |page: u64| fake.frames().read(exo_abi::Pfn(ARCHIVE.0 + page)).unwrap();
    assert_eq!((word(0).kind(), word(0).pool(), word(0).count()), (Kind::Code, 2, 1));
    assert_eq!((word(3).kind(), word(4).kind(), word(4).pool()), (Kind::Code, Kind::Data, 1));
    assert_eq!(word(7).count(), 0);
    let first = environment::by_number(&fake, 1).unwrap();
    assert_eq!((first.frame().0, first.number(), first.pool()), (FREE, 1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_header_panics(words in proptest::collection::vec((any::<u64>(), any::<u32>(), any::<u32>(), 0..9u32), 8), control in any::<u64>(), archive in any::<u64>(), mask in any::<[u8; 4]>()) {
        let mut header = header();
        for (run, (va, page, pages, prot)) in header.init_runs.iter_mut().zip(words) {
            let narrow = |value: u64, bits: u8| value & (u64::MAX >> (bits % 64));
            *run = InitRun { va: narrow(va, mask[0]) & if mask[1] & 1 == 0 { !0xfff } else { !0 }, archive_page: narrow(page as u64, mask[2]) as u32, pages: narrow(pages as u64, mask[3]) as u32, prot, reserved: 0 };
        }
        (header.init_control, header.archive_bytes) = (control, archive);
        let _ = build(&Fake::bare(80, 1), &header, ARCHIVE, 64, INFO, 1);
        let whole = BootHeader { archive_bytes: ARCHIVE_FRAMES * 4096, ..header };
        let _ = build(&Fake::bare(80, 1), &whole, ARCHIVE, 64, INFO, 1);
    }

    #[test]
    fn what_is_built_is_clean(va in proptest::collection::vec((0..40u64, 0..9u32, 0..4u32, 0..8u32), 4), control in 0..60u64) {
        let mut header = header();
        for (run, (page, archive, pages, prot)) in header.init_runs.iter_mut().zip(va) {
            *run = InitRun { va: TEXT + page * 4096, archive_page: archive, pages, prot, reserved: 0 };
        }
        header.init_control = TEXT + control * 4096;
        let fake = Fake::bare(80, 1);
        if build(&fake, &header, ARCHIVE, 64, INFO, 1).is_ok() {
            fake.assert_clean();
        }
    }
}
