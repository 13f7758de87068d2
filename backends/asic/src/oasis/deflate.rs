//! Deflate (RFC 1951) of tokens whose kind is known beforehand: literals and short matches.
//!
//! A stream is one block with codes of its own. Their lengths suit what a program is made of: the most
//! frequent length of match takes 2 bits, bytes from 0x80 on 8 bits, the others 9, distances by how often
//! they are used.

/// Longest match that is written; all lengths up to it have a symbol of their own.
pub const LONGEST: usize = 10;
/// Shortest match.
pub const SHORTEST: usize = 3;
/// Farthest match.
pub const FARTHEST: usize = 32_768;
/// Symbols of literals, the end and lengths.
const SYMBOLS: usize = 286;
/// Symbols of distances.
const DISTANCES: usize = 30;
/// The symbol that ends the block.
const STOP: usize = 256;
/// Order in which the lengths of the codes of code lengths are stored.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Takes tokens.
pub trait Tokens {
    /// Bytes as they are.
    fn literals(&mut self, bytes: &[u8]);
    /// The `length` ([`SHORTEST`] to [`LONGEST`]) bytes that stand `distance` (1 to [`FARTHEST`]) bytes
    /// back.
    fn repeat(&mut self, length: usize, distance: usize);
}

/// Symbol of a distance, the number of bits that follow it, and their value.
fn distance_symbol(distance: usize) -> (usize, u32, u64) {
    let d = distance - 1;
    if d < 4 {
        return (d, 0, 0);
    }
    let bits = d.ilog2() - 1;
    (2 * bits as usize + (d >> bits), bits, (d & ((1 << bits) - 1)) as u64)
}

/// Counts tokens.
#[derive(Debug, Clone)]
pub struct Counts {
    lengths: [u64; LONGEST + 1],
    distances: [u64; DISTANCES],
    /// Bytes the tokens stand for.
    pub bytes: usize,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { lengths: [0; LONGEST + 1], distances: [0; DISTANCES], bytes: 0 }
    }
}

impl Tokens for Counts {
    fn literals(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn repeat(&mut self, length: usize, distance: usize) {
        self.bytes += length;
        self.lengths[length] += 1;
        self.distances[distance_symbol(distance).0] += 1;
    }
}

/// Codes of lengths: canonical, bits as deflate sends them.
fn codes<const N: usize>(lengths: &[u8; N]) -> [(u32, u32); N] {
    let mut codes = [(0, 0); N];
    let mut code = 0u32;
    for length in 1..=15u8 {
        for (code_of, _) in codes.iter_mut().zip(lengths).filter(|(_, l)| **l == length) {
            *code_of = (code.reverse_bits() >> (32 - u32::from(length)), u32::from(length));
            code += 1;
        }
        code <<= 1;
    }
    codes
}

/// Writes tokens.
pub struct Writer {
    out: Vec<u8>,
    /// Bits not yet in `out`, lowest first.
    pending: u64,
    count: u32,
    symbols: [(u32, u32); SYMBOLS],
    distances: [(u32, u32); DISTANCES],
}

impl Writer {
    /// For tokens of which `counts` were counted, and no others; of at most four lengths.
    pub fn new(counts: &Counts, capacity: usize) -> Self {
        let mut lengths = [0u8; SYMBOLS];
        lengths[..128].fill(9);
        lengths[128..256].fill(8);
        // With the match of 2 bits, 2^-9 of the code space is left for what is rare.
        lengths[0] = 11;
        lengths[STOP] = 12;
        let mut by_use: Vec<usize> = (SHORTEST..=LONGEST).collect();
        by_use.sort_by_key(|&l| (std::cmp::Reverse(counts.lengths[l]), l));
        for (length, bits) in by_use.into_iter().zip([2, 10, 13, 13]) {
            lengths[STOP - 2 + length] = bits;
        }
        let mut distances = [0u8; DISTANCES];
        let mut by_use: Vec<usize> = (0..DISTANCES).filter(|&d| counts.distances[d] > 0).collect();
        by_use.sort_by_key(|&d| (std::cmp::Reverse(counts.distances[d]), d));
        // A code has two symbols at least.
        while by_use.len() < 2 {
            by_use.extend((0..DISTANCES).find(|d| !by_use.contains(d)));
        }
        let last = by_use.len() - 1;
        if last > 14 {
            distances.fill(5);
            distances[..2].fill(4);
        } else {
            for (rank, distance) in by_use.into_iter().enumerate() {
                distances[distance] = (rank.min(last - 1) + 1) as u8;
            }
        }
        let mut writer = Writer {
            out: Vec::with_capacity(capacity),
            pending: 0,
            count: 0,
            symbols: codes(&lengths),
            distances: codes(&distances),
        };
        writer.header(&lengths, &distances);
        writer
    }

