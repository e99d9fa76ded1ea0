//! What the calls answer on a host, where there is no kernel: there is no such call.

use exo_abi::Refusal;

const NO: u64 = Refusal::NoSuchCall as u64;

macro_rules! no_kernel {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $value:expr;)*) => {
        $(
            /// No kernel.
            ///
            /// # Safety
            /// Nothing happens.
            #[inline]
            pub unsafe fn $name<const NUMBER: u64>($($argument: $type),*) -> $result {
                $(let _ = $argument;)*
                $value
            }
        )*
    };
}

no_kernel! {
    plain_0() -> u64 = NO;
    plain_2(x0: u64, x1: u64) -> [u64; 3] = [NO, 0, 0];
    plain_3(x0: u64, x1: u64, x2: u64) -> [u64; 3] = [NO, 0, 0];
    plain_5(x0: u64, x1: u64, x2: u64, x3: u64, x4: u64) -> [u64; 3] = [NO, 0, 0];
    plain_8(x: [u64; 8]) -> [u64; 3] = [NO, 0, 0];
    switching_2(x0: u64, x1: u64) -> [u64; 2] = [NO, 0];
    switching_0(x0: u64) -> u64 = NO;
    switching_8(x0: u64, words: [u64; 7]) -> [u64; 9] = [NO, 0, 0, 0, 0, 0, 0, 0, 0];
    switching_11(x0: u64, words: [u64; 7], x8: u64, x9: u64, x10: u64) -> [u64; 9] = [NO, 0, 0, 0, 0, 0, 0, 0, 0];
}
