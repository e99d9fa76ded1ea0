//! Into the kernel and out of it: the vectors, and the registers of who goes on.

use super::layout::LINEAR;
use super::objects::{self, Arm};
use super::registers::{self, execute, mrs};
use super::{gic, mmu, panic};
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering::*;
use exo::binding::Binding;
use exo::call::{self, Outcome};
use exo::environment::Environment;
use exo::machine::{Machine, Tables};
use exo::slice::{self, Core};
use exo::vcore::{Control, Resume, State, Vcore, VcoreRef};
use exo::{event, gate, interrupt, word};
use exo_abi::binding::BindingKind;
use exo_abi::control_page::{ControlPage, FLAGS_ALLOWED, Frame};
use exo_abi::{BINDINGS_PER_FRAME, Call, MAX_BINDING_FRAMES, MAX_CHAIN_CALLS, Refusal};

/// Bytes of kernel stack that an entry takes: x0 to x10, and x30.
const FRAME_BYTES: usize = 112;
/// Interrupts served before the interrupted program goes on, or somebody else.
const INTERRUPTS_PER_ENTRY: u32 = 16;

core::arch::global_asm!(include_str!("memory.s"));

core::arch::global_asm!(
    include_str!("vectors.s"),
    SVC64 = const 0x15u64 << 26 | 1 << 25,
    NULL = const Call::Null as u64,
    CALL = const Call::Call as u64,
    REPLY_WAIT = const Call::ReplyWait as u64,
    SWITCHING = const Call::FrameAlloc as u64,
    KIND_GATE = const BindingKind::Gate as u64,
    KIND_EVENT = const BindingKind::Event as u64,
    BINDING_FRAMES = const MAX_BINDING_FRAMES,
    MAX_CHAIN_CALLS = const MAX_CHAIN_CALLS,
    RUNNING = const State::Running as u64,
    GATE = const State::Gate as u64,
    CALLING = const State::Calling as u64,
    BEGIN_CALL = const gate::BEGIN_CALL,
    DEPTH = const gate::DEPTH,
    LINEAR = const LINEAR,
    TABLES = sym objects::TABLES,
    FRAME = const FRAME_BYTES,
    UPCALL = const offset_of!(ControlPage, upcall),
    PREEMPTED = const offset_of!(ControlPage, preempted),
    MASKED = const offset_of!(ControlPage, masked),
    ENTRY = const offset_of!(ControlPage, upcall_entry),
    UPCALL_EVENTS = const offset_of!(ControlPage, upcall_events),
    CONTROL_PC = const offset_of!(ControlPage, pc),
    PC = const offset_of!(Frame, pc),
    X = const offset_of!(Frame, x),
    SP = const offset_of!(Frame, sp),
    EVENTS = const offset_of!(Frame, events),
    FLAGS_LOW = const FLAGS_ALLOWED & 0xffff,
    FLAGS_HIGH = const FLAGS_ALLOWED >> 16,
    CORE_CONTROL = const offset_of!(Core, control),
    CORE_RUNNING = const offset_of!(Core, running),
    CORE_BASE = const offset_of!(Core, base),
    VCORE_CONTROL = const offset_of!(Vcore, control),
    VCORE_MASK = const offset_of!(Vcore, mask),
    VCORE_CALLER = const offset_of!(Vcore, caller),
    VCORE_CALLEE = const offset_of!(Vcore, callee),
    VCORE_ALARM = const offset_of!(Vcore, alarm),
    VCORE_CONTROL_ADDRESS = const offset_of!(Vcore, control_address),
    ENVIRONMENT_SPACE = const offset_of!(Environment, space),
    ENVIRONMENT_BINDINGS = const offset_of!(Environment, binding_frames),
    PLAIN = sym on_plain,
    OTHER_NOTIFY = sym on_notify,
    WAIT = sym on_wait,
    YIELD_TO = sym on_yield,
    LATE_EVENT = sym on_late_event,
    INTERRUPT = sym on_interrupt,
    FAULT = sym on_fault,
    RESUME_EVENTS = sym on_resume_events,
    RESUME_BATCH = sym on_resume_batch,
    KERNEL_FAULT = sym panic::fault,
);

