//! Telling floating-point and branching instructions by their bits (Arm ARM C4.1, table C4-1 and below).

/// What an instruction can mean for code that must stay with integers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Integers, or a branch that ends at a known place: see the offset.
    Integer,
    /// It touches a floating-point or vector register, or FPCR or FPSR.
    FloatingPoint,
    /// It goes on so many bytes further.
    Branch(i64),
    /// It goes on at an address in a register, and comes back.
    CallRegister,
    /// It goes on at an address in a register.
    BranchRegister,
}

/// What an instruction is.
pub const fn kind(word: u32) -> Kind {
    let group = (word >> 25) & 0xf;
    // x111: scalar floating point and Advanced SIMD. x1x0: loads and stores, with V in bit 26. 0010: SVE; 0000: SME.
    if group & 0b0111 == 0b0111
        || (group & 0b0101 == 0b0100 && word & 1 << 26 != 0)
        || group == 0b0010
        || group == 0 && word >> 31 == 1
    {
        return Kind::FloatingPoint;
    }
    // MRS and MSR of S3_3_C4_C4_{0,1}: FPCR and FPSR.
    if word & 0xffdf_ffc0 == 0xd51b_4400 {
        return Kind::FloatingPoint;
    }
    if word & 0x7c00_0000 == 0x1400_0000 {
        return Kind::Branch(sign_extend(word & 0x03ff_ffff, 26));
    }
    // Conditional branches, compare and branch: 19 bits from bit 5. Test and branch: 14 bits from bit 5.
    if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        return Kind::Branch(sign_extend((word >> 5) & 0x7ffff, 19));
    }
    if word & 0x7e00_0000 == 0x3600_0000 {
        return Kind::Branch(sign_extend((word >> 5) & 0x3fff, 14));
    }
    if word & 0xfe00_0000 == 0xd600_0000 {
        // RET (opc 2) leaves as it came; BLR (opc 1); BR (opc 0); others never occur in user code.
        return match (word >> 21) & 0xf {
            0b0010 => Kind::Integer,
            0b0001 | 0b1001 => Kind::CallRegister,
            _ => Kind::BranchRegister,
        };
    }
    Kind::Integer
}

const fn sign_extend(value: u32, bits: u32) -> i64 {
    (((value << (32 - bits)) as i32) >> (32 - bits)) as i64 * 4
}

/// Why code is not fit for the light way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// It has no instructions.
    Empty,
    /// The instruction with this index touches floating point.
    FloatingPoint(usize),
    /// The instruction with this index leaves the code.
    Leaves(usize),
}

/// Whether a stretch of instructions touches no floating point and never leaves but by returning.
/// `calls` says whether a call through a register is allowed.
pub fn check(code: &[u32], calls: Calls) -> Result<(), Unfit> {
    if code.is_empty() {
        return Err(Unfit::Empty);
    }
    for (index, word) in code.iter().enumerate() {
        match kind(*word) {
            Kind::Integer => {}
            Kind::FloatingPoint => return Err(Unfit::FloatingPoint(index)),
            Kind::CallRegister if calls == Calls::ThroughRegisters => {}
            Kind::CallRegister | Kind::BranchRegister => return Err(Unfit::Leaves(index)),
            Kind::Branch(offset) => {
                let target = index as i64 + offset / 4;
                if target < 0 || target >= code.len() as i64 {
                    return Err(Unfit::Leaves(index));
                }
            }
        }
    }
    Ok(())
}

/// Which calls code may make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Calls {
    /// None.
    Never,
    /// Those through registers: the library's light way calls a light handler so.
    ThroughRegisters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floating_point_is_told_from_integers() {
        // As assembled by LLVM.
        let floating = [
            0x1e60_2800u32, // fadd d0, d0, d0
            0x4ea1_1c20,    // mov v0.16b, v1.16b
            0xad00_0400,    // stp q0, q1, [x0]
            0x3dc0_0000,    // ldr q0, [x0]
            0xfd40_0000,    // ldr d0, [x0]
            0x9e66_0000,    // fmov x0, d0
            0x6f00_e400,    // movi v0.2d, #0
            0x4c40_7000,    // ld1 {v0.16b}, [x0]
            0xd51b_4400,    // msr fpcr, x0
            0xd53b_4420,    // mrs x0, fpsr
            0x6d01_23e9,    // stp d9, d8, [sp, #16]
            0x1c00_0000,    // ldr s0, literal
            0x0420_0000,    // add z0.b, z0.b, z0.b
        ];
        for word in floating {
            assert_eq!(kind(word), Kind::FloatingPoint, "{word:#x}");
        }
        let integer = [
            0xa900_0400u32, // stp x0, x1, [x0]
            0xf940_0000,    // ldr x0, [x0]
            0x8b01_0000,    // add x0, x0, x1
            0xd53b_d060,    // mrs x0, tpidrro_el0
            0xd65f_03c0,    // ret
            0xd400_0081,    // svc #4
            0x9b02_7c20,    // mul x0, x1, x2
            0xc8df_fc20,    // ldar x0, [x1]
            0xf8e0_8020,    // swpal x0, x0, [x1]
            0xd503_201f,    // nop
            0x5800_0000,    // ldr x0, literal
        ];
        for word in integer {
            assert_eq!(kind(word), Kind::Integer, "{word:#x}");
        }
    }

    #[test]
    fn branches_are_followed_to_their_ends() {
        assert_eq!(kind(0x1400_0002), Kind::Branch(8)); // b +8
        assert_eq!(kind(0x97ff_ffff), Kind::Branch(-4)); // bl -4
        assert_eq!(kind(0x5400_0041), Kind::Branch(8)); // b.ne +8
        assert_eq!(kind(0xb4ff_ffe0), Kind::Branch(-4)); // cbz x0, -4
        assert_eq!(kind(0xb7f8_0040), Kind::Branch(8)); // tbnz x0, #63, +8
        assert_eq!(kind(0xd63f_0100), Kind::CallRegister); // blr x8
        assert_eq!(kind(0xd61f_0100), Kind::BranchRegister); // br x8
    }

    #[test]
    fn code_that_leaves_is_refused() {
        assert_eq!(check(&[], Calls::Never), Err(Unfit::Empty));
        assert_eq!(check(&[0x1400_0001, 0xd65f_03c0], Calls::Never), Ok(()));
        assert_eq!(check(&[0x1400_0002, 0xd65f_03c0], Calls::Never), Err(Unfit::Leaves(0)));
        assert_eq!(check(&[0xd503_201f, 0x97ff_fffe], Calls::Never), Err(Unfit::Leaves(1)));
        assert_eq!(check(&[0xd63f_0100], Calls::Never), Err(Unfit::Leaves(0)));
        assert_eq!(check(&[0xd63f_0100], Calls::ThroughRegisters), Ok(()));
        assert_eq!(check(&[0xd65f_03c0, 0x1e60_2800], Calls::Never), Err(Unfit::FloatingPoint(1)));
    }
}
