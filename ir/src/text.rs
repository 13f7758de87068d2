//! The text form of graphs and programs (`.pfir`): printed, read back to the same thing.
//!
//! One statement a line; `#` starts a comment outside strings.
//!
//! ```text
//! pfir 1
//! matrix 0 k=192 n=256 int8/row from {"tensor":"lm_head.weight"}
//! tile 0 "t0_lm_head" matrix 0 k 0..192 n 0..256 codebook4/32 from {…}
//! tile 1 "t1_data" data 0..768 from {…}
//! data 0..768 from {"tensor":"norm.weight"}
//! %0 = input "input_ids" : i64[batch, seq]
//! %1 = const [1, -1] : i64[2]
//! %2 = const data 0 learned : f32[192] from {"tensor":"norm.weight"}
//! %3 "hidden" = mul(%0, %2) : f32[batch, seq, 192] from {"nodes":["mul"]}
//! %4 = if(%1, %3) {then_region=0, else_region=1, results=1} : f32[batch, seq, 192]
//! output "logits" = %4
//! region 0 {
//! %0 = input "hidden" : f32[batch, seq, 192]
//! output "y" = %0
//! }
//! ```
//!
//! Values are numbered in the order of their graph or region; a region's text follows that of the graph
//! that runs it. `from` carries an [`Origin`] as JSON. A constant
//! is written out (a NaN with other bits than the usual ones as `NaN.` and its little-endian bytes), or names its first byte where it is in the program's data; partition moves all
//! learned ones and those of more than [`INLINE_MAX`] elements there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use crate::codes::E0303;
use crate::consts::{Const, ConstSource};
use crate::diag::{Diagnostic, Diagnostics};
use crate::each_data;
use crate::elem::Elem;
use crate::graph::{Graph, ValueId};
use crate::op::{Attr, Op};
use crate::origin::Origin;
use crate::program::{DataEntry, TileProgram};
use crate::shape::{Dim, Knowledge, OpenDim, OpenType};
use crate::tensor::{Data, Element, Tensor};
use crate::tile::{FixedMatrix, MatrixId, Scheme, Tile, TileKind};

/// Most elements of a constant that partition leaves to be written out.
pub const INLINE_MAX: usize = 64;

fn quoted(s: &str) -> String {
    serde_json::Value::from(s).to_string()
}

fn from(origin: &Origin) -> String {
    if origin.is_unknown() {
        String::new()
    } else {
        format!(" from {}", serde_json::to_string(origin).unwrap_or_default())
    }
}

/// Prints a program: matrices, tiles, data, then its graph.
pub fn print_program(p: &TileProgram) -> String {
    let mut out = String::from("pfir 1\n");
    for (id, m) in p.matrices() {
        let _ = writeln!(out, "matrix {id} k={} n={} {}{}", m.k, m.n, m.activations, from(&m.origin));
    }
    for (id, t) in p.tiles() {
        let _ = match &t.kind {
            TileKind::Matrix { matrix, k, n, scheme } => writeln!(
                out,
                "tile {id} {} matrix {matrix} k {}..{} n {}..{} {scheme}{}",
                quoted(&t.name),
                k.start,
                k.end,
                n.start,
                n.end,
                from(&t.origin)
            ),
            TileKind::Data { offset, len } => writeln!(
                out,
                "tile {id} {} data {offset}..{}{}",
                quoted(&t.name),
                offset + len,
                from(&t.origin)
            ),
        };
    }
    for d in &p.data {
        let _ = writeln!(out, "data {}..{}{}", d.offset, d.offset + d.len, from(&d.origin));
    }
    print_nodes(&mut out, &p.graph);
    out
}

/// Prints a graph as it stands in a program.
pub fn print_graph<T: Knowledge>(g: &Graph<T>) -> String {
    let mut out = String::new();
    print_nodes(&mut out, g);
    out
}

