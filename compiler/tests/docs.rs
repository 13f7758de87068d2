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

#[test]
fn passes() {
    let mut page = String::from(
        "# Passes\n\nGenerated from the code; `pfmc passes` prints the same, in the order in which they run. How each is checked:\n\
         [verification](verification.md).\n\n| pass | may do to results | what it does |\n|---|---|---|\n",
    );
    for p in pfmc::passes::ALL {
        page.push_str(&format!("| `{}` | {} | {} |\n", p.name, p.exactness.name(), p.doc));
    }
    check("passes.md", &page);
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
    check("commands.md", &page);
}

/// Pages of docs/ by path from there.
fn pages() -> Vec<PathBuf> {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let of = |folder: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(docs.join(folder)).unwrap();
        let names = entries.map(|e| PathBuf::from(folder).join(e.unwrap().file_name()));
        names.filter(|p| p.extension().is_some_and(|e| e == "md")).collect()
    };
    ["", "howto"].into_iter().flat_map(of).collect()
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
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed = links(&summary);
    let mut seen = 0;
    for page in pages() {
        let text = std::fs::read_to_string(docs.join(&page)).unwrap();
        for link in links(&text) {
            let target = docs.join(&page).parent().unwrap().join(link);
            assert!(target.exists(), "{}: {link}", page.display());
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
