//! Reports of a check: a table for people, JUnit XML and SARIF 2.1.0 for continuous integration. None has a clock, a
//! host or an absolute path in it.

use std::fmt;

use pfmc_ir::diag::{Code, Diagnostic, Diagnostics, Severity};
use serde_json::{Value, json};

use super::Outcome;
use super::bound::Layer;
use super::pipeline::{Contract, Report};
use crate::files::xml;

/// Layers that the table shows; the others are counted.
const LAYERS_SHOWN: usize = 12;

impl Outcome {
    fn methods(&self) -> String {
        let names: Vec<&str> = self.methods.iter().map(|m| m.name()).collect();
        if names.is_empty() { "-".into() } else { names.join(", ") }
    }

    fn share(&self) -> String {
        self.worst.as_ref().map_or_else(|| "-".into(), |w| format!("{:.3}", w.share()))
    }
}

fn verdict(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} for {} ({}), {} inputs", self.model, self.target, self.process, self.inputs.len())?;
        writeln!(
            f,
            "{:<14} {:<10} {:<7} {:>9}  {:<26} checked",
            "pass", "declared", "holds", "of bound", "by"
        )?;
        for c in &self.contracts {
            let checked: Vec<String> =
                c.outcome.checked.iter().map(|(what, n)| format!("{what} {n}")).collect();
            writeln!(
                f,
                "{:<14} {:<10} {:<7} {:>9}  {:<26} {}",
                c.pass,
                c.exactness.name(),
                verdict(c.passed()),
                c.outcome.share(),
                c.outcome.methods(),
                checked.join(", ")
            )?;
        }
        for c in self.contracts.iter().filter(|c| !c.layers.is_empty()) {
            write!(f, "{}", layers(&c.layers))?;
        }
        let all = self.passed();
        let failed = self.contracts.iter().filter(|c| !c.passed()).count();
        if all {
            write!(f, "all contracts hold")
        } else {
            write!(f, "{failed} of {} contracts do not hold", self.contracts.len())
        }
    }
}

/// The layers whose bound is the largest part of their range.
fn layers(all: &[Layer]) -> String {
    let part = |l: &Layer| if l.range > 0.0 { l.bound / l.range } else { 0.0 };
    let mut sorted: Vec<&Layer> = all.iter().collect();
    sorted.sort_by(|a, b| part(b).total_cmp(&part(a)).then(a.info.matrix.cmp(&b.info.matrix)));
    let mut out = format!(
        "{:>9} {:>9} {:>9} {:>8} {:>6}  layer, inputs of magnitude 1 or of the static format\n",
        "bound", "of range", "element", "sampled", "bits"
    );
    for l in sorted.iter().take(LAYERS_SHOWN) {
        let free = l.accumulator_bits_free.map_or_else(|| "-".into(), |b| format!("{b:.1}"));
        out.push_str(&format!(
            "{:>9.2e} {:>9.4} {:>9.2e} {:>8} {free:>6}  {} ({}){}\n",
            l.bound,
            part(l),
            l.element_error,
            l.outcome.share(),
            l.info.name,
            l.info,
            if l.outcome.passed() { "" } else { " FAILED" }
        ));
    }
    if let Some(more) = all.len().checked_sub(LAYERS_SHOWN).filter(|m| *m > 0) {
        out.push_str(&format!("{more} more layers, of smaller bounds; --json has them\n"));
    }
    out
}

/// One test case, with a failure an error.
fn case(out: &mut String, class: &str, name: &str, outcome: &Outcome, extra: &str) {
    let mut said: Vec<String> = outcome.checked.iter().map(|(what, n)| format!("{what}: {n}")).collect();
    said.insert(0, format!("by {}", outcome.methods()));
    if let Some(w) = &outcome.worst {
        said.push(format!("worst: {:.3e} of {:.3e} at {}", w.error, w.bound, w.at));
    }
    if !extra.is_empty() {
        said.push(extra.to_owned());
    }
    out.push_str(&format!("    <testcase classname=\"{}\" name=\"{}\">\n", xml(class), xml(name)));
    for d in errors(&outcome.problems) {
        out.push_str(&format!(
            "      <failure type=\"{}\" message=\"{}\">{}</failure>\n",
            d.code.id,
            xml(&d.message),
            xml(&d.to_string())
        ));
    }
    out.push_str(&format!("      <system-out>{}</system-out>\n    </testcase>\n", xml(&said.join("\n"))));
}

