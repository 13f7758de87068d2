//! Measured timing of macros: a file beside the process file, so that Liberty needs no simulator.

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use toml::{Table, Value};

use crate::codes::E0525;
use crate::macros::MacroShape;

/// One size at one corner. Times in picoseconds from or to the middle of an edge.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The size that was measured.
    pub shape: MacroShape,
    /// Name of the corner.
    pub corner: String,
    /// Rise of `CLK` to the rise of an output that reads 1, for each load.
    pub access_ps: Vec<f64>,
    /// Rise of `CLK` to the fall of an output, for each load: the latch opens on lines that still are high.
    pub open_ps: Vec<f64>,
    /// Rise of an output from a tenth to nine tenths, for each load.
    pub rise_ps: Vec<f64>,
    /// Fall of an output from nine tenths to a tenth, for each load.
    pub drop_ps: Vec<f64>,
    /// Address to the far ends of what it chooses.
    pub setup_ps: f64,
    /// Fall of `CLK` to the fall of the far end of a word line: until then the address must stay.
    pub hold_after_fall_ps: f64,
    /// Fall of `CLK` to the far bit line at 95 % of the supply.
    pub recovery_ps: f64,
    /// Energy of a cycle in which no bit line falls, femtojoule.
    pub quiet_fj: f64,
    /// More for each bit line that falls.
    pub bit_line_fj: f64,
}

/// A corner.
#[derive(Debug, Clone, PartialEq)]
pub struct Corner {
    /// Name.
    pub name: String,
    /// The models' corner.
    pub models: String,
    /// Supply.
    pub millivolts: i64,
    /// Temperature.
    pub celsius: i64,
    /// Current of a cell of the array that is off, picoampere.
    pub cell_leak_pa: f64,
    /// Current a micrometre of an n-channel and of a p-channel transistor that is off.
    pub leak_pa_um: [f64; 2],
}

/// A file of measurements.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// Name of the process.
    pub process: String,
    /// Loads of the outputs, femtofarad, ascending.
    pub load_ff: Vec<f64>,
    /// Capacitance of a gate a micrometre of width, both channels alike, femtofarad.
    pub gate_ff_um: f64,
    /// Corners.
    pub corners: Vec<Corner>,
    /// Measurements.
    pub reads: Vec<Read>,
}

/// Reads values of one table and keeps what is wrong.
struct Reader<'a> {
    table: &'a Table,
    place: String,
    problems: &'a mut Diagnostics,
}

impl Reader<'_> {
    fn get<T>(&mut self, key: &str, what: &str, blank: T, parse: impl Fn(&Value) -> Option<T>) -> T {
        let found = self.table.get(key).and_then(parse);
        found.unwrap_or_else(|| {
            let text = format!("{}`{key}` is missing or not {what}", self.place);
            self.problems.push(Diagnostic::error(&E0525, text));
            blank
        })
    }

    fn number(&mut self, key: &str) -> f64 {
        self.get(key, "a number of at least 0", 0.0, number)
    }

    fn integer(&mut self, key: &str) -> i64 {
        self.get(key, "an integer", 0, Value::as_integer)
    }

    fn text(&mut self, key: &str) -> String {
        self.name(key, "a name of A-Z, a-z, 0-9 and _", "_")
    }

    /// A name of letters, digits and the characters `more`.
    fn name(&mut self, key: &str, what: &str, more: &str) -> String {
        let plain = |t: &&str| t.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
        self.get(key, what, String::new(), |v| {
            v.as_str().filter(|t| !t.is_empty()).filter(plain).map(str::to_owned)
        })
    }

    fn numbers(&mut self, key: &str, count: Option<usize>) -> Vec<f64> {
        self.get(key, "a list of numbers, one a load", Vec::new(), |v| {
            let all: Option<Vec<f64>> = v.as_array()?.iter().map(number).collect();
            all.filter(|all| !all.is_empty() && count.is_none_or(|n| n == all.len()))
        })
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|i| i as f64)).filter(|v| v.is_finite() && *v >= 0.0)
}

