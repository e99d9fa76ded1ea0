// The exception vectors (Arm ARM D1.3.1.5), and what is done before any Rust runs: `null`, the plain cases of `call`, `reply_wait`, `notify` and `map`, upcalls, `resume`.
//
// On entry from EL0 sp is the top of the core's kernel stack, which is empty: what lies below it is scratch. Interrupts stay masked.
// `Core` begins at that top: with the running vcore's link (its address, but for the top byte, which addresses ignore) and its control page's address.

// An entry of the table; x16 and x17 go below sp.
    .macro  vector target
    .balign 128
    stp     x16, x17, [sp, #-16]
    b       \target
    .endm

    .macro  pair op, base, offset, first, second
    \op     x\first, x\second, [\base, #(\offset + 8 * \first)]
    .endm

// Pairs of registers, each in its place from `base` + `offset` on.
    .macro  each op, base, offset, list:vararg
    .irp    n, \list
    pair    \op, \base, \offset, \n
    .endr
    .endm

// x0 to x7, on the stack.
    .macro  words op
    each    \op, sp, 0, "0, 1", "2, 3", "4, 5", "6, 7"
    .endm

// x2 to x13, below x16 and x17 below sp.
    .macro  below op
    each    \op, sp, -144, "2, 3", "4, 5", "6, 7", "8, 9", "10, 11", "12, 13"
    .endm

// All but x16, x17 and x30, in the frame at x16.
    .macro  pairs op
    each    \op, x16, {X}, "0, 1", "2, 3", "4, 5", "6, 7", "8, 9", "10, 11", "12, 13", "14, 15"
    each    \op, x16, {X}, "18, 19", "20, 21", "22, 23", "24, 25", "26, 27", "28, 29"
    .endm

// Saves the interrupted program in the control page's `preempted`, which x16 then is; x16 and x17 lie below sp.
    .macro  save
    ldr     x16, [sp, #{CORE_CONTROL}]
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

// x0 = the cause of an exception, x1 = its address. FAR means something for aborts from EL0 only (0x20 and 0x24); else it is somebody else's address.
    .macro  cause
    mrs     x0, esr_el1
    lsr     x1, x0, #26
    bic     x1, x1, #4
    cmp     x1, #0x20
    mrs     x1, far_el1
    csel    x1, x1, xzr, eq
    .endm

// Rust, with nothing on the stack that it needs.
    .macro  rust function
    sub     sp, sp, #{FRAME}
    bl      \function
    b       leave
    .endm

// Pairs of registers become 0, if nothing is on the stack.
    .macro  clear pairs:vararg
    .irp    pair, \pairs
    clear_pair \pair
    .endr
    .endm
    .macro  clear_pair first, second
    ldp     x\first, x\second, [sp, #{CORE_ZEROS}]
    .endm

// The kernel's address of the table that a descriptor, or TTBR0, names.
    .macro  physical register
    and     \register, \register, #0x3ffffff000
    orr     \register, \register, #{LINEAR}
    .endm

// Looks binding x0 of the first frame up (`binding::find`): x13 = its head, of which the bits of `mask` must be these, x15 = its object, x0 = its badge.
// Also x10 = the running vcore's link, x11 = its control page; uses x8, x9, x12, x14. What was taken back or is not so goes to `slow_handle`, which finds x0 in x8.
    .macro  find mask, bits
    cmp     x0, #{BINDINGS_PER_FRAME}
    b.hs    slow                        // in a later frame, or flags: then x8 to x10 are arguments
    ldp     x10, x11, [sp]
    and     x12, x10, #~0xfff           // the environment, in whose frame the vcore lies
    ldr     x8, [x12, #{ENVIRONMENT_BINDINGS}]
    bfi     x8, x0, #5, #7              // no further, also for who speculates past the branch
    ldar    x13, [x8]
    ldp     x14, x15, [x8, #8]
    ldr     x0, [x8, #24]
    dmb     ishld                       // as `binding::read`: the second look at the head comes after the rest
    ldr     x9, [x8]
    cmp     x9, x13
    ubfx    x9, x13, #32, #16
    adr     x12, {TABLES}
    ldr     x12, [x12, x9, lsl #3]
    ccmp    x12, x14, #0, eq            // what its cell must hold
    and     x9, x13, #\mask
    ccmp    x9, #\bits, #0, eq
    b.ne    slow_handle
    .endm

// Saves where the running vcore goes on in its control page x11.
    .macro  suspend
    mrs     x12, elr_el1
    mrs     x13, sp_el0
    stp     x12, x13, [x11, #{CONTROL_PC}]
    .endm

// The vcore whose link is x15 runs behind its call. Nothing of EL1's goes by TTBR0: the exception return is all the synchronisation needed (Arm ARM D1.4.4, D8.2.12).
// Leaves values of the kernel's in x11 and x15.
    .macro  switch
    ldp     x11, x14, [x15, #{VCORE_CONTROL}]
    stp     x15, x11, [sp]
    and     x12, x15, #~0xfff
    ldr     x12, [x12, #{ENVIRONMENT_SPACE}]
    msr     ttbr0_el1, x12
    msr     tpidrro_el0, x14
    ldp     x12, x13, [x11, #{CONTROL_PC}]
    msr     elr_el1, x12
    msr     sp_el0, x13
    msr     spsr_el1, xzr
    .endm

// Goes to the plain path, or, in the kernel in which nothing is plain, to the general one.
    .macro  hot condition, plain, general
    .if     {GENERAL}
    b.\condition \general
    .else
    b.\condition \plain
    .endif
    .endm

    .section .vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    .rept   8                           // the kernel itself faulted
    .balign 128
    b       kernel_fault
    .endr

    .balign 128                         // synchronous, from EL0
    stp     x16, x17, [sp, #-16]
    mrs     x16, esr_el1
    mov     w17, #({SVC64} | 0xffff)
    subs    w16, w17, w16               // the number, if this is `svc` from AArch64
    hot     eq, gate_call, slow
    cmp     w16, #{REPLY_WAIT}
    hot     eq, gate_reply, slow
    tbnz    w16, #30, fault             // another exception: most of them, and never the trap of FP/SIMD (0x1e… to 0x1f…)
    cmp     w16, #{NUMBER_RESUME}
    b.eq    resume
    b.hi    1f
    tbnz    w16, #0, map                // 3; 2 is `null`
    clear   "0, 17"
    eret
1:  cmp     w16, #{NUMBER_NOTIFY}
    hot     eq, notify, slow
    hot     lo, wait, other_wait
    cmp     w16, #{NUMBER_YIELD_TO}
    hot     eq, yield_to, slow
    lsr     w17, w16, #16
    cbnz    w17, early_fault            // of a class before it
    mov     w17, #0xffff                // `svc #0` is no call
    cmp     w16, w17
    b.ne    other_call
early_fault:
    mrs     x16, esr_el1
    lsr     x16, x16, #26
    cmp     x16, #0x07                  // FP/SIMD trapped
    b.eq    stop
    b       fault


    vector  interrupt
    vector  interrupt                   // FIQ: the kernel routes nothing there; the controller says spurious
    vector  stop                        // SError from EL0: it cannot go on
    vector  stop                        // from AArch32, which no program can be in
    vector  interrupt
    vector  interrupt
    vector  stop

// `gate::call`, plain: nothing travels, no deadline, the gate is open and nothing is pending behind it. What is not so leaves for Rust before anything has changed.
gate_call:
    find    0x1f, {MAY_CALL}
    tbnz    x10, #{LINK_DEEP}, slow_handle
    ldaxr   x12, [x15]
    cbnz    x12, slow_handle
    mov     x12, #({RUNNING} << 48)
    stlxr   w9, x12, [x15]
    cbnz    w9, slow_handle
    and     x12, x10, #{LINK_DEPTH}
    add     x15, x15, x12
    suspend
    stp     x15, xzr, [x10, #{VCORE_CALLEE}] // and nothing special about this call
    add     x12, x15, #{VCORE_CALLER}
    stlr    x10, [x12]                  // the arbiter last
    switch
    clear   "8, 10"
    clear   "11, 15"
    eret

// `gate::reply_wait`, plain: somebody in a plain call waits for the reply and runs on at once.
gate_reply:
    lsr     x17, x0, #48
    cbnz    x17, slow                   // flags
    ldp     x10, x11, [sp]
    add     x13, x10, #{VCORE_CALLER}
    ldaxr   x15, [x13]
    tbz     x15, #{LINK_PLAIN}, slow    // nobody, too, or it runs by a slice of its own
    stlxr   w9, xzr, [x13]
    cbnz    w9, slow
    stp     xzr, xzr, [x15, #{VCORE_CALLEE}]
    suspend
    str     x0, [x10, #{VCORE_MASK}]
1:  ldxr    x12, [x10]
    and     x13, x12, #0xffffffffffff   // open: the events that are pending, nothing else
    stlxr   w8, x13, [x10]
    cbnz    w8, 1b
    and     x9, x12, x0
    switch
    cbnz    x9, late_event
    clear   "0, 10"
    clear   "11, 15"
    eret
late_event:
    sub     sp, sp, #{FRAME}
    words   stp
    str     xzr, [sp]
    str     xzr, [sp, #64]
    mov     x0, x10
    bl      {LATE_EVENT}
    add     sp, sp, #{FRAME}
    b       leave_stack

// `event::notify`, plain: nobody needs to be woken or interrupted.
notify:
    find    0x1f, {MAY_NOTIFY}
    mov     x9, #1
    lsl     x9, x9, x15                 // the event, in the low six bits
    and     x14, x15, #~63
    eor     x12, x14, x10
    lsl     x12, x12, #8                // what addresses do not ignore
    cbz     x12, notify_self
1:  ldxr    x12, [x14]
    tbz     x12, #50, other_notify      // it runs or waits
    orr     x12, x12, x9
    stlxr   w13, x12, [x14]
    cbnz    w13, 1b
    b       notified
notify_self:
    ldr     x12, [x11, #{UPCALL_EVENTS}]
    tst     x12, x9
    b.ne    other_notify
1:  ldxr    x12, [x10]
    orr     x12, x12, x9
    stlxr   w13, x12, [x10]
    cbnz    w13, 1b
notified:
    clear   "0, 8", "9, 10", "11, 12", "14, 15"
    eret
other_notify:
    mov     x0, x15
    rust    {OTHER_NOTIFY}

// `event::wait`, plain: without an alarm.
wait:
    lsr     x17, x0, #48
    orr     x17, x17, x1
    cbnz    x17, other_wait
    ldp     x10, x11, [sp]
    suspend
    str     x0, [x10, #{VCORE_MASK}]
    str     xzr, [x10, #{VCORE_ALARM}]
1:  ldaxr   x9, [x10]                   // only events can come in between: each once
    ands    x12, x9, x0
    b.ne    2f
    eor     x9, x9, #(({RUNNING} ^ {WAITING}) << 48)
    stlxr   w12, x9, [x10]
    cbnz    w12, 1b
    rust    {SCHEDULE}
2:  bic     x9, x9, x12
    stlxr   w13, x9, [x10]
    cbnz    w13, 1b
    mov     x1, x12
    clear   "0, 9"
    clear   "10, 11"
    clear   "12, 17"
    eret
other_wait:
    rust    {WAIT}

// `call::yield_to`, plain: a vcore of an environment that is ready behind a wait, nothing of who yields waits for it, no loan, no FP/SIMD.
yield_to:
    mov     x17, x0
    find    0xf, {KIND_ENV}
    mov     x14, x0
    mov     x0, x17
    tbz     x13, #({RIGHTS} + {ENV_RUN}), slow
    lsr     x12, x13, #48               // an environment's has two cells
    adr     x13, {TABLES}
    ldr     x12, [x13, x12, lsl #3]
    cmp     x12, x14
    b.ne    slow
    ldr     x12, [sp, #{CORE_FP}]
    ldr     x13, [sp, #{CORE_RESCHEDULE}]
    orr     x12, x12, x13
    ldr     x13, [x10, #{VCORE_CALLER}]
    orr     x12, x12, x13
    cbnz    x12, other_yield
    ldr     x12, [sp, #{CORE_LOAN}]
    cmp     x12, #{IDLE}
    b.ne    other_yield
    and     x12, x10, #~0xfff
    ubfx    x13, x10, #6, #6
    add     x12, x12, x13, lsl #1
    ldrh    w12, [x12, #{ENVIRONMENT_HOMES}]
    ldr     x13, [sp, #{CORE_ID}]
    cmp     x13, x12
    b.ne    other_yield                 // it lives elsewhere
    ldr     x12, [x10, #{VCORE_SLOTS}]
    ldr     x13, [sp, #{CORE_READY}]
    bics    xzr, x12, x13
    b.ne    other_yield
    cmp     x1, #{MAX_VCORES}
    b.hs    other_yield
    and     x9, x1, #63
    ubfiz   x15, x15, #12, #26          // the kernel's address of the frame
    orr     x15, x15, #{LINEAR}
    ldr     x12, [x15, #{ENVIRONMENT_DYING}]
    cbnz    x12, other_yield
    add     x15, x15, x9, lsl #6
    add     x15, x15, #{ENVIRONMENT_VCORES}
    ldaxr   x17, [x15]
    ubfx    x13, x17, #48, #8
    cmp     x13, #{READY_EVENTS}
    b.ne    other_yield                 // what does not exist has no control page either
    ldr     x12, [x15, #{VCORE_CALLER}]
    cbnz    x12, other_yield            // in a chain
    ldr     x12, [x15, #{VCORE_CONTROL}]
    ldr     x12, [x12, #{UPCALL_EVENTS}]
    ldr     x9, [x15, #{VCORE_MASK}]
    and     x12, x12, x17
    lsl     x12, x12, #16
    cbnz    x12, other_yield            // an upcall
    and     x9, x9, x17
    bic     x17, x17, x9
    eor     x17, x17, #(({READY} ^ {RUNNING}) << 48)
    stlxr   w12, x17, [x15]
    cbnz    w12, other_yield
    and     x15, x15, #~(0xff << 56)
    orr     x15, x15, #{LINK_FIRST}
    suspend
    str     xzr, [x10, #{VCORE_MASK}]
    mov     x12, #1
    str     x12, [sp, #{CORE_LENT}]
    mov     x13, #{READY_EVENTS}
1:  ldxr    x17, [x10]                  // only events can come in between: each once
    bfi     x17, x13, #48, #8
    stlxr   w12, x17, [x10]
    cbnz    w12, 1b
    ldr     x12, [sp, #{CORE_ALARM}]    // `slice::arm`, with somebody who waits for the end of the slice
    ldr     x13, [sp, #{CORE_SLICE_END}]
    cmp     x12, x13
    csel    x12, x12, x13, lo
    ldr     x13, [sp, #{CORE_TIMER}]
    cmp     x12, x13
    b.eq    1f
    str     x12, [sp, #{CORE_TIMER}]
    msr     cntv_cval_el0, x12
1:  switch
    msr     tpidr_el0, xzr
    mov     x0, xzr
    ubfx    x1, x9, #0, #48             // events
    b       leave_events
other_yield:
    rust    {YIELD_TO}

// A call that was not plain: its handle (x8 is that binding's address), then its number again.
slow_handle:
    ubfx    x0, x8, #5, #7
slow:
    mrs     x16, esr_el1
    mvn     w16, w16
    and     x16, x16, #0xffff
other_call:
    sub     sp, sp, #{FRAME}
    words   stp
    stp     x8, x9, [sp, #64]
    stp     x10, x30, [sp, #80]
    mov     x0, sp
    mov     x1, x16
    bl      {PLAIN}
    cbnz    w0, leave

// Back to the caller: x0 to x2, and its own x19 to x30.
    ldp     x0, x1, [sp]
    ldr     x2, [sp, #16]
    ldr     x30, [sp, #88]
    add     sp, sp, #{FRAME}
leave_plainly:
    clear   "3, 4", "5, 6", "7, 8", "9, 10", "11, 12", "13, 14", "15, 16", "17, 18"
    eret

// Out of the kernel after a switching call, or into a vcore that was switched to: w0 says how, x1 is the word (entry.rs).
    .global leave
leave:
    add     sp, sp, #{FRAME}            // what was on the stack is below it now
    subs    x0, x0, #3
    b.ne    1f                          // else x0 = 0 already
leave_events:
    clear   "2, 3", "4, 5", "6, 7", "8, 9", "10, 11", "12, 13", "14, 15", "16, 17", "18, 19", "20, 21", "22, 23", "24, 25", "26, 27", "28, 29"
    mov     x30, xzr
    eret
1:  adds    x0, x0, #1
    b.eq    leave_full
    b.lt    leave_words
    tbz     x0, #0, leave_stack
    mov     x0, x1                      // a refusal
    mov     x1, xzr
    b       leave_events
leave_stack:
    sub     x1, sp, #{FRAME}
leave_words:
    each    ldp, x1, 0, "2, 3", "4, 5", "6, 7"
    ldr     x8, [x1, #64]
    ldp     x0, x1, [x1]
    clear   "9, 10", "11, 12", "13, 14", "15, 16", "17, 18", "19, 20", "21, 22", "23, 24", "25, 26", "27, 28", "29, 30"
    eret

leave_full:
    ldr     x16, [sp, #{CORE_CONTROL}]
    add     x16, x16, #{PREEMPTED}
    pairs   ldp
    ldr     x30, [x16, #({X} + 240)]
    ldp     x16, x17, [x16, #({X} + 128)]
    eret

interrupt:
    save
    rust    {INTERRUPT}

// An exception that is no call: an upcall, unless the library cannot take it.
fault:
    stp     x0, x1, [sp, #-32]
    ldr     x17, [sp, #{CORE_CONTROL}]
    ldp     x16, x0, [x17, #{ENTRY}]
    cbnz    x0, no_upcall               // masked
    cbz     x16, no_upcall
    cause
    stp     x0, x1, [x17, #{UPCALL}]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [x17, #({UPCALL} + {PC})]
    msr     elr_el1, x16
    msr     spsr_el1, xzr
    str     x16, [x17, #{MASKED}]
    ldp     x0, x1, [sp, #-16]
    stp     x0, x1, [x17, #({UPCALL} + {X} + 128)]
    ldp     x0, x1, [sp, #-32]
    mov     x17, xzr                    // x16 is the library's own address
    eret
no_upcall:
    ldp     x0, x1, [sp, #-32]

// The rest of the exceptions.
stop:
    save
    cause
    stp     x0, x1, [x16]
    rust    {FAULT}

map_unlock:
    stlrb   wzr, [x4]
map_slow:
    cbz     x17, other_map
    below   ldp
    b       resume_entries

// Back from an upcall: x16 (below sp) counts entries of a batch.
resume:
    ldr     x17, [sp, #-16]
    cbz     x17, resume_now
    .if     {GENERAL}
    b       resume_entries
    .endif
    cmp     x17, #1
    b.ne    resume_entries
    below   stp
    b       map_page

// A batch: Rust keeps x19 to x29. x0 = the refusal, then entries done and pages of the one after them.
other_map:
    str     x30, [sp, #-16]!
    bl      {MAP_BATCH}
    ldr     x30, [sp], #16
    lsr     x2, x1, #32
    mov     w1, w1
    b       leave_plainly

// `address_space::apply`, plain: one page of data of a pool is mapped into the own tables, by binding 0. What is not so leaves for Rust before anything has changed.
// x17 = 0 for `map`, which keeps x0 = 0 and x1 = 1; 1 for `resume`, which has x2 to x13 below sp.
map:
    .if     {GENERAL}
    b       other_map
    .endif
    sub     x17, x1, #1
    orr     x17, x17, x0
    cbnz    x17, other_map
map_page:
    ldp     x4, x5, [sp]
    ldr     x2, [x5, #{BATCH}]          // the entry: each word once
    ldr     x3, [x5, #({BATCH} + 8)]
    and     x4, x4, #~0xfff             // the environment, whose lock comes first
    lsr     x5, x3, #32
    sub     w5, w5, #1
    ror     w5, w5, #16                 // the pool's handle, below 128 if the count is 1
    mov     w6, #{PROT_FIXED}
    and     x6, x6, x2
    sub     x6, x6, #{PROT_PLAIN}
    orr     x6, x6, x5, lsr #7
    cbnz    x6, map_slow
    bic     x6, x2, x2, lsl #({DIRTY} - {WRITE})
    tbnz    x6, #{DIRTY}, map_slow      // dirty, and not writable
    lsr     x6, x2, #30
    cmp     x6, #511
    b.hs    map_slow                    // the window, or beyond user space
    mov     w7, #1
    ldaxrb  w8, [x4]
    cbnz    w8, map_slow
    stxrb   w8, w7, [x4]
    cbnz    w8, map_slow
    ldr     x7, [x4, #{ENVIRONMENT_DYING}]
    cbnz    x7, map_unlock
    // Both bindings, as `find` and `binding::read`: x8 to x11 are the pool's words; x12, x13, x6 the environment's, but its badge:
    // that is what the cell holds until the environment dies, which it has not, and does not while the lock is held.
    ldr     x7, [x4, #{ENVIRONMENT_BINDINGS}]
    add     x5, x7, x5, lsl #5
    ldar    x8, [x5]
    ldp     x9, x10, [x5, #8]
    ldr     x11, [x5, #24]
    ldar    x12, [x7]
    ldp     x13, x6, [x7, #8]
    dmb     ishld
    ldr     x5, [x5]
    ldr     x7, [x7]
    cmp     x5, x8
    ccmp    x7, x12, #0, eq
    and     w5, w12, #0xf
    ccmp    x5, #{KIND_ENV}, #0, eq
    and     w5, w8, #0xf
    ccmp    x5, #{KIND_POOL}, #0, eq
    b.ne    map_unlock
    and     w5, w8, w12
    tbz     w5, #{RIGHTS}, map_unlock   // the rights to read it and to map it
    bic     w5, w2, w8, lsl #({WRITE} - {RIGHTS} - 1)
    tbnz    w5, #{WRITE}, map_unlock
    eor     x6, x6, x4, lsr #12         // the own environment
    lsl     x6, x6, #38
    // The pool's has two cells.
    adr     x7, {TABLES}
    ubfx    x5, x8, #32, #16
    ldr     x5, [x7, x5, lsl #3]
    cmp     x9, x5
    lsr     x8, x8, #48
    ldr     x8, [x7, x8, lsl #3]
    ccmp    x11, x8, #0, eq
    ubfx    x12, x12, #32, #16
    ldr     x12, [x7, x12, lsl #3]
    ccmp    x13, x12, #0, eq
    ccmp    x6, #0, #0, eq
    b.ne    map_unlock
    // x8 = the frame's word, x9 = the slot.
    adr     x7, {FOUND}
    ldp     x8, x9, [x7, #{FRAME_WORDS}]
    ldr     x7, [x7, #{FIRST_FRAME}]
    sub     w7, w3, w7
    cmp     x7, x9
    b.hs    map_unlock
    add     x8, x8, x7, lsl #3
    ldr     x9, [x4, #{ENVIRONMENT_SPACE}]
    physical x9
    ubfx    x7, x2, #30, #9
    ldr     x9, [x9, x7, lsl #3]
    tbz     x9, #0, map_unlock
    physical x9
    ubfx    x7, x2, #21, #9
    ldr     x9, [x9, x7, lsl #3]
    tbz     x9, #0, map_unlock
    physical x9
    ubfx    x7, x2, #12, #9
    add     x9, x9, x7, lsl #3
    ldr     x7, [x9]
    cbnz    x7, map_unlock
    // The descriptor, as `page_table::leaf`.
    ldr     x6, ={READABLE}
    bfi     x6, x3, #12, #32
    and     x7, x2, #(1 << {WRITE})
    orr     x6, x6, x7, lsl #({WRITABLE} - {WRITE})
    and     x7, x2, #(1 << {MARKED})
    orr     x6, x6, x7, lsl #({ACCESSED} - {MARKED})
    and     x7, x2, #(1 << {DIRTY})
    eor     x6, x6, x7, lsr #({DIRTY} - {READ_ONLY})
    lsl     x10, x10, #8
    add     x10, x10, #({DATA} << 4)
    ldaxr   x7, [x8]
    cmp     x10, x7, lsr #40            // data of the pool, no flags
    b.ne    map_unlock
    add     x7, x7, #1
    stlxr   w5, x7, [x8]
    cbnz    w5, map_unlock
    str     x6, [x9]
    dsb     ishst                       // `publish_descriptors`
    stlrb   wzr, [x4]
    cbnz    x17, mapped
    clear   "2, 4", "5, 6", "7, 8", "9, 10", "11, 12"
    mov     x13, xzr
    eret                                // x0 and x17 are 0, x1 the entries done, x16 the call, x3 of the entry; x14, x15, x18 are as they were
mapped:
    below   ldp
resume_now:
    .if     {GENERAL}
    b       resume_fully
    .endif
    ldr     x17, [sp, #{CORE_CONTROL}]
    ldr     x16, [x17, #{UPCALL_EVENTS}]
    cbnz    x16, resume_wanted
resume_plainly:
    stp     x0, x1, [sp, #-32]
    ldp     x0, x1, [x17, #({UPCALL} + {PC})]
    ldr     x16, ={FLAGS}
    and     x1, x1, x16
    msr     elr_el1, x0
    msr     spsr_el1, x1
    str     xzr, [x17, #{MASKED}]
    ldp     x0, x1, [sp, #-32]
    ldp     x16, x17, [x17, #({UPCALL} + {X} + 128)]
    eret
resume_wanted:
    stp     x0, x1, [sp, #-32]
    ldr     x0, [sp]
    ldr     x0, [x0]
    and     x0, x0, x16
    lsl     x16, x0, #16                // 48 events
    ldp     x0, x1, [sp, #-32]
    cbz     x16, resume_plainly
resume_fully:
    save
    rust    {RESUME_EVENTS}

// Rust keeps x19 to x29. A refusal (x16) and the entries done (x17) go back behind the `svc`.
resume_entries:
    sub     sp, sp, #144
    words   stp
    each    stp, sp, 0, "8, 9", "10, 11", "12, 13", "14, 15"
    stp     x18, x30, [sp, #128]
    mov     x0, x17
    bl      {RESUME_BATCH}
    mov     x16, x0
    mov     w17, w1
    words   ldp
    each    ldp, sp, 0, "8, 9", "10, 11", "12, 13", "14, 15"
    ldp     x18, x30, [sp, #128]
    add     sp, sp, #144
    cbz     x16, resume_now
    eret

// The kernel is wrong. The stack may be the reason, so the report gets a fresh one.
kernel_fault:
    mrs     x16, tpidr_el1
    mov     sp, x16
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       {KERNEL_FAULT}
    .ltorg
