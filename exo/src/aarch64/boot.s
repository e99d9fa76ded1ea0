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

// The four bits of an identification register that begin at `shift`, in x9.
    .macro  field register, shift
    mrs     x9, \register; ubfx x9, x9, #\shift, #4
    .endm

// Goes on at the next `1:` where an identification register says that a feature is not there.
    .macro  with register, shift
    field   \register, \shift
    cbz     x9, 1f
    .endm

    .macro  set register, value
    ldr     x9, =\value; msr \register, x9
    .endm

    .balign 4
boot_start:
    mov     x20, x0
    mrs     x21, cntvct_el0
    mov     x0, xzr

// Other cores begin here, with x0 = the top of their stack, where their structure lies (Arm DEN 0022, CPU_ON: the exception level and the MMU are as above).
    .global core_start
core_start:
    msr     daifset, #0xf
    mov     x22, x0
    mrs     x9, CurrentEL; cmp x9, #(2 << 2)
    b.lo    at_el1
    b.hi    park                        // EL3: no boot protocol starts a kernel there

    // EL2: everything below is EL1's, nothing traps here. Reset says nothing about most of these.
    set     hcr_el2, (1 << 31 | 3 << 40) // RW; API and APK: pointer authentication is EL1's
    isb                                 // the layout of the next ones depends on HCR_EL2.E2H
    set     cptr_el2, 0x33ff            // RES1 bits, no trap
    msr     mdcr_el2, xzr
    with    id_aa64dfr0_el1, 8          // PMU: MDCR_EL2.HPMN must not be 0 where it has counters (Arm ARM)
    cmp     x9, #0xf; b.eq 1f
    mrs     x10, pmcr_el0; ubfx x10, x10, #11, #5; msr mdcr_el2, x10
1:  with    id_aa64mmfr1_el1, 40        // FEAT_HCX
    msr     S3_4_C1_C2_2, xzr           // HCRX_EL2
1:  with    id_aa64mmfr0_el1, 56        // FEAT_FGT
    .irp    register, S3_4_C1_C1_4, S3_4_C1_C1_5, S3_4_C1_C1_6, S3_4_C3_C1_4, S3_4_C3_C1_5
    msr     \register, xzr              // HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR
    .endr
1:  set     cnthctl_el2, 3              // EL1 may use the physical counter and timer
    msr     cntvoff_el2, xzr
    mrs     x9, midr_el1;  msr vpidr_el2, x9
    mrs     x9, mpidr_el1; msr vmpidr_el2, x9
    msr     vttbr_el2, xzr
    with    id_aa64pfr0_el1, 24         // GIC system registers
    mrs     x9, S3_4_C12_C9_5           // ICC_SRE_EL2
    orr     x9, x9, #0xf                // SRE, no bypass, EL1 may use its own
    msr     S3_4_C12_C9_5, x9; isb; mrs x9, S3_4_C12_C9_5
    tbz     x9, #0, 1f                  // firmware runs the controller as a GICv2
    msr     S3_4_C12_C11_0, xzr         // ICH_HCR_EL2
1:  set     sctlr_el1, {SCTLR_OFF}
    set     spsr_el2, 0x3c5             // EL1h, everything masked
    adr     x9, at_el1; msr elr_el2, x9
    eret

at_el1:
    msr     spsel, #1                   // the boot protocol does not say which stack pointer is selected
    adr     x9, vectors; msr vbar_el1, x9 // a core that comes when the identity map is gone stays there
    cbnz    x22, enable
    // The tables are written with the caches off: lines of them that an earlier stage left, clean or not, must not hide that later
    // (Arm ARM, "Mismatched memory attributes"). The boot protocol has cleaned the rest of the image, its zeros included.
    field   ctr_el0, 16
    mov     x10, #4; lsl x10, x10, x9   // the smallest data cache line
    adrp    x9, {TABLES}
    add     x12, x9, #{TABLES_BYTES}
    mov     x11, x9
1:  dc      ivac, x11; add x11, x11, x10
    cmp     x11, x12; b.lo 1b
    dsb     sy

    // Identity: the 2 MiB with this code, whose instructions lie in the image's first page.
    adrp    x11, image_start
    add     x10, x9, #{IDENTITY_2}
    ubfx    x12, x11, #30, #9
    orr     x13, x10, #3; str x13, [x9, x12, lsl #3]
    ldr     x13, ={BLOCK}
    lsr     x12, x11, #21
    orr     x13, x13, x12, lsl #21
    and     x12, x12, #511; str x13, [x10, x12, lsl #3]

    // The image at its own address: text, read-only data, data.
    add     x14, x9, #{ROOT}
    add     x15, x9, #{HIGH_2}
    add     x16, x9, #{IMAGE_3}
    orr     x13, x15, #3; str x13, [x14, #(511 * 8)]
    orr     x13, x16, #3; str x13, [x15]
    mov     x1, x11
    .macro  map_pages end, attributes
    adrp    x12, \end
    ldr     x13, =\attributes
1:  orr     x17, x11, x13; str x17, [x16], #8
    add     x11, x11, #4096
    cmp     x11, x12; b.lo 1b
    .endm
    map_pages text_end, {PAGE_TEXT}
    map_pages rodata_end, {PAGE_RODATA}
    map_pages image_end, {PAGE_DATA}

enable:
    adrp    x9, {TABLES}
    add     x14, x9, #{ROOT}
    msr     ttbr0_el1, x9
    msr     ttbr1_el1, x14
    set     mair_el1, {MAIR}
    field   id_aa64mmfr0_el1, 0
    mov     x13, #5                     // 48 bits are the most that 4 KiB pages without FEAT_LPA2 have
    cmp     x9, x13; csel x9, x9, x13, lo
    ldr     x11, ={TCR}
    orr     x11, x11, x9, lsl #32; msr tcr_el1, x11
    dsb     sy; tlbi vmalle1; ic iallu; dsb sy; isb
    set     sctlr_el1, {SCTLR_ON}
    isb
    ldr     x11, =high; br x11
high:
    set     vbar_el1, vectors
    cbnz    x22, 1f
    ldr     x11, =stack_top; mov sp, x11; msr tpidr_el1, x11
    mov     x0, x20
    mov     x2, x21
    b       {MAIN}
1:  mov     sp, x22; msr tpidr_el1, x22
    b       {CORE_MAIN}

park:
    wfe; b  park

    .ltorg
    .section .percore.guard, "aw", %nobits
    .balign 4096
    .global stack_guard
stack_guard:
    .skip   4096
    .skip   {STACK_BYTES}
    .global stack_top
stack_top:                              // and the first core's structure
    .skip   {CORE_BYTES}
