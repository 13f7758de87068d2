//! `report.html` in headless Chromium.

use std::path::Path;

use pfmc::manifest::Manifest;
use pfmc::report;

use crate::common::referee::{script_of, tool};
use crate::common::{build, options};

/// What a reader in Chromium finds in a report, a line each.
fn read(page: &Path) -> Vec<String> {
    let page = page.display().to_string();
    script_of(&tool("page/bin/python"), "report/page.py", &[page]).lines().map(str::to_owned).collect()
}

#[test]
fn reports_of_both_targets_are_searched_and_tiles_show_their_origin() {
    for target in ["asic", "glass"] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        build(&options("bert.onnx", target, &folder)).unwrap();
        let found = read(&folder.join(report::FILE));
        let manifest = Manifest::read(&folder).unwrap();
        let of = |start: &str| -> &str {
            found.iter().find_map(|l| l.strip_prefix(start)).unwrap_or_else(|| panic!("{start}: {found:#?}"))
        };
        assert!(!found.iter().any(|l| l.starts_with("error") || l.starts_with("request")), "{found:#?}");
        assert_ne!(of("light background"), of("dark background"));
        for scheme in ["light", "dark"] {
            assert!(of(&format!("{scheme} found ")).ends_with("layers | True"), "{found:#?}");
            assert_eq!(of(&format!("{scheme} nothing ")), "0 tiles of 0 layers");
            assert_eq!(of(&format!("{scheme} keyboard ")), "True");
            // The tile that was clicked, by the manifest: its name, tensor and range.
            let (index, details) = of(&format!("{scheme} clicked ")).split_once(" | ").unwrap();
            let tile = &manifest.tiles[index.parse::<usize>().unwrap()];
            assert!(details.starts_with(&tile.name), "{details}");
            assert!(details.contains(tile.origin.tensor.as_deref().unwrap()), "{details}");
            let [k0, k1, n0, n1] = tile.origin.range.unwrap();
            for range in [format!("{k0} to {k1} of"), format!("{n0} to {n1} of")] {
                assert!(details.contains(&range), "{details}");
            }
            assert!(of(&format!("{scheme} tip ")).starts_with(&tile.name));
        }
    }
}

#[test]
fn a_damaged_report_is_an_error_on_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    build(&options("bert.onnx", "asic", &folder)).unwrap();
    let page = folder.join(report::FILE);
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&page, text.replace("\"tiles\":[{", "\"tilse\":[{")).unwrap();
    assert!(read(&page).iter().any(|l| l.starts_with("error")));
}
