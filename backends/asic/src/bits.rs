//! A dense rectangle of bits, rows of 64-bit words.

/// `rows` x `columns` bits, zero at first; bits past the last column of a row are always zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitMatrix {
    rows: usize,
    columns: usize,
    words: usize,
    data: Vec<u64>,
}

impl BitMatrix {
    /// All zero.
    pub fn new(rows: usize, columns: usize) -> Self {
        let words = columns.div_ceil(64);
        BitMatrix { rows, columns, words, data: vec![0; rows * words] }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The words of a row, least significant bit first.
    pub fn row(&self, row: usize) -> &[u64] {
        &self.data[row * self.words..(row + 1) * self.words]
    }

    /// The words of a row, least significant bit first.
    pub fn row_mut(&mut self, row: usize) -> &mut [u64] {
        &mut self.data[row * self.words..(row + 1) * self.words]
    }

    /// One bit.
    pub fn get(&self, row: usize, column: usize) -> bool {
        self.row(row)[column / 64] >> (column % 64) & 1 == 1
    }

    /// Sets one bit; whether it was set before.
    pub fn set(&mut self, row: usize, column: usize) -> bool {
        let word = &mut self.row_mut(row)[column / 64];
        let bit = 1 << (column % 64);
        let before = *word & bit != 0;
        *word |= bit;
        before
    }

    /// Clears one bit.
    pub fn clear(&mut self, row: usize, column: usize) {
        self.row_mut(row)[column / 64] &= !(1 << (column % 64));
    }

    /// `width` bits (1 to 8) from a column on; they may cross a word.
    pub fn field(&self, row: usize, column: usize, width: usize) -> u8 {
        let words = self.row(row);
        let (word, shift) = (column / 64, column % 64);
        let mut value = words[word] >> shift;
        if shift + width > 64 {
            value |= words[word + 1] << (64 - shift);
        }
        value as u8 & (0xff >> (8 - width))
    }

    /// Sets the bits of `value`, `width` bits (1 to 8) from a column on, which must be zero.
    pub fn put(&mut self, row: usize, column: usize, width: usize, value: u8) {
        let value = u64::from(value & (0xff >> (8 - width)));
        let words = self.row_mut(row);
        let (word, shift) = (column / 64, column % 64);
        words[word] |= value << shift;
        if shift + width > 64 {
            words[word + 1] |= value >> (64 - shift);
        }
    }

    /// Every bit inverted.
    pub fn complement(&self) -> BitMatrix {
        let mut out = self.clone();
        out.data.iter_mut().for_each(|word| *word = !*word);
        let last = self.columns % 64;
        if last != 0 {
            for row in 0..self.rows {
                if let Some(word) = out.row_mut(row).last_mut() {
                    *word &= (1 << last) - 1;
                }
            }
        }
        out
    }

    /// Number of ones.
    pub fn count_ones(&self) -> u64 {
        self.data.iter().map(|w| u64::from(w.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_width_come_back_from_every_column() {
        for width in 1..=8usize {
            let n = 150 / width;
            let mut m = BitMatrix::new(2, n * width);
            let value = |i: usize| (i * 37 + 11) as u8 & (0xff >> (8 - width));
            for i in 0..n {
                m.put(1, i * width, width, value(i));
            }
            for i in 0..n {
                assert_eq!(m.field(1, i * width, width), value(i));
                assert_eq!(m.field(0, i * width, width), 0);
                assert_eq!(m.get(1, i * width), value(i) & 1 == 1);
            }
            let ones: u32 = (0..n).map(|i| value(i).count_ones()).sum();
            assert_eq!(m.count_ones(), u64::from(ones));
        }
    }

    #[test]
    fn a_complement_has_the_other_bits_and_none_past_the_columns() {
        let mut m = BitMatrix::new(2, 65);
        m.set(1, 64);
        let inverted = m.complement();
        assert_eq!((inverted.count_ones(), inverted.get(0, 64), inverted.get(1, 64)), (129, true, false));
        assert_eq!(inverted.complement(), m);
    }

    #[test]
    fn set_reports_what_was_there() {
        let mut m = BitMatrix::new(1, 65);
        assert!(!m.set(0, 64));
        assert!(m.set(0, 64));
        m.clear(0, 64);
        assert!(!m.get(0, 64));
    }
}
