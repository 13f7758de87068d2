//! Generated pages of docs/ agree with the code. `PFMC_BLESS=1` rewrites them.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use common::estimates::{made, request};
use common::{docs, documented};
use pfmc::estimate::arch::Arch;
use pfmc::estimate::{Estimate, Request, Subject, plot};
use pfmc_ir::backend::NoProgress;

#[test]
fn errors() {
    let mut page = String::from(
        "# Diagnostic codes\n\nGenerated from the code; `pfmc explain CODE` prints the same. Exit status 1 means that the\n\
         model or artefact is rejected, 2 (codes E00..) wrong usage or input/output.\n",
    );
    let codes = pfmc::codes::all();
    for pair in codes.windows(2) {
        assert!(pair[0].id < pair[1].id, "{} is used twice", pair[1].id);
    }
    for c in codes {
        assert!(c.explain.len() > 60, "{} needs a real explanation", c.id);
        page.push_str(&format!("\n## {}: {}\n\n{}\n", c.id, c.title, c.explain));
    }
    documented("errors.md", &page);
}

#[test]
fn operators() {
    let page = format!(
        "# Supported ONNX operators\n\nGenerated from the importer's own table; `pfmc ops` prints the same.\n\n{}\n",
        pfmc::onnx::support_table()
    );
    documented("operators.md", &page);
}

#[test]
fn passes() {
    let mut page = String::from(
        "# Passes\n\nGenerated from the code; `pfmc passes` prints the same, in the order in which they run. How each is checked:\n\
         [verification](verification.md).\n\n| pass | may do to results | what it does |\n|---|---|---|\n",
    );
    for p in pfmc::passes::ALL {
        page.push_str(&format!("| `{}` | {} | {} |\n", p.name, p.exactness.name(), p.doc));
    }
    documented("passes.md", &page);
}

/// What `pfmc help COMMAND` prints; of all of it without a command.
fn help(command: &str) -> String {
    let mut pfmc = std::process::Command::new(env!("CARGO_BIN_EXE_pfmc"));
    let done = pfmc.arg("help").args(Some(command).filter(|c| !c.is_empty())).output().unwrap();
    assert!(done.status.success());
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn commands() {
    let all = help("");
    let names = all.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let names: Vec<&str> =
        names.filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "help").collect();
    assert!(names.len() > 10, "{all}");
    let mut page = format!(
        "# Command line\n\nGenerated: what `pfmc help` and `pfmc help COMMAND` print.\n\n```text\n{all}```\n"
    );
    for name in names {
        page.push_str(&format!("\n## pfmc {name}\n\n```text\n{}```\n", help(name)));
    }
    documented("commands.md", &page);
}

/// Pages of docs/ by path from there.
fn pages() -> Vec<PathBuf> {
    let docs = docs("");
    let of = |folder: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(docs.join(folder)).unwrap();
        let names = entries.map(|e| PathBuf::from(folder).join(e.unwrap().file_name()));
        names.filter(|p| p.extension().is_some_and(|e| e == "md")).collect()
    };
    ["", "howto", "ci"].into_iter().flat_map(of).collect()
}

/// Targets of links in a page that are files.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|l| !l.is_empty() && !l.contains("://"))
        .collect()
}

#[test]
fn links_lead_somewhere_and_the_book_lists_every_page() {
    let docs = docs("");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed = links(&summary);
    let mut seen = 0;
    for page in pages() {
        let text = std::fs::read_to_string(docs.join(&page)).unwrap();
        for link in links(&text) {
            let target = docs.join(&page).parent().unwrap().join(link);
            assert!(target.exists(), "{}: {link}", page.display());
            let inside = target.canonicalize().unwrap().starts_with(docs.canonicalize().unwrap());
            assert!(inside, "{}: {link} is outside of the book", page.display());
            seen += 1;
        }
        assert!(
            page.ends_with("SUMMARY.md") || listed.iter().any(|l| docs.join(l) == docs.join(&page)),
            "docs/SUMMARY.md does not list {}",
            page.display()
        );
    }
    assert!(seen > 40, "{seen}");
    assert_eq!(links("see [a](b.md#c), [d](http://e) and [f](#g)"), ["b.md"]);
}

