//! Orders: one function a call.

use crate::code::{FLOAT, FOREIGN, LOAD, STORE};
use exo_abi::Call;
use workshop::Order;

/// `call` with seven words that begin with this one; x0 has handle and flags.
pub fn call(gate: u64, word: u64) -> Order {
    full_call(gate, word, [0; 3])
}

/// The same with x8 to x10.
pub fn full_call(x0: u64, word: u64, more: [u64; 3]) -> Order {
    let mut order = Order::new(Call::Call as u64, &[x0]);
    words(&mut order, word, more);
    order
}

/// `reply_wait`.
pub fn reply(mask: u64, word: u64) -> Order {
    full_reply(mask, word, [0; 3])
}

/// The same with x8 to x10.
pub fn full_reply(x0: u64, word: u64, more: [u64; 3]) -> Order {
    let mut order = Order::new(Call::ReplyWait as u64, &[x0]);
    words(&mut order, word, more);
    order
}

fn words(order: &mut Order, word: u64, more: [u64; 3]) {
    (1..8).for_each(|index| order.x[index] = word + index as u64);
    order.x[8..].copy_from_slice(&more);
}

/// `wait`.
pub fn wait(mask: u64, alarm: u64) -> Order {
    Order::new(Call::Wait as u64, &[mask, alarm])
}

/// A `wait` that takes all events that are pending.
pub fn drain() -> Order {
    wait((1 << 48) - 1, 1)
}

/// `notify`.
pub fn notify(event: u64) -> Order {
    Order::new(Call::Notify as u64, &[event])
}

/// `yield_to`.
pub fn yield_to(handle: u64, vcore: u64) -> Order {
    Order::new(Call::YieldTo as u64, &[handle, vcore])
}

/// `restrict`.
pub fn restrict(handle: u64, rights: u64) -> Order {
    Order::new(Call::Restrict as u64, &[handle, rights])
}

/// `halt`.
pub fn halt(code: u64) -> Order {
    Order::new(Call::Halt as u64, &[code])
}

/// `null`.
pub fn null(arguments: &[u64]) -> Order {
    Order::new(Call::Null as u64, arguments)
}

/// An upcall by `svc #0`.
pub fn foreign(arguments: &[u64]) -> Order {
    Order::new(FOREIGN, arguments)
}

/// A load.
pub fn load(va: u64) -> Order {
    Order::new(LOAD, &[va])
}

/// A store.
pub fn store(va: u64, value: u64) -> Order {
    Order::new(STORE, &[va, value])
}

/// FP/SIMD is used.
pub fn float(value: u64) -> Order {
    Order::new(FLOAT, &[value])
}
