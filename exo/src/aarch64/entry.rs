//! Into the kernel and out of it: the vectors, and the registers of who goes on.

use super::layout::LINEAR;
use super::objects::{self, Arm};
use super::registers::{self, execute, mrs};
use super::{gic, mmu, panic};
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering::*;
use exo::binding::{Binding, RIGHTS_SHIFT};
use exo::call::{self, Outcome};
use exo::environment::Environment;
use exo::frame::Kind;
use exo::machine::{Found, Machine, Tables};
use exo::page_table::READABLE;
use exo::slice::{self, Core};
use exo::vcore::{Control, Link, Resume, State, Vcore, VcoreRef};
use exo::{event, interrupt, remote, word};
use exo_abi::binding::{BindingKind, Rights};
use exo_abi::control_page::{ControlPage, FLAGS_ALLOWED, Frame};
use exo_abi::page::{Descriptor, MapOp, Prot};
use exo_abi::{BINDINGS_PER_FRAME, Call, MAX_VCORES};
use spin::mutex::SpinMutex;

/// Bytes of kernel stack that an entry takes: x0 to x10, and x30.
const FRAME_BYTES: usize = 112;
/// Interrupts served before the interrupted program goes on, or somebody else.
const INTERRUPTS_PER_ENTRY: u32 = 16;

core::arch::global_asm!(include_str!("memory.s"));

/// The vectors, and what they know of structures (the places of fields), of numbers, and of functions.
macro_rules! vectors {
    (places { $($structure:ident { $($offset:ident $($field:ident)? $(($inner:ident . $last:ident))?,)* })* }
     numbers { $($name:ident = $value:expr,)* } symbols { $($symbol:ident = $path:path,)* }) => {
        core::arch::global_asm!(
            include_str!("vectors.s"),
            $($($offset = const offset_of!($structure, $($field)? $($inner.$last)?),)*)*
            $($name = const $value,)*
            $($symbol = sym $path,)*
        );
    };
}

vectors! {
    places {
        Core {
            CORE_CONTROL control, CORE_ZEROS zeros, CORE_FP fp, CORE_ID id, CORE_RESCHEDULE reschedule, CORE_LOAN loan, CORE_LENT lent,
            CORE_READY ready, CORE_ALARM alarm, CORE_SLICE_END slice_end, CORE_TIMER timer,
        }
        Vcore {
            VCORE_CONTROL control, VCORE_MASK mask, VCORE_SLOTS slots, VCORE_CALLER caller, VCORE_CALLEE callee, VCORE_ALARM alarm,
        }
        Environment {
            ENVIRONMENT_DYING dying, ENVIRONMENT_SPACE space, ENVIRONMENT_VCORES vcores, ENVIRONMENT_BINDINGS first_bindings,
            ENVIRONMENT_HOMES homes,
        }
        ControlPage {
            BATCH batch, UPCALL upcall, PREEMPTED preempted, MASKED masked, ENTRY upcall_entry, UPCALL_EVENTS upcall_events, CONTROL_PC pc,
        }
        Frame { PC pc, X x, SP sp, }
        Found { FRAME_WORDS (frames.words), FIRST_FRAME (frames.first), }
    }
    numbers {
        GENERAL = cfg!(feature = "general-paths") as u64,
        FRAME = FRAME_BYTES,
        LINEAR = LINEAR,
        FLAGS = FLAGS_ALLOWED,
        SVC64 = 0x15u64 << 26 | 1 << 25,
        REPLY_WAIT = Call::ReplyWait as u64, NUMBER_RESUME = Call::Resume as u64, NUMBER_NOTIFY = Call::Notify as u64, NUMBER_YIELD_TO = Call::YieldTo as u64,
        KIND_POOL = BindingKind::Pool as u64, KIND_ENV = BindingKind::Env as u64, DATA = Kind::Data as u64,
        MAY_CALL = BindingKind::Gate as u64 | (Rights::GATE_CALL.bits() as u64) << RIGHTS_SHIFT,
        MAY_NOTIFY = BindingKind::Event as u64 | (Rights::EVENT_NOTIFY.bits() as u64) << RIGHTS_SHIFT,
        RIGHTS = RIGHTS_SHIFT, ENV_RUN = Rights::ENV_RUN.bits().trailing_zeros(),
        MAX_VCORES = MAX_VCORES, BINDINGS_PER_FRAME = BINDINGS_PER_FRAME, IDLE = slice::IDLE,
        RUNNING = State::Running as u64, WAITING = State::Waiting as u64, READY = State::Ready as u64,
        READY_EVENTS = State::Ready as u64 | (Resume::Events as u64) << 4,
        LINK_DEPTH = Link::DEPTH, LINK_DEEP = Link::DEEP, LINK_PLAIN = Link::PLAIN,
        LINK_FIRST = 1u64 << Link::OWN | 1 << Link::PLAIN,
        PROT_FIXED = 0xfff & !(((Prot::WRITE.bits() | Prot::ACCESSED.bits() | Prot::DIRTY.bits()) as u64) << 4),
        PROT_PLAIN = (Prot::READ.bits() as u64) << 4 | MapOp::Map as u64,
        WRITE = 4 + Prot::WRITE.bits().trailing_zeros(),
        MARKED = 4 + Prot::ACCESSED.bits().trailing_zeros(),
        DIRTY = 4 + Prot::DIRTY.bits().trailing_zeros(),
        READABLE = READABLE.bits(),
        WRITABLE = Descriptor::WRITABLE.bits().trailing_zeros(),
        ACCESSED = Descriptor::ACCESSED.bits().trailing_zeros(),
        READ_ONLY = Descriptor::READ_ONLY.bits().trailing_zeros(),
    }
    symbols {
        TABLES = objects::TABLES, FOUND = objects::FOUND, KERNEL_FAULT = panic::fault,
        PLAIN = on_call, OTHER_NOTIFY = on_notify, WAIT = on_wait, SCHEDULE = on_schedule, YIELD_TO = on_yield, LATE_EVENT = on_late_event,
        INTERRUPT = on_interrupt, FAULT = on_fault, RESUME_EVENTS = on_resume_events, RESUME_BATCH = on_resume_batch, MAP_BATCH = on_map,
    }
}

