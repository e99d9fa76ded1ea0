//! Scripts: calls with any registers, made by a child one after the other.

use crate::child::{Child, DATA_VA};
use crate::snippets::Common;
use exo_abi::{PAGE_BYTES, Refusal};
use libos::sys::StopReason;

const ORDER_BYTES: u64 = 128;
const ORDERS_PER_PAGE: u64 = PAGE_BYTES / ORDER_BYTES;

/// A call with its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The number of a call: 0 to 63, 0x8000 or 0xfffe, which are none, or 0xffff, which is `svc #0`.
    pub number: u64,
    /// x0 to x10.
    pub x: [u64; 11],
    /// x16, which only `resume` reads.
    pub x16: u64,
}

impl Order {
    /// A call with some arguments; the others are 0.
    pub fn new(number: u64, arguments: &[u64]) -> Order {
        let mut x = [0; 11];
        x[..arguments.len()].copy_from_slice(arguments);
        Order { number, x, x16: 0 }
    }
}

/// What became of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Orders begun.
    pub begun: u64,
    /// The child went through all of them.
    pub finished: bool,
}

/// The maker's side of a script: it lies in the child's data pages from number 1 on.
#[derive(Debug)]
pub struct Script;

impl Script {
    /// First data page of scripts; page 0 is for other things.
    pub const PAGE: usize = 1;

    /// Orders that fit into the child's pages.
    pub fn room(child: &Child) -> u64 {
        (child.data.len().saturating_sub(Script::PAGE)) as u64 * ORDERS_PER_PAGE - 1
    }

    /// The stack pointer for [`Common::Execute`].
    pub const fn sp() -> u64 {
        DATA_VA + Script::PAGE as u64 * PAGE_BYTES
    }

    /// Writes orders into the child's pages.
    pub fn write(child: &Child, orders: &[Order]) -> Result<(), Refusal> {
        if orders.len() as u64 > Script::room(child) {
            return Err(Refusal::BadArgument);
        }
        for (page, chunk_start) in (0..=orders.len()).step_by(ORDERS_PER_PAGE as usize).enumerate() {
            let mut view = child.view(Script::PAGE + page)?;
            for place in 0..ORDERS_PER_PAGE as usize {
                // Place 0 of page 0 is the head.
                let Some(order) = (chunk_start + place).checked_sub(1).and_then(|index| orders.get(index)) else {
                    continue;
                };
                let at = place as u64 * ORDER_BYTES;
                let number = match order.number {
                    0x8000 => 64,
                    0xfffe => 65,
                    0xffff => 66,
                    number => number & 63,
                };
                view.write_u64(at, number);
                for (index, word) in order.x.iter().enumerate() {
                    view.write_u64(at + 8 + index as u64 * 8, *word);
                }
                view.write_u64(at + 96, order.x16);
            }
            if page == 0 {
                view.write_u64(0, 0);
                view.write_u64(8, orders.len() as u64);
            }
        }
        Ok(())
    }

    /// Skips the orders before `from`.
    pub fn go_on_from(child: &Child, from: u64) -> Result<(), Refusal> {
        child.view(Script::PAGE)?.write_u64(0, from);
        Ok(())
    }

    /// Orders begun so far.
    pub fn begun(child: &Child) -> Result<u64, Refusal> {
        Ok(child.view(Script::PAGE)?.read_u64(0))
    }

    /// x0 to x8 after order `index`.
    pub fn result(child: &Child, index: u64) -> Result<[u64; 9], Refusal> {
        let place = index + 1;
        let view = child.view(Script::PAGE + (place / ORDERS_PER_PAGE) as usize)?;
        let at = place % ORDERS_PER_PAGE * ORDER_BYTES + 8;
        Ok(core::array::from_fn(|word| view.read_u64(at + word as u64 * 8)))
    }

    /// Has stopped vcore 0, whose code has [`Common`], go through `orders`; answers with how far it came.
    pub fn run(child: &Child, orders: &[Order]) -> Result<Progress, Refusal> {
        Script::write(child, orders)?;
        let report = child.run_at(0, Common::Execute.va(), Script::sp(), 0)?;
        Ok(Progress { begun: Script::begun(child)?, finished: report.reason == StopReason::Halted(0) })
    }
}
