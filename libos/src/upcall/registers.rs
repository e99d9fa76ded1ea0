//! Whether a light handler's machine code changes only the registers that the short entry saves (Arm ARM C4.1).
//!
//! The instructions that the handler can reach are followed from its first, with the registers that may point to the frame at each:
//! the short entry fills the frame in parts, so the handler may not see the rest of it. An instruction that is not known here is
//! one that a handler must not have; then the handler runs on the longer light way.

use super::Frame;
use super::fp::{self, Kind};
use core::mem::offset_of;

/// Instructions of a handler that are looked at.
pub const MAX_INSTRUCTIONS: usize = 256;

/// A set of general registers: bit n is xn, bit 31 the zero register.
type Registers = u32;

/// What the short entry saves: x0, x1, x8 to x11.
const SAVED: Registers = 0b1111_0000_0011;
const ZERO: Registers = 1 << 31;
/// x0, which points to the frame at the beginning.
const FRAME: Registers = 1;
/// In a state: the instruction can be reached. No register of a handler's, so that it shares a word with those that may point to the frame.
const REACHED: u32 = 1 << 30;

/// The bytes of the frame that are filled, or restored by the kernel: first, and first beyond. What the kernel says, x0, x1; x8 to x11; x16, x17.
const FILLED: [(i64, i64); 3] = {
    const X: i64 = offset_of!(Frame, x) as i64;
    [(0, X + 16), (X + 64, X + 96), (X + 128, X + 144)]
};

/// The first instruction (counted from the handler's first) that makes it unfit for the short entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnfitAt(pub usize);

/// Looks at the handler that begins with the first instruction of `code`; others may follow it.
pub fn check(code: &[u32]) -> Result<(), UnfitAt> {
    let code = &code[..code.len().min(MAX_INSTRUCTIONS)];
    let mut states = [0u32; MAX_INSTRUCTIONS];
    states[0] = REACHED | FRAME;
    if code.is_empty() {
        return Err(UnfitAt(0));
    }
    // States only grow, by seven bits each: so often at most.
    let mut grown = true;
    while grown {
        grown = false;
        for (index, word) in code.iter().enumerate() {
            let state = states[index];
            if state & REACHED == 0 {
                continue;
            }
            let effect = effect(*word).filter(|effect| effect.is_fit(state & SAVED)).ok_or(UnfitAt(index))?;
            let after = REACHED | effect.pointing_after(state & SAVED);
            for offset in effect.next.into_iter().flatten() {
                let next = index as i64 + offset;
                if next < 0 || next >= code.len() as i64 {
                    return Err(UnfitAt(index));
                }
                let state = &mut states[next as usize];
                grown |= after & !*state != 0;
                *state |= after;
            }
        }
    }
    Ok(())
}

/// What an instruction does.
#[derive(Clone, Copy, Debug)]
struct Effect {
    writes: Registers,
    /// Those whose values it uses, but the address of an access.
    reads: Registers,
    /// It copies the one register it reads to the one it writes.
    copies: bool,
    access: Option<Access>,
    /// Where it may go on, in instructions from itself.
    next: [Option<i64>; 2],
}

/// A load or store.
#[derive(Clone, Copy, Debug)]
struct Access {
    base: Registers,
    /// First byte from the base, and first beyond; `None`: a register says.
    bytes: Option<(i64, i64)>,
}

impl Effect {
    /// `pointing`: the registers that may point to the frame. Such a pointer may only be copied, and used where the frame is filled.
    fn is_fit(&self, pointing: Registers) -> bool {
        let base = self.access.map_or(0, |access| access.base);
        let known = (self.writes | self.reads) & !(SAVED | ZERO) == 0 && base & !SAVED == 0;
        let in_frame = match self.access {
            Some(Access { base, bytes }) if base & pointing != 0 => bytes.is_some_and(is_filled),
            _ => true,
        };
        known && in_frame && (self.copies || self.reads & pointing == 0)
    }

    fn pointing_after(&self, pointing: Registers) -> Registers {
        let copied = if self.copies && self.reads & pointing != 0 { self.writes & SAVED } else { 0 };
        pointing & !self.writes | copied
    }
}

fn is_filled((first, beyond): (i64, i64)) -> bool {
    FILLED.iter().any(|(start, end)| first >= *start && beyond <= *end)
}

const fn compute(writes: Registers, reads: Registers) -> Option<Effect> {
    Some(Effect { writes, reads, copies: false, access: None, next: [Some(1), None] })
}

