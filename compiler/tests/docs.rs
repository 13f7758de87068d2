//! Generated pages of docs/ agree with the code. `PFMC_BLESS=1` rewrites them.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

use std::path::PathBuf;

fn check(name: &str, want: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("PFMC_BLESS").is_some() {
        std::fs::write(&path, want).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == want, "docs/{name} is out of date: run the test with PFMC_BLESS=1");
}

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
    check("errors.md", &page);
}

#[test]
fn operators() {
    let page = format!(
        "# Supported ONNX operators\n\nGenerated from the importer's own table; `pfmc ops` prints the same.\n\n{}\n",
        pfmc::onnx::support_table()
    );
    check("operators.md", &page);
}
