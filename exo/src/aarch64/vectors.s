// The exception vectors (Arm ARM D1.3.1.5), and the paths that are taken before any Rust runs: `null`, upcalls, `resume`.
//
// On entry from EL0 sp is the top of the core's kernel stack, which is empty: what lies below it is scratch. Interrupts stay masked.
// `core` is in TPIDR_EL1; its first words are the running vcore's control page and state word.

// An entry of the table; x16 and x17 go below sp.
    .macro  vector target
    .balign 128
    stp     x16, x17, [sp, #-16]
    b       \target
    .endm

// The kernel itself faulted.
    .macro  kernel_vector
    .balign 128
    b       kernel_fault
    .endm

    .macro  pair op, base, offset, first, second
    \op     x\first, x\second, [\base, #(\offset + 8 * \first)]
    .endm

// x0 to x7, on the stack.
    .macro  words op
    .irp    n, "0, 1", "2, 3", "4, 5", "6, 7"
    pair    \op, sp, 0, \n
    .endr
    .endm

// All but x16, x17 and x30, in the frame at x16.
    .macro  pairs op
    .irp    n, "0, 1", "2, 3", "4, 5", "6, 7", "8, 9", "10, 11", "12, 13", "14, 15"
    pair    \op, x16, {X}, \n
    .endr
    .irp    n, "18, 19", "20, 21", "22, 23", "24, 25", "26, 27", "28, 29"
    pair    \op, x16, {X}, \n
    .endr
    .endm

// Saves the interrupted program in the control page's `preempted`, which x16 then is; x16 and x17 lie below sp.
    .macro  save
    mrs     x16, tpidr_el1
    ldr     x16, [x16]
    add     x16, x16, #{PREEMPTED}
    pairs   stp
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

// x0 = ESR, x1 = FAR, which means something for instruction and data aborts from EL0 only (0x20, 0x24); else it is somebody else's address.
    .macro  cause
    mrs     x0, esr_el1
    lsr     x1, x0, #26
    and     x1, x1, #~4
    cmp     x1, #0x20
    mrs     x1, far_el1
    csel    x1, x1, xzr, eq
    .endm

// Rust, with everything saved.
    .macro  rust function
    sub     sp, sp, #{FRAME}
    mov     x0, sp
    bl      \function
    b       leave
    .endm

    .section .vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    .rept   8
    kernel_vector
    .endr

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

    vector  interrupt
    vector  interrupt                   // FIQ: the kernel routes nothing there; the controller says spurious
    vector  stop                        // SError from EL0: it cannot go on
    vector  stop                        // from AArch32, which no program can be in
    vector  interrupt
    vector  interrupt
    vector  stop

// A call: x16 is its number. Rust keeps x19 to x29.
call:
    sub     sp, sp, #{FRAME}
    words   stp
    stp     x8, x9, [sp, #64]
    stp     x10, x30, [sp, #80]
    mov     x0, sp
    mov     x1, x16
    bl      {CALL}
    cbz     w0, leave_plain

// Out of the kernel into a vcore that was switched to: w0 = 1: x0 to x8 from the stack, zeros elsewhere; 2: everything from the control page.
leave:
    tbnz    w0, #1, leave_full
    str     xzr, [sp, #88]
    .irp    n, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
    mov     x\n, xzr
    .endr
leave_plain:
    words   ldp
    ldr     x8, [sp, #64]
    ldr     x30, [sp, #88]
    .irp    n, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
    mov     x\n, xzr
    .endr
    add     sp, sp, #{FRAME}
    eret

leave_full:
    add     sp, sp, #{FRAME}
    mrs     x16, tpidr_el1
    ldr     x16, [x16]
    add     x16, x16, #{PREEMPTED}
    pairs   ldp
    ldr     x30, [x16, #({X} + 240)]
    ldp     x16, x17, [x16, #({X} + 128)]
    eret

interrupt:
    save
    rust    {INTERRUPT}

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
    cause
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

// The rest of the exceptions.
stop:
    save
    cause
    stp     x0, x1, [x16]
    rust    {FAULT}

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
    save
    rust    {RESUME_SLOW}

// The kernel is wrong. The stack may be the reason, so the report gets a fresh one.
kernel_fault:
    ldr     x16, =stack_top
    mov     sp, x16
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       {KERNEL_FAULT}
    .ltorg
