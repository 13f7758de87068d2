//! Every pass on the trained decoder, and reports of it in the eyes of published schemas.

use std::fs;

use pfmc::check::Method;
use pfmc::check::pipeline::check;
use pfmc::codes::E0310;
use pfmc::compile::Options;
use pfmc_ir::backend::NoProgress;
use pfmc_ir::diag::Diagnostic;
use pfmc_ir::origin::Origin;

use crate::common::referee::{script_of, tool};
use crate::common::{fixture, options, targets};

#[test]
fn contracts_of_the_trained_decoder_hold_and_reports_are_valid_by_published_schemas() {
    let dir = tempfile::tempdir().unwrap();
    let [junit, sarif] = ["report.xml", "report.sarif"].map(|name| dir.path().join(name));
    let validate = || {
        let schemas = tool("reports/junit-10.xsd").parent().unwrap().to_owned();
        script_of(&tool("reports/bin/python"), "check/validate.py", &[&schemas, &junit, &sarif])
    };
    for target in targets() {
        let mut options = options("kjv_lm.onnx", target, &dir.path().join(target));
        options.bind = vec![("batch".into(), 2)];
        let mut report = check(&options, None, &NoProgress).unwrap();
        assert!(report.passed(), "{report}\n{}", report.problems());
        println!("{report}");
        let by = |pass: &str| &report.contracts.iter().find(|c| c.pass == pass).unwrap().outcome;
        for pass in ["bind", "fold", "partition"] {
            assert!(by(pass).methods.contains(&Method::Proof), "{pass}: {report}");
        }
        // Four blocks of attention, whose masks reach back to the model's inputs, are regions like all others.
        assert!(!by("canonicalise").checked.contains_key("values in no region"), "{report}");
        for worst in [None, Some("a \"name\" <of> & \u{1f}")] {
            if let Some(text) = worst {
                let d = Diagnostic::error(&E0310, text).at(&Origin::node(text)).note(text).help(text);
                report.contracts[1].outcome.problems.push(d);
            }
            fs::write(&junit, report.junit()).unwrap();
            fs::write(&sarif, report.sarif().to_string()).unwrap();
            assert_eq!(validate(), "junit valid\nsarif valid\n");
        }
    }
    // Neither schema takes everything.
    let text = fs::read_to_string(&junit).unwrap().replacen("<testcase classname", "<testcase class", 1);
    fs::write(&junit, text).unwrap();
    let text = fs::read_to_string(&sarif).unwrap().replacen("\"level\":\"error\"", "\"level\":\"fatal\"", 1);
    fs::write(&sarif, text).unwrap();
    let said = validate();
    assert!(said.lines().count() == 2 && !said.contains("valid\n"), "{said}");
}

/// Models of many kinds: halves, branches and loops, decoders with a past, old operator sets, convolutions.
#[test]
fn contracts_of_models_of_many_kinds_hold() {
    let mut models: Vec<_> = [tool("kinds"), fixture("small")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()))
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        // A table of 2.4 GB, of which a check holds several copies.
        .filter(|p| !p.ends_with("large.onnx"))
        .collect();
    models.sort();
    let dir = tempfile::tempdir().unwrap();
    let (mut bad, mut seen) = (Vec::new(), 0);
    for model in models {
        let output = dir.path().join(model.file_stem().unwrap());
        let options = Options { model: model.clone(), ..options("", "asic", &output) };
        // Models that cannot be imported or have nothing to fix are for other tests.
        let Ok(report) = check(&options, None, &NoProgress) else { continue };
        seen += 1;
        if !report.passed() {
            bad.push(format!("{}: {report}\n{}", model.display(), report.problems()));
        }
        fs::remove_dir_all(output).unwrap();
    }
    assert!(seen > 40, "{seen} models");
    assert!(bad.is_empty(), "{} of {seen}: {}", bad.len(), bad.join("\n"));
}