fn print_nodes<T: Knowledge>(out: &mut String, g: &Graph<T>) {
    let mut numbers: BTreeMap<ValueId, usize> = BTreeMap::new();
    let order = g.order().unwrap_or_default();
    for id in &order {
        for &v in g.node(*id).map(|n| n.outputs.as_slice()).unwrap_or_default() {
            let next = numbers.len();
            numbers.insert(v, next);
        }
    }
    let number = |v: &ValueId| numbers.get(v).map_or_else(|| "?".into(), usize::to_string);
    for id in order {
        let Some(node) = g.node(id) else { continue };
        let named = |v: &ValueId| {
            let name = g.value(*v).map(|v| v.name.as_str()).unwrap_or_default();
            if name.is_empty() {
                format!("%{}", number(v))
            } else {
                format!("%{} {}", number(v), quoted(name))
            }
        };
        let types: Vec<String> =
            node.outputs.iter().filter_map(|v| g.value(*v)).map(|v| v.ty.open().to_string()).collect();
        let _ = match &node.op {
            Op::Input {} => {
                let v = node.outputs.first();
                let name = v.and_then(|v| g.value(*v)).map(|v| v.name.as_str()).unwrap_or_default();
                write!(out, "%{} = input {}", v.map(&number).unwrap_or_default(), quoted(name))
            }
            Op::Constant { id } => {
                let results: Vec<String> = node.outputs.iter().map(named).collect();
                let _ = write!(out, "{} = const ", results.join(", "));
                match g.consts.get(*id) {
                    None => write!(out, "missing"),
                    Some(c) => {
                        let _ = match &c.source {
                            ConstSource::Data(offset) => write!(out, "data {offset}"),
                            _ => out.write_str(&elements(c)),
                        };
                        out.write_str(if c.learned { " learned" } else { "" })
                    }
                }
            }
            op => {
                let results: Vec<String> = node.outputs.iter().map(named).collect();
                let args: Vec<String> = node.inputs.iter().map(|v| format!("%{}", number(v))).collect();
                let attrs: Vec<String> = op.attrs().iter().map(|(k, v)| format!("{k}={v}")).collect();
                let attrs =
                    if attrs.is_empty() { String::new() } else { format!(" {{{}}}", attrs.join(", ")) };
                write!(out, "{} = {}({}){attrs}", results.join(", "), op.name(), args.join(", "))
            }
        };
        let _ = writeln!(out, " : {}{}", types.join(", "), from(&node.origin));
    }
    for (name, v) in g.outputs() {
        let _ = writeln!(out, "output {} = %{}", quoted(name), number(v));
    }
    for (i, region) in g.regions().iter().enumerate() {
        let _ = writeln!(out, "region {i} {{");
        print_nodes(out, region);
        out.push_str("}\n");
    }
}

fn elements(c: &Const) -> String {
    fn word<T: Element + std::fmt::Debug>(v: T, usual: &[u8]) -> String {
        let (mut out, mut bytes) = (format!("{v:?}"), Vec::new());
        v.put_le(&mut bytes);
        if out == "NaN" && bytes != usual {
            out.push('.');
            for b in bytes {
                let _ = write!(out, "{b:02x}");
            }
        }
        out
    }
    let usual =
        tensor(c.elem, Vec::new(), &["NaN".to_owned()]).map_or_else(|_| Vec::new(), |t| t.to_le_bytes());
    match c.tensor() {
        Err(_) => "[]".into(),
        Ok(t) => each_data!(t.data(), x => {
            let words: Vec<String> = x.iter().map(|v| word(*v, &usual)).collect();
            format!("[{}]", words.join(", "))
        }),
    }
}

/// The element that [`elements`] writes with its bytes.
fn unusual<T: Element>(word: &str) -> Option<T> {
    let digits = word.strip_prefix("NaN.").filter(|d| d.is_ascii() && d.len() == 2 * size_of::<T>())?;
    let byte = |i: usize| u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok();
    let bytes = (0..size_of::<T>()).map(byte).collect::<Option<Vec<u8>>>()?;
    Some(T::from_le(&bytes))
}

/// Reads one line.
struct Line<'a> {
    text: &'a str,
    at: usize,
}