fn branch(reads: Registers, next: [Option<i64>; 2]) -> Option<Effect> {
    Some(Effect { writes: 0, reads, copies: false, access: None, next })
}

const fn bits(word: u32, from: u32, count: u32) -> u32 {
    (word >> from) & ((1 << count) - 1)
}

/// The register that a field of five bits names.
const fn register(word: u32, from: u32) -> Registers {
    1 << bits(word, from, 5)
}

/// What an instruction does, if a handler may have it. Register 31 is the zero register throughout: where it would be sp, it is refused.
fn effect(word: u32) -> Option<Effect> {
    const RET: u32 = 0xd65f_03c0;
    const NOP: u32 = 0xd503_201f;
    if word == RET {
        return branch(0, [None, None]);
    }
    // DMB; nothing more of the system instructions.
    if word == NOP || word & 0xffff_f0ff == 0xd503_30bf {
        return compute(0, 0);
    }
    match fp::kind(word) {
        Kind::Integer => {}
        Kind::Branch(offset) => return branch_effect(word, offset / 4),
        Kind::FloatingPoint | Kind::CallRegister | Kind::BranchRegister => return None,
    }
    let (d, n, m, a) = (register(word, 0), register(word, 5), register(word, 16), register(word, 10));
    let (opc, sets_flags, bit_23) = (bits(word, 29, 2), bits(word, 29, 1) == 1, bits(word, 23, 1) == 1);
    match bits(word, 24, 5) {
        // ADR, ADRP.
        0b10000 => compute(d, 0),
        // ADD, SUB (immediate).
        0b10001 if !bit_23 && n != ZERO && (d != ZERO || sets_flags) => compute(d, n),
        // AND, ORR, EOR, ANDS (immediate).
        0b10010 if !bit_23 && (d != ZERO || opc == 0b11) => compute(d, n),
        // MOVN, MOVZ, MOVK.
        0b10010 if bit_23 && opc != 0b01 => compute(d, if opc == 0b11 { d } else { 0 }),
        // SBFM, BFM, UBFM.
        0b10011 if !bit_23 && opc != 0b11 => compute(d, if opc == 0b01 { n | d } else { n }),
        // EXTR.
        0b10011 if bit_23 && opc == 0b00 => compute(d, n | m),
        // MOV (register) is ORR with the zero register.
        0b01010 if word & 0xffe0_ffe0 == 0xaa00_03e0 => Some(Effect { copies: true, ..compute(d, m)? }),
        // AND, ORR, EOR, ANDS, BIC, ORN, EON, BICS.
        0b01010 => compute(d, n | m),
        // ADD, SUB (shifted register).
        0b01011 if bits(word, 21, 1) == 0 => compute(d, n | m),
        // ADD, SUB (extended register).
        0b01011 if n != ZERO && (d != ZERO || sets_flags) => compute(d, n | m),
        0b11010 => register_effect(word, d, n, m),
        // MADD, MSUB and the like.
        0b11011 => compute(d, n | m | a),
        0b01000 | 0b01001 | 0b11000 | 0b11001 => access_effect(word, d, n, m, a),
        _ => None,
    }
}

/// B, B.cond, CBZ, CBNZ, TBZ, TBNZ. Not BL.
fn branch_effect(word: u32, offset: i64) -> Option<Effect> {
    match bits(word, 24, 7) {
        0b0010100..=0b0010111 if word >> 31 == 0 => branch(0, [Some(offset), None]),
        0b1010100 if word >> 31 == 0 => branch(0, [Some(1), Some(offset)]),
        0b0110100..=0b0110111 => branch(register(word, 0), [Some(1), Some(offset)]),
        _ => None,
    }
}

/// Carry, conditional, two sources, one source.
fn register_effect(word: u32, d: Registers, n: Registers, m: Registers) -> Option<Effect> {
    let (sets_flags, opcode) = (bits(word, 29, 1) == 1, bits(word, 10, 6));
    match bits(word, 21, 3) {
        // ADC, SBC.
        0b000 if opcode == 0 => compute(d, n | m),
        // CCMN, CCMP: an immediate stands in place of m.
        0b010 if sets_flags && opcode & 1 == 0 && bits(word, 4, 1) == 0 => {
            compute(0, if opcode & 0b10 != 0 { n } else { n | m })
        }
        // CSEL, CSINC, CSINV, CSNEG.
        0b100 if !sets_flags && opcode & 0b10 == 0 => compute(d, n | m),
        // UDIV, SDIV, LSLV, LSRV, ASRV, RORV.
        0b110 if bits(word, 29, 2) == 0b00 && matches!(opcode, 2 | 3 | 8..=11) => compute(d, n | m),
        // RBIT, REV16, REV32, REV, CLZ, CLS.
        0b110 if bits(word, 29, 2) == 0b10 && bits(word, 16, 5) == 0 && opcode <= 5 => compute(d, n),
        _ => None,
    }
}

