// The exception vectors (Arm ARM D1.3.1.5), and the paths that are taken before any Rust runs: `null`, upcalls, `resume`.
//
// On entry from EL0 sp is the top of the core's kernel stack, which is empty: what lies below it is scratch. Interrupts stay masked.
// `core` is in TPIDR_EL1; its first words are the running vcore's control page and state word.

    .macro  entry target
    .balign 128
    b       \target
    .endm

    .section .vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    entry   kernel_fault_sp0
    entry   kernel_fault_sp0
    entry   kernel_fault_sp0
    entry   kernel_fault_sp0
    entry   kernel_fault_sync
    entry   kernel_fault_other
    entry   kernel_fault_other
    entry   kernel_fault_other

    .balign 128                         // synchronous, from EL0
    stp     x16, x17, [sp, #-16]
    mrs     x16, esr_el1
    mov     x17, #{SVC64}
    eor     x16, x16, x17               // the immediate, if this is `svc` from AArch64
    cmp     x16, #{RESUME}
    b.eq    resume
    sub     x17, x16, #1
    cbz     x17, null
    lsr     x17, x17, #16
    cbnz    x17, no_call                // another exception, or `svc #0`
    b       call
null:
    mov     x0, xzr
    ldp     x16, x17, [sp, #-16]
    eret

    .balign 128
    b       interrupt
    entry   interrupt                   // FIQ: the kernel routes nothing there; the controller says spurious
    .balign 128                         // SError from EL0: it cannot go on
    stp     x16, x17, [sp, #-16]
    b       stop
    .balign 128                         // from AArch32, which no program can be in
    stp     x16, x17, [sp, #-16]
    b       stop
    entry   interrupt
    entry   interrupt
    .balign 128
    stp     x16, x17, [sp, #-16]
    b       stop

// A call: x16 is its number. Rust keeps x19 to x29.
call:
    sub     sp, sp, #{FRAME}
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x30, [sp, #80]
    mov     x0, x16
    mov     x1, sp
    bl      {CALL}
    cbnz    w0, leave
    ldr     x30, [sp, #88]
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldr     x8, [sp, #64]
    mov     x9, xzr
    mov     x10, xzr
    mov     x11, xzr
    mov     x12, xzr
    mov     x13, xzr
    mov     x14, xzr
    mov     x15, xzr
    mov     x16, xzr
    mov     x17, xzr
    mov     x18, xzr
    add     sp, sp, #{FRAME}
    eret

// Out of the kernel into a vcore that was switched to: w0 = 1: x0 to x8 from the stack, zeros elsewhere; 2: everything from the control page.
leave:
    tbnz    w0, #1, leave_full
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldr     x8, [sp, #64]
    .irp    n, 9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    mov     x\n, xzr
    .endr
    add     sp, sp, #{FRAME}
    eret

leave_full:
    add     sp, sp, #{FRAME}
    mrs     x16, tpidr_el1
    ldr     x16, [x16]
    add     x16, x16, #{PREEMPTED}
    ldp     x0, x1, [x16, #({X} + 0)]
    ldp     x2, x3, [x16, #({X} + 16)]
    ldp     x4, x5, [x16, #({X} + 32)]
    ldp     x6, x7, [x16, #({X} + 48)]
    ldp     x8, x9, [x16, #({X} + 64)]
    ldp     x10, x11, [x16, #({X} + 80)]
    ldp     x12, x13, [x16, #({X} + 96)]
    ldp     x14, x15, [x16, #({X} + 112)]
    ldp     x18, x19, [x16, #({X} + 144)]
    ldp     x20, x21, [x16, #({X} + 160)]
    ldp     x22, x23, [x16, #({X} + 176)]
    ldp     x24, x25, [x16, #({X} + 192)]
    ldp     x26, x27, [x16, #({X} + 208)]
    ldp     x28, x29, [x16, #({X} + 224)]
    ldr     x30, [x16, #({X} + 240)]
    ldp     x16, x17, [x16, #({X} + 128)]
    eret

// Saves the interrupted program in the control page's `preempted`; x16 and x17 lie below sp. Leaves x16 = `preempted`.
    .macro  save_full
    mrs     x16, tpidr_el1
    ldr     x16, [x16]
    add     x16, x16, #{PREEMPTED}
    stp     x0, x1, [x16, #({X} + 0)]
    stp     x2, x3, [x16, #({X} + 16)]
    stp     x4, x5, [x16, #({X} + 32)]
    stp     x6, x7, [x16, #({X} + 48)]
    stp     x8, x9, [x16, #({X} + 64)]
    stp     x10, x11, [x16, #({X} + 80)]
    stp     x12, x13, [x16, #({X} + 96)]
    stp     x14, x15, [x16, #({X} + 112)]
    stp     x18, x19, [x16, #({X} + 144)]
    stp     x20, x21, [x16, #({X} + 160)]
    stp     x22, x23, [x16, #({X} + 176)]
    stp     x24, x25, [x16, #({X} + 192)]
    stp     x26, x27, [x16, #({X} + 208)]
    stp     x28, x29, [x16, #({X} + 224)]
    str     x30, [x16, #({X} + 240)]
    ldp     x0, x1, [sp, #-16]
    stp     x0, x1, [x16, #({X} + 128)]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [x16, #{PC}]
    mrs     x0, sp_el0
    mrs     x1, tpidr_el0
    stp     x0, x1, [x16, #{SP}]
    .endm

interrupt:
    stp     x16, x17, [sp, #-16]
    save_full
    sub     sp, sp, #{FRAME}
    mov     x0, sp
    bl      {INTERRUPT}
    b       leave

// An exception that is no call: an upcall, unless it is the first use of FP/SIMD, or the library cannot take it.
no_call:
    mrs     x16, esr_el1
    lsr     x17, x16, #26
    cmp     x17, #0x07                  // FP/SIMD trapped
    b.eq    stop
    mrs     x17, tpidr_el1
    ldr     x17, [x17]
    ldr     x16, [x17, #{MASKED}]
    cbnz    x16, stop
    ldr     x16, [x17, #{ENTRY}]
    cbz     x16, stop
    stp     x0, x1, [sp, #-32]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [x17, #({UPCALL} + {PC})]
    msr     elr_el1, x16
    mrs     x0, esr_el1
    lsr     x1, x0, #26
    and     x1, x1, #~4                 // 0x20, 0x24: instruction and data aborts from EL0
    cmp     x1, #0x20                   // FAR_EL1 means something for aborts only; else it is somebody else's address
    mrs     x1, far_el1
    csel    x1, x1, xzr, eq
    stp     x0, x1, [x17, #{UPCALL}]
    ldp     x0, x1, [sp, #-16]
    stp     x0, x1, [x17, #({UPCALL} + {X} + 128)]
    str     xzr, [x17, #({UPCALL} + {EVENTS})]
    mov     x0, #1
    str     x0, [x17, #{MASKED}]
    msr     spsr_el1, xzr
    ldp     x0, x1, [sp, #-32]
    mov     x16, xzr
    mov     x17, xzr
    eret

// The rest of the exceptions go to Rust with everything saved; x0 = what they were.
stop:
    save_full
    mrs     x0, esr_el1
    lsr     x1, x0, #26
    and     x1, x1, #~4                 // 0x20, 0x24: instruction and data aborts from EL0
    cmp     x1, #0x20
    mrs     x1, far_el1
    csel    x1, x1, xzr, eq
    stp     x0, x1, [x16]
    sub     sp, sp, #{FRAME}
    mov     x1, sp
    bl      {FAULT}
    b       leave

// Back from an upcall: x16 (below sp) counts entries of a batch.
resume:
    ldr     x16, [sp, #-16]
    cbnz    x16, resume_slow
    mrs     x17, tpidr_el1
    ldr     x16, [x17, #8]
    ldr     x17, [x17]
    ldr     x16, [x16]
    stp     x0, x1, [sp, #-32]
    ldr     x0, [x17, #{UPCALL_EVENTS}]
    ands    x0, x0, x16
    lsl     x0, x0, #16                 // 48 events
    cbnz    x0, resume_events
    ldp     x0, x1, [x17, #({UPCALL} + {PC})]
    mov     w16, #{FLAGS_LOW}
    movk    w16, #{FLAGS_HIGH}, lsl #16
    and     x1, x1, x16
    msr     elr_el1, x0
    msr     spsr_el1, x1
    str     xzr, [x17, #{MASKED}]
    ldp     x0, x1, [sp, #-32]
    ldp     x16, x17, [x17, #({UPCALL} + {X} + 128)]
    eret

resume_events:
    ldp     x0, x1, [sp, #-32]
resume_slow:
    save_full
    sub     sp, sp, #{FRAME}
    mov     x0, sp
    bl      {RESUME_SLOW}
    b       leave

// The kernel itself faulted: it is wrong. The stack may be the reason, so the report gets a fresh one.
kernel_fault_sp0:
kernel_fault_sync:
kernel_fault_other:
    ldr     x16, =stack_top
    mov     sp, x16
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       {KERNEL_FAULT}
    .ltorg