type Parsed<T> = Result<T, String>;

impl<'a> Line<'a> {
    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn rest(&mut self) -> &'a str {
        self.space();
        &self.text[self.at..]
    }

    fn done(&mut self) -> bool {
        let rest = self.rest();
        rest.is_empty() || rest.starts_with('#')
    }

    fn accept(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.accept(token) { Ok(()) } else { Err(format!("expected {token:?}")) }
    }

    /// Characters up to one that is not in a word.
    fn word(&mut self) -> Parsed<&'a str> {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || "_.+-/".contains(c))).unwrap_or(rest.len());
        if end == 0 {
            return Err("expected a word".into());
        }
        self.at += end;
        Ok(&rest[..end])
    }

    fn number<T: std::str::FromStr>(&mut self) -> Parsed<T> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with('-'));
        let end = rest[sign..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |e| e + sign);
        let number = rest[..end].parse().map_err(|_| "expected a number".to_owned())?;
        self.at += end;
        Ok(number)
    }

    fn range<T: std::str::FromStr + PartialOrd>(&mut self) -> Parsed<Range<T>> {
        let start = self.number()?;
        self.expect("..")?;
        let end = self.number()?;
        if start > end { Err("the range is reversed".into()) } else { Ok(start..end) }
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Parsed<T> {
        let rest = self.rest();
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter();
        match stream.next() {
            Some(Ok(value)) => {
                self.at += stream.byte_offset();
                Ok(value)
            }
            Some(Err(e)) => Err(format!("expected JSON: {e}")),
            None => Err("expected JSON".into()),
        }
    }

    fn origin(&mut self) -> Parsed<Origin> {
        if self.accept("from ") { self.json() } else { Ok(Origin::default()) }
    }

    fn value(&mut self) -> Parsed<u32> {
        self.expect("%")?;
        self.number()
    }

    /// Items between brackets.
    fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        self.expect(open)?;
        let mut out = Vec::new();
        if self.accept(close) {
            return Ok(out);
        }
        loop {
            out.push(item(self)?);
            if self.accept(close) {
                return Ok(out);
            }
            self.expect(",")?;
        }
    }

    fn dim(&mut self) -> Parsed<OpenDim> {
        if self.accept("?") {
            return Ok(None);
        }
        let too_large = || "a dimension overflows".to_owned();
        let mut sum = Dim::known(0);
        loop {
            let mut term = Dim::known(1);
            loop {
                let rest = self.rest();
                let factor = if rest.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
                    Dim::known(self.number()?)
                } else {
                    let end = rest.find(['+', '*', ',', ']']).unwrap_or(rest.len());
                    let name = rest[..end].trim_end();
                    if name.is_empty() {
                        return Err("expected a dimension".into());
                    }
                    self.at += end;
                    Dim::symbol(name)
                };
                term = term.mul(&factor).ok_or_else(too_large)?;
                if !self.accept("*") {
                    break;
                }
            }
            sum = sum.add(&term).ok_or_else(too_large)?;
            if !self.accept("+") {
                return Ok(Some(sum));
            }
        }
    }

    fn ty(&mut self) -> Parsed<OpenType> {
        let rest = self.rest();
        let end = rest.find('[').ok_or("expected a type")?;
        let elem: Elem = rest[..end].parse()?;
        self.at += end;
        if self.accept("[..]") {
            return Ok(OpenType::unknown(elem));
        }
        Ok(OpenType { elem, shape: Some(self.list("[", "]", Line::dim)?) })
    }

    fn attr(&mut self) -> Parsed<(String, Attr)> {
        let key = self.word()?.to_owned();
        self.expect("=")?;
        let rest = self.rest();
        let attr = if rest.starts_with('[') {
            let words = self.list("[", "]", |l| Ok(l.word()?.to_owned()))?;
            let ints: Option<Vec<i64>> = words.iter().map(|w| w.parse().ok()).collect();
            let float = |w: &String| w.strip_suffix('f').and_then(|w| w.parse().ok());
            match (ints, words.iter().map(float).collect()) {
                (Some(v), _) => Attr::Ints(v),
                (None, Some(v)) => Attr::Floats(v),
                (None, None) => return Err(format!("{words:?} is no list of numbers")),
            }
        } else {
            let word = self.word()?;
            if let Ok(i) = word.parse() {
                Attr::Int(i)
            } else if let Some(f) = word.strip_suffix('f').and_then(|w| w.parse().ok()) {
                Attr::Float(f)
            } else {
                Attr::Word(word.to_owned())
            }
        };
        Ok((key, attr))
    }

    fn scheme(&mut self) -> Parsed<Scheme> {
        self.word()?.parse()
    }

    fn constant(&mut self) -> Parsed<Source> {
        if self.accept("data ") {
            return Ok(Source::Data(self.number()?));
        }
        Ok(Source::Words(self.list("[", "]", |l| Ok(l.word()?.to_owned()))?))
    }
}