/// What the vectors take for granted: pairs of words that they load and store at once, the state word and the cells where a vcore and the tables begin.
const _: () = {
    assert!(offset_of!(Core, link) == 0 && offset_of!(Core, control) == 8 && offset_of!(Vcore, state) == 0);
    assert!(offset_of!(Vcore, control_address) == offset_of!(Vcore, control) + 8);
    assert!(offset_of!(Tables, cells) == 0 && offset_of!(ControlPage, sp) == offset_of!(ControlPage, pc) + 8);
    assert!(offset_of!(Vcore, mask) == offset_of!(Vcore, callee) + 8 && State::Gate as u64 == 0);
    assert!(State::Running as u64 & 4 == 0 && State::Waiting as u64 & 4 == 0 && State::Stopped as u64 == 4);
    assert!(Call::Call as u64 == 0 && Call::ReplyWait as u64 == 1 && Call::Null as u64 == 2 && Call::Map as u64 == 3);
    assert!(Call::Resume as u64 == 4 && Call::Wait as u64 == 5 && Call::Notify as u64 == 6);
    assert!(offset_of!(ControlPage, masked) == offset_of!(ControlPage, upcall_entry) + 8);
    // The lock is a byte, 1 while it is taken; a slice is its address and its length.
    assert!(size_of_val(&SpinMutex::<()>::new(())) == 1);
    // SAFETY: two words make a slice's pointer, which is not followed.
    assert!(unsafe { core::mem::transmute::<[usize; 2], *const [u64]>([8, 3]) }.len() == 3);
    assert!(Rights::ENV_MAP.bits() == 1 && Rights::POOL_READ.bits() == 1 && Rights::POOL_WRITE.bits() == 2);
    assert!(READABLE.bits() & !(0xffff << 48) < 1 << 16);
    assert!(size_of::<Binding>() == 32 && offset_of!(Binding, object) == 16 && BINDINGS_PER_FRAME == 128);
};

/// How the vectors leave, and a word for that. (Of a batch: the refusal, and the entries done.)
#[repr(C)]
struct Leave(u64, u64);

/// The caller goes on with x0 to x2 from the stack, and its own x19 to x30.
const PLAIN: Leave = Leave(0, 0);
/// x0 to x8 come from the address in the word.
const WORDS: u64 = 1;
/// Everything comes from the control page.
const FULL: Leave = Leave(2, 0);
/// x0 = 0, x1 = the word.
const EVENTS: u64 = 3;
/// x0 to x8 come from the stack.
const DELIVER: Leave = Leave(4, 0);
/// x0 = the word.
const REFUSED: u64 = 5;

/// The calls that the vectors did not find plain, and all others.
extern "C" fn on_call(x: &mut [u64; 11], number: u64) -> Leave {
    match Call::from_number(number) {
        Some(Call::Call) => finish(call::call(&Arm, x)),
        Some(Call::ReplyWait) => finish(call::reply_wait(&Arm, x)),
        Some(Call::Notify) => {
            call::event(&Arm, x[0]).map_or_else(|refusal| Leave(REFUSED, refusal as u64), |object| on_notify(object))
        }
        Some(Call::YieldTo) => on_yield(x[0], x[1]),
        _ => match call::plain(&Arm, number, x) {
            Outcome::Return => PLAIN,
            outcome => finish(outcome),
        },
    }
}

