//! Into the kernel and out of it: the vectors, and the registers of who goes on.

use super::objects::{self, Arm};
use super::registers::{self, execute, mrs};
use super::{gic, mmu, panic};
use core::arch::asm;
use core::sync::atomic::Ordering::*;
use exo::call::{self, Outcome};
use exo::machine::Machine;
use exo::vcore::{Control, Resume, VcoreRef, frame_word};
use exo::{interrupt, slice};
use exo_abi::Call;
use exo_abi::control_page::{ControlPage, FLAGS_ALLOWED, Frame};

/// Bytes of kernel stack that an entry takes: x0 to x10, and x30.
const FRAME_BYTES: usize = 112;
/// Interrupts served before the interrupted program goes on, or somebody else.
const INTERRUPTS_PER_ENTRY: u32 = 16;

core::arch::global_asm!(include_str!("memory.s"));

core::arch::global_asm!(
    include_str!("vectors.s"),
    SVC64 = const 0x15u64 << 26 | 1 << 25,
    RESUME = const Call::Resume as u64,
    FRAME = const FRAME_BYTES,
    UPCALL = const core::mem::offset_of!(ControlPage, upcall),
    PREEMPTED = const core::mem::offset_of!(ControlPage, preempted),
    MASKED = const core::mem::offset_of!(ControlPage, masked),
    ENTRY = const core::mem::offset_of!(ControlPage, upcall_entry),
    UPCALL_EVENTS = const core::mem::offset_of!(ControlPage, upcall_events),
    PC = const core::mem::offset_of!(Frame, pc),
    X = const core::mem::offset_of!(Frame, x),
    SP = const core::mem::offset_of!(Frame, sp),
    EVENTS = const core::mem::offset_of!(Frame, events),
    FLAGS_LOW = const FLAGS_ALLOWED & 0xffff,
    FLAGS_HIGH = const FLAGS_ALLOWED >> 16,
    CALL = sym on_call,
    INTERRUPT = sym on_interrupt,
    FAULT = sym on_fault,
    RESUME_SLOW = sym on_slow_resume,
    KERNEL_FAULT = sym panic::fault,
);

/// How the vectors leave: the caller goes on with its own x19 to x30.
const LEAVE_PLAIN: u64 = 0;
/// With x0 to x8 from the stack, and zeros.
const LEAVE_WORDS: u64 = 1;
/// With everything from the control page.
const LEAVE_FULL: u64 = 2;

type Registers = [u64; 11];

extern "C" fn on_call(x: &mut Registers, number: u64) -> u64 {
    let outcome = call::dispatch(&Arm, number, x);
    finish(outcome, x)
}

extern "C" fn on_interrupt(x: &mut Registers) -> u64 {
    serve_interrupts();
    finish(slice::after_interrupt(&Arm), x)
}

/// Exceptions that are no upcall; everything is saved.
extern "C" fn on_fault(x: &mut Registers) -> u64 {
    const FP_TRAP: u64 = 0x07;
    let core = Arm.core();
    // Nothing has changed ESR since: the kernel takes no exceptions.
    if mrs!("esr_el1") >> 26 == FP_TRAP && core.fp.load(Relaxed) == 0 {
        call::use_fp(&Arm);
        return finish(Outcome::Resume(core.running()), x);
    }
    finish(call::fault(&Arm), x)
}

