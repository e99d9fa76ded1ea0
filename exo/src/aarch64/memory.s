// memcpy in sixteen-byte steps: what the compiler calls for structures. (The one of compiler-builtins takes three times as long for 88 bytes.)

    .section .text.memory, "ax"
    .balign 16
    .global memcpy
memcpy:
    mov     x3, x0
1:  subs    x2, x2, #16
    b.lo    2f
    ldp     x4, x5, [x1], #16
    stp     x4, x5, [x3], #16
    b       1b
2:  tbz     x2, #3, 3f
    ldr     x4, [x1], #8
    str     x4, [x3], #8
3:  ands    x2, x2, #7
    b.eq    5f
4:  ldrb    w4, [x1], #1
    strb    w4, [x3], #1
    subs    x2, x2, #1
    b.ne    4b
5:  ret