/// Loads and stores that write no base. Atomic operations are not known here, exclusives neither.
fn access_effect(word: u32, t: Registers, n: Registers, m: Registers, t2: Registers) -> Option<Effect> {
    let size = bits(word, 30, 2);
    let (bytes, scale) = (1i64 << size, size);
    let signed = |from, count| i64::from((bits(word, from, count) << (32 - count)) as i32 >> (32 - count));
    match bits(word, 24, 6) {
        // LDAR, STLR; LDLAR and STLLR.
        0b001000 if bits(word, 21, 1) == 0 && bits(word, 23, 1) == 1 && m == ZERO && t2 == ZERO => {
            access(bits(word, 22, 1) == 1, t, 0, n, Some((0, bytes)))
        }
        // LDP, STP (signed offset), LDPSW.
        0b101001 if bits(word, 23, 1) == 0 => {
            let load = bits(word, 22, 1) == 1;
            let each = match size {
                0b00 => 4,
                0b01 if load => 4,
                0b10 => 8,
                _ => return None,
            };
            let first = signed(15, 7) * each;
            access(load, t | t2, 0, n, Some((first, first + 2 * each)))
        }
        // LDR, STR and their narrow and sign-extending forms; not PRFM.
        0b111000 | 0b111001 => {
            let load = match (bits(word, 22, 2), size) {
                (0b00, _) => false,
                (0b01, _) | (0b10, 0..=2) | (0b11, 0..=1) => true,
                _ => return None,
            };
            if bits(word, 24, 1) == 1 {
                let first = i64::from(bits(word, 10, 12)) << scale;
                return access(load, t, 0, n, Some((first, first + bytes)));
            }
            match (bits(word, 21, 1), bits(word, 10, 2)) {
                // LDUR, STUR.
                (0, 0b00) => access(load, t, 0, n, Some((signed(12, 9), signed(12, 9) + bytes))),
                // The index in a register.
                (1, 0b10) => access(load, t, m, n, None),
                _ => None,
            }
        }
        _ => None,
    }
}