fn errors(d: &Diagnostics) -> impl Iterator<Item = &Diagnostic> {
    d.0.iter().filter(|d| d.severity == Severity::Error)
}

impl Report {
    /// As JUnit XML: a suite, a test case a pass, and one a layer of those that have layers.
    pub fn junit(&self) -> String {
        let mut cases = String::new();
        let (mut tests, mut failures) = (0, 0);
        let mut add = |class: &str, name: &str, outcome: &Outcome, extra: &str| {
            case(&mut cases, class, name, outcome, extra);
            tests += 1;
            failures += usize::from(!outcome.passed());
        };
        for c in &self.contracts {
            add("pass", &c.pass, &c.outcome, &format!("declared {}", c.exactness.name()));
            for l in &c.layers {
                let extra = format!("bound {:.3e}, range {:.3e}, {}", l.bound, l.range, l.info);
                add(&c.pass, &format!("{} {}", l.info.matrix, l.info.name), &l.outcome, &extra);
            }
        }
        let name = xml(&format!("{} for {}", self.model, self.target));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"pfmc check\" tests=\"{tests}\" failures=\"{failures}\">\n  \
             <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\">\n{cases}  </testsuite>\n</testsuites>\n"
        )
    }

    /// As SARIF 2.1.0.
    pub fn sarif(&self) -> Value {
        sarif(&self.model, &self.problems(), Some(self))
    }
}

/// Diagnostics about a model as SARIF 2.1.0: rules are diagnostic codes, locations the file and, as logical ones, tensors and nodes.
pub fn sarif(model: &str, problems: &Diagnostics, report: Option<&Report>) -> Value {
    let mut codes: Vec<&Code> = problems.0.iter().map(|d| d.code).collect();
    codes.sort_by_key(|c| c.id);
    codes.dedup_by_key(|c| c.id);
    let rules: Vec<Value> = codes
        .iter()
        .map(|c| {
            json!({
                "id": c.id,
                "shortDescription": {"text": c.title},
                "fullDescription": {"text": c.explain},
                "help": {"text": format!("pfmc explain {}", c.id)},
            })
        })
        .collect();
    let result = |d: &Diagnostic| {
        let nodes = d.origin.nodes.iter().map(|n| json!({"name": n, "kind": "function"}));
        let tensor = d.origin.tensor.iter().map(|t| json!({"name": t, "kind": "variable"}));
        let mut text = d.message.clone();
        for more in d.notes.iter().chain(&d.help) {
            text.push('\n');
            text.push_str(more);
        }
        let mut place = json!({"physicalLocation": {"artifactLocation": {"uri": uri(model)}}});
        let logical: Vec<Value> = nodes.chain(tensor).collect();
        if !logical.is_empty() {
            place["logicalLocations"] = logical.into();
        }
        json!({
            "ruleId": d.code.id,
            "ruleIndex": codes.iter().position(|c| c.id == d.code.id),
            "level": if d.severity == Severity::Error { "error" } else { "warning" },
            "message": {"text": text},
            "locations": [place],
        })
    };
    let results: Vec<Value> = problems.0.iter().map(result).collect();
    let passes = |c: &Contract| json!({"pass": c.pass, "holds": c.passed(), "by": c.outcome.methods, "checked": c.outcome.checked});
    let properties: Vec<Value> = report.iter().flat_map(|r| &r.contracts).map(passes).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "pfmc",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "artifacts": [{"location": {"uri": uri(model)}}],
            "results": results,
            "properties": {"contracts": properties},
        }],
    })
}

/// A file name as a relative reference of RFC 3986.
fn uri(name: &str) -> String {
    let mut out = String::new();
    for b in name.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}
