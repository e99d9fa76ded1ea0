//! A queue of bytes with a fixed number of places.

/// At most `N` bytes, first in first out.
#[derive(Debug)]
pub struct Ring<const N: usize> {
    bytes: [u8; N],
    first: usize,
    len: usize,
}

impl<const N: usize> Ring<N> {
    /// Empty.
    pub const fn new() -> Ring<N> {
        Ring { bytes: [0; N], first: 0, len: 0 }
    }

    /// Bytes in it.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Places left.
    pub const fn room(&self) -> usize {
        N - self.len
    }

    /// Puts a byte at the end. `false`: it is full and the byte is not in it.
    #[must_use]
    pub fn push(&mut self, byte: u8) -> bool {
        if self.len == N {
            return false;
        }
        self.bytes[(self.first + self.len) % N] = byte;
        self.len += 1;
        true
    }

    /// Takes the first byte.
    pub fn pop(&mut self) -> Option<u8> {
        let byte = self.peek(0)?;
        self.first = (self.first + 1) % N;
        self.len -= 1;
        Some(byte)
    }

    /// The byte `ahead` places from the first, left where it is.
    pub fn peek(&self, ahead: usize) -> Option<u8> {
        (ahead < self.len).then(|| self.bytes[(self.first + ahead) % N])
    }

    /// Keeps the first `len` bytes.
    pub fn cut(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.first, self.len) = (0, 0);
    }
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Ring<N> {
        Ring::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_they_went_in() {
        let mut ring = Ring::<4>::new();
        for round in 0..10u8 {
            for i in 0..4 {
                assert!(ring.push(round + i));
            }
            assert!(!ring.push(99), "a full ring takes nothing");
            assert_eq!((ring.room(), ring.peek(3)), (0, Some(round + 3)));
            for i in 0..4 {
                assert_eq!(ring.pop(), Some(round + i));
            }
            assert_eq!(ring.pop(), None);
            assert!(ring.push(1));
            assert_eq!(ring.pop(), Some(1));
        }
    }
}