    /// The head of the only block. Code lengths 0 to 15 take four bits each.
    fn header(&mut self, lengths: &[u8; SYMBOLS], distances: &[u8; DISTANCES]) {
        self.put(1, 1);
        self.put(2, 2);
        self.put((SYMBOLS - 257) as u64, 5);
        self.put((DISTANCES - 1) as u64, 5);
        self.put((ORDER.len() - 4) as u64, 4);
        for symbol in ORDER {
            self.put(if symbol < 16 { 4 } else { 0 }, 3);
        }
        for &length in lengths.iter().chain(distances) {
            self.put(u64::from(u32::from(length).reverse_bits() >> 28), 4);
        }
    }

    fn put(&mut self, bits: u64, count: u32) {
        self.pending |= bits << self.count;
        self.count += count;
        if self.count >= 32 {
            self.out.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.count -= 32;
        }
    }

    /// Ends the stream.
    pub fn finish(mut self) -> Vec<u8> {
        let (code, length) = self.symbols[STOP];
        self.put(u64::from(code), length);
        let bytes = self.count.div_ceil(8) as usize;
        self.out.extend_from_slice(&self.pending.to_le_bytes()[..bytes]);
        self.out
    }
}

impl Tokens for Writer {
    fn literals(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let (code, length) = self.symbols[usize::from(byte)];
            self.put(u64::from(code), length);
        }
    }

    fn repeat(&mut self, length: usize, distance: usize) {
        let (code, bits) = self.symbols[STOP - 2 + length];
        let (symbol, extra, value) = distance_symbol(distance);
        let (distance, distance_bits) = self.distances[symbol];
        // At most 15 + 15 bits and 13 more.
        self.put(u64::from(code) | u64::from(distance) << bits, bits + distance_bits);
        self.put(value, extra);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn inflate(packed: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::DeflateDecoder::new(packed).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn another_decoder_reads_every_byte_and_many_distances() {
        let all: Vec<u8> = (0..=255).collect();
        for far in [1usize, 2, 4, 5, 7, 8, 100, 1000, 20_000, FARTHEST] {
            let run = |tokens: &mut dyn Tokens| {
                for _ in 0..FARTHEST / 256 {
                    tokens.literals(&all);
                }
                tokens.repeat(6, far);
                tokens.repeat(6, 8);
                tokens.repeat(7, far);
                tokens.literals(&all);
            };
            let mut counts = Counts::default();
            run(&mut counts);
            let mut writer = Writer::new(&counts, 0);
            run(&mut writer);
            let mut want: Vec<u8> = all.repeat(FARTHEST / 256);
            for (length, distance) in [(6, far), (6, 8), (7, far)] {
                (0..length).for_each(|_| want.push(want[want.len() - distance]));
            }
            want.extend(&all);
            assert_eq!(counts.bytes, want.len());
            assert!(inflate(&writer.finish()) == want, "{far}");
        }
    }

    #[test]
    fn no_tokens_and_very_many_kinds_of_distances_are_streams_too() {
        assert!(inflate(&Writer::new(&Counts::default(), 0).finish()).is_empty());
        let run = |tokens: &mut dyn Tokens| {
            tokens.literals(&vec![7; FARTHEST]);
            (0..15).for_each(|i| tokens.repeat(5, 1 << i));
            tokens.repeat(4, 3 << 13);
            tokens.repeat(4, 3 << 12);
        };
        let mut counts = Counts::default();
        run(&mut counts);
        let mut writer = Writer::new(&counts, 0);
        run(&mut writer);
        assert_eq!(inflate(&writer.finish()), vec![7; FARTHEST + 15 * 5 + 8]);
    }
}