/// What the vectors take for granted: pairs of words that they load and store at once, the state word and the cells where a vcore and the tables begin.
const _: () = {
    assert!(offset_of!(Core, vcore) == 0 && offset_of!(Core, control) == 8 && offset_of!(Vcore, state) == 0);
    assert!(offset_of!(Tables, cells) == 0 && offset_of!(ControlPage, sp) == offset_of!(ControlPage, pc) + 8);
    assert!(offset_of!(Vcore, caller) == offset_of!(Vcore, mask) + 8);
    assert!(offset_of!(Vcore, alarm) == offset_of!(Vcore, callee) + 8);
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

extern "C" fn on_plain(x: &mut [u64; 11], number: u64) -> Leave {
    finish(call::dispatch(&Arm, number, x))
}

/// `notify`, looked up.
extern "C" fn on_notify(object: u64) -> Leave {
    finish(event::notify(&Arm, object))
}

extern "C" fn on_wait(mask: u64, alarm: u64) -> Leave {
    event::wait(&Arm, mask, alarm).map_or_else(refused, finish)
}

extern "C" fn on_yield(handle: u64, index: u64) -> Leave {
    call::yield_to(&Arm, handle, index).map_or_else(refused, finish)
}

fn refused(refusal: Refusal) -> Leave {
    Leave(REFUSED, refusal as u64)
}

/// An event came just when the vectors opened this vcore's gate.
extern "C" fn on_late_event(reference: u64) {
    event::raise(&Arm, VcoreRef(reference), 0);
}

extern "C" fn on_interrupt() -> Leave {
    serve_interrupts();
    finish(slice::after_interrupt(&Arm))
}

/// Exceptions that are no upcall; everything is saved.
extern "C" fn on_fault() -> Leave {
    const FP_TRAP: u64 = 0x07;
    let core = Arm.core();
    // Nothing has changed ESR since: the kernel takes no exceptions.
    if mrs!("esr_el1") >> 26 == FP_TRAP && core.fp.load(Relaxed) == 0 {
        call::use_fp(&Arm);
        return finish(Outcome::Resume(core.running()));
    }
    finish(call::fault(&Arm))
}

/// `resume` with events to deliver. Everything is saved; pc, flags, x16 and x17 are those of the `svc`.
extern "C" fn on_resume_events() -> Leave {
    let control = running_control();
    control.copy(word!(upcall.pc), word!(preempted.pc), 2);
    control.copy(word!(upcall.x) + 16, word!(preempted.x) + 16, 2);
    control.set(word!(masked), 0);
    finish(Outcome::Resume(Arm.core().running()))
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
        } else if number >= interrupt::FIRST_SHARED {
            interrupt::fired(&Arm, number);
        }
        gic::complete(number);
    }
}

/// Makes whoever the outcome says the one that goes on when the vectors leave.
#[inline(always)]
fn finish(outcome: Outcome) -> Leave {
    match outcome {
        Outcome::Return => PLAIN,
        Outcome::Events(events) => Leave(EVENTS, events),
        Outcome::Enter(next) => enter(next),
        other => finish_rarely(other),
    }
}

#[inline(never)]
fn finish_rarely(outcome: Outcome) -> Leave {
    match outcome {
        Outcome::Deliver(next) => {
            let control = switch(next);
            execute!("msr sp_el0, {}", control.get(word!(sp)));
            go_on(control.get(word!(pc)), 0);
            DELIVER
        }
        Outcome::Resume(next) => {
            call::leave_fp(&Arm, next);
            resume_full(next, switch(next))
        }
        Outcome::Idle => idle(),
        _ => {
            let interrupted = Interrupted { pc: mrs!("elr_el1"), ..Interrupted::default() };
            if let Some(entry) = upcall(Arm.vcore(Arm.core().running()), running_control(), &interrupted) {
                go_on(entry, 0);
            }
            Leave(EVENTS, 0)
        }
    }
}

/// A vcore that was won goes on as its state word says.
#[inline(never)]
fn enter(next: VcoreRef) -> Leave {
    call::leave_fp(&Arm, next);
    let (vcore, control) = (Arm.vcore(next), switch(next));
    let leave = match vcore.word().resume() {
        Resume::Full => return resume_full(next, control),
        Resume::Result => Leave(WORDS, &raw const control.0[word!(result)] as u64),
        Resume::Events => Leave(EVENTS, vcore.take_waited(&Arm)),
    };
    execute!("msr sp_el0, {}", control.get(word!(sp)));
    execute!("msr tpidr_el0, xzr");
    let interrupted = Interrupted { pc: control.get(word!(pc)), ..Interrupted::default() };
    go_on(upcall(vcore, control, &interrupted).unwrap_or(interrupted.pc), 0);
    leave
}

