//! Deflate (RFC 1951) of tokens whose kind is known beforehand: literals and matches.
//!
//! A stream is one block with codes of its own: Huffman's for the tokens that were counted.

/// Longest match.
pub const LONGEST: usize = 258;
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

/// As [`distance_symbol`], of a length.
fn length_symbol(length: usize) -> (usize, u32, u64) {
    let d = length - SHORTEST;
    match d {
        0..8 => (STOP + 1 + d, 0, 0),
        255 => (SYMBOLS - 1, 0, 0),
        _ => {
            let bits = d.ilog2() - 2;
            (STOP + 1 + 4 * bits as usize + (d >> bits), bits, (d & ((1 << bits) - 1)) as u64)
        }
    }
}

/// Hands on bytes of which most stand `distance` bytes back too.
pub fn periodic(bytes: &[u8], distance: usize, tokens: &mut impl Tokens) {
    let mut at = 0;
    while at < bytes.len() {
        let same = |i: usize| i >= distance && bytes[i] == bytes[i - distance];
        let length = (at..bytes.len()).take(LONGEST).take_while(|&i| same(i)).count();
        if length >= SHORTEST {
            tokens.repeat(length, distance);
        } else {
            tokens.literals(&bytes[at..at + length.max(1)]);
        }
        at += length.max(1);
    }
}

/// Counts tokens.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Bytes and lengths, by symbol.
    symbols: [u64; SYMBOLS],
    distances: [u64; DISTANCES],
    /// Bytes the tokens stand for.
    pub bytes: usize,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { symbols: [0; SYMBOLS], distances: [0; DISTANCES], bytes: 0 }
    }
}

impl Tokens for Counts {
    fn literals(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        for &byte in bytes {
            self.symbols[usize::from(byte)] += 1;
        }
    }

    fn repeat(&mut self, length: usize, distance: usize) {
        self.bytes += length;
        self.symbols[length_symbol(length).0] += 1;
        self.distances[distance_symbol(distance).0] += 1;
    }
}

/// Longest code.
const LONGEST_CODE: u8 = 15;
/// Longest code of a code's length.
const LONGEST_OF_LENGTHS: u8 = 7;

/// Lengths of codes as symbols with the bits after them: a length itself, 16 for the one before 3 to 6 times more, 17 and 18 for
/// 3 to 10 and 11 to 138 times 0.
fn runs(lengths: &[u8]) -> Vec<(usize, u32, u64)> {
    let mut out = Vec::new();
    let mut rest = lengths;
    while let Some(&first) = rest.first() {
        let same = rest.iter().take_while(|&&l| l == first).count();
        let mut left = same;
        if first > 0 {
            out.push((usize::from(first), 0, 0));
            left -= 1;
        }
        while left > 0 {
            let (symbol, bits, least, most) = match (first, left) {
                (0, 11..) => (18, 7, 11, 138),
                (0, 3..) => (17, 3, 3, 10),
                (1.., 3..) => (16, 2, 3, 6),
                _ => (usize::from(first), 0, 1, 1),
            };
            let run = left.min(most);
            out.push((symbol, bits, (run - least) as u64));
            left -= run;
        }
        rest = &rest[same..];
    }
    out
}

/// Lengths of the codes of Huffman (1952) for symbols by how often they are used; 0 for those that are not. A code has two
/// symbols at least, and `longest` bits at most.
fn code_lengths<const N: usize>(uses: &[u64; N], longest: u8) -> [u8; N] {
    let mut uses = *uses;
    for symbol in 0..N {
        if uses.iter().filter(|&&n| n > 0).count() >= 2 {
            break;
        }
        uses[symbol] = uses[symbol].max(1);
    }
    loop {
        // Two queues: symbols by use, and pairs, which come in order of use. Of each the number of the pair it is in.
        let mut leaves: Vec<usize> = (0..N).filter(|&s| uses[s] > 0).collect();
        leaves.sort_by_key(|&s| (uses[s], s));
        let mut pairs: Vec<u64> = Vec::new();
        let mut parents = vec![0usize; 2 * leaves.len()];
        let (mut leaf, mut pair) = (0, 0);
        for parent in 0..leaves.len() - 1 {
            let mut sum = 0u64;
            for _ in 0..2 {
                let of_leaf = leaves.get(leaf).map(|&s| uses[s]);
                let of_pair = pairs.get(pair).copied();
                if of_leaf.is_some() && of_pair.is_none_or(|p| of_leaf <= Some(p)) {
                    sum += of_leaf.unwrap_or(0);
                    parents[leaf] = parent;
                    leaf += 1;
                } else {
                    sum += of_pair.unwrap_or(0);
                    parents[leaves.len() + pair] = parent;
                    pair += 1;
                }
            }
            pairs.push(sum);
        }
        // The last pair is the root.
        let root = pairs.len() - 1;
        let mut depths = vec![0u8; pairs.len()];
        for pair in (0..root).rev() {
            depths[pair] = depths[parents[leaves.len() + pair]].saturating_add(1);
        }
        let mut lengths = [0; N];
        for (i, &symbol) in leaves.iter().enumerate() {
            lengths[symbol] = depths[parents[i]].saturating_add(1);
        }
        if lengths.iter().all(|&l| l <= longest) {
            return lengths;
        }
        // Flatter counts make shorter codes.
        uses.iter_mut().filter(|n| **n > 0).for_each(|n| *n = *n / 4 + 1);
    }
}

