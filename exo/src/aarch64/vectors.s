// The exception vectors (Arm ARM D1.3.1.5), and what is done before any Rust runs: `null`, the plain cases of `call`, `reply_wait`, `notify` and `map`, upcalls, `resume`.
//
// On entry from EL0 sp is the top of the core's kernel stack, which is empty: what lies below it is scratch. Interrupts stay masked.
// `Core` is in TPIDR_EL1; its first words are the running vcore's address and its control page's.

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

// x8 to x15, on the stack.
    .macro  more_words op
    each    \op, sp, 0, "8, 9", "10, 11", "12, 13", "14, 15"
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
    mrs     x16, tpidr_el1
    ldr     x16, [x16, #{CORE_CONTROL}]
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
    address_of_cause
    .endm

// The same, with the class in x1.
    .macro  address_of_cause
    and     x1, x1, #~4
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

// x\register, which was looked up, is not what cell `number` (of x17's) holds: to `slow`.
    .macro  check_cell number, register
    ldr     \number, [x17, \number, lsl #3]
    eor     \number, \number, \register
    lsr     \number, \number, #16
    cbnz    \number, slow
    .endm

    .macro  zero registers:vararg
    .irp    n, \registers
    mov     x\n, xzr
    .endr
    .endm

// The kernel's address of a frame (26 bits, by 12) or of a vcore (32 bits, by 6) in `register`.
    .macro  address register, shift, bits
    ubfiz   \register, \register, #\shift, #\bits
    orr     \register, \register, #{LINEAR}
    .endm

// The kernel's address of the table that a descriptor, or TTBR0, names.
    .macro  physical register
    and     \register, \register, #0x3ffffff000
    orr     \register, \register, #{LINEAR}
    .endm

// Looks binding x0 up (`binding::find`): x13 = its head, x15 = its object, x16 = its badge. Also x9 = core, x10 = vcore, x11 = control page, x17 = cells.
// Uses x8, x12, x14. What was taken back, is not of this kind, or lacks the right goes to `slow`.
    .macro  find kind, right
    lsr     x17, x0, #7
    cmp     x17, #{BINDING_FRAMES}
    b.hs    slow                        // beyond every table, or flags: then x8 to x10 are arguments
    and     x17, x17, #({BINDING_FRAMES} - 1) // for who speculates past the branch, here and below
    mrs     x9, tpidr_el1
    ldp     x10, x11, [x9]
    and     x12, x10, #~0xfff           // the environment, in whose frame the vcore lies
    add     x8, x12, x17, lsl #3
    ldr     x8, [x8, #{ENVIRONMENT_BINDINGS}]
    cbz     x8, slow
    address x8, 12, 26
    and     x12, x0, #127
    add     x8, x8, x12, lsl #5
    ldar    x13, [x8]
    ldr     x14, [x8, #8]
    ldp     x15, x16, [x8, #16]
    dmb     ishld                       // as `binding::read`: the second look at the head comes after the rest
    ldr     x12, [x8]
    cmp     x12, x13
    b.ne    slow
    mov     w12, #(15 | \right << 8)
    and     x12, x12, x13
    sub     x12, x12, #(\right << 8)
    cmp     x12, #\kind
    b.ne    slow
    ubfx    x12, x13, #32, #16
    adr     x17, {TABLES}
    check_cell x12, x14
    .endm

// Saves where the running vcore goes on in its control page x11.
    .macro  suspend
    mrs     x17, elr_el1
    mrs     x18, sp_el0
    stp     x17, x18, [x11, #{CONTROL_PC}]
    .endm

// The vcore at x15 runs on core x9, behind its call. Nothing of EL1's goes by TTBR0: the exception return is all the synchronisation needed (Arm ARM D1.4.4, D8.2.12).
    .macro  switch
    ldr     x11, [x15, #{VCORE_CONTROL}]
    address x11, 12, 26
    stp     x15, x11, [x9]
    and     x12, x15, #~0xfff
    ldr     x12, [x12, #{ENVIRONMENT_SPACE}]
    msr     ttbr0_el1, x12
    ldr     x12, [x15, #{VCORE_CONTROL_ADDRESS}]
    and     x12, x12, #~0xfff
    msr     tpidrro_el0, x12
    ldp     x17, x18, [x11, #{CONTROL_PC}]
    msr     elr_el1, x17
    msr     sp_el0, x18
    msr     spsr_el1, xzr
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
    mov     w17, #{SVC64}
    sub     w16, w16, w17               // the immediate, if this is `svc` from AArch64
    cmp     w16, #8
    b.hs    1f
    adr     x17, hot_calls
    bfi     x17, x16, #2, #3            // no further, also for who speculates past the branch
    br      x17
1:  lsr     w17, w16, #16
    cbnz    w17, no_call                // another exception
    cmp     w16, #{MAP}
    b.eq    map
    b       other_call
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

// `gate::call`, plain: nothing travels, no deadline, the gate is open and nothing is pending behind it. What is not so leaves for Rust before anything has changed.
gate_call:
    find    {KIND_GATE}, {GATE_CALL}
    ldr     x12, [x10, #{VCORE_CONTROL_ADDRESS}]
    tst     x12, #0xfff                 // a slot for a binding is to be forgotten
    b.ne    slow
    ldr     x13, [x10, #{VCORE_CALLER}]
    lsr     x13, x13, #{DEPTH}
    cmp     x13, #({MAX_CHAIN_CALLS} - 1)
    b.hi    slow
    and     x14, x15, #0xfffffffffff    // the callee's name
    address x15, 6, 32
    ldaxr   x17, [x15]
    and     x12, x17, #0xfffffffffffff  // state and events
    mov     x18, #({GATE} << 48)
    cmp     x12, x18
    b.ne    slow
    eor     x17, x17, #(({GATE} ^ {RUNNING}) << 48)
    stlxr   w12, x17, [x15]
    cbnz    w12, slow
    ldr     x12, [x9, #{CORE_RUNNING}]
    add     x13, x13, #1
    orr     x12, x12, x13, lsl #{DEPTH}
    str     x12, [x15, #{VCORE_CALLER}]
    stp     x14, xzr, [x10, #{VCORE_CALLEE}] // and no deadline
    str     x14, [x9, #{CORE_RUNNING}]
    suspend
    mov     x18, #{BEGIN_CALL}
1:  ldxr    x17, [x10]                  // only events can come in between: each once
    add     x17, x17, x18
    stlxr   w12, x17, [x10]
    cbnz    w12, 1b
    switch
    mov     x0, x16
    zero    8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
    eret

// `gate::reply_wait`, plain: somebody waits for the reply and runs on at once.
gate_reply:
    lsr     x17, x0, #48
    cbnz    x17, slow                   // flags
    mrs     x9, tpidr_el1
    ldp     x10, x11, [x9]
    ldr     x14, [x10, #{VCORE_CALLER}]
    and     x14, x14, #0xfffffffffff
    cbz     x14, slow
    ldr     x12, [x10, #{VCORE_CONTROL_ADDRESS}]
    tst     x12, #0xfff
    b.ne    slow
    ldr     x13, [x9, #{CORE_RUNNING}]
    ldr     x12, [x9, #{CORE_BASE}]
    cmp     x12, x13
    b.eq    slow                        // it runs by a slice of its own
    ldr     x12, [x10]
    tst     x12, x0
    b.ne    slow                        // an event ends the wait
    ubfiz   x15, x14, #6, #32
    orr     x15, x15, #{LINEAR}
    ldaxr   x17, [x15]
    ubfx    x12, x17, #48, #4
    cmp     x12, #{CALLING}
    b.ne    slow
    ldr     x12, [x15, #{VCORE_CALLEE}] // after the word, which counts calls: this very call
    cmp     x12, x13
    b.ne    slow
    eor     x17, x17, #(({CALLING} ^ {RUNNING}) << 48)
    stlxr   w12, x17, [x15]
    cbnz    w12, slow
    stp     xzr, xzr, [x15, #{VCORE_CALLEE}] // and no deadline
    str     x14, [x9, #{CORE_RUNNING}]
    suspend
    stp     x0, xzr, [x10, #{VCORE_MASK}] // and no caller
    str     xzr, [x10, #{VCORE_ALARM}]
1:  ldxr    x17, [x10]
    eor     x12, x17, #(({GATE} ^ {RUNNING}) << 48)
    stlxr   w16, x12, [x10]
    cbnz    w16, 1b
    and     x16, x17, x0                // events that came after the look above
    switch
    mov     x0, xzr
    cbnz    x16, late_event
    zero    8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
    eret
late_event:
    sub     sp, sp, #{FRAME}
    words   stp
    str     xzr, [sp, #64]
    mov     x0, x13
    bl      {LATE_EVENT}
    add     sp, sp, #{FRAME}
    b       leave_stack

// `event::notify`, plain: nobody needs to be woken or interrupted.
notify:
    find    {KIND_EVENT}, {EVENT_NOTIFY}
    lsr     x14, x15, #44
    mov     x13, #1
    lsl     x13, x13, x14
    mov     x16, x15
    address x15, 6, 32
    cmp     x15, x10
    b.eq    notify_self
1:  ldxr    x17, [x15]
    tbnz    x17, #50, other_notify      // it runs or waits
    orr     x17, x17, x13
    stlxr   w12, x17, [x15]
    cbnz    w12, 1b
    b       notified
notify_self:
    ldr     x12, [x11, #{UPCALL_EVENTS}]
    tst     x12, x13
    b.ne    other_notify
1:  ldxr    x17, [x10]
    orr     x17, x17, x13
    stlxr   w12, x17, [x10]
    cbnz    w12, 1b
notified:
    mov     x0, xzr
    zero    8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
    eret
other_notify:
    mov     x0, x16
    rust    {OTHER_NOTIFY}

// `event::wait`, plain: without an alarm.
wait:
    lsr     x17, x0, #48
    orr     x17, x17, x1
    cbnz    x17, other_wait
    mrs     x9, tpidr_el1
    ldp     x10, x11, [x9]
    suspend
    str     x0, [x10, #{VCORE_MASK}]
    str     xzr, [x10, #{VCORE_ALARM}]
1:  ldaxr   x16, [x10]                  // only events can come in between: each once
    ands    x12, x16, x0
    b.ne    2f
    eor     x16, x16, #(({RUNNING} ^ {WAITING}) << 48)
    stlxr   w12, x16, [x10]
    cbnz    w12, 1b
    rust    {SCHEDULE}
2:  bic     x16, x16, x12
    stlxr   w17, x16, [x10]
    cbnz    w17, 1b
    mov     x0, xzr
    mov     x1, x12
    zero    9, 10, 11, 12, 16, 17, 18
    eret
other_wait:
    rust    {WAIT}

// `call::yield_to`, plain: a vcore of an environment that is ready behind a wait, nothing of who yields waits for it, no loan, no FP/SIMD.
yield_to:
    find    {KIND_ENV}, {ENV_RUN}
    lsr     x12, x13, #48
    check_cell x12, x16
    ldr     x12, [x9, #{CORE_FP}]
    ldr     x13, [x9, #{CORE_RESCHEDULE}]
    orr     x12, x12, x13
    ldr     x13, [x10, #{VCORE_CALLER}]
    orr     x12, x12, x13
    cbnz    x12, other_yield
    ldr     x12, [x9, #{CORE_LOAN}]
    cmp     x12, #{IDLE}
    b.ne    other_yield
    ldr     x12, [x9, #{CORE_POSITION}]
    cmp     x12, #{IDLE}
    b.eq    other_yield
    ldr     x12, [x10, #{VCORE_CONTROL}]
    ldr     x13, [x9, #{CORE_ID}]
    cmp     x13, x12, lsr #48
    b.ne    other_yield                 // it lives elsewhere
    ldr     x12, [x10, #{VCORE_SLOTS}]
    ldr     x13, [x9, #{CORE_READY}]
    bics    xzr, x12, x13
    b.ne    other_yield
    cmp     x1, #{MAX_VCORES}
    b.hs    other_yield
    and     x1, x1, #63
    add     x16, x1, #8
    orr     x16, x16, x15, lsl #6       // its name
    address x15, 12, 26
    ldr     x12, [x15, #{ENVIRONMENT_DYING}]
    cbnz    x12, other_yield
    add     x15, x15, x1, lsl #6
    add     x15, x15, #{ENVIRONMENT_VCORES}
    ldaxr   x17, [x15]
    ubfx    x13, x17, #48, #8
    cmp     x13, #{READY_EVENTS}
    b.ne    other_yield                 // what does not exist has no control page either
    ldr     x12, [x15, #{VCORE_CONTROL}]
    address x12, 12, 26
    ldr     x12, [x12, #{UPCALL_EVENTS}]
    ldr     x14, [x15, #{VCORE_MASK}]
    and     x12, x12, x17
    lsl     x12, x12, #16
    cbnz    x12, other_yield            // an upcall
    and     x14, x14, x17
    bic     x17, x17, x14
    eor     x17, x17, #(({READY} ^ {RUNNING}) << 48)
    stlxr   w12, x17, [x15]
    cbnz    w12, other_yield
    suspend
    str     xzr, [x10, #{VCORE_MASK}]
    str     x16, [x9, #{CORE_RUNNING}]
    str     x16, [x9, #{CORE_BASE}]
    mov     x12, #1
    str     x12, [x9, #{CORE_LENT}]
    mov     x13, #{READY_EVENTS}
1:  ldxr    x17, [x10]                  // only events can come in between: each once
    bfi     x17, x13, #48, #8
    stlxr   w12, x17, [x10]
    cbnz    w12, 1b
    ldr     x12, [x9, #{CORE_ALARM}]    // `slice::arm`, with somebody who waits for the end of the slice
    ldr     x13, [x9, #{CORE_SLICE_END}]
    cmp     x12, x13
    csel    x12, x12, x13, lo
    ldr     x13, [x9, #{CORE_TIMER}]
    cmp     x12, x13
    b.eq    1f
    str     x12, [x9, #{CORE_TIMER}]
    msr     cntv_cval_el0, x12
1:  switch
    msr     tpidr_el0, xzr
    mov     x0, xzr
    mov     x1, x14
    b       leave_events
other_yield:
    rust    {YIELD_TO}

// By number. (`svc #0` is no call.)
    .balign 32
hot_calls:
    .if     {GENERAL}                   // nothing is plain, here and below
    .irp    target, no_call, null, slow, slow, resume, other_wait, slow, slow
    b       \target
    .endr
    .else
    .irp    target, no_call, null, gate_call, gate_reply, resume, wait, notify, yield_to
    b       \target
    .endr
    .endif

// A call that was not plain: its number again.
slow:
    mrs     x16, esr_el1
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
    zero    3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
    add     sp, sp, #{FRAME}
    eret

// Out of the kernel after a switching call, or into a vcore that was switched to: w0 says how, x1 is the word (entry.rs).
leave:
    add     sp, sp, #{FRAME}            // what was on the stack is below it now
    subs    x0, x0, #3
    b.ne    1f                          // else x0 = 0 already
leave_events:
    zero    2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
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
    zero    9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
    eret

leave_full:
    mrs     x16, tpidr_el1
    ldr     x16, [x16, #{CORE_CONTROL}]
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
    stp     x0, x1, [sp, #-32]
    mrs     x17, tpidr_el1
    ldr     x17, [x17, #{CORE_CONTROL}]
    mrs     x0, esr_el1
    lsr     x1, x0, #26
    ldr     x16, [x17, #{MASKED}]
    cmp     x1, #0x07                   // FP/SIMD trapped
    ccmp    x16, #0, #0, ne
    b.ne    no_upcall
    ldr     x16, [x17, #{ENTRY}]
    cbz     x16, no_upcall
    address_of_cause
    stp     x0, x1, [x17, #{UPCALL}]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [x17, #({UPCALL} + {PC})]
    msr     elr_el1, x16
    ldp     x0, x1, [sp, #-16]
    stp     x0, x1, [x17, #({UPCALL} + {X} + 128)]
    str     xzr, [x17, #({UPCALL} + {EVENTS})]
    mov     x0, #1
    str     x0, [x17, #{MASKED}]
    msr     spsr_el1, xzr
    ldp     x0, x1, [sp, #-32]
    zero    16, 17
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
    zero    3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
    eret

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
    mrs     x2, tpidr_el1
    ldp     x4, x5, [x2]
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
    address x7, 12, 26
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
    tbz     w5, #8, map_unlock          // the rights to read it and to map it
    bic     w5, w2, w8, lsr #(9 - {WRITE})
    tbnz    w5, #{WRITE}, map_unlock
    eor     x6, x6, x4, lsr #12         // the own environment
    lsl     x6, x6, #38
    // The pool's has two cells.
    adr     x7, {TABLES}
    ubfx    x5, x8, #32, #16
    ldr     x5, [x7, x5, lsl #3]
    eor     x9, x9, x5
    lsr     x8, x8, #48
    ldr     x8, [x7, x8, lsl #3]
    eor     x11, x11, x8
    ubfx    x12, x12, #32, #16
    ldr     x12, [x7, x12, lsl #3]
    eor     x13, x13, x12
    orr     x9, x9, x11
    orr     x9, x9, x13
    orr     x6, x6, x9, lsr #16
    cbnz    x6, map_unlock
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
    zero    2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    eret                                // x0 and x17 are 0, x1 the entries done, x16 the call, x3 of the entry; x14, x15, x18 are as they were
mapped:
    below   ldp
resume_now:
    .if     {GENERAL}
    b       resume_fully
    .endif
    mrs     x17, tpidr_el1
    ldp     x16, x17, [x17]
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
resume_fully:
    save
    rust    {RESUME_EVENTS}

// Rust keeps x19 to x29. A refusal (x16) and the entries done (x17) go back behind the `svc`.
resume_entries:
    sub     sp, sp, #144
    words   stp
    more_words stp
    stp     x18, x30, [sp, #128]
    mov     x0, x17
    bl      {RESUME_BATCH}
    mov     x16, x0
    mov     x17, x1
    words   ldp
    more_words ldp
    ldp     x18, x30, [sp, #128]
    add     sp, sp, #144
    cbz     x16, resume_now
    eret

// The kernel is wrong. The stack may be the reason, so the report gets a fresh one.
kernel_fault:
    ldr     x16, =stack_top
    mov     sp, x16
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       {KERNEL_FAULT}
    .ltorg