/// `notify`, looked up.
extern "C" fn on_notify(object: u64) -> Leave {
    match event::notify(&Arm, object) {
        Outcome::Waited(next) => waited(next),
        outcome => finish(outcome),
    }
}

extern "C" fn on_wait(mask: u64, alarm: u64) -> Leave {
    finish(event::wait(&Arm, mask, alarm))
}

/// The running vcore waits.
extern "C" fn on_schedule() -> Leave {
    finish(slice::schedule(&Arm))
}

extern "C" fn on_yield(handle: u64, index: u64) -> Leave {
    finish(call::yield_to(&Arm, handle, index))
}

/// An event came just when the vectors opened this vcore's gate.
extern "C" fn on_late_event(reference: u64) {
    event::raise(&Arm, VcoreRef::from_word(reference), 0);
}

extern "C" fn on_interrupt() -> Leave {
    serve_interrupts();
    match slice::after_interrupt(&Arm) {
        Outcome::Waited(next) => waited(next),
        outcome => finish(outcome),
    }
}

/// Exceptions that are no upcall; everything is saved.
extern "C" fn on_fault() -> Leave {
    let core = Arm.core();
    // FP/SIMD trapped. Nothing has changed ESR since: the kernel takes no exceptions.
    if mrs!("esr_el1") >> 26 == 0x07 && core.fp.load(Relaxed) == 0 {
        call::use_fp(&Arm);
        return finish(Outcome::Resume(core.running()));
    }
    finish(call::halt(&Arm, exo_abi::calls::stop_reason::FAULTED, 0))
}

/// `resume` with events to deliver. Everything is saved; pc, flags, x16 and x17 are those of the `svc`.
extern "C" fn on_resume_events() -> Leave {
    let control = call::own_control(&Arm);
    control.copy(word!(upcall.pc), word!(preempted.pc), 2);
    control.copy(word!(upcall.x) + 16, word!(preempted.x) + 16, 2);
    control.set(word!(masked), 0);
    finish(Outcome::Resume(Arm.core().running()))
}

/// `map`, not plain. Answers the refusal's number and the results, x1 in 31:0 and x2 in 63:32.
extern "C" fn on_map(handle: u64, count: u64) -> Leave {
    let (refusal, progress) = call::map(&Arm, handle, count);
    Leave(refusal, progress)
}

/// The batch of a `resume`.
extern "C" fn on_resume_batch(count: u64) -> Leave {
    let (refusal, done) = call::resume_batch(&Arm, count);
    Leave(refusal, done)
}

fn serve_interrupts() {
    for _ in 0..INTERRUPTS_PER_ENTRY {
        let Some(number) = gic::acknowledge() else { return };
        if number == gic::TIMER {
            slice::timer_fired(&Arm);
        } else if (interrupt::FIRST_SHARED..gic::SPECIAL).contains(&number) {
            interrupt::fired(&Arm, number);
        } else {
            // Nothing else that is private is unmasked. One look an entry: the next must find this core out of the kernel.
            remote::look(&Arm);
            return gic::complete(number);
        }
        gic::complete(number);
    }
}

/// Makes whoever the outcome says the one that goes on when the vectors leave.
#[inline(never)]
fn finish(outcome: Outcome) -> Leave {
    match outcome {
        Outcome::Return => PLAIN,
        Outcome::Events(events) => Leave(EVENTS, events),
        Outcome::Refused(refusal) => Leave(REFUSED, refusal as u64),
        Outcome::Enter(next) => enter(next),
        Outcome::Waited(next) => waited(next),
        Outcome::Deliver(next) => {
            let control = switch(next);
            execute!("msr sp_el0, {}", control.get(word!(sp)));
            go_on(control.get(word!(pc)), 0);
            DELIVER
        }
        Outcome::Resume(next) => resume_full(next, switch(next)),
        Outcome::Idle => idle(),
        Outcome::ReturnOrUpcall => {
            let interrupted = || [mrs!("elr_el1"), 0, 0, 0];
            if let Some(entry) = upcall(Arm.vcore(Arm.core().running()), call::own_control(&Arm), interrupted) {
                go_on(entry, 0);
            }
            Leave(EVENTS, 0)
        }
    }
}

/// A vcore that was won in its wait goes on behind it.
#[inline(always)]
fn waited(next: VcoreRef) -> Leave {
    call::lose_fp(&Arm);
    behind_call(Arm.vcore(next), switch(next), Leave(EVENTS, Arm.core().events.load(Relaxed)))
}

