//! Faults of the other files of a folder, of files whose digests were left as they were, and of files of two runs.

use pfmc::contents::Chunk;
use pfmc::manifest::Manifest;
use pfmc_ir::text::parse_program;
use prost::Message;

use crate::bench::{Bench, Section, other};

/// All sections.
pub fn sections() -> Vec<Section> {
    let benches =
        [("asic", "sky130", Bench::asic("sky130")), ("glass", "borosilicate-phase", Bench::glass())];
    let mut stale = Section::new(
        "Digests left as they were",
        "A file was changed and the manifest was not: E0701 says so, beside what read-back says of the change.",
    );
    let mut mixed = Section::new(
        "Files of two runs",
        "The same architecture with other weights, compiled with the same options. Verified with the model where it is said.",
    );
    let mut manifests = Section::new("manifest.json", "Its own digest is right, but where it is said.");
    let mut programs = Section::new(
        "program.pfir, contents.pfmt, plan.json and process.toml",
        "Verified with the model: what the host does is nowhere else.",
    );
    for (target, process, bench) in &benches {
        let runs = other(2, target, process);
        stale_files(&mut stale, target, bench);
        two_runs(&mut mixed, target, bench, &runs);
        manifest(&mut manifests, target, bench, &runs);
        program(&mut programs, target, bench);
        contents(&mut programs, target, bench);
    }
    process_files(&mut programs, &benches[0].2);
    vec![stale, mixed, manifests, programs]
}

fn stale_files(section: &mut Section, target: &str, bench: &Bench) {
    // Nothing reads the report.
    for name in bench.files.keys().filter(|n| !["manifest.json", "report.html"].contains(&n.as_str())) {
        let missing = bench.with(&[(name, None)], false, &|_| {}, false);
        section.judge(&format!("{target}: {name} missing"), "E0702", missing);
    }
    // Text that means the same.
    for name in ["program.pfir", "process.toml"] {
        let bytes = [&bench.files[name][..], b"# a remark\n"].concat();
        let result = bench.with(&[(name, Some(bytes))], false, &|_| {}, false);
        section.judge(&format!("{target}: a remark at the end of {name}"), "E0701", result);
    }
    let cut = |name: &str, parts: usize| {
        let bytes = &bench.files[name];
        bench.with(&[(name, Some(bytes[..bytes.len() / parts].to_vec()))], false, &|_| {}, false)
    };
    // Of the one the cut is between two statements, of the other within one.
    let code = if target == "asic" { "E0302 E0701" } else { "E0303 E0701" };
    section.judge(&format!("{target}: program.pfir truncated"), code, cut("program.pfir", 2));
    section.judge(&format!("{target}: contents.pfmt truncated"), "E0701 E0703", cut("contents.pfmt", 2));
    section.judge(&format!("{target}: plan.json truncated"), "E0404 E0701", cut("plan.json", 2));
    let code = if target == "asic" { "E0501 E0701" } else { "E0601 E0701" };
    // Before its half ends what an array needs, and a process of arrays alone is one.
    section.judge(&format!("{target}: process.toml truncated"), code, cut("process.toml", 3));
}

