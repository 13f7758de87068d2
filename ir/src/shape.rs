//! Shapes at two levels of knowledge, as two types: [`OpenType`], whose dimensions may be
//! symbolic or unknown, and [`BoundType`], where every dimension is a number.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::elem::Elem;

/// A dimension as a polynomial with integer coefficients over named symbols, e.g. `2*batch*seq + 1`.
/// Canonical: equal polynomials are equal values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    /// Sorted symbols of a monomial (with repetition) to its non-zero coefficient.
    terms: BTreeMap<Vec<Arc<str>>, i64>,
}

/// Longest polynomial kept; a longer one is treated as unknown.
const MAX_TERMS: usize = 16;
/// Highest degree kept: squaring a length repeatedly must not double the size of a term for ever.
const MAX_DEGREE: usize = 16;

impl Dim {
    /// A number.
    pub fn known(n: i64) -> Dim {
        let mut terms = BTreeMap::new();
        if n != 0 {
            terms.insert(Vec::new(), n);
        }
        Dim { terms }
    }

    /// A symbol.
    pub fn symbol(name: &str) -> Dim {
        Dim { terms: BTreeMap::from([(vec![Arc::from(name)], 1)]) }
    }

    /// The number it is, if it has no symbol.
    pub fn value(&self) -> Option<i64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&Vec::new()).copied(),
            _ => None,
        }
    }

    /// Names of its symbols, sorted.
    pub fn symbols(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self.terms.keys().flatten().map(|s| &**s).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }

    fn insert(&mut self, monomial: Vec<Arc<str>>, coefficient: i64) -> Option<()> {
        if monomial.len() > MAX_DEGREE {
            return None;
        }
        let old = self.terms.get(&monomial).copied().unwrap_or(0);
        match old.checked_add(coefficient)? {
            0 => self.terms.remove(&monomial),
            c => self.terms.insert(monomial, c),
        };
        (self.terms.len() <= MAX_TERMS).then_some(())
    }

    /// Sum; `None` on overflow.
    pub fn add(&self, other: &Dim) -> Option<Dim> {
        let mut out = self.clone();
        for (m, &c) in &other.terms {
            out.insert(m.clone(), c)?;
        }
        Some(out)
    }

    /// Difference; `None` on overflow.
    pub fn sub(&self, other: &Dim) -> Option<Dim> {
        self.add(&other.mul(&Dim::known(-1))?)
    }

    /// Product; `None` on overflow.
    pub fn mul(&self, other: &Dim) -> Option<Dim> {
        let mut out = Dim::known(0);
        for (a, &x) in &self.terms {
            for (b, &y) in &other.terms {
                let mut m: Vec<Arc<str>> = a.iter().chain(b).cloned().collect();
                m.sort_unstable();
                out.insert(m, x.checked_mul(y)?)?;
            }
        }
        Some(out)
    }

    /// Exact quotient by a monomial; `None` when it does not divide every term.
    pub fn div(&self, other: &Dim) -> Option<Dim> {
        if self == other && !other.terms.is_empty() {
            return Some(Dim::known(1));
        }
        let (divisor, &c) = other.terms.iter().next().filter(|_| other.terms.len() == 1)?;
        let mut out = Dim::known(0);
        for (m, &x) in &self.terms {
            let mut rest = m.clone();
            for s in divisor {
                let at = rest.iter().position(|r| r == s)?;
                rest.remove(at);
            }
            if x.checked_rem(c)? != 0 {
                return None;
            }
            out.insert(rest, x.checked_div(c)?)?;
        }
        Some(out)
    }

    /// Replaces symbols by numbers; `None` on overflow.
    pub fn bind(&self, values: &BTreeMap<String, i64>) -> Option<Dim> {
        let mut out = Dim::known(0);
        for (m, &c) in &self.terms {
            let mut term = Dim::known(c);
            for s in m {
                let factor = values.get(&**s).map_or_else(|| Dim::symbol(s), |&n| Dim::known(n));
                term = term.mul(&factor)?;
            }
            out = out.add(&term)?;
        }
        Some(out)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        for (i, (m, c)) in self.terms.iter().rev().enumerate() {
            if i > 0 {
                f.write_str("+")?;
            }
            if m.is_empty() {
                write!(f, "{c}")?;
            } else {
                if *c != 1 {
                    write!(f, "{c}*")?;
                }
                f.write_str(&m.join("*"))?;
            }
        }
        Ok(())
    }
}