enum Source {
    Data(u64),
    Words(Vec<String>),
}

fn tensor(elem: Elem, shape: Vec<usize>, words: &[String]) -> Parsed<Tensor> {
    fn parse<T: Element + std::str::FromStr>(shape: Vec<usize>, words: &[String]) -> Parsed<Tensor> {
        let values: Result<Vec<T>, String> = words
            .iter()
            .map(|w| w.parse().ok().or_else(|| unusual(w)).ok_or(format!("bad element {w:?}")))
            .collect();
        Tensor::new(shape, values?)
    }
    match elem {
        Elem::F32 => parse::<f32>(shape, words),
        Elem::F64 => parse::<f64>(shape, words),
        Elem::I64 => parse::<i64>(shape, words),
        Elem::I32 => parse::<i32>(shape, words),
        Elem::F16 => parse::<half::f16>(shape, words),
        Elem::BF16 => parse::<half::bf16>(shape, words),
        Elem::I16 => parse::<i16>(shape, words),
        Elem::I8 => parse::<i8>(shape, words),
        Elem::U64 => parse::<u64>(shape, words),
        Elem::U32 => parse::<u32>(shape, words),
        Elem::U16 => parse::<u16>(shape, words),
        Elem::U8 => parse::<u8>(shape, words),
        Elem::Bool => parse::<bool>(shape, words),
        code => {
            let codes = parse::<u8>(shape.clone(), words)?;
            let codes = codes.as_slice::<u8>()?;
            match codes.iter().find(|c| usize::from(**c) >= 1 << code.bits()) {
                Some(c) => Err(format!("{c} is no code of {code}")),
                None => Tensor::from_data(shape, Data::Code(code, codes.into())),
            }
        }
    }
}

#[derive(Default)]
struct Reader {
    program: TileProgram,
    /// The values of the graph or region that is being read.
    values: BTreeMap<u32, ValueId>,
    /// The graphs around the region that is being read, with their values.
    outer: Vec<(Graph, BTreeMap<u32, ValueId>)>,
}

/// Deepest nesting of regions.
const MAX_DEPTH: usize = 64;

impl Reader {
    fn dense(id: u32, len: usize, what: &str) -> Parsed<()> {
        if id as usize == len {
            Ok(())
        } else {
            Err(format!("{what} {id} is out of order; {len} comes next"))
        }
    }

    fn define(&mut self, numbers: &[u32], values: Vec<ValueId>) -> Parsed<()> {
        for (&n, v) in numbers.iter().zip(values) {
            if self.values.insert(n, v).is_some() {
                return Err(format!("%{n} is defined twice"));
            }
        }
        Ok(())
    }

