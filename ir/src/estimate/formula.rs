//! Formulas over named ranges, computed with interval arithmetic.

use super::Range;

/// The value of a formula; `find` gives the ranges of names.
///
/// # Errors
/// What cannot be read, a name that is not there, and a division by a range that holds 0.
pub(super) fn evaluate(text: &str, find: &dyn Fn(&str) -> Option<Range>) -> Result<Range, String> {
    let mut p = Parser { rest: text.trim_start(), find };
    let value = p.sum()?;
    if p.rest.is_empty() { Ok(value) } else { Err(format!("{:?} is left over", p.rest)) }
}

/// The names in a formula in order of their first use, functions left out.
pub(super) fn names(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric() || c == '.') {
        rest = &rest[start..];
        let end = rest.find(|c: char| !is_word(c) && c != '.').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let name = word.starts_with(|c: char| c.is_ascii_lowercase()) && !after.trim_start().starts_with('(');
        if name && !found.contains(&word) {
            found.push(word);
        }
        rest = after;
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

struct Parser<'a> {
    rest: &'a str,
    find: &'a dyn Fn(&str) -> Option<Range>,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, c: char) -> bool {
        let Some(rest) = self.rest.strip_prefix(c) else { return false };
        self.rest = rest.trim_start();
        true
    }

    fn word(&mut self, of: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !of(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn sum(&mut self) -> Result<Range, String> {
        let mut value = self.product()?;
        loop {
            if self.eat('+') {
                value = corners(value, self.product()?, |a, b| a + b);
            } else if self.eat('-') {
                value = corners(value, self.product()?, |a, b| a - b);
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<Range, String> {
        let mut value = self.power()?;
        loop {
            if self.eat('*') {
                value = corners(value, self.power()?, |a, b| a * b);
            } else if self.eat('/') {
                let by = self.power()?;
                if by.low <= 0.0 && by.high >= 0.0 {
                    return Err("division by a range that holds 0".into());
                }
                value = corners(value, by, |a, b| a / b);
            } else {
                return Ok(value);
            }
        }
    }

    fn power(&mut self) -> Result<Range, String> {
        let value = self.atom()?;
        if !self.eat('^') {
            return Ok(value);
        }
        let power = self.atom()?;
        if value.low < 0.0 {
            return Err("a power of a negative number".into());
        }
        Ok(corners(value, power, f64::powf))
    }

    fn atom(&mut self) -> Result<Range, String> {
        if self.eat('(') {
            let value = self.sum()?;
            return if self.eat(')') { Ok(value) } else { Err("a parenthesis stays open".into()) };
        }
        if self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            let text = self.number();
            return text.parse().map(Range::exact).map_err(|_| format!("{text:?} is no number"));
        }
        let name = self.word(is_word);
        if name.is_empty() {
            return Err(format!("a value is missing before {:?}", self.rest));
        }
        if !self.eat('(') {
            return (self.find)(name).ok_or_else(|| format!("there is no {name:?}"));
        }
        let mut values = vec![self.sum()?];
        while self.eat(',') {
            values.push(self.sum()?);
        }
        if !self.eat(')') {
            return Err("a parenthesis stays open".into());
        }
        let each =
            |r: Range, f: fn(f64) -> f64| Range { low: f(r.low), nominal: f(r.nominal), high: f(r.high) };
        match (name, values.as_slice()) {
            ("min", &[a, b]) => Ok(corners(a, b, f64::min)),
            ("max", &[a, b]) => Ok(corners(a, b, f64::max)),
            ("sqrt", &[a]) => Ok(each(a, f64::sqrt)),
            ("exp", &[a]) => Ok(each(a, f64::exp)),
            ("log10", &[a]) => Ok(each(a, f64::log10)),
            ("ceil", &[a]) => Ok(each(a, f64::ceil)),
            _ => Err(format!("there is no function {name:?} of {} values", values.len())),
        }
    }

    /// Digits, a point, and an exponent with its sign.
    fn number(&mut self) -> &'a str {
        let bytes = self.rest.as_bytes();
        let mut end = 0;
        while let Some(&b) = bytes.get(end) {
            let sign = matches!(b, b'-' | b'+') && bytes.get(end.wrapping_sub(1)) == Some(&b'e');
            if !(b.is_ascii_digit() || b == b'.' || b == b'e' || sign) {
                break;
            }
            end += 1;
        }
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        text
    }
}

/// A function that is monotone in each argument, of two ranges: least and largest at their corners.
fn corners(a: Range, b: Range, f: impl Fn(f64, f64) -> f64) -> Range {
    let all = [f(a.low, b.low), f(a.low, b.high), f(a.high, b.low), f(a.high, b.high)];
    let nominal = f(a.nominal, b.nominal);
    let low = all.into_iter().fold(nominal, f64::min);
    Range { low, nominal, high: all.into_iter().fold(nominal, f64::max) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Option<Range> {
        match name {
            "a" => Some(Range { low: 1.0, nominal: 2.0, high: 3.0 }),
            "b_um" => Some(Range::exact(4.0)),
            _ => None,
        }
    }

    #[test]
    fn formulas_are_computed_with_their_ends() {
        let value = |text: &str| evaluate(text, &find).unwrap();
        assert_eq!(value("1 + 2*3 - 4/2"), Range::exact(5.0));
        assert_eq!(value("(1 + 2) * b_um ^ 2"), Range::exact(48.0));
        assert_eq!(value("1e-3*2.5e+3"), Range::exact(2.5));
        assert_eq!(value("a - a"), Range { low: -2.0, nominal: 0.0, high: 2.0 });
        assert_eq!(value("b_um / a"), Range { low: 4.0 / 3.0, nominal: 2.0, high: 4.0 });
        assert_eq!(value("max(a, 2.5)"), Range { low: 2.5, nominal: 2.5, high: 3.0 });
        assert_eq!(value("ceil(a / 2) + sqrt(b_um)"), Range { low: 3.0, nominal: 3.0, high: 4.0 });
        assert_eq!(names("a*b_um + max(a, c2) / 1e3"), ["a", "b_um", "c2"]);
    }

    #[test]
    fn what_is_no_formula_is_refused() {
        for text in ["", "1 +", "(1", "c", "a b", "1/(a - 2)", "none(1)", "max(1)", "1..2", "(0 - 1) ^ 2"] {
            assert!(evaluate(text, &find).is_err(), "{text}");
        }
    }
}