/// A dimension of an open shape: `None` is unknown.
pub type OpenDim = Option<Dim>;

/// What is known of a value before shapes are bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenType {
    /// Element type.
    pub elem: Elem,
    /// Dimensions; `None` when not even the rank is known.
    pub shape: Option<Vec<OpenDim>>,
}

impl OpenType {
    /// A type with all dimensions known.
    pub fn fixed(elem: Elem, shape: &[usize]) -> OpenType {
        let dims = shape.iter().map(|&d| i64::try_from(d).ok().map(Dim::known)).collect();
        OpenType { elem, shape: Some(dims) }
    }

    /// A type of unknown rank.
    pub fn unknown(elem: Elem) -> OpenType {
        OpenType { elem, shape: None }
    }

    /// The bound type, when every dimension is a number.
    pub fn bound(&self) -> Option<BoundType> {
        let shape = self.shape.as_ref()?;
        let shape = shape.iter().map(|d| usize::try_from(d.as_ref()?.value()?).ok());
        Some(BoundType { elem: self.elem, shape: shape.collect::<Option<_>>()? })
    }

    /// Whether a tensor of this shape could have been described by `self`: equal rank, and equal
    /// numbers wherever both are known.
    pub fn admits(&self, other: &OpenType) -> bool {
        self.elem == other.elem
            && match (&self.shape, &other.shape) {
                (Some(a), Some(b)) => {
                    a.len() == b.len()
                        && a.iter().zip(b).all(|(a, b)| match (a, b) {
                            (Some(a), Some(b)) => match (a.value(), b.value()) {
                                (Some(a), Some(b)) => a == b,
                                _ => true,
                            },
                            _ => true,
                        })
                }
                _ => true,
            }
    }
}

impl fmt::Display for OpenType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.elem)?;
        let Some(shape) = &self.shape else { return f.write_str("[..]") };
        let dims: Vec<String> =
            shape.iter().map(|d| d.as_ref().map_or_else(|| "?".into(), Dim::to_string)).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

/// Type of a value once shapes are bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundType {
    /// Element type.
    pub elem: Elem,
    /// Dimensions.
    pub shape: Vec<usize>,
}

impl fmt::Display for BoundType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.elem, self.shape)
    }
}

/// A level of knowledge about shapes.
pub trait Knowledge: Clone + PartialEq + fmt::Debug + fmt::Display + Send + Sync {
    /// As an open type.
    fn open(&self) -> OpenType;
    /// From an open type; `None` when it says too little for this level.
    fn from_open(open: OpenType) -> Option<Self>;
}

impl Knowledge for OpenType {
    fn open(&self) -> OpenType {
        self.clone()
    }
    fn from_open(open: OpenType) -> Option<Self> {
        Some(open)
    }
}

impl Knowledge for BoundType {
    fn open(&self) -> OpenType {
        OpenType::fixed(self.elem, &self.shape)
    }
    fn from_open(open: OpenType) -> Option<Self> {
        open.bound()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_are_canonical() {
        let (b, s) = (Dim::symbol("b"), Dim::symbol("s"));
        let one = Dim::known(1);
        let a = b.mul(&s.add(&one).unwrap()).unwrap();
        let c = s.mul(&b).unwrap().add(&b).unwrap();
        assert_eq!(a, c);
        assert_eq!(a.to_string(), "b*s+b");
        assert_eq!(a.div(&b).unwrap().to_string(), "s+1");
        assert_eq!(a.sub(&c).unwrap().value(), Some(0));
        assert_eq!(a.div(&Dim::known(2)), None);
        let bound = a.bind(&BTreeMap::from([("b".into(), 2), ("s".into(), 5)])).unwrap();
        assert_eq!(bound.value(), Some(12));
        assert_eq!(Dim::known(i64::MAX).mul(&Dim::known(2)), None);
    }

    #[test]
    fn an_open_type_binds_only_when_every_dimension_is_a_number() {
        let open = OpenType { elem: Elem::F32, shape: Some(vec![Some(Dim::known(2)), None]) };
        assert_eq!(open.bound(), None);
        assert_eq!(open.to_string(), "f32[2, ?]");
        let fixed = OpenType::fixed(Elem::F32, &[2, 3]);
        assert_eq!(fixed.bound().map(|b| b.shape), Some(vec![2, 3]));
        assert!(open.admits(&fixed));
        assert!(!OpenType::fixed(Elem::F32, &[2, 4]).admits(&fixed));
    }
}
