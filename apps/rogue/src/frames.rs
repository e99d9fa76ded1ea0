//! Frames that are somebody else's: the kernel's, another environment's, free ones, devices.

use crate::book::{Book, End};
use exo_abi::binding::first;
use exo_abi::page::{MapEntry, Prot};
use exo_abi::{Handle, Pfn, Refusal};
use libos::sys::{self, Fill};
use libos::{machine, mem};
use workshop::{Child, DATA_VA, Ground};

const FREE_VA: u64 = DATA_VA + 0x1_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Everything that maps, frees or takes what is not the attacker's.
pub fn all(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let victim = Child::build(ground, 1)?;
    let child = Child::build(ground, 2)?;
    let info = machine::info();
    let mut map = |name: &str, frame: Pfn, prot: Prot, binding: Handle| {
        let result = sys::map_other(child.env, &[MapEntry::map(FREE_VA, frame, 1, prot, binding)]);
        if result.is_ok() {
            let _ = sys::map_other(child.env, &[MapEntry::unmap(FREE_VA, 1)]);
        }
        book.attack(format_args!("{name}"), refused(result.is_err()));
    };
    map("map a page of the kernel's image", Pfn(info.first_frame), RW, child.pool);
    map("map the free bitmap for writing", Pfn(info.bitmap_frame), RW, child.pool);
    map("map the machine page's neighbours as a device", Pfn(info.bitmap_frame), RW, first::DEVICES);
    map("map the slice vector for writing", Pfn(info.slices_frame), RW, Handle::POOL);
    map("execute the free bitmap", Pfn(info.bitmap_frame), Prot::READ | Prot::EXECUTE, child.pool);
    map("write to the archive", Pfn(info.archive_frame), RW, first::ARCHIVE);
    map("map a frame of another pool", victim.data[0], RW, child.pool);
    map("map data of another pool for reading", victim.data[0], Prot::READ, child.pool);
    map("map RAM as a device", victim.data[0], RW, first::DEVICES);
    map("map the kernel's RAM as a device", Pfn(info.first_frame), RW, first::DEVICES);
    for (name, frame) in [
        ("write to a level-2 table", child.tables[0]),
        ("write to a level-3 table", child.tables[1]),
        ("write to the root table", child.parts.root),
        ("write to the binding table", child.parts.bindings),
        ("write to the environment", child.parts.environment),
    ] {
        map(name, frame, RW, child.pool);
        map(name, frame, Prot::READ, child.pool);
    }
    let mut free = [Pfn(0)];
    mem::alloc_frames(child.pool, &mut free)?;
    mem::free_frames(child.pool, &free);
    map("map a free frame", free[0], RW, child.pool);
    map("map what is no frame", Pfn(0xffff_ffff), RW, child.pool);
    // The interrupt controller is the kernel's, wherever it lies: version 2 has its CPU interface, version 3 its redistributors.
    for page in [0x8000u64, 0x8001, 0x800f, 0x8010, 0x8011, 0x8080, 0x80a0, 0x80a1] {
        let is_there = match info.gic_version {
            2 => matches!(page, 0x8000 | 0x8010),
            _ => matches!(page, 0x8000 | 0x80a0 | 0x80a1),
        };
        if is_there {
            map("map the interrupt controller", Pfn(page), RW, first::DEVICES);
        }
    }
    for frame in [victim.data[0], Pfn(info.first_frame), Pfn(info.bitmap_frame), Pfn(info.archive_frame), child.data[0]]
    {
        let freed = sys::frame_free(child.pool, &[frame]);
        book.attack(format_args!("free frame {:#x} of another", frame.0), refused(freed.is_err()));
        let taken = sys::frame_alloc(child.pool, &[frame], Fill::Zeroed);
        book.attack(format_args!("take frame {:#x} of another", frame.0), refused(taken.is_err()));
    }
    private(ground, book)?;
    exposed(&child, book)?;
    child.destroy(ground)?;
    victim.destroy(ground)
}

fn refused(yes: bool) -> End {
    if yes { End::Refused } else { End::Harm }
}

/// What its maker gave the rights on away for cannot be looked into by the maker either.
fn private(ground: &Ground, book: &mut Book) -> Result<(), Refusal> {
    let child = Child::build(ground, 1)?;
    let secret = child.data[0];
    let copy = ground.take_slot()?;
    sys::grant(
        child.env,
        Handle::SELF,
        copy,
        exo_abi::binding::Rights::ENV_RUN | exo_abi::binding::Rights::ENV_DESTROY,
        0,
        None,
    )?;
    let mapped = sys::map_other(copy, &[MapEntry::unmap(DATA_VA, 1)]);
    book.attack(format_args!("change the tables of a private child"), refused(mapped.is_err()));
    let seen = mem::Mapping::readable(Handle::POOL, secret, 1);
    book.attack(format_args!("look into a private child by one's own pool"), refused(seen.is_err()));
    libos::slots::empty(copy);
    child.destroy(ground)
}

/// Exposed pages can be read by everybody, and written by nobody.
fn exposed(child: &Child, book: &mut Book) -> Result<(), Refusal> {
    let info = machine::info();
    child.map(&[MapEntry::map(FREE_VA, Pfn(info.bitmap_frame), 1, Prot::READ, Handle::SELF)])?;
    let unmapped_pages = [
        ("protect an exposed page for writing", MapEntry::protect(FREE_VA, 1, RW, child.pool)),
        ("mark an exposed page dirty", MapEntry::mark(FREE_VA, 1, Prot::ACCESSED | Prot::DIRTY, child.pool)),
    ];
    for (name, entry) in unmapped_pages {
        book.attack(format_args!("{name}"), refused(sys::map_other(child.env, &[entry]).is_err()));
    }
    child.map(&[MapEntry::unmap(FREE_VA, 1)])
}