fn two_runs(section: &mut Section, target: &str, bench: &Bench, runs: &crate::bench::Files) {
    let theirs = |name: &'static str| (name, Some(runs[name].clone()));
    let mut judge =
        |fault: &str, expect: &str, files: &[(&'static str, Option<Vec<u8>>)], with_model: bool| {
            section.judge(&format!("{target}: {fault}"), expect, bench.sealed(files, with_model));
        };
    if target == "asic" {
        judge("layout.gds of the other", "E0520", &[theirs("layout.gds")], false);
        judge("layout.oas of the other", "E0531", &[theirs("layout.oas")], false);
        judge("both layouts of the other", "E0520", &[theirs("layout.gds"), theirs("layout.oas")], false);
        judge("contents.pfmt of the other", "E0520", &[theirs("contents.pfmt")], false);
        let all = [theirs("layout.gds"), theirs("layout.oas"), theirs("contents.pfmt")];
        judge("everything but the manifest of the other, with the model", "E0704", &all, true);
    } else {
        judge("schedule.pfmg of the other", "E0617 E0618", &[theirs("schedule.pfmg")], false);
        judge("contents.pfmt of the other", "E0617 E0618", &[theirs("contents.pfmt")], false);
        let all = [theirs("schedule.pfmg"), theirs("contents.pfmt")];
        judge("everything but the manifest of the other, with the model", "E0704", &all, true);
    }
    let all: Vec<(&str, Option<Vec<u8>>)> = runs.iter().map(|(n, b)| (n.as_str(), Some(b.clone()))).collect();
    let whole = bench.with(&all, false, &|_| {}, true);
    section.judge(&format!("{target}: the whole folder of the other, with the model"), "E0704", whole);
    let manifest = [("manifest.json", Some(runs["manifest.json"].clone()))];
    let alone = bench.with(&manifest, false, &|_| {}, false);
    section.judge(&format!("{target}: manifest.json of the other"), "E0701 E0702", alone);
}

type Edit = Box<dyn Fn(&mut Manifest)>;

fn manifest(section: &mut Section, target: &str, bench: &Bench, runs: &crate::bench::Files) {
    let other: Manifest = serde_json::from_slice(&runs["manifest.json"]).unwrap();
    let edits: Vec<(&str, &str, bool, Edit)> = vec![
        (
            "a tile's place moved",
            "E0702",
            false,
            Box::new(|m| m.tiles[0].region.as_mut().unwrap().min_nm[0] += 5),
        ),
        (
            "a tile in another cell or zone",
            "E0702",
            false,
            Box::new(|m| m.tiles[0].region.as_mut().unwrap().name.push('1')),
        ),
        (
            "a tile in another file",
            "E0702",
            false,
            Box::new(|m| m.tiles[0].region.as_mut().unwrap().file = "other".into()),
        ),
        ("a tile without its place", "E0702", false, Box::new(|m| m.tiles[0].region = None)),
        (
            "places of two tiles swapped",
            "E0702",
            false,
            Box::new(|m| {
                let first = m.tiles[0].region.take();
                m.tiles[0].region = m.tiles[1].region.take();
                m.tiles[1].region = first;
            }),
        ),
        (
            "a measure of a tile changed",
            "E0702",
            false,
            Box::new(|m| *m.tiles[0].measures.values_mut().next().unwrap() += 1.0),
        ),
        ("a measure of a tile missing", "E0702", false, Box::new(|m| drop(m.tiles[0].measures.pop_first()))),
        (
            "a measure of a tile more",
            "E0702",
            false,
            Box::new(|m| {
                m.tiles[0].measures.insert("yield".into(), 1.0);
            }),
        ),
        (
            "a tile's tensor changed",
            "E0702",
            false,
            Box::new(|m| m.tiles[0].origin.tensor = Some("another".into())),
        ),
        (
            "a tile's range off by one",
            "E0702",
            false,
            Box::new(|m| {
                let t = m.tiles.iter_mut().find(|t| t.origin.range.is_some()).unwrap();
                t.origin.range.as_mut().unwrap()[0] += 1;
            }),
        ),
        ("a tile's name changed", "E0702", false, Box::new(|m| m.tiles[0].name.push('x'))),
        ("a tile's number changed", "E0702", false, Box::new(|m| m.tiles[0].tile.0 += 1)),
        ("a tile missing", "E0702", false, Box::new(|m| drop(m.tiles.pop()))),
        ("a tile twice", "E0702", false, Box::new(|m| m.tiles.push(m.tiles[0].clone()))),
        ("two tiles in another order", "E0702", false, Box::new(|m| m.tiles.swap(0, 1))),
        ("no files", "E0702", false, Box::new(|m| m.files.clear())),
        ("a file in another folder", "E0702", false, Box::new(|m| m.files[0].name = "../elsewhere".into())),
        ("a file that is not there", "E0702", false, Box::new(|m| m.files[0].name = "other".into())),
        ("a file's length changed", "E0701", false, Box::new(|m| m.files[0].bytes += 1)),
        (
            "a file's digest changed",
            "E0701",
            false,
            Box::new(|m| m.files[1].sha256 = m.files[0].sha256.clone()),
        ),
        ("another format", "E0702", false, Box::new(|m| m.format += 1)),
        ("an unknown target", "E0003", false, Box::new(|m| m.target = "wood".into())),
        (
            "another model's digest, with the model",
            "E0704",
            true,
            Box::new(move |m| m.model.sha256 = other.model.sha256.clone()),
        ),
        (
            "another number of parameters, with the model",
            "E0704",
            true,
            Box::new(|m| m.model.parameters += 1),
        ),
        (
            "a binding that the model does not have, with the model",
            "E0201",
            true,
            Box::new(|m| {
                m.bindings.insert("depth".into(), 2);
            }),
        ),
        (
            "a binding that was not made, with the model",
            "E0702 E0704",
            true,
            Box::new(|m| {
                m.bindings.insert("n".into(), 2);
            }),
        ),
        (
            "a pass's exactness changed, with the model",
            "E0702",
            true,
            Box::new(|m| {
                let e = &mut m.passes[0].exactness;
                *e = match e {
                    pfmc::passes::Exactness::BitExact => pfmc::passes::Exactness::Rounding,
                    pfmc::passes::Exactness::Rounding => pfmc::passes::Exactness::BitExact,
                };
            }),
        ),
        ("a pass missing, with the model", "E0702", true, Box::new(|m| drop(m.passes.pop()))),
        (
            "a figure of the plan changed, with the model",
            "E0702",
            true,
            Box::new(|m| m.figures[0].value += 1.0),
        ),
        (
            "calibrated with a file, with the model",
            "E0704",
            true,
            Box::new(|m| m.quantisation.calibration = Some("0".repeat(64))),
        ),
        (
            "a tensor kept, with the model",
            "E0704",
            true,
            Box::new(|m| m.quantisation.keep = vec!["w2".into()]),
        ),
    ];
    for (fault, expect, with_model, edit) in edits {
        let result = bench.with(&[], true, &*edit, with_model);
        section.judge(&format!("{target}: {fault}"), expect, result);
    }
    let text = String::from_utf8(bench.files["manifest.json"].clone()).unwrap();
    for (fault, text) in [
        ("edited, its digest left as it was", text.replacen("\"parameters\": ", "\"parameters\": 1", 1)),
        ("truncated", text[..text.len() / 2].to_owned()),
        ("empty", String::new()),
        ("a key more", text.replacen('{', "{\"more\": 1,", 1)),
        ("other spaces", text.replacen("  ", " ", 1)),
    ] {
        let result = bench.with(&[("manifest.json", Some(text.into_bytes()))], false, &|_| {}, false);
        section.judge(&format!("{target}: {fault}"), "E0702", result);
    }
}

/// Edits of the program's text: the line that a word is in, and what becomes of it.
fn program(section: &mut Section, target: &str, bench: &Bench) {
    let text = String::from_utf8(bench.files["program.pfir"].clone()).unwrap();
    assert!(parse_program(&text).is_ok());
    let lines: Vec<&str> = text.lines().collect();
    let at =
        |word: &str| lines.iter().position(|l| l.contains(word)).unwrap_or_else(|| panic!("{word}: {text}"));
    let replaced = |word: &str, from: &str, to: &str| {
        let mut lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        let line = &mut lines[at(word)];
        assert!(line.contains(from), "{line}");
        *line = line.replacen(from, to, 1);
        lines.join("\n") + "\n"
    };
    // "%5 = add(%3, %4) : …" with its operands.
    let add = lines[at(" = add(")];
    let open = add.find("add(").unwrap() + 4;
    let (a, b) = add[open..add[open..].find(')').unwrap() + open].split_once(", ").unwrap();
    let relu = lines[at(" = relu(")];
    let (of, result) = (
        relu[relu.find("relu(").unwrap() + 5..relu.find(") :").unwrap_or(relu.rfind(')').unwrap())]
            .to_owned(),
        relu.split_whitespace().next().unwrap().to_owned(),
    );
    let second = lines.iter().rposition(|l| l.contains("fixed_linear(")).unwrap();
    let dropped = text.replace(&format!("fixed_linear({result})"), &format!("fixed_linear({of})"));
    assert_ne!(dropped, text);
    let mut judge = |fault: &str, expect: &str, text: String| {
        let result = bench.sealed(&[("program.pfir", Some(text.into_bytes()))], true);
        section.judge(&format!("{target}: {fault}"), expect, result);
    };
    judge("an activation left out", "E0704", dropped);
    judge("another activation", "E0704", replaced(" = relu(", "relu(", "sigmoid("));
    judge("a bias subtracted", "E0704", replaced(" = add(", "add(", "sub("));
    judge(
        "a bias left out: added to itself",
        "E0704",
        replaced(" = add(", &format!("add({a}, {b})"), &format!("add({a}, {a})")),
    );
    judge(
        "operands swapped",
        "E0704",
        replaced(" = add(", &format!("add({a}, {b})"), &format!("add({b}, {a})")),
    );
    judge("an output of another value", "E0704", {
        let line = at("output ");
        let mut all: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        let value = lines[second].split_whitespace().next().unwrap();
        let keep = all[line].split('=').next().unwrap().to_owned();
        all[line] = format!("{keep}= {value}");
        all.join("\n") + "\n"
    });
    judge(
        "inputs of a matrix rounded another way",
        "E0404 E0704",
        replaced("matrix 0 k=", "int8/row", "int8/0.5"),
    );
    judge("a matrix a row longer", "E0302", replaced("matrix 0 k=", "k=24", "k=25"));
    judge("a tile a row shorter", "E0302", replaced("tile 0 ", "k 0..12", "k 0..11"));
    judge("a tile over another", "E0302", replaced("tile 1 ", "k 12..24", "k 0..12"));
    judge("a tile of another matrix", "E0302", replaced("tile 2 ", "matrix 1", "matrix 0"));
    judge("two statements in another order", "E0303", {
        let mut all = lines.clone();
        all.swap(second, second - 1);
        all.swap(second - 1, second - 2);
        all.join("\n") + "\n"
    });
    judge("a statement missing", "E0303", {
        let mut all = lines.clone();
        all.remove(second);
        all.join("\n") + "\n"
    });
    judge("a product with the other matrix", "E0302", {
        let mut all: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        all[second] = all[second].replace("matrix=1", "matrix=0");
        all.join("\n") + "\n"
    });
}

/// The payload of a tile, unpacked.
fn raw(chunk: &Chunk) -> Vec<u8> {
    zstd::bulk::decompress(&chunk.payload, chunk.raw_len as usize).unwrap()
}

/// Gives a tile another payload, with its checksum.
fn set(chunk: &mut Chunk, raw: &[u8]) {
    *chunk = Chunk::new(chunk.tile, chunk.kind, chunk.unit, raw).unwrap();
}

fn contents(section: &mut Section, target: &str, bench: &Bench) {
    let bytes = &bench.files["contents.pfmt"];
    let mut rest = &bytes[8..];
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        chunks.push(Chunk::decode_length_delimited(&mut rest).unwrap());
    }
    let mut judge = |fault: &str, expect: &str, change: &dyn Fn(&mut Vec<Chunk>)| {
        let mut changed = chunks.clone();
        change(&mut changed);
        let chunks = changed.iter().flat_map(Message::encode_length_delimited_to_vec);
        let file: Vec<u8> = bytes[..8].iter().copied().chain(chunks).collect();
        section.judge(
            &format!("{target}: {fault}"),
            expect,
            bench.sealed(&[("contents.pfmt", Some(file))], true),
        );
    };
    // Told from the artefact and from the model.
    judge("an element changed in contents.pfmt", "E0704", &|c| {
        let mut payload = raw(&c[0]);
        let last = payload.len() - 1;
        payload[last] ^= 1;
        set(&mut c[0], &payload);
    });
    judge("two tiles of contents.pfmt swapped", "E0703", &|c| c.swap(0, 1));
    judge("two tiles of contents.pfmt swapped, numbers set right", "E0704", &|c| {
        c.swap(0, 1);
        for i in [0, 1] {
            c[i].tile = i as u32;
            let payload = raw(&c[i]);
            set(&mut c[i], &payload);
        }
    });
    judge("a tile of contents.pfmt missing", "E0703", &|c| drop(c.pop()));
    judge("a tile of contents.pfmt twice", "E0703", &|c| c.push(c[0].clone()));
    judge("a tile of contents.pfmt a byte shorter", "E0703", &|c| {
        let mut payload = raw(&c[0]);
        payload.pop();
        set(&mut c[0], &payload);
    });
    judge("a tile of another kind", "E0703", &|c| {
        c[0].kind = (c[0].kind + 1) % 3;
        let payload = raw(&c[0]);
        set(&mut c[0], &payload);
    });
    if target == "asic" {
        judge("a tile's unit doubled", "E0704", &|c| {
            c[0].unit = (f32::from_bits(c[0].unit) * 2.0).to_bits();
            let payload = raw(&c[0]);
            set(&mut c[0], &payload);
        });
    }
    let plan = String::from_utf8(bench.files["plan.json"].clone()).unwrap();
    let mut plan_of = |fault: &str, expect: &str, text: String| {
        assert_ne!(text, plan, "{fault}");
        let result = bench.sealed(&[("plan.json", Some(text.into_bytes()))], false);
        section.judge(&format!("{target}: {fault}"), expect, result);
    };
    plan_of("rounding of inputs changed in plan.json", "E0404", plan.replacen("int8/row", "int8/0.5", 1));
    plan_of("a tensor renamed in plan.json", "E0404", plan.replacen("\"w1\"", "\"w3\"", 1));
    if target == "asic" {
        plan_of("other bits in plan.json", "E0404", plan.replacen("codes4/16", "codes5/16", 1));
    }
}

fn process_files(section: &mut Section, bench: &Bench) {
    let mut judge = |fault: &str, expect: &str, text: String| {
        assert_ne!(text.as_bytes(), bench.files["process.toml"], "{fault}");
        let result = bench.sealed(&[("process.toml", Some(text.into_bytes()))], false);
        section.judge(fault, expect, result);
    };
    let text = String::from_utf8(bench.files["process.toml"].clone()).unwrap();
    judge("asic: process.toml of the variant programmed on via", "E0515", pfmc_asic::SKY130_VIA1.to_owned());
    judge("asic: process.toml of SG13G2", "E0515", pfmc_asic::SG13G2.to_owned());
    judge(
        "asic: process.toml with another layer of cuts",
        "E0515",
        text.replacen("mcon = [67, 44]", "mcon = [67, 45]", 1),
    );
    judge("asic: process.toml without a key", "E0501", text.replacen("pitch_x_nm = 770\n", "", 1));
    judge(
        "asic: process.toml of glass",
        "E0501 E0502",
        String::from_utf8(crate::bench::Bench::glass().files["process.toml"].clone()).unwrap(),
    );
}