fn access(load: bool, data: Registers, index: Registers, base: Registers, bytes: Option<(i64, i64)>) -> Option<Effect> {
    let (writes, reads) = if load { (data, index) } else { (0, data | index) };
    Some(Effect { access: Some(Access { base, bytes }), ..compute(writes, reads)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    // As assembled by LLVM.
    const RET: u32 = 0xd65f_03c0;
    const NOP: u32 = 0xd503_201f;
    const MOV_X8_X0: u32 = 0xaa00_03e8;
    const MOV_X9_X8: u32 = 0xaa08_03e9;
    const MOV_X0_0: u32 = 0xaa1f_03e0;
    /// x2 in the frame, by x0, x8, x9.
    const LDR_X0_FROM_X0_64: u32 = 0xf940_2000;
    const LDR_X8_FROM_X8_64: u32 = 0xf940_2108;
    const LDR_X8_FROM_X9_64: u32 = 0xf940_2128;

    /// How an instruction is judged that follows one by which x0 no longer points to the frame.
    fn alone(word: u32) -> Result<(), UnfitAt> {
        // A branch may go one or two instructions on.
        check(&[MOV_X0_0, word, RET, RET])
    }

    #[test]
    fn what_a_handler_may_have() {
        let fit = [
            0xb000_0009u32, // adrp x9, 0x1000
            0x1000_0048,    // adr x8, 8
            0x9100_1129,    // add x9, x9, #4
            0xf100_0508,    // subs x8, x8, #1
            0xf100_f13f,    // cmp x9, #0x3c
            0x9274_6908,    // and x8, x8, #0x7ffffff000
            0xf240_011f,    // tst x8, #1
            0x5280_662a,    // mov w10, #0x331
            0xf2e0_0021,    // movk x1, #1, lsl #48
            0xb340_7d21,    // bfxil x1, x9, #0, #32
            0xd35a_fd08,    // lsr x8, x8, #26
            0x93ca_0d28,    // extr x8, x9, x10, #3
            0xaa0a_0100,    // orr x0, x8, x10
            0x8b0a_0d28,    // add x8, x9, x10, lsl #3
            0x8b2a_4128,    // add x8, x9, w10, uxtw
            0x9a0a_0128,    // adc x8, x9, x10
            0xfa44_1904,    // ccmp x8, #4, #4, ne
            0xfa49_0100,    // ccmp x8, x9, #0, eq
            0x9a9f_0128,    // csel x8, x9, xzr, eq
            0x9aca_0928,    // udiv x8, x9, x10
            0x9aca_2128,    // lsl x8, x9, x10
            0xdac0_1128,    // clz x8, x9
            0xdac0_0d28,    // rev x8, x9
            0x9b0a_2d28,    // madd x8, x9, x10, x11
            0x9bca_7d28,    // umulh x8, x9, x10
            0xb940_0508,    // ldr w8, [x8, #4]
            0x3940_0528,    // ldrb w8, [x9, #1]
            0xb980_0528,    // ldrsw x8, [x9, #4]
            0xf85f_8128,    // ldur x8, [x9, #-8]
            0xf900_091f,    // str xzr, [x8, #16]
            0xa940_2548,    // ldp x8, x9, [x10]
            0xa901_2428,    // stp x8, x9, [x1, #16]
            0x6940_2548,    // ldpsw x8, x9, [x10]
            0xf86a_7928,    // ldr x8, [x9, x10, lsl #3]
            0xc8df_fd28,    // ldar x8, [x9]
            0xc89f_fd28,    // stlr x8, [x9]
            0x1400_0001,    // b +4
            0x5400_0021,    // b.ne +4
            0xb400_0028,    // cbz x8, +4
            0x3718_0028,    // tbnz x8, #3, +4
            0xd503_3bbf,    // dmb ish
            NOP,
            RET,
        ];
        for word in fit {
            assert_eq!(alone(word), Ok(()), "{word:#x}");
        }
    }

    #[test]
    fn what_makes_a_handler_unfit() {
        let unfit = [
            0xaa08_03e2u32, // mov x2, x8
            0xaa02_03e8,    // mov x8, x2
            0x9100_011f,    // mov sp, x8
            0x9100_03e8,    // mov x8, sp
            0x9100_43ff,    // add sp, sp, #16
            0xd100_43e8,    // sub x8, sp, #16
            0x927c_0d1f,    // and sp, x8, #0xf0
            0x8b29_43e8,    // add x8, sp, w9, uxtw
            0xf940_03e8,    // ldr x8, [sp]
            0xf81f_0fe8,    // str x8, [sp, #-16]!
            0xf840_8528,    // ldr x8, [x9], #8
            0xf840_8d28,    // ldr x8, [x9, #8]!
            0xa8c1_2548,    // ldp x8, x9, [x10], #16
            0xc85f_7d28,    // ldxr x8, [x9]
            0xc808_7d2a,    // stxr w8, x10, [x9]
            0x9400_0001,    // bl +4
            0xd63f_0100,    // blr x8
            0xd61f_0100,    // br x8
            0xd400_0001,    // svc #0
            0xd53b_d068,    // mrs x8, tpidrro_el0
            0xd51b_d048,    // msr tpidr_el0, x8
            0xd53b_4208,    // mrs x8, nzcv
            0xd503_233f,    // paciasp
            0xd503_3f5f,    // clrex
            0x1e60_2800,    // fadd d0, d0, d0
            0x5800_0048,    // ldr x8, +8
            0xf940_0130,    // ldr x16, [x9]
            0xaa1f_03f1,    // mov x17, xzr
            0xaa1f_03f2,    // mov x18, xzr
            0xaa08_03fe,    // mov x30, x8
            0xd65f_0100,    // ret x8
            0x0000_0000,    // udf #0
            0xd420_0020,    // brk #1
            0xf900_0122,    // str x2, [x9]
            0xf940_0122,    // ldr x2, [x9]
            0xf940_0048,    // ldr x8, [x2]
            0xf980_0100,    // prfm pldl1keep, [x8]
            0xf8e0_8020,    // swpal x0, x0, [x1]
            0xc8a0_7c20,    // cas x0, x0, [x1]
        ];
        for word in unfit {
            assert_eq!(alone(word), Err(UnfitAt(1)), "{word:#x}");
        }
    }

    #[test]
    fn the_frame_is_used_where_it_is_filled() {
        let filled = [
            0xf940_0008u32, // ldr x8, [x0]
            0xf900_081f,    // str xzr, [x0, #16]
            0xa940_2408,    // ldp x8, x9, [x0]
            0xf940_1c08,    // ldr x8, [x0, #56]: x1
            0xb940_3c08,    // ldr w8, [x0, #60]
            0xf940_3808,    // ldr x8, [x0, #112]: x8
            0xf940_4408,    // ldr x8, [x0, #136]: x11
            0xf940_5808,    // ldr x8, [x0, #176]: x16
            0xa94b_2408,    // ldp x8, x9, [x0, #176]
        ];
        for word in filled {
            assert_eq!(check(&[word, RET]), Ok(()), "{word:#x}");
        }
        let elsewhere = [
            0xf940_2008u32, // ldr x8, [x0, #64]: x2
            0xf940_3408,    // ldr x8, [x0, #104]: x7
            0xf940_4808,    // ldr x8, [x0, #144]: x12
            0xa94b_a408,    // ldp x8, x9, [x0, #184]: x17, x18
            0xa943_a408,    // ldp x8, x9, [x0, #56]: x1, x2
            0xf940_9408,    // ldr x8, [x0, #296]: sp
            0xf85f_8008,    // ldur x8, [x0, #-8]
            0xf869_6808,    // ldr x8, [x0, x9]
            0x9101_0008,    // add x8, x0, #64
            0xf900_0120,    // str x0, [x9]
        ];
        for word in elsewhere {
            assert_eq!(check(&[word, RET]), Err(UnfitAt(0)), "{word:#x}");
        }
    }

    #[test]
    fn a_copy_of_the_frames_address_is_followed() {
        assert_eq!(check(&[MOV_X8_X0, LDR_X8_FROM_X8_64, RET]), Err(UnfitAt(1)));
        assert_eq!(check(&[MOV_X8_X0, MOV_X9_X8, LDR_X8_FROM_X9_64, RET]), Err(UnfitAt(2)));
        assert_eq!(check(&[MOV_X8_X0, MOV_X0_0, LDR_X0_FROM_X0_64, RET]), Ok(()));
        assert_eq!(check(&[MOV_X0_0, MOV_X8_X0, LDR_X8_FROM_X8_64, RET]), Ok(()));
    }

    #[test]
    fn every_way_to_an_instruction_counts() {
        // cbz x9, +8: x0 still points to the frame where the two ways meet.
        const CBZ_X9_8: u32 = 0xb400_0049;
        assert_eq!(check(&[CBZ_X9_8, MOV_X0_0, LDR_X0_FROM_X0_64, RET]), Err(UnfitAt(2)));
        // b +8: nothing gets to the instruction in between.
        const B_8: u32 = 0x1400_0002;
        assert_eq!(check(&[B_8, LDR_X0_FROM_X0_64, RET]), Ok(()));
        // Around a loop: cbz x9, -8 leads back to an access by x8, to which x0 was copied after it.
        const CBZ_X9_BACK_8: u32 = 0xb4ff_ffc9;
        assert_eq!(check(&[LDR_X8_FROM_X8_64, MOV_X8_X0, CBZ_X9_BACK_8, RET]), Err(UnfitAt(0)));
        assert_eq!(check(&[LDR_X8_FROM_X8_64, NOP, CBZ_X9_BACK_8, RET]), Ok(()));
    }

    #[test]
    fn a_handler_ends_by_returning() {
        assert_eq!(check(&[]), Err(UnfitAt(0)));
        assert_eq!(check(&[NOP]), Err(UnfitAt(0)));
        assert_eq!(check(&[0x17ff_ffff, RET]), Err(UnfitAt(0))); // b -4
        assert_eq!(check(&[NOP; MAX_INSTRUCTIONS + 1]), Err(UnfitAt(MAX_INSTRUCTIONS - 1)));
        // What follows is another handler's.
        assert_eq!(check(&[RET, 0xaa08_03e2]), Ok(()));
    }

    /// Whatever the bits, nothing is fit that writes another register by the plainest reading: the destination field of what computes.
    #[test]
    fn no_word_with_another_destination_is_fit() {
        let mut word = 0x1234_5678u32;
        for _ in 0..2_000_000 {
            // Marsaglia's xorshift.
            word ^= word << 13;
            word ^= word >> 17;
            word ^= word << 5;
            let Some(effect) = effect(word) else { continue };
            let computes = matches!(bits(word, 26, 3), 0b100) || bits(word, 25, 3) == 0b101;
            let compares = bits(word, 21, 8) == 0b1101_0010;
            if computes && !compares && effect.is_fit(0) {
                assert!(register(word, 0) & (SAVED | ZERO) != 0, "{word:#x}");
            }
        }
    }
}
