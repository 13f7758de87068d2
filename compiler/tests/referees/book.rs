//! The book: its commands run, and its readers of our files read what was written.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use pfmc::contents::Reference;
use pfmc::export::glass::Glass;
use pfmc::verify::open;
use pfmc_ir::backend::NoProgress;
use pfmc_ir::tile::{TileContent, TileId, TileSource};

use crate::common::referee::{root, tool};
use crate::common::{build, options};

/// Blocks of commands of a page, in order.
fn commands(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(String::new()),
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
            }
            _ => {}
        }
    }
    blocks
}

/// Runs the blocks of a page in a folder of its own that has the repository's fixtures; what the first failing one said.
fn run(page: &str) -> Result<usize, String> {
    let dir = tempfile::tempdir().unwrap();
    symlink(root().join("fixtures").canonicalize().unwrap(), dir.path().join("fixtures")).unwrap();
    let own = Path::new(env!("CARGO_BIN_EXE_pfmc")).parent().unwrap().display().to_string();
    let path = format!("{own}:{}", std::env::var("PATH").unwrap());
    let blocks = commands(page);
    for block in &blocks {
        let done = Command::new("bash")
            .args(["-euo", "pipefail", "-c", block])
            .current_dir(dir.path())
            .env("PATH", &path)
            .output()
            .unwrap();
        if !done.status.success() {
            return Err(format!("{block}{}", String::from_utf8_lossy(&done.stderr)));
        }
    }
    Ok(blocks.len())
}

#[test]
fn commands_of_the_book_run() {
    let docs = root().join("docs");
    let mut pages: Vec<PathBuf> = ["", "howto"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(docs.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    pages.sort();
    let mut blocks = 0;
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        blocks += run(&text).unwrap_or_else(|said| panic!("{}: {said}", page.display()));
    }
    assert!(blocks >= 15, "{blocks} blocks in {} pages", pages.len());
    // A command that fails is found.
    assert!(run("```sh\npfmc inspect no-such.onnx\n```\n").unwrap_err().contains("no-such.onnx"));
}

/// What a reader of the book prints.
fn reader(python: &str, name: &str, args: &[&str]) -> Vec<u8> {
    let script = root().join("docs/readers").join(name);
    let done = Command::new(tool(python)).arg(script).args(args).output().unwrap();
    assert!(done.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// The data of a NumPy file of version 1.
fn npy(bytes: &[u8]) -> &[u8] {
    let head = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    &bytes[10 + head..]
}

#[test]
fn readers_of_the_book_read_what_was_written() {
    for target in ["asic", "glass"] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        build(&options("bert.onnx", target, &folder)).unwrap();
        let text = |name: &str| folder.join(name).display().to_string();
        let opened = open(&folder).unwrap();
        let reference = Reference::open(&opened.program, &folder).unwrap();
        let of_matrices: Vec<TileId> = (opened.program.tiles())
            .filter(|(id, _)| opened.program.matrix_tile(*id).is_some())
            .map(|(id, _)| id)
            .collect();
        for id in [of_matrices[0], of_matrices[of_matrices.len() - 1]] {
            let entry = &opened.manifest.tiles[id.index()];
            let number = id.0.to_string();
            // contents.pfmt
            let want: Vec<u8> = match reference.tile(id).unwrap() {
                TileContent::Codes(b) => b.dequantize(),
                TileContent::Real(b) => b.values,
                TileContent::Data(_) => unreachable!("a tile of a matrix"),
            }
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
            let got = reader("waves/bin/python", "contents.py", &[&text(""), &number]);
            let close = |a: &[u8], b: &[u8]| {
                let value = |v: &[u8]| f32::from_le_bytes(v.try_into().unwrap());
                (value(a) - value(b)).abs() <= 1e-6 * value(b).abs()
            };
            assert_eq!(npy(&got).len(), want.len());
            assert!(npy(&got).chunks(4).zip(want.chunks(4)).all(|(a, b)| close(a, b)), "{target} {number}");
            // manifest.json
            let [_, last, _, end] = entry.origin.range.unwrap();
            let at = [last - 1, end - 1].map(|v| v.to_string());
            let tensor = entry.origin.tensor.as_deref().unwrap();
            let found = reader("python/bin/python", "manifest.py", &[&text(""), tensor, &at[0], &at[1]]);
            let region = entry.region.as_ref().unwrap();
            let [x, y, z] = region.min_nm;
            assert_eq!(
                String::from_utf8(found).unwrap(),
                format!("{} {} {x} {y} {z}\n", entry.name, region.name)
            );
            if target == "glass" {
                let glass = Glass::open(&folder).unwrap();
                let levels = glass.schedule(&NoProgress).unwrap().levels(id).unwrap();
                let got = reader("waves/bin/python", "schedule.py", &[&text("schedule.pfmg"), &number]);
                assert_eq!(npy(&got), levels);
            } else {
                let cuts = |file: &str| {
                    let args = [&text(file), entry.name.as_str(), "67", "44"];
                    String::from_utf8(reader("python/bin/python", "layout.py", &args)).unwrap()
                };
                let gds = cuts("layout.gds");
                assert!(gds.starts_with(&format!("{} ", entry.measures["cuts"])), "{gds}");
                assert_eq!(gds, cuts("layout.oas"));
            }
        }
    }
}
