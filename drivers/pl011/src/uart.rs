//! The PL011's registers (Arm DDI 0183), as far as a driver needs them that leaves the line's settings to the firmware.
//!
//! The line control register is left alone: whoever changes its FIFO bit loses what is in the FIFO, and without FIFO
//! nothing is lost either, since the device then holds back what it has no room for.

use crate::console::Console;

/// Reads and writes 32-bit registers of the device.
pub trait Registers {
    /// The register at `offset`.
    fn read(&mut self, offset: usize) -> u32;
    /// Gives the register at `offset` a value.
    fn write(&mut self, offset: usize, value: u32);
}

/// Offsets of registers.
mod register {
    pub const DATA: usize = 0x000;
    pub const FLAGS: usize = 0x018;
    pub const CONTROL: usize = 0x030;
    pub const INTERRUPT_MASK: usize = 0x038;
    pub const INTERRUPT_CLEAR: usize = 0x044;
}

/// FLAGS: nothing was received.
const RECEIVE_EMPTY: u32 = 1 << 4;
/// FLAGS: no room to send.
const TRANSMIT_FULL: u32 = 1 << 5;
/// CONTROL: the UART, sending and receiving enabled.
const ENABLED: u32 = 1 | 1 << 8 | 1 << 9;
/// Interrupts: received, and received a while ago.
const RECEIVED: u32 = 1 << 4 | 1 << 6;
/// Interrupt: room to send.
const SENT: u32 = 1 << 5;
/// Every interrupt there is.
const ALL: u32 = 0x7ff;
/// Bytes moved in one turn, each way.
const MOST_BYTES: usize = 1024;

/// The device, claimed.
#[derive(Debug)]
pub struct Uart<R> {
    registers: R,
    mask: u32,
}

impl<R: Registers> Uart<R> {
    /// Takes the device over, whatever state its last driver left it in.
    pub fn claim(mut registers: R) -> Uart<R> {
        let control = registers.read(register::CONTROL);
        registers.write(register::CONTROL, control | ENABLED);
        registers.write(register::INTERRUPT_CLEAR, ALL);
        let mut uart = Uart { registers, mask: 0 };
        uart.set_mask(RECEIVED);
        uart
    }

    /// Moves what was received to the console and what the console holds to the device, and asks for the interrupts that
    /// say when to come again.
    ///
    /// Interrupts are cleared first: a byte that comes between clearing and emptying raises a new one.
    pub fn turn(&mut self, console: &mut Console) {
        self.registers.write(register::INTERRUPT_CLEAR, RECEIVED | SENT);
        self.receive(console);
        self.transmit(console);
        let receiving = if console.has_room_for_input() { RECEIVED } else { 0 };
        let sending = if console.has_output() { SENT } else { 0 };
        self.set_mask(receiving | sending);
    }

    fn receive(&mut self, console: &mut Console) {
        for _ in 0..MOST_BYTES {
            if !console.has_room_for_input() || self.registers.read(register::FLAGS) & RECEIVE_EMPTY != 0 {
                return;
            }
            // The bits above are errors of the line: the byte is shown as it came.
            let _ = console.typed(self.registers.read(register::DATA) as u8);
        }
    }

    fn transmit(&mut self, console: &mut Console) {
        for _ in 0..MOST_BYTES {
            if !console.has_output() {
                console.output_moved();
            }
            if self.registers.read(register::FLAGS) & TRANSMIT_FULL != 0 {
                break;
            }
            let Some(byte) = console.take_output() else {
                return;
            };
            self.registers.write(register::DATA, u32::from(byte));
        }
        console.output_moved();
    }

    fn set_mask(&mut self, mask: u32) {
        if self.mask != mask {
            self.registers.write(register::INTERRUPT_MASK, mask);
            self.mask = mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libos::protocol::Message;
    use libos::protocol::console::{READ, WRITE};
    use std::collections::VecDeque;
    use std::vec::Vec;

    /// A UART with room for `room` bytes to send, that clears like the real one.
    #[derive(Default)]
    struct Fake {
        received: VecDeque<u8>,
        sent: Vec<u8>,
        room: usize,
        mask: u32,
        control: u32,
        writes_elsewhere: usize,
    }

    impl Registers for &mut Fake {
        fn read(&mut self, offset: usize) -> u32 {
            match offset {
                register::DATA => u32::from(self.received.pop_front().unwrap_or(0)),
                register::FLAGS => {
                    let empty = if self.received.is_empty() { RECEIVE_EMPTY } else { 0 };
                    empty | if self.room == 0 { TRANSMIT_FULL } else { 0 }
                }
                register::CONTROL => self.control,
                _ => 0,
            }
        }

        fn write(&mut self, offset: usize, value: u32) {
            match offset {
                register::DATA => {
                    assert!(self.room > 0, "written without room");
                    self.room -= 1;
                    self.sent.push(value as u8);
                }
                register::INTERRUPT_MASK => self.mask = value,
                register::CONTROL => self.control = value,
                register::INTERRUPT_CLEAR => {}
                _ => self.writes_elsewhere += 1,
            }
        }
    }

    #[test]
    fn output_waits_for_room_and_asks_for_the_interrupt_meanwhile() {
        let mut fake = Fake { room: 4, ..Fake::default() };
        let mut console = Console::new(256);
        console.request(1, &Message::new(WRITE).with_bytes(b"hello\n"));
        let mut uart = Uart::claim(&mut fake);
        uart.turn(&mut console);
        assert_eq!(uart.registers.sent, b"hell");
        assert_eq!(uart.registers.mask, RECEIVED | SENT);
        uart.registers.room = 100;
        uart.turn(&mut console);
        assert_eq!(uart.registers.sent, b"hello\r\n");
        assert_eq!(uart.registers.mask, RECEIVED);
    }

    #[test]
    fn input_without_room_is_left_in_the_device_and_fetched_later() {
        let mut fake = Fake { received: (0..300u32).map(|_| b'x').collect(), ..Fake::default() };
        let mut console = Console::new(256);
        let mut uart = Uart::claim(&mut fake);
        uart.turn(&mut console);
        assert_eq!(uart.registers.received.len(), 300 - 256);
        assert_eq!(uart.registers.mask, 0, "no interrupt storm while there is no room");
        console.request(1, &Message::new(READ).with_number(48));
        uart.turn(&mut console);
        assert!(uart.registers.received.is_empty());
        assert_eq!(uart.registers.mask, RECEIVED);
    }

    #[test]
    fn claiming_enables_and_leaves_the_line_settings_alone() {
        let mut fake = Fake::default();
        let _ = Uart::claim(&mut fake);
        assert_eq!((fake.control, fake.mask, fake.writes_elsewhere), (ENABLED, RECEIVED, 0));
    }

    #[test]
    fn all_lines_of_a_full_console_go_out_in_one_turn_of_a_fast_device() {
        let mut fake = Fake { room: usize::MAX, ..Fake::default() };
        let mut console = Console::new(256);
        let mut uart = Uart::claim(&mut fake);
        for _ in 0..40 {
            console.request(1, &Message::new(WRITE).with_bytes(b"0123456789012345678901234567890123456789\n"));
            uart.turn(&mut console);
        }
        assert_eq!(uart.registers.sent.len(), 40 * 42);
        assert!(!console.has_output());
    }
}