/// Sizes of the models of the tables.
const SIZES: [f64; 4] = [1e9, 1e12, 1e15, 1e18];

fn imagined(target: &str, parameters: f64) -> Request {
    let o = common::options("", target, std::path::Path::new(""));
    Request { subject: Subject::Parameters(parameters, Arch::Llama), ..request(&o) }
}

/// A number with three significant digits: the fourth may depend on the processor that designs glass's sample tile.
fn number(v: f64) -> String {
    if v == 0.0 || !v.is_normal() {
        return "0".into();
    }
    let step = 10f64.powi(v.abs().log10().floor() as i32 - 2);
    let v = (v / step).round() * step;
    if (1e-3..1e5).contains(&v.abs()) { pfmc_ir::estimate::number(v) } else { format!("{v:.2e}") }
}

/// A figure as nominal with its ends.
fn cell(e: &Estimate, name: &str) -> String {
    let Some(q) = e.sheet.get(name) else { return String::new() };
    let r = q.range;
    if r.is_exact() {
        number(r.nominal)
    } else {
        format!("{} [{}, {}]", number(r.nominal), number(r.low), number(r.high))
    }
}

/// What a model would have to be for a claim to hold: target, figure, factor on it, most, what is claimed. Where the figure is a rate, the least.
const CLAIMS: [(&str, &str, f64, f64, &str); 9] = [
    ("asic", "die_mm2", 1.0, 70_686.0, "all of it on one wafer of 300 mm"),
    ("asic", "weight_masks", 1.0, 100.0, "100 masks that depend on weights"),
    ("asic", "token_uj", 1e-6 * 100.0, 1000.0, "100 tokens a second with 1 kW"),
    ("asic", "latency_us", 1e-6, 0.1, "a token in 0.1 s"),
    ("glass", "plate_litres", 1.0, 1.0, "all plates in a litre"),
    ("glass", "write_days", 1.0, 30.0, "written by one beam in 30 days"),
    ("glass", "outputs", 1.0, 1e6, "a million receivers"),
    ("glass", "token_uj", 1e-6 * 100.0, 1000.0, "100 tokens a second with 1 kW"),
    ("glass", "latency_us", 1e-6, 0.1, "a token in 0.1 s"),
];