/// Sleeps until there is somebody to run.
fn idle() -> Leave {
    loop {
        call::leave_fp(&Arm, VcoreRef::NONE);
        execute!("msr ttbr0_el1, {}; isb", mmu::idle_space());
        registers::sleep();
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

fn running_control() -> Control<'static> {
    Control(Arm.words(Arm.vcore(Arm.core().running()).control_frame()))
}

/// The running address space, TPIDRRO_EL0 and the words that the vectors need become `next`'s.
/// EL1 accesses nothing by TTBR0, so the exception return is the only synchronisation needed (Arm ARM D8.2.12, D1.4.4).
#[inline(always)]
fn switch(next: VcoreRef) -> Control<'static> {
    let (core, vcore) = (Arm.core(), Arm.vcore(next));
    execute!("msr ttbr0_el1, {}", Arm.environment(next.environment()).space.load(Relaxed));
    execute!("msr tpidrro_el0, {}", vcore.control_address.load(Relaxed) & !0xfff);
    let control = Arm.words(vcore.control_frame());
    core.vcore.store(&raw const *vcore as u64, Relaxed);
    core.control.store(&raw const *control as u64, Relaxed);
    Control(control)
}

/// Everything from the control page's `preempted`, with the upcall that is due put in its way.
#[inline(never)]
fn resume_full(next: VcoreRef, control: Control<'static>) -> Leave {
    const X16: usize = word!(preempted.x) + 16;
    let interrupted = Interrupted {
        pc: control.get(word!(preempted.pc)),
        flags: control.get(word!(preempted.flags)) & FLAGS_ALLOWED,
        x16: control.get(X16),
        x17: control.get(X16 + 1),
    };
    execute!("msr sp_el0, {}", control.get(word!(preempted.sp)));
    execute!("msr tpidr_el0, {}", control.get(word!(preempted.thread)));
    match upcall(Arm.vcore(next), control, &interrupted) {
        Some(entry) => {
            go_on(entry, 0);
            control.set(X16, 0);
            control.set(X16 + 1, 0);
        }
        None => go_on(interrupted.pc, interrupted.flags),
    }
    FULL
}

/// What an event's upcall saves of the program in whose way it comes.
#[derive(Default)]
struct Interrupted {
    pc: u64,
    flags: u64,
    x16: u64,
    x17: u64,
}

/// Writes the upcall for the events that are due, if there are any; answers where the library is entered.
#[inline(always)]
fn upcall(vcore: &Vcore, control: Control<'_>, interrupted: &Interrupted) -> Option<u64> {
    let events = call::upcall_events(&Arm, vcore, control);
    (events != 0).then(|| write_upcall(control, interrupted, events))
}

#[inline(never)]
fn write_upcall(control: Control<'_>, interrupted: &Interrupted, events: u64) -> u64 {
    control.set(word!(upcall.cause), 0);
    control.set(word!(upcall.address), 0);
    control.set(word!(upcall.pc), interrupted.pc);
    control.set(word!(upcall.flags), interrupted.flags);
    control.set(word!(upcall.events), events);
    control.set(word!(upcall.x) + 16, interrupted.x16);
    control.set(word!(upcall.x) + 17, interrupted.x17);
    control.set(word!(masked), 1);
    control.get(word!(upcall_entry))
}

unsafe extern "C" {
    static stack_top: u8;
}

/// Leaves the kernel for the first time, as if from an interrupt of nobody.
pub fn begin() -> ! {
    let leave = finish(slice::schedule(&Arm));
    debug_assert!(leave.0 == WORDS);
    let argument = running_control().get(word!(result));
    // SAFETY: the stack below its top is free from here on; a new vcore begins with x0 and zeros, at the pc and sp that `finish` has set.
    unsafe {
        asm!(
            "mov sp, {stack}",
            ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30",
            "mov x\\n, xzr",
            ".endr",
            "eret",
            stack = in(reg) &raw const stack_top,
            in("x0") argument,
            options(noreturn)
        )
    }
}
