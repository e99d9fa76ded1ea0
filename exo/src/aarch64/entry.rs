//! Into the kernel and out of it: the vectors, and the registers of who goes on.

use super::boot::IDENTITY_1;
use super::objects::{self, Arm};
use super::{gic, panic, registers};
use core::sync::atomic::Ordering::*;
use exo::call::{self, Outcome};
use exo::machine::Machine;
use exo::vcore::{self, Control, Resume, VcoreRef, frame_word};
use exo::{interrupt, slice};
use exo_abi::Call;
use exo_abi::control_page::{ControlPage, FLAGS_ALLOWED, Frame};

/// Bytes of kernel stack that an entry takes: x0 to x10, and x30.
const FRAME_BYTES: usize = 112;
/// Interrupts served before the interrupted program goes on, or somebody else.
const INTERRUPTS_PER_ENTRY: u32 = 16;

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

extern "C" fn on_call(number: u64, x: &mut Registers) -> u64 {
    let outcome = call::dispatch(&Arm, number, x);
    finish(outcome, x)
}

extern "C" fn on_interrupt(x: &mut Registers) -> u64 {
    serve_interrupts();
    finish(slice::after_interrupt(&Arm), x)
}

/// Exceptions that are no upcall; everything is saved.
extern "C" fn on_fault(cause: u64, x: &mut Registers) -> u64 {
    const FP_TRAP: u64 = 0x07;
    let running = Arm.core().running();
    if cause >> 26 == FP_TRAP && Arm.core().fp.load(Relaxed) == 0 {
        call::use_fp(&Arm);
        return finish(Outcome::Resume(running), x);
    }
    finish(call::fault(&Arm), x)
}

/// `resume` with a batch, or with events to deliver. Everything is saved; pc, flags, x16 and x17 are those of the `svc`.
extern "C" fn on_slow_resume(x: &mut Registers) -> u64 {
    let core = Arm.core();
    let control = vcore::control(&Arm, Arm.vcore(core.running()));
    let (upcall, saved) = (control.upcall(), control.preempted());
    let count = saved[frame_word::X0 + 16].load(Relaxed);
    let (refusal, done) = if count == 0 { (0, 0) } else { call::resume_batch(&Arm, count) };
    if refusal != 0 {
        saved[frame_word::X0 + 16].store(refusal, Relaxed);
        saved[frame_word::X0 + 17].store(done, Relaxed);
    } else {
        for word in [frame_word::PC, frame_word::FLAGS, frame_word::X0 + 16, frame_word::X0 + 17] {
            saved[word].store(upcall[word].load(Relaxed), Relaxed);
        }
        control.masked().store(0, Relaxed);
    }
    finish(Outcome::Resume(core.running()), x)
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
                let running = Arm.core().running();
                let events = call::upcall_events(&Arm, running);
                if events != 0 {
                    let control = vcore::control(&Arm, Arm.vcore(running));
                    registers::set_user_pc(interpose(control, events, registers::user_pc(), 0, 0, 0));
                    registers::set_user_flags(0);
                }
                return LEAVE_PLAIN;
            }
            Outcome::Deliver(next) => {
                let control = switch(next);
                registers::set_user_pc(control.pc().load(Relaxed));
                registers::set_user_sp(control.sp().load(Relaxed));
                registers::set_user_flags(0);
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
                let mut pc = control.pc().load(Relaxed);
                let events = call::upcall_events(&Arm, next);
                if events != 0 {
                    pc = interpose(control, events, pc, 0, 0, 0);
                }
                registers::set_user_pc(pc);
                registers::set_user_sp(control.sp().load(Relaxed));
                registers::set_user_flags(0);
                registers::set_user_thread(0);
                return LEAVE_WORDS;
            }
            Outcome::Idle => {
                call::leave_fp(&Arm, VcoreRef::NONE);
                // Nobody's tables: the ASID 0 of an empty root.
                registers::set_space(idle_space());
                registers::synchronise();
                registers::sleep();
                serve_interrupts();
                outcome = slice::after_interrupt(&Arm);
            }
        }
    }
}

/// The running address space, TPIDRRO_EL0 and the words that the vectors need become `next`'s.
#[inline(always)]
fn switch(next: VcoreRef) -> Control<'static> {
    let core = Arm.core();
    let vcore = Arm.vcore(next);
    let environment = Arm.environment(next.environment());
    let space = environment.number() << 48 | environment.root().address();
    if registers::space() != space {
        registers::set_space(space);
    }
    core.control.store(objects::address(vcore.control_frame()), Relaxed);
    core.state.store(&raw const vcore.state as u64, Relaxed);
    registers::set_user_control(vcore.control_address.load(Relaxed) & !0xfff);
    Control(objects::control_words(vcore.control_frame()))
}

/// Everything from the control page's `preempted`, with the upcall that is due put in its way.
fn resume_full(next: VcoreRef) -> u64 {
    let control = switch(next);
    let saved = control.preempted();
    let read = |word: usize| saved[word].load(Relaxed);
    let (mut pc, mut flags) = (read(frame_word::PC), read(frame_word::FLAGS) & FLAGS_ALLOWED);
    let events = call::upcall_events(&Arm, next);
    if events != 0 {
        pc = interpose(control, events, pc, flags, read(frame_word::X0 + 16), read(frame_word::X0 + 17));
        flags = 0;
        saved[frame_word::X0 + 16].store(0, Relaxed);
        saved[frame_word::X0 + 17].store(0, Relaxed);
    }
    registers::set_user_pc(pc);
    registers::set_user_flags(flags);
    registers::set_user_sp(read(frame_word::SP));
    registers::set_user_thread(read(frame_word::THREAD));
    LEAVE_FULL
}

/// Writes an event upcall that interrupts a program at `pc`; answers where the library is entered.
fn interpose(control: Control<'_>, events: u64, pc: u64, flags: u64, x16: u64, x17: u64) -> u64 {
    let upcall = control.upcall();
    for (word, value) in [
        (frame_word::CAUSE, 0),
        (frame_word::ADDRESS, 0),
        (frame_word::PC, pc),
        (frame_word::FLAGS, flags),
        (frame_word::EVENTS, events),
        (frame_word::X0 + 16, x16),
        (frame_word::X0 + 17, x17),
    ] {
        upcall[word].store(value, Relaxed);
    }
    control.masked().store(1, Relaxed);
    control.upcall_entry().load(Relaxed)
}

fn idle_space() -> u64 {
    super::mmu::physical(&raw const IDENTITY_1 as u64)
}

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
        core::arch::asm!(
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
