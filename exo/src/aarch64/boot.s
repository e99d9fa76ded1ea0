// From the boot protocol to Rust: EL2 or EL1, MMU off, x0 = device tree (or 0).
//
// Linux arm64 boot protocol (Documentation/arch/arm64/booting.rst): 64-byte header, then anything.

    .section .head, "ax"
image_header:
    b       boot_start
    .word   0
    .quad   0                           // text_offset: any 4 KiB boundary will do, loaders take 2 MiB + this
    .quad   0                           // image_size: the image-builder writes it
    .quad   0xa                         // flags: little-endian, 4 KiB pages, anywhere in RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0
    .global boot_header
boot_header:
    .skip   {HEADER_BYTES}

    .balign 4
boot_start:
    msr     daifset, #0xf
    mov     x20, x0
    mrs     x21, cntvct_el0
    mrs     x9, CurrentEL
    cmp     x9, #(2 << 2)
    b.lo    at_el1
    b.hi    park                        // EL3: no boot protocol starts a kernel there

    // EL2: everything below is EL1's, nothing traps here.
    mov     x9, #(1 << 31)              // HCR_EL2.RW
    orr     x9, x9, #(3 << 40)          // HCR_EL2.API and APK: pointer authentication is EL1's
    msr     hcr_el2, x9
    mov     x9, #0x33ff                 // CPTR_EL2: RES1 bits, no trap
    msr     cptr_el2, x9
    msr     hstr_el2, xzr
    msr     mdcr_el2, xzr
    mov     x9, #3                      // CNTHCTL_EL2: EL1 may use the physical counter and timer
    msr     cnthctl_el2, x9
    msr     cntvoff_el2, xzr
    mrs     x9, midr_el1
    msr     vpidr_el2, x9
    mrs     x9, mpidr_el1
    msr     vmpidr_el2, x9
    msr     vttbr_el2, xzr
    mrs     x9, id_aa64pfr0_el1
    ubfx    x9, x9, #24, #4             // GIC system registers
    cbz     x9, 1f
    mrs     x9, S3_4_C12_C9_5           // ICC_SRE_EL2
    orr     x9, x9, #0xf                // SRE, no bypass, EL1 may use its own
    msr     S3_4_C12_C9_5, x9
    isb
    msr     S3_4_C12_C11_0, xzr         // ICH_HCR_EL2
1:  ldr     x9, ={SCTLR_OFF}
    msr     sctlr_el1, x9
    mov     x9, #0x3c5                  // EL1h, everything masked
    msr     spsr_el2, x9
    adr     x9, at_el1
    msr     elr_el2, x9
    eret

at_el1:
    // The memory below is written with the caches off: lines that an earlier stage left in them must not come back over it
    // (Arm ARM B2.8: mismatched attributes; boot protocol: the image is clean to the point of coherency, bss is not part of it).
    mrs     x9, ctr_el0
    ubfx    x9, x9, #16, #4
    mov     x10, #4
    lsl     x10, x10, x9                // the smallest data cache line
    adrp    x11, bss_start
    add     x11, x11, :lo12:bss_start
    adrp    x12, image_end
    add     x12, x12, :lo12:image_end
1:  cmp     x11, x12
    b.hs    2f
    dc      ivac, x11
    add     x11, x11, x10
    b       1b
2:  dsb     sy
    adrp    x11, bss_start
    add     x11, x11, :lo12:bss_start
3:  cmp     x11, x12
    b.hs    4f
    stp     xzr, xzr, [x11], #16
    stp     xzr, xzr, [x11], #16
    b       3b
4:
    // Identity: the 2 MiB with this code, and the next.
    adrp    x22, image_start
    adrp    x9, {IDENTITY_1}
    add     x9, x9, :lo12:{IDENTITY_1}
    adrp    x10, {IDENTITY_2}
    add     x10, x10, :lo12:{IDENTITY_2}
    mov     x11, x10
    orr     x11, x11, #3
    ubfx    x12, x22, #30, #9
    str     x11, [x9, x12, lsl #3]
    lsr     x12, x22, #21
    lsl     x11, x12, #21
    ldr     x13, ={BLOCK}
    orr     x11, x11, x13
    and     x12, x12, #511
    str     x11, [x10, x12, lsl #3]
    // The image at its own address: text, read-only data, data.
    adrp    x14, {ROOT}
    add     x14, x14, :lo12:{ROOT}
    adrp    x15, {HIGH_2}
    add     x15, x15, :lo12:{HIGH_2}
    adrp    x16, {IMAGE_3}
    add     x16, x16, :lo12:{IMAGE_3}
    orr     x11, x15, #3
    str     x11, [x14, #(511 * 8)]
    orr     x11, x16, #3
    str     x11, [x15]
    mov     x11, x22
    ldr     x13, ={PAGE_TEXT}
    adrp    x12, text_end
    bl      map_pages
    ldr     x13, ={PAGE_RODATA}
    adrp    x12, rodata_end
    bl      map_pages
    ldr     x13, ={PAGE_DATA}
    adrp    x12, image_end
    bl      map_pages

    ldr     x11, ={MAIR}
    msr     mair_el1, x11
    ldr     x11, ={TCR}
    mrs     x12, id_aa64mmfr0_el1
    and     x12, x12, #0xf
    mov     x13, #5                     // 48 bits are the most that 4 KiB pages without FEAT_LPA2 have
    cmp     x12, x13
    csel    x12, x12, x13, lo
    orr     x11, x11, x12, lsl #32
    msr     tcr_el1, x11
    msr     ttbr0_el1, x9
    msr     ttbr1_el1, x14
    adrp    x11, vectors
    add     x11, x11, :lo12:vectors
    dsb     sy
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    ldr     x11, ={SCTLR_ON}
    msr     sctlr_el1, x11
    isb
    ldr     x11, =high
    br      x11
high:
    ldr     x11, =vectors
    msr     vbar_el1, x11
    ldr     x11, =stack_top
    mov     sp, x11
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    mov     x1, x22
    mov     x2, x21
    b       {MAIN}

// Maps pages from x11 to x12 with attributes x13; x16 is the next entry.
map_pages:
    cmp     x11, x12
    b.hs    1f
    orr     x17, x11, x13
    str     x17, [x16], #8
    add     x11, x11, #4096
    b       map_pages
1:  ret

park:
    wfe
    b       park

    .ltorg
    .section .percore.guard, "aw", %nobits
    .balign 4096
    .global stack_guard
stack_guard:
    .skip   4096
    .skip   {STACK_BYTES}
    .global stack_top
stack_top:
