//! Estimates: figures with a low, a nominal and a high value, each derived by a formula from constants that name their
//! source.
//!
//! A [`Sheet`] holds *quantities*. A constant has a range and a source; every other quantity has a formula over quantities before
//! it, which is kept as text and computed from that text, so that what [`Sheet::explain`] prints is what was computed. Low and high of a
//! formula are those of interval arithmetic: every constant at the end that is worst for this figure, all at once. They bound the figure as
//! far as the constants' ranges do; they are no probabilities.
//!
//! A [`Workload`] says what a model asks of a target: tiles by shape, how often a token uses them, what stays with the host. It
//! comes from a lowered program or from a rule for models that do not exist.

mod formula;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::codes::E0013;
use crate::diag::{Diagnostic, Diagnostics};
use crate::origin::Origin;
use crate::program::{DataEntry, TileProgram};
use crate::tile::{Activations, FixedMatrix, MatrixId, Scheme, Tile, TileKind};
use crate::verify::Verified;

/// A value that is known between two ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    /// Least.
    pub low: f64,
    /// Nominal.
    pub nominal: f64,
    /// Largest.
    pub high: f64,
}

impl Range {
    /// A value that is exact.
    pub fn exact(value: f64) -> Range {
        Range { low: value, nominal: value, high: value }
    }

    /// Whether all three are finite and in order.
    pub fn is_valid(self) -> bool {
        self.low.is_finite() && self.high.is_finite() && self.low <= self.nominal && self.nominal <= self.high
    }

    /// Whether low and high are the same number.
    pub fn is_exact(self) -> bool {
        self.low == self.high
    }
}

impl std::str::FromStr for Range {
    type Err = String;

    /// `V`, or `LOW..NOMINAL..HIGH`.
    fn from_str(text: &str) -> Result<Range, String> {
        let values: Result<Vec<f64>, _> = text.split("..").map(|v| v.trim().parse::<f64>()).collect();
        let range = match values.as_deref() {
            Ok(&[v]) => Range::exact(v),
            Ok(&[low, nominal, high]) => Range { low, nominal, high },
            _ => return Err(format!("{text:?} is neither VALUE nor LOW..NOMINAL..HIGH")),
        };
        if range.is_valid() { Ok(range) } else { Err(format!("{text:?} does not ascend")) }
    }
}

/// Where a quantity comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Taken as it is, from this source.
    Source(String),
    /// Computed by this formula over other quantities.
    Formula(String),
}

/// A named value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quantity {
    /// `[a-z0-9_]`, with the unit at its end where it has one.
    pub name: String,
    /// What it is.
    pub about: String,
    /// Unit; empty for counts and shares.
    pub unit: String,
    /// Its value.
    pub range: Range,
    /// Where it comes from.
    pub basis: Basis,
    /// Whether it is a figure for the reader, not a step on the way.
    pub shown: bool,
}

/// Quantities in the order in which they were computed.
#[derive(Debug, Clone, Default)]
pub struct Sheet {
    quantities: Vec<Quantity>,
    index: BTreeMap<String, usize>,
    assumed: BTreeMap<String, Range>,
    used: BTreeSet<String>,
    faults: Vec<String>,
    limits: Vec<String>,
    plotted: Vec<&'static str>,
}

impl Sheet {
    /// An empty sheet. `assumed` takes the place of what quantities of these names would be.
    pub fn new(assumed: BTreeMap<String, Range>) -> Sheet {
        Sheet { assumed, ..Sheet::default() }
    }

    fn put(&mut self, mut quantity: Quantity) {
        if let Some(range) = self.assumed.get(&quantity.name) {
            quantity.range = *range;
            quantity.basis = Basis::Source("assumed on the command line".into());
            self.used.insert(quantity.name.clone());
        }
        if !quantity.range.is_valid() {
            self.faults.push(format!("`{}` is {:?}", quantity.name, quantity.range));
        }
        if self.index.insert(quantity.name.clone(), self.quantities.len()).is_some() {
            self.faults.push(format!("`{}` is there twice", quantity.name));
        }
        self.quantities.push(quantity);
    }

    /// Adds a value with its source, as a step.
    pub fn given(&mut self, name: &str, unit: &str, about: &str, range: Range, source: &str) {
        let basis = Basis::Source(source.to_owned());
        let (name, unit, about) = (name.to_owned(), unit.to_owned(), about.to_owned());
        self.put(Quantity { name, about, unit, range, basis, shown: false });
    }

    /// Adds an exact value with its source, as a figure.
    pub fn counted(&mut self, name: &str, unit: &str, about: &str, value: f64, source: &str) {
        self.given(name, unit, about, Range::exact(value), source);
        self.show();
    }

    /// Adds a value computed by a formula over quantities that are there, as a step: `+ - * / ^`, parentheses, numbers, `min`, `max`,
    /// `sqrt`, `exp`, `log10` and `ceil`.
    pub fn step(&mut self, name: &str, unit: &str, about: &str, formula: &str) {
        let find = |name: &str| self.get(name).map(|q| q.range);
        let range = formula::evaluate(formula, &find).unwrap_or_else(|fault| {
            self.faults.push(format!("`{name}` = {formula}: {fault}"));
            Range::exact(0.0)
        });
        let basis = Basis::Formula(formula.to_owned());
        let (name, unit, about) = (name.to_owned(), unit.to_owned(), about.to_owned());
        self.put(Quantity { name, about, unit, range, basis, shown: false });
    }

    /// As [`Sheet::step`], as a figure.
    pub fn figure(&mut self, name: &str, unit: &str, about: &str, formula: &str) {
        self.step(name, unit, about, formula);
        self.show();
    }

    fn show(&mut self) {
        if let Some(q) = self.quantities.last_mut() {
            q.shown = true;
        }
    }

    /// Adds the constants of a file: a table for each, of its name, with `about`, `unit`, `source` and either `value` or `low`, `nominal`
    /// and `high`. `file` names the file in sources.
    pub fn constants(&mut self, file: &str, text: &str) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(e) => {
                self.faults.push(format!("{file}: {}", e.to_string().trim_end()));
                return;
            }
        };
        for (name, value) in &table {
            let text = |key: &str| value.get(key).and_then(|v| v.as_str());
            let number = |key: &str| {
                let v = value.get(key)?;
                v.as_float().or_else(|| v.as_integer().map(|i| i as f64))
            };
            let range = match (number("value"), number("low"), number("nominal"), number("high")) {
                (Some(v), None, None, None) => Some(Range::exact(v)),
                (None, Some(low), Some(nominal), Some(high)) => Some(Range { low, nominal, high }),
                _ => None,
            };
            match (text("about"), text("unit"), text("source"), range) {
                (Some(about), Some(unit), Some(source), Some(range)) => {
                    self.given(name, unit, about, range, &format!("{source} ({file})"));
                }
                _ => self.faults.push(format!(
                    "{file}: `{name}` wants `about`, `unit`, `source`, and `value` or `low`, `nominal` and `high`"
                )),
            }
        }
    }

    /// Says in a sentence what limits the result.
    pub fn limit(&mut self, text: String) {
        self.limits.push(text);
    }

    /// Names the figures whose course over sizes of models is worth a curve.
    pub fn plot(&mut self, names: &[&'static str]) {
        self.plotted.extend_from_slice(names);
    }

    /// The figures that are worth a curve.
    pub fn plotted(&self) -> &[&'static str] {
        &self.plotted
    }

    /// Adds the time of a token and the tokens a second: `cycles_token` steps that wait for each other and at most `busiest` of one
    /// tile, each as long as the quantity `cycle_ns`, and the host's time.
    pub fn times(&mut self, cycle_ns: &str, busiest: &str) {
        let chain = format!("cycles_token * {cycle_ns}");
        self.step("fixed_ns", "ns", "time of the chain of fixed products", &chain);
        self.step("host_ns", "ns", "time of the host", "host_ops_token / host_ops_ghz");
        self.figure("latency_us", "us", "latency of a token", "(fixed_ns + host_ns) / 1000");
        let words = "tokens a second of one stream, each waiting for the one before";
        self.figure("stream_tokens_s", "1/s", words, "1e6 / latency_us");
        let words = "tokens a second of many streams, every tile busy";
        self.figure("busy_tokens_s", "1/s", words, &format!("1e9 / ({busiest} * {cycle_ns})"));
    }

    /// Adds the host's energy of a token.
    pub fn host_energy(&mut self) {
        let host = "(host_ops_token * host_op_pj + host_bytes_token * host_byte_pj) * 1e-6";
        self.figure("host_uj", "uJ", "energy of a token: host operations", host);
    }

    /// Says which of some energies of a token is the largest.
    pub fn limit_energy(&mut self, causes: &[&str]) {
        let all = self.nominal("token_uj");
        if let Some(most) = causes.iter().max_by(|a, b| self.nominal(a).total_cmp(&self.nominal(b))) {
            let about =
                self.get(most).map(|q| q.about.replace("energy of a token: ", "")).unwrap_or_default();
            let share = 100.0 * self.nominal(most) / all.max(1e-300);
            self.limit(format!("energy: {share:.0} % of a token's goes to {about}"));
        }
    }

    /// Says which share of a token's time is `chain`, what waits for each other.
    pub fn limit_latency(&mut self, chain: &str) {
        let share = 100.0 * self.nominal("fixed_ns") / (self.nominal("latency_us") * 1e3).max(1e-300);
        self.limit(format!("latency: {share:.0} % of a token's is {chain}, the rest the host"));
    }

    /// What limits the result.
    pub fn limits(&self) -> &[String] {
        &self.limits
    }

    /// A quantity.
    pub fn get(&self, name: &str) -> Option<&Quantity> {
        self.quantities.get(*self.index.get(name)?)
    }

    /// The nominal value of a quantity; 0 of none.
    pub fn nominal(&self, name: &str) -> f64 {
        self.get(name).map_or(0.0, |q| q.range.nominal)
    }

    /// All quantities in order.
    pub fn quantities(&self) -> &[Quantity] {
        &self.quantities
    }

    /// The figures in order.
    pub fn figures(&self) -> impl Iterator<Item = &Quantity> {
        self.quantities.iter().filter(|q| q.shown)
    }

    /// The sheet, if every formula could be computed and every assumption is one that it has.
    ///
    /// # Errors
    /// Assumptions of unknown names; constants that are missing or out of order.
    pub fn finish(self) -> Result<Sheet, Diagnostics> {
        let mut bad = Diagnostics::new();
        for name in self.assumed.keys().filter(|name| !self.used.contains(*name)) {
            bad.push(
                Diagnostic::error(&E0013, format!("nothing in this estimate is called {name:?}"))
                    .help("`--explain all` lists every quantity"),
            );
        }
        for fault in &self.faults {
            bad.push(Diagnostic::error(&E0013, fault.clone()).help("mend the constants it is computed from"));
        }
        bad.check()?;
        Ok(self)
    }

    /// How a quantity is derived, down to the source of every constant; `None` where it is not there.
    pub fn explain(&self, name: &str) -> Option<String> {
        let mut out = String::new();
        let mut seen = BTreeSet::new();
        self.explain_into(self.get(name)?, 0, &mut seen, &mut out);
        Some(out)
    }

    fn explain_into<'a>(
        &'a self,
        q: &'a Quantity,
        depth: usize,
        seen: &mut BTreeSet<&'a str>,
        out: &mut String,
    ) {
        let indent = "  ".repeat(depth);
        let _ = writeln!(out, "{indent}{} = {}: {}", q.name, written(q), q.about);
        match &q.basis {
            Basis::Source(source) => {
                let _ = writeln!(out, "{indent}  source: {source}");
            }
            Basis::Formula(formula) => {
                let _ = writeln!(out, "{indent}  = {formula}");
                for name in formula::names(formula) {
                    let Some(of) = self.get(name) else { continue };
                    if seen.insert(&of.name) {
                        self.explain_into(of, depth + 1, seen, out);
                    } else {
                        let _ = writeln!(out, "{indent}  {} = {}: see above", of.name, written(of));
                    }
                }
            }
        }
    }
}

/// A quantity's value with its unit: `nominal [low, high] unit`.
pub fn written(q: &Quantity) -> String {
    let r = q.range;
    let value = if r.is_exact() {
        number(r.nominal)
    } else {
        format!("{} [{}, {}]", number(r.nominal), number(r.low), number(r.high))
    };
    format!("{value} {}", q.unit).trim_end().to_owned()
}

/// A number in a few characters: whole to 15 digits, otherwise four significant ones.
pub fn number(v: f64) -> String {
    let size = v.abs();
    if v == 0.0 {
        "0".into()
    } else if v.fract() == 0.0 && size < 1e7 {
        format!("{v:.0}")
    } else if (1e-2..1e4).contains(&size) {
        let places = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        let text = format!("{v:.places$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    } else {
        format!("{v:.3e}")
    }
}

/// Tiles of one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TileClass {
    /// Rows.
    pub k: u32,
    /// Columns.
    pub n: u32,
    /// How elements are represented.
    pub scheme: Scheme,
    /// How many.
    pub count: f64,
    /// Vectors that a token multiplies with all of them together.
    pub products: f64,
    /// Columns that a token looks up in all of them together.
    pub lookups: f64,
}

/// A step on the longest chain of products of a token, which wait for each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    /// Index of the class of its tiles that take longest.
    pub class: usize,
    /// How often it is on the chain.
    pub times: f64,
    /// Whether it is a look-up.
    pub lookup: bool,
}

/// What a model asks of a target, a token at a time. Sizes of models that do not exist are counted in floating point, so that 10^18
/// parameters are no special case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workload {
    /// What it is, in a line.
    pub about: String,
    /// Learned elements.
    pub parameters: f64,
    /// Fixed elements.
    pub weights: f64,
    /// Tiles by shape.
    pub tiles: Vec<TileClass>,
    /// Bytes of data that are fixed beside them.
    pub data_bytes: f64,
    /// Products and look-ups in sequence.
    pub stages: Vec<Stage>,
    /// Operations of the host a token: multiply-adds of products that are not fixed, elements of everything else.
    pub host_ops: f64,
    /// Bytes of state that the host reads a token.
    pub host_bytes: f64,
}

impl Workload {
    /// Multiply-adds with fixed weights a token.
    pub fn macs(&self) -> f64 {
        self.tiles.iter().map(|t| t.products * f64::from(t.k) * f64::from(t.n)).sum()
    }

    /// A program of a few tiles of each class, and how many of the workload each of its tiles stands for. `most` says how many of a
    /// class there may be; `data_tile` is the size of tiles of data where the target holds any.
    ///
    /// # Errors
    /// What the program's verifier reports.
    pub fn sample(
        &self,
        most: impl Fn(&TileClass) -> u32,
        data_tile: Option<u64>,
    ) -> Result<(Verified<TileProgram>, Vec<f64>), Diagnostics> {
        let (mut program, mut counts) = (TileProgram::default(), Vec::new());
        for class in &self.tiles {
            let tiles = (class.count.min(f64::from(most(class))).floor() as u32).max(1);
            for _ in 0..tiles {
                let matrix = MatrixId(program.matrices.len() as u32);
                let (k, n, origin) = (class.k, class.n, Origin::default());
                program.matrices.push(FixedMatrix {
                    k,
                    n,
                    activations: Activations::Row,
                    origin: origin.clone(),
                });
                let kind = TileKind::Matrix { matrix, k: 0..k, n: 0..n, scheme: class.scheme };
                program.tiles.push(Tile { name: sample_name(program.tiles.len()), kind, origin });
                counts.push(class.count / f64::from(tiles));
            }
        }
        let mut end = 0;
        if let Some(size) = data_tile.filter(|&size| size > 0) {
            let whole = (self.data_bytes / size as f64).floor();
            let rest = (self.data_bytes - whole * size as f64).round() as u64;
            for (count, len) in [(whole, size), (1.0, rest.min(size))] {
                if count >= 1.0 && len > 0 {
                    let kind = TileKind::Data { offset: end, len };
                    program.tiles.push(Tile {
                        name: sample_name(program.tiles.len()),
                        kind,
                        origin: Origin::default(),
                    });
                    counts.push(count);
                    end += len;
                }
            }
        }
        if end > 0 {
            program.data.push(DataEntry { offset: 0, len: end, origin: Origin::default() });
        }
        Ok((Verified::new(program)?, counts))
    }
}

/// A name as long as those of models' tensors are.
fn sample_name(index: usize) -> String {
    format!("t{index:08}_layers_mlp_proj")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(assumed: &[(&str, Range)]) -> Sheet {
        let mut s = Sheet::new(assumed.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect());
        let file = "[a_pj]\nabout = \"a\"\nunit = \"pJ\"\nlow = 1\nnominal = 2.0\nhigh = 4\nsource = \"a book\"\n\
                    [n]\nabout = \"count\"\nunit = \"\"\nvalue = 10\nsource = \"counted\"\n";
        s.constants("file.toml", file);
        s.figure("all_pj", "pJ", "all of it", "a_pj * n + 1");
        s.figure("share", "", "what a is of it", "a_pj / all_pj");
        s
    }

    #[test]
    fn ranges_follow_formulas_and_explanations_reach_the_sources() {
        let s = sheet(&[]).finish().unwrap();
        assert_eq!(s.get("all_pj").unwrap().range, Range { low: 11.0, nominal: 21.0, high: 41.0 });
        let share = s.get("share").unwrap().range;
        assert_eq!((share.low, share.nominal, share.high), (1.0 / 41.0, 2.0 / 21.0, 4.0 / 11.0));
        let text = s.explain("share").unwrap();
        for part in ["= a_pj / all_pj", "= a_pj * n + 1", "a book (file.toml)", "21 [11, 41] pJ"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(s.explain("none"), None);
        assert_eq!(s.figures().count(), 2);
    }

    #[test]
    fn assumptions_take_the_place_of_anything_and_unknown_ones_are_refused() {
        let s = sheet(&[("a_pj", Range::exact(3.0))]).finish().unwrap();
        assert_eq!(s.get("all_pj").unwrap().range, Range::exact(31.0));
        assert!(s.explain("all_pj").unwrap().contains("assumed"));
        let s = sheet(&[("all_pj", Range::exact(1.0))]).finish().unwrap();
        assert_eq!(s.nominal("share"), 2.0);
        let e = sheet(&[("b", Range::exact(3.0))]).finish().unwrap_err();
        assert!(e.to_string().contains("E0013") && e.to_string().contains("\"b\""), "{e}");
    }

    #[test]
    fn faults_of_files_and_formulas_are_reported_together() {
        let mut s = Sheet::new(BTreeMap::new());
        s.constants("f", "[x]\nabout = \"x\"\nunit = \"\"\nlow = 3\nnominal = 2\nhigh = 4\nsource = \"s\"\n[y]\nvalue = 1\n");
        s.step("z", "", "z", "nothing + 1");
        s.step("q", "", "q", "1 / (2 - 2)");
        let e = s.finish().unwrap_err().to_string();
        assert_eq!(e.matches("E0013").count(), 4, "{e}");
        assert!(["`x`", "`y` wants", "nothing", "`q`"].iter().all(|w| e.contains(w)), "{e}");
    }

    #[test]
    fn ranges_are_read_and_numbers_written() {
        assert_eq!("1e3".parse::<Range>(), Ok(Range::exact(1e3)));
        assert_eq!("1..2..3".parse::<Range>(), Ok(Range { low: 1.0, nominal: 2.0, high: 3.0 }));
        for bad in ["", "1..2", "3..2..4", "x", "1..2..inf"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
        for (v, text) in
            [(0.0, "0"), (12.0, "12"), (0.123_456, "0.1235"), (1234.567, "1235"), (2e9, "2.000e9")]
        {
            assert_eq!(number(v), text);
        }
    }
}