    fn line(&mut self, l: &mut Line) -> Parsed<()> {
        if l.accept("matrix ") {
            Self::dense(l.number()?, self.program.matrices.len(), "matrix")?;
            l.expect("k=")?;
            let k = l.number()?;
            l.expect("n=")?;
            let n = l.number()?;
            let activations = l.word()?.parse()?;
            self.program.matrices.push(FixedMatrix { k, n, activations, origin: l.origin()? });
        } else if l.accept("tile ") {
            Self::dense(l.number()?, self.program.tiles.len(), "tile")?;
            let name = l.json()?;
            let kind = if l.accept("matrix ") {
                let matrix = MatrixId(l.number()?);
                l.expect("k ")?;
                let k = l.range()?;
                l.expect("n ")?;
                TileKind::Matrix { matrix, k, n: l.range()?, scheme: l.scheme()? }
            } else {
                l.expect("data ")?;
                let r: Range<u64> = l.range()?;
                TileKind::Data { offset: r.start, len: r.end - r.start }
            };
            self.program.tiles.push(Tile { name, kind, origin: l.origin()? });
        } else if l.accept("data ") {
            let r: Range<u64> = l.range()?;
            self.program.data.push(DataEntry { offset: r.start, len: r.end - r.start, origin: l.origin()? });
        } else if l.accept("region ") {
            Self::dense(l.number()?, self.program.graph.regions().len(), "region")?;
            l.expect("{")?;
            if self.outer.len() == MAX_DEPTH {
                return Err("regions are nested too deeply".into());
            }
            let around = std::mem::take(&mut self.program.graph);
            self.outer.push((around, std::mem::take(&mut self.values)));
        } else if l.accept("}") {
            let (graph, values) = self.outer.pop().ok_or("no region is open")?;
            let region = std::mem::replace(&mut self.program.graph, graph);
            self.program.graph.add_region(region);
            self.values = values;
        } else if l.accept("output ") {
            let name: String = l.json()?;
            l.expect("=")?;
            let v = self.read(l)?;
            self.program.graph.add_output(&name, v);
        } else {
            self.node(l)?;
        }
        if l.done() { Ok(()) } else { Err("unexpected text after the statement".into()) }
    }

    fn read(&self, l: &mut Line) -> Parsed<ValueId> {
        let n = l.value()?;
        self.values.get(&n).copied().ok_or_else(|| format!("%{n} is used before it is defined"))
    }

    fn node(&mut self, l: &mut Line) -> Parsed<()> {
        let (mut numbers, mut names) = (Vec::new(), Vec::new());
        loop {
            numbers.push(l.value()?);
            names.push(if l.rest().starts_with('"') { l.json()? } else { String::new() });
            if !l.accept(",") {
                break;
            }
        }
        l.expect("=")?;
        let g = &mut self.program.graph;
        if l.accept("input ") {
            let name: String = l.json()?;
            l.expect(":")?;
            let ty = l.ty()?;
            let v = g.add_input(&name, ty);
            return self.define(&numbers, vec![v]);
        }
        if l.accept("const ") {
            let source = l.constant()?;
            let learned = l.accept("learned");
            l.expect(":")?;
            let ty = l.ty()?.bound().ok_or("a constant needs a shape of numbers")?;
            let origin = l.origin()?;
            let c = match source {
                Source::Data(offset) => {
                    Const::new(ty.elem, ty.shape, ConstSource::Data(offset), origin, learned)?
                }
                Source::Words(words) => Const::derived(&tensor(ty.elem, ty.shape, &words)?, origin, learned),
            };
            let v = g.add_const(names.first().map_or("", |n| n), c);
            return self.define(&numbers, vec![v]);
        }
        let name = l.word()?;
        let inputs = l.list("(", ")", |l| self.read(l))?;
        let attrs = if l.rest().starts_with('{') { l.list("{", "}", Line::attr)? } else { Vec::new() };
        let op = Op::from_text(name, attrs)?;
        l.expect(":")?;
        let mut outputs = Vec::new();
        for name in names {
            if !outputs.is_empty() {
                l.expect(",")?;
            }
            outputs.push((name, l.ty()?));
        }
        let origin = l.origin()?;
        let values = self.program.graph.add(op, inputs, outputs, origin);
        self.define(&numbers, values)
    }
}