impl Timing {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Timing, Diagnostics> {
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            Diagnostic::error(&E0525, format!("the timing file is not TOML: {}", e.message()))
        })?;
        let mut problems = Diagnostics::new();
        let tables = |key: &str| -> Vec<Table> {
            let list = table.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            list.iter().filter_map(|v| v.as_table().cloned()).collect()
        };
        let mut top = Reader { table: &table, place: String::new(), problems: &mut problems };
        let process = top.name("process", "a name of A-Z, a-z, 0-9, - and _", "-_");
        let load_ff = top.numbers("load_ff", None);
        let gate_ff_um = top.number("gate_ff_um");
        let mut corners = Vec::new();
        for (i, table) in tables("corner").iter().enumerate() {
            let mut r = Reader { table, place: format!("corner {i}: "), problems: &mut problems };
            corners.push(Corner {
                name: r.text("name"),
                models: r.text("models"),
                millivolts: r.integer("millivolts"),
                celsius: r.integer("celsius"),
                cell_leak_pa: r.number("cell_leak_pa"),
                leak_pa_um: [r.number("n_leak_pa_um"), r.number("p_leak_pa_um")],
            });
        }
        let mut reads = Vec::new();
        for (i, table) in tables("read").iter().enumerate() {
            let mut r = Reader { table, place: format!("read {i}: "), problems: &mut problems };
            let size = |v: i64| u32::try_from(v).unwrap_or(0);
            let loads = Some(load_ff.len());
            reads.push(Read {
                shape: MacroShape {
                    word_lines: size(r.integer("word_lines")),
                    bit_lines: size(r.integer("bit_lines")),
                    mux: size(r.integer("mux")),
                },
                corner: r.text("corner"),
                access_ps: r.numbers("access_ps", loads),
                open_ps: r.numbers("open_ps", loads),
                rise_ps: r.numbers("rise_ps", loads),
                drop_ps: r.numbers("drop_ps", loads),
                setup_ps: r.number("setup_ps"),
                hold_after_fall_ps: r.number("hold_after_fall_ps"),
                recovery_ps: r.number("recovery_ps"),
                quiet_fj: r.number("quiet_fj"),
                bit_line_fj: r.number("bit_line_fj"),
            });
        }
        for read in &reads {
            if !corners.iter().any(|c| c.name == read.corner) {
                let text = format!("a read names corner `{}`, which there is not", read.corner);
                problems.push(Diagnostic::error(&E0525, text));
            }
        }
        problems
            .into_result(Timing { process, load_ff, gate_ff_um, corners, reads })
            .map(|(timing, _)| timing)
    }

    /// The smallest measured size at a corner that is at least as large in every respect: a smaller macro is not
    /// slower.
    ///
    /// # Errors
    /// A size beyond all that were measured, and a corner that was not.
    pub fn read(&self, shape: MacroShape, corner: &str) -> Result<&Read, Diagnostics> {
        let holds = |r: &&Read| {
            let s = r.shape;
            r.corner == corner
                && s.word_lines >= shape.word_lines
                && s.bit_lines >= shape.bit_lines
                && s.mux >= shape.mux
        };
        let size = |r: &&Read| (u64::from(r.shape.word_lines) * u64::from(r.shape.bit_lines), r.shape.mux);
        self.reads.iter().filter(holds).min_by_key(size).ok_or_else(|| {
            let text = format!(
                "no measured macro is as large as {} x {} with {} bit lines to an output at corner `{corner}`",
                shape.word_lines, shape.bit_lines, shape.mux
            );
            Diagnostic::error(&E0525, text)
                .help("measure one with fixtures/referees/asic/measure_macros.py, or take a smaller macro")
                .into()
        })
    }
}

impl Read {
    /// Shortest high phase, ps: the access time at the largest load.
    pub fn high_ps(&self) -> f64 {
        self.access_ps.last().copied().unwrap_or(0.0)
    }

    /// Shortest low phase, ps. The address changes after the last word line fell.
    pub fn low_ps(&self) -> f64 {
        self.recovery_ps.max(self.hold_after_fall_ps + self.setup_ps)
    }

    /// Shortest cycle, ps.
    pub fn cycle_ps(&self) -> f64 {
        self.high_ps() + self.low_ps()
    }
}