/// A vcore that was won goes on as its state word says.
#[inline(never)]
fn enter(next: VcoreRef) -> Leave {
    call::lose_fp(&Arm);
    let (vcore, control) = (Arm.vcore(next), switch(next));
    let word = vcore.word();
    if word.resumes(Resume::Full) {
        return resume_full(next, control);
    }
    let leave = match word.resumes(Resume::Events) {
        true => Leave(EVENTS, vcore.take(&Arm, word.pending() & vcore.mask.load(Relaxed))),
        false => Leave(WORDS, &raw const control.0[word!(result)] as u64),
    };
    behind_call(vcore, control, leave)
}

/// A vcore that was switched to goes on behind its call, unless an event interrupts it there.
#[inline(always)]
fn behind_call(vcore: &Vcore, control: Control<'static>, leave: Leave) -> Leave {
    execute!("msr sp_el0, {}", control.get(word!(sp)));
    execute!("msr tpidr_el0, xzr");
    let pc = control.get(word!(pc));
    let entry = upcall(vcore, control, || [pc, 0, 0, 0]);
    go_on(entry.unwrap_or(pc), 0);
    leave
}

/// Sleeps until there is somebody to run.
fn idle() -> Leave {
    loop {
        call::lose_fp(&Arm);
        execute!("msr ttbr0_el1, {}; isb", mmu::idle_space());
        Arm.core().requests.sleeps();
        registers::sleep();
        Arm.core().requests.wakes(&Arm);
        serve_interrupts();
        match slice::after_interrupt(&Arm) {
            Outcome::Idle => {}
            outcome => return finish(outcome),
        }
    }
}

/// Where the next program goes on, and with which flags. Only the exception return looks at these.
fn go_on(pc: u64, flags: u64) {
    execute!("msr elr_el1, {}", pc);
    execute!("msr spsr_el1, {}", flags);
}

/// The running address space, TPIDRRO_EL0 and the words that the vectors need become `next`'s.
/// EL1 accesses nothing by TTBR0, so the exception return is the only synchronisation needed (Arm ARM D8.2.12, D1.4.4).
#[inline(always)]
fn switch(next: VcoreRef) -> Control<'static> {
    let (core, vcore) = (Arm.core(), Arm.vcore(next));
    execute!("msr ttbr0_el1, {}", Arm.environment_of(next).space.load(Relaxed));
    execute!("msr tpidrro_el0, {}", vcore.control_address.load(Relaxed));
    let control = Arm.words(vcore.control_frame());
    core.control.store(&raw const *control as u64, Relaxed);
    Control(control)
}

/// Everything from the control page's `preempted`, with the upcall that is due put in its way.
#[inline(never)]
fn resume_full(next: VcoreRef, control: Control<'static>) -> Leave {
    const X16: usize = word!(preempted.x) + 16;
    let frame = [word!(preempted.pc), word!(preempted.flags), X16, X16 + 1];
    let [pc, flags, x16, x17] = frame.map(|word| control.get(word));
    let flags = flags & FLAGS_ALLOWED;
    execute!("msr sp_el0, {}", control.get(word!(preempted.sp)));
    execute!("msr tpidr_el0, {}", control.get(word!(preempted.thread)));
    match upcall(Arm.vcore(next), control, || [pc, flags, x16, x17]) {
        Some(entry) => {
            go_on(entry, 0);
            control.set(X16, 0);
            control.set(X16 + 1, 0);
        }
        None => go_on(pc, flags),
    }
    FULL
}

/// Writes the upcall for the events that are due, if there are any; answers where the library is entered. What it saves of the program in whose way it comes: pc, flags, x16, x17.
#[inline(always)]
fn upcall(vcore: &Vcore, control: Control<'_>, interrupted: impl Fn() -> [u64; 4]) -> Option<u64> {
    let events = call::upcall_events(&Arm, vcore, control);
    (events != 0).then(|| write_upcall(control, interrupted(), events))
}

#[inline(never)]
fn write_upcall(control: Control<'_>, [pc, flags, x16, x17]: [u64; 4], events: u64) -> u64 {
    control.set(word!(upcall.cause), 0);
    control.set(word!(upcall.address), 0);
    control.set(word!(upcall.pc), pc);
    control.set(word!(upcall.flags), flags);
    control.set(word!(upcall.events), events);
    control.set(word!(upcall.x) + 16, x16);
    control.set(word!(upcall.x) + 17, x17);
    control.set(word!(masked), 1);
    control.get(word!(upcall_entry))
}

/// Leaves the kernel for the first time, as if from an interrupt of nobody.
pub fn begin() -> ! {
    Arm.core().requests.wakes(&Arm);
    let Leave(how, word) = finish(slice::schedule(&Arm));
    // SAFETY: what lies on the stack is not needed any more; the vectors go on as after any entry.
    unsafe {
        asm!("mrs x2, tpidr_el1", "sub sp, x2, #{frame}", "b leave", frame = const FRAME_BYTES, in("x0") how, in("x1") word, options(noreturn))
    }
}
