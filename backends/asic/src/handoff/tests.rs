//! What a hand-off folder holds.

use super::*;
use crate::tests::variants;

fn folder(process: &Process) -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let shape = MacroShape { word_lines: 16, bit_lines: 32, mux: 16 };
    let mut bits = BitMatrix::new(16, 32);
    bits.set(3, 17);
    let piece = Piece { name: "rom_a".into(), shape, bits, about: "one bit".into() };
    let timing = Timing::parse(crate::timing(&process.name).unwrap()).unwrap();
    assert_eq!(timing.process, process.name);
    let names = write(dir.path(), process, &timing, &[piece]).unwrap();
    (dir, names)
}

#[test]
fn every_file_is_written_and_bytes_are_the_same_twice() {
    for (rom, layer) in variants().iter().zip(["mcon 67 44\n", "via 68 44\n"]) {
        let ((a, names), (b, _)) = (folder(rom.process()), folder(rom.process()));
        for name in &names {
            let [a, b] = [&a, &b].map(|d| std::fs::read(d.path().join(name)).unwrap());
            assert!(!a.is_empty() && a == b, "{name}");
        }
        let text = |name: &str| std::fs::read_to_string(a.path().join(name)).unwrap();
        let readme = text("README.md");
        assert!(readme.contains("| rom_a | 16 x 32 / 16 |") && !readme.contains('@'));
        assert_eq!(text("weight-layers.txt"), layer);
        // Word line 3 is the fourth line; bit line 17 is bit 17 of 32.
        assert_eq!(text("rom_a.hex").lines().nth(3), Some("00020000"));
    }
}

#[test]
fn pins_of_the_abstract_lie_inside_and_on_no_obstruction() {
    let of = |rom: &crate::Rom| [(16, 32, 16), (72, 128, 8)].map(|size| (rom.process().clone(), size));
    for (process, (word_lines, bit_lines, mux)) in variants().iter().flat_map(of) {
        let rom = Macro::new(&process, MacroShape { word_lines, bit_lines, mux }).unwrap();
        let outline = rom.outline().unwrap();
        let [w, h] = outline.size;
        for pin in &outline.pins {
            assert!(!pin.shapes.is_empty(), "{}", pin.name);
            for (metal, a) in &pin.shapes {
                assert!(0 <= a[0] && a[0] < a[2] && a[2] <= w && 0 <= a[1] && a[1] < a[3] && a[3] <= h);
                let over = outline
                    .obstructions
                    .iter()
                    .filter(|(m, o)| m == metal && o[0] < a[2] && a[0] < o[2] && o[1] < a[3] && a[1] < o[3]);
                assert_eq!(over.count(), 0, "{}", pin.name);
            }
        }
    }
}

#[test]
fn larger_macros_than_were_measured_have_no_liberty() {
    let timing = Timing::parse(crate::SKY130_TIMING).unwrap();
    let shape = MacroShape { word_lines: 512, bit_lines: 2048, mux: 16 };
    let refused = timing.read(shape, "tt_025C_1v80").unwrap_err();
    assert_eq!(refused.0[0].code.id, "E0525");
    // A smaller macro is not slower.
    let at = |word_lines, bit_lines| {
        let shape = MacroShape { word_lines, bit_lines, mux: 16 };
        timing.read(shape, "tt_025C_1v80").unwrap().access_ps[0]
    };
    assert!(at(16, 16) < at(512, 1024));
}

#[test]
fn faults_of_a_timing_file_are_all_named() {
    let bad = crate::SKY130_TIMING
        .replacen("gate_ff_um", "gate_ff", 1)
        .replacen("millivolts = 1800", "millivolts = \"1.8\"", 1)
        .replacen("setup_ps = ", "setup_ps = -", 1);
    assert_eq!(Timing::parse(&bad).unwrap_err().0.len(), 3);
}