/// `resume` with a batch, or with events to deliver. Everything is saved; pc, flags, x16 and x17 are those of the `svc`.
extern "C" fn on_slow_resume(x: &mut Registers) -> u64 {
    let control = running_control();
    let (upcall, saved) = (control.upcall(), control.preempted());
    let count = saved[X16].load(Relaxed);
    let (refusal, done) = if count == 0 { (0, 0) } else { call::resume_batch(&Arm, count) };
    if refusal != 0 {
        saved[X16].store(refusal, Relaxed);
        saved[X16 + 1].store(done, Relaxed);
    } else {
        for words in [frame_word::PC..=frame_word::FLAGS, X16..=X16 + 1] {
            let pairs = saved.iter().zip(upcall).skip(*words.start()).take(2);
            pairs.for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
        }
        control.masked().store(0, Relaxed);
    }
    finish(Outcome::Resume(Arm.core().running()), x)
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
fn finish(mut outcome: Outcome, x: &mut Registers) -> u64 {
    // Ends: an idle core leaves this loop only with somebody to run.
    loop {
        match outcome {
            Outcome::Return => return LEAVE_PLAIN,
            Outcome::ReturnOrUpcall => {
                let interrupted = Interrupted { pc: mrs!("elr_el1"), ..Interrupted::default() };
                if let Some(entry) = upcall(Arm.core().running(), running_control(), interrupted) {
                    go_on(entry, 0);
                }
                return LEAVE_PLAIN;
            }
            Outcome::Deliver(next) => {
                let control = switch(next);
                execute!("msr sp_el0, {}", control.sp().load(Relaxed));
                go_on(control.pc().load(Relaxed), 0);
                return LEAVE_WORDS;
            }
            Outcome::Resume(next) => {
                call::leave_fp(&Arm, next);
                return resume_full(next);
            }
            Outcome::Enter(next) => {
                call::leave_fp(&Arm, next);
                if call::prepare(&Arm, next, x) == Resume::Full {
                    return resume_full(next);
                }
                let control = switch(next);
                let pc = control.pc().load(Relaxed);
                execute!("msr sp_el0, {}", control.sp().load(Relaxed));
                execute!("msr tpidr_el0, xzr");
                go_on(upcall(next, control, Interrupted { pc, ..Interrupted::default() }).unwrap_or(pc), 0);
                return LEAVE_WORDS;
            }
            Outcome::Idle => {
                call::leave_fp(&Arm, VcoreRef::NONE);
                execute!("msr ttbr0_el1, {}; isb", mmu::idle_space());
                registers::sleep();
                serve_interrupts();
                outcome = slice::after_interrupt(&Arm);
            }
        }
    }
}

/// Where the next program goes on, and with which flags. Only the exception return looks at these.
fn go_on(pc: u64, flags: u64) {
    execute!("msr elr_el1, {}", pc);
    execute!("msr spsr_el1, {}", flags);
}

fn running_control() -> Control<'static> {
    Control(objects::control_words(Arm.vcore(Arm.core().running()).control_frame()))
}

/// The running address space, TPIDRRO_EL0 and the words that the vectors need become `next`'s.
#[inline(always)]
fn switch(next: VcoreRef) -> Control<'static> {
    let core = Arm.core();
    let vcore = Arm.vcore(next);
    let environment = Arm.environment(next.environment());
    let space = environment.number() << 48 | environment.root().address();
    if mrs!("ttbr0_el1") != space {
        // EL1 accesses nothing by TTBR0, so the exception return is the only synchronisation needed (Arm ARM D8.2.12, D1.4.4).
        execute!("msr ttbr0_el1, {}", space);
    }
    core.control.store(objects::address(vcore.control_frame()), Relaxed);
    core.state.store(&raw const vcore.state as u64, Relaxed);
    execute!("msr tpidrro_el0, {}", vcore.control_address.load(Relaxed) & !0xfff);
    Control(objects::control_words(vcore.control_frame()))
}

/// Everything from the control page's `preempted`, with the upcall that is due put in its way.
fn resume_full(next: VcoreRef) -> u64 {
    let control = switch(next);
    let saved = control.preempted();
    let read = |word: usize| saved[word].load(Relaxed);
    let (pc, flags) = (read(frame_word::PC), read(frame_word::FLAGS) & FLAGS_ALLOWED);
    execute!("msr sp_el0, {}", read(frame_word::SP));
    execute!("msr tpidr_el0, {}", read(frame_word::THREAD));
    match upcall(next, control, Interrupted { pc, flags, x16: read(X16), x17: read(X16 + 1) }) {
        Some(entry) => {
            go_on(entry, 0);
            saved[X16].store(0, Relaxed);
            saved[X16 + 1].store(0, Relaxed);
        }
        None => go_on(pc, flags),
    }
    LEAVE_FULL
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
fn upcall(next: VcoreRef, control: Control<'_>, interrupted: Interrupted) -> Option<u64> {
    let events = call::upcall_events(&Arm, next);
    if events == 0 {
        return None;
    }
    let upcall = control.upcall();
    let words = [0, 0, interrupted.pc, interrupted.flags, events];
    upcall.iter().zip(words).for_each(|(place, value)| place.store(value, Relaxed));
    upcall[X16].store(interrupted.x16, Relaxed);
    upcall[X16 + 1].store(interrupted.x17, Relaxed);
    control.masked().store(1, Relaxed);
    Some(control.upcall_entry().load(Relaxed))
}

const X16: usize = frame_word::X0 + 16;
const _: () = assert!(frame_word::CAUSE == 0 && frame_word::PC == 2 && frame_word::EVENTS == 4);

unsafe extern "C" {
    static stack_top: u8;
}

/// Leaves the kernel for the first time, as if from an interrupt of nobody.
pub fn begin() -> ! {
    let mut x = [0; 11];
    let leave = finish(slice::schedule(&Arm), &mut x);
    debug_assert!(leave == LEAVE_WORDS);
    // SAFETY: the stack below its top is free from here on; a new vcore begins with x0 and zeros, at the pc and sp that `finish` has set.
    unsafe {
        asm!(
            "mov sp, {stack}",
            ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30",
            "mov x\\n, xzr",
            ".endr",
            "eret",
            stack = in(reg) &raw const stack_top,
            in("x0") x[0],
            options(noreturn)
        )
    }
}