/// Codes of lengths: canonical, bits as deflate sends them.
fn codes<const N: usize>(lengths: &[u8; N]) -> [(u32, u32); N] {
    let mut codes = [(0, 0); N];
    let mut code = 0u32;
    for length in 1..=LONGEST_CODE {
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
    /// For tokens of which `counts` were counted, and no others.
    pub fn new(counts: &Counts, capacity: usize) -> Self {
        let mut uses = counts.symbols;
        uses[STOP] = 1;
        let (lengths, distances) =
            (code_lengths(&uses, LONGEST_CODE), code_lengths(&counts.distances, LONGEST_CODE));
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

    /// The head of the only block.
    fn header(&mut self, lengths: &[u8; SYMBOLS], distances: &[u8; DISTANCES]) {
        let all: Vec<u8> = lengths.iter().chain(distances).copied().collect();
        let runs = runs(&all);
        let mut uses = [0; ORDER.len()];
        runs.iter().for_each(|&(symbol, ..)| uses[symbol] += 1);
        let of_lengths = code_lengths(&uses, LONGEST_OF_LENGTHS);
        let codes = codes(&of_lengths);
        self.put(1, 1);
        self.put(2, 2);
        self.put((SYMBOLS - 257) as u64, 5);
        self.put((DISTANCES - 1) as u64, 5);
        self.put((ORDER.len() - 4) as u64, 4);
        ORDER.into_iter().for_each(|symbol| self.put(u64::from(of_lengths[symbol]), 3));
        for (symbol, extra, value) in runs {
            let (code, bits) = codes[symbol];
            self.put(u64::from(code) | value << bits, bits + extra);
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
        // At most 15 + 5 bits, then 15 + 13.
        let (symbol, extra, value) = length_symbol(length);
        let (code, bits) = self.symbols[symbol];
        self.put(u64::from(code) | value << bits, bits + extra);
        let (symbol, extra, value) = distance_symbol(distance);
        let (code, bits) = self.distances[symbol];
        self.put(u64::from(code) | value << bits, bits + extra);
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
    fn another_decoder_reads_every_length() {
        let run = |tokens: &mut dyn Tokens| {
            tokens.literals(b"0123456789abcdef");
            (SHORTEST..=LONGEST).for_each(|length| tokens.repeat(length, 16));
        };
        let mut counts = Counts::default();
        run(&mut counts);
        let mut writer = Writer::new(&counts, 0);
        run(&mut writer);
        let got = inflate(&writer.finish());
        assert_eq!(got.len(), counts.bytes);
        assert!(got.iter().zip(b"0123456789abcdef".iter().cycle()).all(|(a, b)| a == b));
    }

    #[test]
    fn periodic_bytes_come_back() {
        let bytes: Vec<u8> =
            (0..2000u32).map(|i| if i % 9 == 4 { (i / 9) as u8 } else { (i % 9) as u8 }).collect();
        for distance in [1, 9, 18, 5000] {
            let mut counts = Counts::default();
            periodic(&bytes, distance, &mut counts);
            let mut writer = Writer::new(&counts, 0);
            periodic(&bytes, distance, &mut writer);
            let packed = writer.finish();
            assert!(inflate(&packed) == bytes, "{distance}");
            // One byte of nine is new.
            assert!(distance % 9 != 0 || packed.len() < bytes.len() / 3, "{}", packed.len());
        }
    }

    #[test]
    fn codes_are_as_long_as_huffmans_and_no_longer_than_deflate_allows() {
        // By hand: 1 and 1 make 2, with 2 it makes 4, with 4 it makes 8.
        assert_eq!(code_lengths(&[4, 2, 0, 1, 1], 15), [1, 2, 0, 3, 3]);
        assert_eq!(code_lengths(&[0, 0, 9], 15), [1, 0, 1]);
        // Fibonacci numbers make the longest codes.
        let mut uses = [1u64; 40];
        (2..40).for_each(|i| uses[i] = uses[i - 1] + uses[i - 2]);
        let lengths = code_lengths(&uses, 15);
        assert!(lengths.iter().all(|l| (1..=15).contains(l)), "{lengths:?}");
        // Complete, as deflate wants it.
        assert_eq!(lengths.iter().map(|l| 1u64 << (15 - l)).sum::<u64>(), 1 << 15);
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
