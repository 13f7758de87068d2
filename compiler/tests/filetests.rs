//! Files of fixtures/ir: program text with what `pfmc opt` makes of it. `PFMC_BLESS=1` writes the expectations anew.
//!
//! ```text
//! # run: fold,canonicalise --bind n=3     passes and options of `pfmc opt`
//! # error: E0301 words                    one for each diagnostic; at the end of a line, it names that line
//! pfir 1
//! …
//! # expect:
//! # pfir 1                                the text that comes out
//! ```
//!
//! A folder is a pass; in a file whose name begins with `not_` the pass is refused or changes nothing, in others it makes
//! a difference. `verifier/NAME.pfir` keeps a rule of the verifier, `verifier/not_NAME.pfir` breaks it.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{fixture, pfmc};
use pfmc::{onnx, pfir};
use pfmc_ir::graph::Graph;
use pfmc_ir::program::TileProgram;
use pfmc_ir::text::{parse_program, print_graph, print_program};
use pfmc_ir::{graph, program};

fn root() -> PathBuf {
    fixture("../ir")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

struct Test {
    run: Vec<String>,
    /// Code, words, and the line it must name.
    errors: Vec<(String, String, Option<usize>)>,
    /// What comes before the expectation.
    given: String,
    expected: Option<String>,
}

impl Test {
    fn read(path: &Path) -> Test {
        let text = std::fs::read_to_string(path).unwrap();
        let (given, expected) = match text.split_once("# expect:\n") {
            Some((given, expected)) => (given.to_owned(), Some(expected.to_owned())),
            None => (text, None),
        };
        let run = given
            .lines()
            .find_map(|l| l.strip_prefix("# run:"))
            .unwrap_or_else(|| panic!("{path:?}: no run"));
        let mut errors = Vec::new();
        for (i, line) in given.lines().enumerate() {
            if let Some((before, error)) = line.split_once("# error: ") {
                let (code, words) = error.split_once(' ').unwrap();
                errors.push((code.to_owned(), words.to_owned(), (!before.is_empty()).then_some(i + 1)));
            }
        }
        let run = run.split_whitespace().map(str::to_owned).collect();
        Test { run, errors, given, expected }
    }

    /// Arguments of `opt`, without one of the passes.
    fn arguments(&self, path: &Path, without: Option<&str>) -> Vec<String> {
        let mut out =
            vec!["opt".to_owned(), "--message-format".into(), "json".into(), path.display().to_string()];
        let mut rest = &self.run[..];
        if let [passes, options @ ..] = rest
            && !passes.starts_with("--")
        {
            let mut passes: Vec<&str> = passes.split(',').collect();
            if let Some(at) = without.and_then(|w| passes.iter().rposition(|p| *p == w)) {
                passes.remove(at);
            }
            if !passes.is_empty() {
                out.extend(["--passes".into(), passes.join(",")]);
            }
            rest = options;
        }
        out.extend(rest.iter().cloned());
        out
    }
}

/// What `opt` printed, or its diagnostics.
fn run(arguments: &[String]) -> Result<String, Vec<(String, String)>> {
    let o = pfmc(&root(), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8(o.stderr).unwrap();
    assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    if o.status.success() {
        return Ok(String::from_utf8(o.stdout).unwrap());
    }
    let diagnostic = |l: &str| {
        let json: serde_json::Value =
            serde_json::from_str(l).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {l}"));
        (json["code"].as_str().unwrap().to_owned(), json["message"].as_str().unwrap().to_owned())
    };
    Err(said.lines().map(diagnostic).collect())
}

fn commented(text: &str) -> String {
    text.lines().map(|l| format!("# {l}").trim_end().to_owned() + "\n").collect()
}

/// What is wrong with one file.
fn fault(path: &Path) -> Option<String> {
    let test = Test::read(path);
    match (run(&test.arguments(path, None)), test.errors.is_empty()) {
        (Ok(text), true) => {
            let want = commented(&text);
            if std::env::var_os("PFMC_BLESS").is_some() {
                std::fs::write(path, format!("{}# expect:\n{want}", test.given)).unwrap();
                return None;
            }
            // What is printed reads back.
            let again = parse_program(&text).map(|p| print_program(&p));
            if again.as_ref().ok() != Some(&text) {
                return Some(format!("does not read back: {again:?}"));
            }
            (test.expected.as_ref() != Some(&want)).then(|| format!("gives\n{text}"))
        }
        (Ok(text), false) => Some(format!("is taken, and gives\n{text}")),
        (Err(said), true) => Some(format!("is refused: {said:?}")),
        (Err(said), false) => {
            let matches = |(code, words, line): &(String, String, Option<usize>)| {
                said.iter().any(|(c, m)| {
                    let named = line.is_none_or(|l| m.starts_with(&format!("line {l},")));
                    c == code && m.contains(words.as_str()) && named
                })
            };
            let missing: Vec<_> = test.errors.iter().filter(|e| !matches(e)).collect();
            (!missing.is_empty() || said.len() != test.errors.len())
                .then(|| format!("says {said:?}, lacks {missing:?}"))
        }
    }
}

#[test]
fn files_give_what_they_expect() {
    let mut bad = Vec::new();
    let mut count = 0;
    for folder in entries(&root()) {
        for path in entries(&folder).into_iter().filter(|p| p.extension().is_some_and(|e| e == "pfir")) {
            count += 1;
            bad.extend(fault(&path).map(|e| format!("{}: {e}", path.display())));
        }
    }
    assert!(count > 50, "{count} files");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn a_wrong_expectation_and_a_missing_error_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.pfir");
    let good = std::fs::read_to_string(root().join("fold/constants.pfir")).unwrap();
    if std::env::var_os("PFMC_BLESS").is_some() {
        return;
    }
    for (from, to, what) in [
        ("[0.5, 8.0]", "[0.5, 9.0]", "gives"),
        ("# run: fold", "# run:", "gives"),
        ("pfir 1", "# error: E0301 anything\npfir 1", "is taken"),
        ("exp(%0)", "exp(%7)", "is refused"),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let fault = fault(&path).unwrap_or_else(|| panic!("{to} passes"));
        assert!(fault.contains(what), "{to}: {fault}");
    }
    let bad = std::fs::read_to_string(root().join("verifier/not_arity.pfir")).unwrap();
    std::fs::write(&path, bad.replacen("# error: E0301 add has 1 inputs\n", "", 1)).unwrap();
    assert!(fault(&path).unwrap().contains("says"));
}

#[test]
fn every_pass_has_a_file_where_it_acts_and_one_where_it_does_not() {
    for pass in pfmc::passes::ALL {
        let (mut acts, mut rests) = (0, 0);
        for path in entries(&root().join(pass.name)) {
            let test = Test::read(&path);
            let [with, without] = [None, Some(pass.name)].map(|w| run(&test.arguments(&path, w)));
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("not_") {
                assert!(with.is_err() || with == without, "{path:?}: the pass acts");
                rests += 1;
            } else {
                assert!(with.is_ok() && with != without, "{path:?}: the pass makes no difference");
                acts += 1;
            }
        }
        assert!(acts > 0 && rests > 0, "{}: {acts} and {rests}", pass.name);
    }
}

#[test]
fn every_rule_of_the_verifier_has_a_file_that_keeps_it_and_one_that_breaks_it() {
    // Text cannot break these: a unit test of the graph does.
    let not_in_text = ["producer", "acyclic", "constant", "inputs"];
    let mut files: Vec<String> = entries(&root().join("verifier"))
        .iter()
        .map(|p| p.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    for rule in graph::RULES.iter().chain(program::RULES).filter(|r| !not_in_text.contains(&r.name)) {
        let [keeps, breaks] = [rule.name.to_owned(), format!("not_{}", rule.name)];
        let test = |name: &str| Test::read(&root().join("verifier").join(name).with_extension("pfir"));
        assert!(test(&keeps).errors.is_empty(), "{keeps}");
        let said = test(&breaks).errors;
        assert!(
            rule.says.iter().any(|s| said.iter().any(|(_, words, _)| words.contains(s))),
            "{breaks}: {said:?}"
        );
        files.retain(|f| *f != keeps && *f != breaks);
    }
    assert!(files.is_empty(), "of no rule: {files:?}");
}

/// Whether two graphs are the same but for the numbers of values: text and bytes of constants.
fn same(a: &Graph, b: &Graph) -> bool {
    let bytes = |g: &Graph| {
        let order = g.order().unwrap();
        let ids = order.iter().filter_map(|id| match g.node(*id).unwrap().op {
            pfmc_ir::op::Op::Constant { id } => Some(id),
            _ => None,
        });
        ids.map(|id| g.consts.get(id).unwrap().digest().copied()).collect::<Vec<_>>()
    };
    print_graph(a) == print_graph(b)
        && bytes(a) == bytes(b)
        && a.regions().iter().zip(b.regions()).all(|(a, b)| bytes(a) == bytes(b))
}

#[test]
fn every_model_is_the_same_graph_after_printing_and_parsing() {
    let dir = tempfile::tempdir().unwrap();
    let mut sizes = BTreeMap::new();
    for path in entries(&fixture("")).into_iter().chain(entries(&fixture("small"))) {
        let Ok(model) = onnx::import(&path) else { continue };
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let program = TileProgram { graph: model.graph, ..TileProgram::default() };
        let file = dir.path().join(&name).with_extension("pfir");
        pfir::write(&file, &program).unwrap();
        let back = pfir::read(&file).unwrap();
        assert!(same(&program.graph, &back.graph), "{name}, with data beside it");
        let elements: usize = program.graph.consts.iter().map(|(_, c)| c.len()).sum();
        sizes.insert(name.clone(), elements);
        if elements < 200_000 {
            let text = print_program(&program);
            assert!(same(&program.graph, &parse_program(&text).unwrap().graph), "{name}, written out");
        }
    }
    assert!(sizes.len() > 15 && sizes["kjv_lm"] > 1_000_000, "{sizes:?}");
    // A text whose data are missing or too short is refused.
    let file = dir.path().join("kjv_lm.pfir");
    let bytes = std::fs::read(pfir::data_path(&file)).unwrap();
    std::fs::write(pfir::data_path(&file), &bytes[1..]).unwrap();
    let e = pfir::read(&file).unwrap_err().to_string();
    assert!(e.contains("E0304") && e.contains("kjv_lm.data"), "{e}");
    std::fs::remove_file(pfir::data_path(&file)).unwrap();
    assert!(pfir::read(&file).unwrap_err().to_string().contains("E0304"));
}
