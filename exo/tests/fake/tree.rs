//! Writes device trees, well-formed or not (Devicetree Specification 0.4, chapter 5).

/// A tree in the making.
#[derive(Default)]
pub struct Tree {
    body: Vec<u8>,
    strings: Vec<u8>,
    reserved: Vec<(u64, u64)>,
}

fn pad(bytes: &mut Vec<u8>) {
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
}

impl Tree {
    fn token(mut self, token: u32) -> Tree {
        self.body.extend(token.to_be_bytes());
        self
    }

    /// A node begins.
    pub fn node(self, name: &str) -> Tree {
        let mut tree = self.token(1);
        tree.body.extend(name.bytes());
        tree.body.push(0);
        pad(&mut tree.body);
        tree
    }

    /// It ends.
    pub fn end(self) -> Tree {
        self.token(2)
    }

    /// Nothing: a token that means nothing.
    pub fn nop(self) -> Tree {
        self.token(4)
    }

    /// A property.
    pub fn bytes(self, name: &str, value: &[u8]) -> Tree {
        let mut tree = self.token(3);
        tree.body.extend((value.len() as u32).to_be_bytes());
        tree.body.extend((tree.strings.len() as u32).to_be_bytes());
        tree.body.extend(value);
        pad(&mut tree.body);
        tree.strings.extend(name.bytes());
        tree.strings.push(0);
        tree
    }

    /// A property of text.
    pub fn text(self, name: &str, value: &str) -> Tree {
        self.bytes(name, format!("{value}\0").as_bytes())
    }

    /// A property of 32-bit cells.
    pub fn cells(self, name: &str, cells: &[u32]) -> Tree {
        self.bytes(name, &cells.iter().flat_map(|cell| cell.to_be_bytes()).collect::<Vec<u8>>())
    }

    /// `reg` of two cells of address and two of size.
    pub fn reg(self, ranges: &[(u64, u64)]) -> Tree {
        let cells: Vec<u32> = ranges
            .iter()
            .flat_map(|(start, bytes)| [(start >> 32) as u32, *start as u32, (bytes >> 32) as u32, *bytes as u32])
            .collect();
        self.cells("reg", &cells)
    }

    /// An entry of the reservation block.
    pub fn reserve(mut self, start: u64, bytes: u64) -> Tree {
        self.reserved.push((start, bytes));
        self
    }

    /// The root of an ordinary tree: two cells of address and size.
    pub fn root() -> Tree {
        Tree::default().node("").cells("#address-cells", &[2]).cells("#size-cells", &[2])
    }

    /// A GICv3.
    pub fn controller(self) -> Tree {
        self.node("intc@8000000")
            .text("compatible", "arm,gic-v3")
            .reg(&[(0x800_0000, 0x1_0000), (0x80a_0000, 0xf6_0000)])
            .end()
    }

    /// A bank of memory.
    pub fn memory(self, start: u64, bytes: u64) -> Tree {
        self.node(&format!("memory@{start:x}")).text("device_type", "memory").reg(&[(start, bytes)]).end()
    }

    /// The blob: the root is closed here.
    pub fn blob(self) -> Vec<u32> {
        let tree = self.end().token(9);
        let reserved: Vec<u8> = tree
            .reserved
            .iter()
            .chain(&[(0, 0)])
            .flat_map(|(start, bytes)| [start.to_be_bytes(), bytes.to_be_bytes()].concat())
            .collect();
        let mut strings = tree.strings;
        pad(&mut strings);
        let (block, body) = (40, 40 + reserved.len());
        let names = body + tree.body.len();
        let total = names + strings.len();
        let header = [0xd00d_feed, total, body, names, block, 17, 16, 0, strings.len(), tree.body.len()];
        let mut blob: Vec<u8> = header.iter().flat_map(|word| (*word as u32).to_be_bytes()).collect();
        blob.extend(reserved);
        blob.extend(tree.body);
        blob.extend(strings);
        words(&blob)
    }
}

/// Bytes as the words that the kernel reads.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks(4)
        .map(|chunk| u32::from_ne_bytes(std::array::from_fn(|index| chunk.get(index).copied().unwrap_or(0))))
        .collect()
}
