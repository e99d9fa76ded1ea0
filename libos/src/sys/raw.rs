//! Any `svc` with any registers: for programs that test what the kernel refuses.

/// Makes call `number` (0 to 63, or 65535) with x0 to x10 as given, x16 included by [`raw_resume`] only; answers with x0 to x8.
///
/// Every register but sp counts as lost, so plain and switching calls are the same here. On a host nothing happens.
///
/// # Safety
/// The kernel does what it is told, also to the caller's own memory: that memory is the caller's promise.
///
/// # Panics
/// For a number without a stub.
pub unsafe fn raw(number: u16, registers: [u64; 11]) -> [u64; 9] {
    let index = match number {
        0..=63 => u64::from(number),
        0xffff => 64,
        _ => panic!("there is no stub for svc #{number}"),
    };
    let mut results = [0; 9];
    // SAFETY: the stub reads eleven words, writes nine, and keeps what the procedure call standard keeps.
    unsafe { machine::any(&registers, &mut results, index) };
    results
}

/// `resume` with `entries` outside of any upcall: what the kernel refuses comes back as (refusal, entries done).
///
/// # Safety
/// What is *not* refused goes on where `upcall` in the control page says.
pub unsafe fn raw_resume(entries: u64) -> (u64, u64) {
    // SAFETY: the caller's promise.
    unsafe { machine::resume(entries) }
}

#[cfg(target_os = "none")]
mod machine {
    use core::arch::{asm, global_asm};
    use exo_abi::Call;

    unsafe extern "C" {
        #[link_name = "velvet_any_svc"]
        pub fn any(registers: &[u64; 11], results: &mut [u64; 9], index: u64);
    }

    // The immediate of svc is part of the instruction: each number has its own.
    global_asm!(
        ".pushsection .text.velvet_any_svc, \"ax\", %progbits",
        ".globl velvet_any_svc",
        "velvet_any_svc:",
        "stp x29, x30, [sp, #-176]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "stp d8, d9, [sp, #96]",
        "stp d10, d11, [sp, #112]",
        "stp d12, d13, [sp, #128]",
        "stp d14, d15, [sp, #144]",
        "str x1, [sp, #160]",
        "adr x17, 2f",
        "add x17, x17, x2, lsl #3",
        "mov x16, x0",
        "ldp x0, x1, [x16]",
        "ldp x2, x3, [x16, #16]",
        "ldp x4, x5, [x16, #32]",
        "ldp x6, x7, [x16, #48]",
        "ldp x8, x9, [x16, #64]",
        "ldr x10, [x16, #80]",
        "br x17",
        "2:",
        ".irp number,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32",
        "svc #(65535 - \\number)",
        "b 3f",
        ".endr",
        ".irp number,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63,65535",
        "svc #(65535 - \\number)",
        "b 3f",
        ".endr",
        "3:",
        "ldr x17, [sp, #160]",
        "stp x0, x1, [x17]",
        "stp x2, x3, [x17, #16]",
        "stp x4, x5, [x17, #32]",
        "stp x6, x7, [x17, #48]",
        "str x8, [x17, #64]",
        "ldp d14, d15, [sp, #144]",
        "ldp d12, d13, [sp, #128]",
        "ldp d10, d11, [sp, #112]",
        "ldp d8, d9, [sp, #96]",
        "ldp x27, x28, [sp, #80]",
        "ldp x25, x26, [sp, #64]",
        "ldp x23, x24, [sp, #48]",
        "ldp x21, x22, [sp, #32]",
        "ldp x19, x20, [sp, #16]",
        "ldp x29, x30, [sp], #176",
        "ret",
        ".popsection",
    );

    /// `resume`, expected to be refused.
    ///
    /// # Safety
    /// As [`super::raw_resume`].
    pub unsafe fn resume(entries: u64) -> (u64, u64) {
        let (refusal, done);
        // SAFETY: a refused resume keeps every register but x16 and x17; the caller answers for the rest.
        unsafe {
            asm!("svc #{number}", number = const exo_abi::calls::immediate(Call::Resume as u64), inlateout("x16") entries => refusal, lateout("x17") done, options(nostack));
        }
        (refusal, done)
    }
}

#[cfg(not(target_os = "none"))]
mod machine {
    use exo_abi::Refusal;

    /// No kernel.
    ///
    /// # Safety
    /// Nothing happens but that `results` is written.
    pub unsafe fn any(_registers: &[u64; 11], results: &mut [u64; 9], _index: u64) {
        results[0] = Refusal::NoSuchCall as u64;
    }

    /// No kernel.
    ///
    /// # Safety
    /// Nothing happens.
    pub unsafe fn resume(_entries: u64) -> (u64, u64) {
        (Refusal::NoSuchCall as u64, 0)
    }
}