/// Reads a program. The result is not verified.
///
/// # Errors
/// Every line that cannot be read, with line and column.
pub fn parse_program(text: &str) -> Result<TileProgram, Diagnostics> {
    let mut reader = Reader::default();
    let mut bad = Diagnostics::new();
    let mut header = false;
    for (number, text) in text.lines().enumerate() {
        let mut l = Line { text, at: 0 };
        if l.done() {
            continue;
        }
        let result = if header {
            reader.line(&mut l)
        } else {
            header = true;
            l.expect("pfir 1").and_then(|()| if l.done() { Ok(()) } else { Err("unknown version".into()) })
        };
        if let Err(e) = result {
            bad.push(Diagnostic::error(&E0303, format!("line {}, column {}: {e}", number + 1, l.at + 1)));
            if bad.0.len() == 20 {
                break;
            }
        }
    }
    if !header {
        bad.push(Diagnostic::error(&E0303, "the text is empty"));
    }
    if !reader.outer.is_empty() {
        bad.push(Diagnostic::error(&E0303, "the text ends inside a region"));
    }
    if bad.has_errors() { Err(bad) } else { Ok(reader.program) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Verify;

    const TEXT: &str = r#"pfir 1
matrix 0 k=4 n=6 int8/row from {"nodes":["mm"],"tensor":"w"}
matrix 1 k=2 n=3 int8/0.0125 from {"tensor":"v"}
tile 0 "t0_w" matrix 0 k 0..4 n 0..6 codes4/2 from {"tensor":"w","range":[0,4,0,6]}
tile 1 "t1_v" matrix 1 k 0..2 n 0..2 codebook3/2
tile 2 "t2_v" matrix 1 k 0..2 n 2..3 real
tile 3 "t3_data" data 0..24
data 0..24 from {"tensor":"b"}
%0 = input "x" : f32[batch, 2*seq+1, 4]
%1 = const [0.5, -1.0, inf] : f32[3]
%2 "b" = const data 0 learned : f32[6] from {"tensor":"b"}
%3 = fixed_linear(%0) {matrix=0, k=4, n=6} : f32[batch, 2*seq+1, 6] from {"nodes":["mm \"q\""]}
%4 "y" = add(%3, %2) : f32[batch, 2*seq+1, 6]
%5, %6 = split(%4) {axis=-1, sizes=[2, 4]} : f32[batch, 2*seq+1, 2], f32[batch, 2*seq+1, 4]
%7 = layer_norm(%6, %6) {axis=-1, epsilon=1e-5f} : f32[batch, 2*seq+1, 4]
output "out" = %5
output "norm" = %7
"#;

    #[test]
    fn a_program_reads_back_to_the_same_text() {
        let p = parse_program(TEXT).unwrap();
        assert!(p.verify().is_ok(), "{:?}", p.verify());
        let printed = print_program(&p);
        assert_eq!(print_program(&parse_program(&printed).unwrap()), printed);
        for (ours, given) in printed.lines().zip(TEXT.lines().filter(|l| !l.contains("const [0.5"))) {
            assert_eq!(ours.split(" from").next().unwrap().len() > 3, given.len() > 3);
        }
        assert_eq!(printed.lines().count(), TEXT.lines().count());
    }

    #[test]
    fn constants_read_back_to_the_same_bits() {
        let nan = [0x7fc0_0000u32, 0xffc0_0000, 0x7f80_0001, 0x8000_0000, 0xff80_0000, 1];
        let f32s = Tensor::vector(nan.map(f32::from_bits).to_vec());
        let halves = [0x7e00u16, 0xfe01, 0x7c00, 0x8000, 0x0001, 0x3555].map(half::f16::from_bits);
        let brain = [0x7fc0u16, 0xff81, 0xff80, 0x8000, 0x0001, 0x3f8f].map(half::bf16::from_bits);
        let f64s =
            Tensor::vector([0x7ff8_0000_0000_0001u64, 1, 0xfff0_0000_0000_0000].map(f64::from_bits).to_vec());
        let codes = Tensor::from_data(vec![3], Data::Code(Elem::I4, vec![0, 15, 8].into())).unwrap();
        let ints = Tensor::vector(vec![i64::MIN, i64::MAX, 0]);
        let mut p = TileProgram::default();
        let all = [f32s, Tensor::vector(halves.to_vec()), Tensor::vector(brain.to_vec()), f64s, codes, ints];
        for t in &all {
            let v = p.graph.add_const("a\n\"# b", Const::derived(t, Origin::default(), false));
            p.graph.add_output(&format!("{} \u{2028}\\", t.elem()), v);
        }
        let text = print_program(&p);
        let back = parse_program(&text).unwrap();
        assert_eq!(print_program(&back), text);
        for ((_, c), t) in back.graph.consts.iter().zip(&all) {
            assert_eq!(c.bytes().unwrap()[..], t.to_le_bytes(), "{text}");
        }
    }

    #[test]
    fn regions_read_back_and_are_checked() {
        let text = r#"pfir 1
%0 = input "n" : i64[]
%1 = input "x" : f32[2]
%2 = const [true] : bool[]
%3 = less(%0, %0) : bool[]
%4, %5 = loop(%0, %2, %1, %3) {body=0, carried=1, results=2} : f32[2], f32[n, 2]
output "last" = %4
output "all" = %5
region 0 {
%0 = input "iteration" : i64[]
%1 = input "go" : bool[]
%2 = input "h" : f32[2]
%3 = input "flag" : bool[]
%4 = if(%3, %2) {then_region=0, else_region=1, results=1} : f32[2]
output "go" = %1
output "h" = %4
output "each" = %2
region 0 {
%0 = input "h" : f32[2]
%1 = add(%0, %0) : f32[2]
output "y" = %1
}
region 1 {
%0 = input "h" : f32[2]
%1 = neg(%0) : f32[2]
output "y" = %1
}
}
"#;
        let p = parse_program(text).unwrap();
        assert!(p.verify().is_ok(), "{:?}", p.verify());
        assert_eq!(print_program(&p), text);
        let refused = |from: &str, to: &str, what: &str| {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            let e = match parse_program(&changed) {
                Ok(p) => p.verify().unwrap_err().to_string(),
                Err(e) => e.to_string(),
            };
            assert!(e.contains(what), "{to}: {e}");
        };
        refused("body=0", "body=3", "no region 3");
        refused("loop(%0, %2, %1, %3)", "loop(%0, %2, %1)", "gives region 0 3 values");
        refused("\"h\" : f32[2]", "\"h\" : f32[3]", "as input 2");
        refused("loop(%0, %2, %1, %3)", "loop(%1, %2, %1, %3)", "as input 0, which is i64[]");
        refused("[true] : bool[]", "[true] : bool[1]", "as input 1, which is bool[]");
        refused("region 1 {", "region 2 {", "out of order");
        refused("}\n}\n", "}\n", "ends inside a region");
        refused("neg(%0) : f32[2]", "neg(%0) : f32[5]", "declared f32[5]");
    }

    #[test]
    fn each_bad_line_is_named() {
        for (line, what) in [
            ("%9 = add(%0) : f32[1", "expected \",\""),
            ("%9 = nothing(%0) : f32[1]", "unknown operation"),
            ("%9 = add(%0, %42) : f32[1]", "%42 is used before"),
            ("%0 = input \"z\" : f32[1]", "%0 is defined twice"),
            ("matrix 7 k=1 n=1 real", "out of order"),
            ("tile 4 \"a\" data 9..3", "reversed"),
            ("%9 = cast(%0) {to=f99} : f32[1]", "is no value for attribute to"),
            ("%9 = const [1, x] : i64[2]", "bad element"),
            ("output \"o\" = %0 rest", "unexpected text"),
            ("%9 = const [NaN.7fc0] : f32[1]", "bad element"),
        ] {
            let text = format!("{TEXT}{line}\n");
            let e = parse_program(&text).unwrap_err().to_string();
            assert!(e.contains(what) && e.contains("line 18"), "{line}: {e}");
        }
        assert!(parse_program("pfir 2").is_err());
        assert!(parse_program("").is_err());
    }
}