fn tables() -> String {
    let mut out = String::new();
    let all: BTreeMap<&str, Vec<Estimate>> = ["asic", "glass"]
        .map(|t| (t, SIZES.iter().map(|&n| made(&imagined(t, n)).unwrap()).collect()))
        .into();
    for (target, estimates) in &all {
        let first = &estimates[0];
        let _ = writeln!(out, "\n### {target}, process `{}`\n", first.process);
        let _ = writeln!(out, "`pfmc estimate --params N --target {target}`; nominal [low, high].\n");
        let heads: Vec<String> =
            estimates.iter().map(|e| format!("{} ({})", number(e.parameters), e.about)).collect();
        let _ = writeln!(out, "| | {} |", heads.join(" | "));
        let _ = writeln!(out, "|---|{}", "---|".repeat(estimates.len()));
        for q in first.sheet.figures() {
            let cells: Vec<String> = estimates.iter().map(|e| cell(e, &q.name)).collect();
            let unit = if q.unit.is_empty() { String::new() } else { format!(", {}", q.unit) };
            let _ = writeln!(out, "| `{}`: {}{unit} | {} |", q.name, q.about, cells.join(" | "));
        }
        let _ = writeln!(out, "\nWhat limits 10^12 parameters: {}.", estimates[1].limits.join("; "));
    }
    let _ = writeln!(out, "\n### What would have to improve, and by what factor\n");
    let _ = writeln!(out, "A factor below 1 means that there is room. Nominal [low, high].\n");
    let _ = writeln!(out, "| target | claim | {} |", SIZES.map(|n| format!("{n:e}")).join(" | "));
    let _ = writeln!(out, "|---|---|{}", "---|".repeat(SIZES.len()));
    for (target, name, factor, most, claim) in CLAIMS {
        let cells = all[target].iter().map(|e| {
            let r = e.sheet.get(name).unwrap().range;
            let of = |v: f64| number(v * factor / most);
            if r.is_exact() {
                of(r.nominal)
            } else {
                format!("{} [{}, {}]", of(r.nominal), of(r.low), of(r.high))
            }
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(out, "| {target} | {claim} | {} |", cells.join(" | "));
    }
    let asic = &all["asic"][0];
    let density = asic.weights * 1e-6 / asic.sheet.nominal("die_mm2");
    let _ = writeln!(out, "\n### Beside published figures\n");
    let _ = writeln!(out, "| system | its figure | here, 10^9 parameters | factor |\n|---|---|---|---|");
    for (system, what, theirs) in [
        ("Taalas HC1, N6", "parameters a mm2, millions", 9.8),
        ("HNLPU, 5 nm, arXiv 2508.16151", "parameters a mm2, millions", 9.0),
        ("ITA, 28 nm, arXiv 2511.22889", "parameters a mm2, millions", 2.1),
        ("BitROM, 65 nm, arXiv 2509.08542 (4967 kB a mm2)", "Mbit a mm2", 39.7),
    ] {
        let ours = if what.starts_with("Mbit") {
            asic.sheet.nominal("array_bits") * 1e-6 / asic.sheet.nominal("array_mm2")
        } else {
            density
        };
        let _ =
            writeln!(out, "| {system} | {theirs} {what} | {} | {} |", number(ours), number(theirs / ours));
    }
    let pj = asic.sheet.nominal("mac_pj");
    for (system, theirs) in [
        ("ITA, 28 nm, arXiv 2511.22889", 4.05),
        ("BitROM, 65 nm, arXiv 2509.08542 (20.8 TOPS/W)", 0.048 * 2.0),
    ] {
        let _ = writeln!(
            out,
            "| {system} | {theirs} pJ a multiply-add | {} | {} |",
            number(pj),
            number(pj / theirs)
        );
    }
    let rate = asic.sheet.nominal("stream_tokens_s");
    for (system, theirs) in
        [("Taalas HC1, 8e9 parameters", 17_000.0), ("ROMA, 7 nm, arXiv 2503.12988", 20_000.0)]
    {
        let _ = writeln!(
            out,
            "| {system} | {theirs} tokens a second, one user | {} | {} |",
            number(rate),
            number(theirs / rate)
        );
    }
    let glass = &all["glass"][0].sheet;
    let ours = all["glass"][0].weights / glass.nominal("tile_mm3");
    let gaps = all["glass"][0].weights / glass.nominal("written_mm3");
    let _ = writeln!(
        out,
        "| multi-plane light conversion, about 125 weights a mm3 shown | 125 | {} in tiles, {} written | {} |",
        number(ours),
        number(gaps),
        number(125.0 / gaps)
    );
    out
}

#[test]
fn estimates() {
    const MARKS: [&str; 2] = ["<!-- generated -->\n", "<!-- end -->\n"];
    let path = docs("estimates.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (head, rest) = page.split_once(MARKS[0]).unwrap();
    let (_, tail) = rest.split_once(MARKS[1]).unwrap();
    documented("estimates.md", &format!("{head}{}{}{}{tail}", MARKS[0], tables(), MARKS[1]));
    let requests = ["asic", "glass"].map(|t| imagined(t, 1e9));
    documented("pictures/scaling.svg", &plot::scaling(&requests, &NoProgress).unwrap());
}
