//! Row-major walks over an output, reading N operands at fixed strides.

/// A row-major walk. Axes along which every operand advances evenly are merged.
pub(super) struct Walk<const N: usize> {
    /// Outermost first: length, and step of each operand in elements.
    dims: Vec<(usize, [isize; N])>,
    base: [isize; N],
}

impl<const N: usize> Walk<N> {
    /// A walk over axes (outermost first) from the elements at `base`.
    pub(super) fn new(axes: impl IntoIterator<Item = (usize, [isize; N])>, base: [isize; N]) -> Self {
        let mut dims: Vec<(usize, [isize; N])> = Vec::new();
        for (len, steps) in axes.into_iter().filter(|(len, _)| *len != 1) {
            match dims.last_mut() {
                Some((outer, outer_steps))
                    if (0..N).all(|i| outer_steps[i] == steps[i].saturating_mul(len as isize)) =>
                {
                    *outer = outer.saturating_mul(len);
                    *outer_steps = steps;
                }
                _ => dims.push((len, steps)),
            }
        }
        Walk { dims, base }
    }

    /// A walk over `shape`, to which the operands' shapes broadcast.
    pub(super) fn broadcast(shape: &[usize], operands: [&[usize]; N]) -> Self {
        let strides = operands.map(super::strides);
        let axes = shape.iter().enumerate().map(|(i, &len)| {
            let steps = std::array::from_fn(|o| {
                let skip = shape.len() - operands[o].len();
                if i < skip || operands[o][i - skip] == 1 { 0 } else { strides[o][i - skip] as isize }
            });
            (len, steps)
        });
        Walk::new(axes, [0; N])
    }

    /// Where the operands' elements of output position `at` are.
    pub(super) fn locate(&self, at: usize) -> [usize; N] {
        let mut rest = at;
        let mut place = self.base;
        for (len, steps) in self.dims.iter().rev() {
            let i = (rest % len) as isize;
            rest /= len;
            for (p, s) in place.iter_mut().zip(steps) {
                *p += i * s;
            }
        }
        place.map(|p| p as usize)
    }

    /// Visits the output positions `start..start + len` in runs of even steps: `f` gets the run's range
    /// within the visited positions, the operands' first elements and their steps.
    pub(super) fn runs(
        &self,
        start: usize,
        len: usize,
        f: &mut dyn FnMut(std::ops::Range<usize>, [usize; N], [isize; N]),
    ) {
        let (inner, steps) = self.dims.last().copied().unwrap_or((1, [0; N]));
        let mut done = 0;
        while done < len {
            let at = start + done;
            let run = (inner - at % inner).min(len - done);
            f(done..done + run, self.locate(at), steps);
            done += run;
        }
    }
}

/// Copies elements at even steps.
pub(super) fn copy_run<T: Copy>(out: &mut [T], from: &[T], first: usize, step: isize) {
    match step {
        1 => out.copy_from_slice(&from[first..first + out.len()]),
        0 => out.fill(from[first]),
        _ => {
            let mut at = first as isize;
            for o in out {
                *o = from[at as usize];
                at += step;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_axes_merge_and_every_position_is_visited_once() {
        // [2, 3, 4] plain and a [3, 1] operand: axes 0 stays apart (step 0), 1 and 2 stay apart.
        let walk = Walk::broadcast(&[2, 3, 4], [&[2, 3, 4], &[3, 1]]);
        assert_eq!(walk.dims, [(2, [12, 0]), (3, [4, 1]), (4, [1, 0])]);
        let same = Walk::broadcast(&[2, 3, 4], [&[2, 3, 4], &[2, 3, 4]]);
        assert_eq!(same.dims, [(24, [1, 1])]);
        let mut seen = Vec::new();
        walk.runs(5, 13, &mut |range, first, steps| {
            for i in range.clone() {
                let d = (i - range.start) as isize;
                seen.push([first[0] as isize + d * steps[0], first[1] as isize + d * steps[1]]);
            }
        });
        let expected: Vec<[isize; 2]> = (5..18).map(|p| [p, p / 4 % 3]).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_run_copies_forwards_backwards_and_repeats() {
        let from = [1, 2, 3, 4, 5];
        let mut out = [0; 3];
        copy_run(&mut out, &from, 4, -2);
        assert_eq!(out, [5, 3, 1]);
        copy_run(&mut out, &from, 1, 0);
        assert_eq!(out, [2, 2, 2]);
        copy_run(&mut out, &from, 2, 1);
        assert_eq!(out, [3, 4, 5]);
    }
}
