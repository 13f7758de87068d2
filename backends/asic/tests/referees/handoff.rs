//! Hand-off files read by other people's tools: KLayout, yosys, OpenSTA, Icarus Verilog.

use std::path::{Path, PathBuf};
use std::process::Command;

use pfmc_asic::bits::BitMatrix;
use pfmc_asic::handoff::{Piece, write};
use pfmc_asic::macros::MacroShape;
use pfmc_asic::macros::timing::Timing;

use super::macros::models;
use super::{output, root, script};

/// A folder with one macro `rom` of a size.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(word_lines: u32, bit_lines: u32, mux: u32) -> Folder {
        Folder::of("sky130", word_lines, bit_lines, mux)
    }

    fn of(process: &str, word_lines: u32, bit_lines: u32, mux: u32) -> Folder {
        let timing = Timing::parse(pfmc_asic::timing(process).unwrap()).unwrap();
        let process = super::macros::process(process);
        let mut bits = BitMatrix::new(word_lines as usize, bit_lines as usize);
        for i in 0..word_lines as usize {
            for j in 0..bit_lines as usize {
                if (i * 7 + j * j) % 5 < 2 {
                    bits.set(i, j);
                }
            }
        }
        let folder = Folder(tempfile::tempdir().unwrap());
        let shape = MacroShape { word_lines, bit_lines, mux };
        let piece = Piece { name: "rom".into(), shape, bits, about: "a pattern".into() };
        write(folder.0.path(), &process, &timing, &[piece]).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        output(Command::new(program).current_dir(self.0.path()).args(arguments))
    }
}

#[test]
fn the_abstract_is_that_of_the_layout_and_a_moved_pin_is_found() {
    for (process, word_lines, bit_lines, mux) in
        [("sky130", 16, 32, 16), ("sky130", 72, 128, 8), ("sky130-via1", 72, 128, 8)]
    {
        let folder = Folder::of(process, word_lines, bit_lines, mux);
        let [lef, gds] = ["rom.lef", "rom.gds"].map(|n| folder.text(n));
        assert_eq!(script("lef_pins.py", &[&lef, &gds, "rom"]), "");
        for pin in ["A1", "Q1", "VPWR"] {
            let found = script("lef_pins.py", &[&lef, &gds, "rom", pin]);
            assert!(found.contains("pin without metal"), "{pin}: {found}");
            assert!(found.lines().any(|l| l.starts_with("label in no") && l.contains(pin)), "{pin}: {found}");
        }
    }
}

#[test]
fn both_formats_are_one_layout_and_other_weights_change_the_programming_layer_alone() {
    for (process, want) in [("sky130", "mcon 67 44"), ("sky130-via1", "via 68 44")] {
        let folder = Folder::of(process, 72, 128, 8);
        let differ = |a: &str, b: &str| script("xor.py", &[&folder.text(a), &folder.text(b), "rom"]);
        assert_eq!(differ("rom.gds", "rom.oas"), "");
        let layer = std::fs::read_to_string(folder.path("weight-layers.txt")).unwrap();
        assert_eq!(layer.trim(), want);
        let [_, layer, datatype] = layer.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{layer}")
        };
        assert_eq!(differ("rom.gds", "rom_other.oas").trim(), format!("{layer}/{datatype}"));
        // A macro whose base differs: another number of bit lines an output.
        let other = Folder::of(process, 72, 128, 16);
        let found = script("xor.py", &[&folder.text("rom.gds"), &other.text("rom.oas"), "rom"]);
        assert!(found.lines().count() > 3, "{found}");
    }
}

#[test]
fn two_tools_read_liberty_and_times_are_those_of_the_file() {
    for process in ["sky130", "sky130-via1"] {
        two_tools_read_liberty_of(process);
    }
}

fn two_tools_read_liberty_of(process: &str) {
    let folder = Folder::of(process, 64, 64, 16);
    let timing = Timing::parse(pfmc_asic::timing(process).unwrap()).unwrap();
    assert!(timing.corners.len() >= 4);
    let shape = MacroShape { word_lines: 64, bit_lines: 64, mux: 16 };
    for corner in &timing.corners {
        let name = &corner.name;
        let design = |lib: &str| {
            let script =
                format!("read_liberty -lib {lib}; read_verilog librelane/top.v; hierarchy -check -top top");
            Command::new("yosys").current_dir(folder.0.path()).args(["-q", "-p", &script]).output().unwrap()
        };
        let linked = design(&format!("rom_{name}.lib"));
        assert!(linked.status.success(), "{}", String::from_utf8_lossy(&linked.stderr));
        let text = std::fs::read_to_string(folder.path(&format!("rom_{name}.lib"))).unwrap();
        std::fs::write(folder.path("bad.lib"), text.replacen("pin (A3)", "pin (B3)", 1)).unwrap();
        assert!(!design("bad.lib").status.success());
        let read = timing.read(shape, name).unwrap();
        let period = 40.0;
        let commands = format!(
            "read_liberty rom_{name}.lib\nread_verilog librelane/top.v\nlink_design top\n\
             create_clock -name clk -period {period} [get_ports clk]\nset_load {} [all_outputs]\n\
             set_input_delay -clock clk -clock_fall 0 [get_ports {{ce address*}}]\nset_output_delay -clock clk 0 [all_outputs]\n\
             report_checks -path_delay max -rise_to [get_ports q0[3]] -digits 4\n\
             report_checks -path_delay min -from [get_ports address[2]] -digits 4\n\
             report_checks -path_delay max -from [get_ports address[2]] -digits 4\nexit\n",
            timing.load_ff[0] / 1000.0
        );
        std::fs::write(folder.path("run.tcl"), commands).unwrap();
        let report = folder.run("sta", &["-no_splash", "-exit", "run.tcl"]);
        assert!(!report.contains("Error"), "{report}");
        let value = |what: &str| -> f64 {
            let line =
                report.lines().find(|l| l.ends_with(what)).unwrap_or_else(|| panic!("{what}: {report}"));
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        for (what, want) in [
            ("rom0/Q3 (rom)", read.access_ps[0] / 1000.0),
            ("library hold time", read.hold_after_fall_ps / 1000.0),
            ("library setup time", -read.setup_ps / 1000.0),
        ] {
            assert!((value(what) - want).abs() < 1e-3, "{name} {what}: {} {want}\n{report}", value(what));
        }
        // The address moves at the fall of the clock: the hold of a word line is violated.
        assert!(report.contains("slack (VIOLATED)"), "{report}");
    }
}

const BENCH: &str = "`timescale 1ns/1ps\n`include \"rom_signature.vh\"\nmodule bench;\n  reg clk = 0, start = 0;\n  \
    wire done, good;\n  wire [OUT-1:0] q;\n  reg [31:0] expected = `ROM_SIGNATURE;\n  \
    rom_bist test(clk, start, expected, q, done, good);\n  always #5 clk = ~clk;\n  initial begin\n    \
    #22 start = 1;\n    wait (done); #1 $display(\"%b\", good);\n    start = 0; #20 test.rom.rom[9][5] = ~test.rom.rom[9][5];\n    \
    #20 start = 1;\n    wait (done); #1 $display(\"%b\", good);\n    $finish;\n  end\nendmodule\n";

#[test]
fn the_simulated_self_test_finds_the_signature_and_one_wrong_bit() {
    // 2, 4, 16 and 64 outputs: less and more than a step of the register.
    for (word_lines, bit_lines, mux) in [(16, 32, 16), (64, 64, 16), (72, 128, 8), (16, 1024, 16)] {
        let folder = Folder::new(word_lines, bit_lines, mux);
        std::fs::write(folder.path("bench.v"), BENCH.replace("OUT", &(bit_lines / mux).to_string())).unwrap();
        folder.run("iverilog", &["-g2005", "-o", "bench", "bench.v", "rom.v", "rom_bist.v"]);
        assert_eq!(folder.run("vvp", &["-n", "bench"]), "1\n0\n", "{word_lines} x {bit_lines} / {mux}");
    }
}

const READS: &str = "`timescale 1ns/1ps\nmodule bench;\n  reg clk = 0; reg [7:0] a = 0; wire [1:0] q; integer i;\n  \
    rom #(.ACCESS(2)) test(.CLK(clk), .CE(1'b1), .A0(a[0]), .A1(a[1]), .A2(a[2]), .A3(a[3]), .A4(a[4]), .A5(a[5]), .A6(a[6]),\n    \
    .A7(a[7]), .Q0(q[0]), .Q1(q[1]));\n  initial begin\n    \
    for (i = 0; i < 256; i = i + 1) begin a = i; #5 clk = 1; #5 clk = 0; #5 $display(\"%b\", q); end\n    \
    clk = 1; #1 clk = 0; #1 $display(\"%b\", q);\n    #5 clk = 1; #3 a = 7; #1 $display(\"%b\", q);\n    $finish;\n  end\nendmodule\n";

#[test]
fn the_functional_model_reads_bits_and_shows_violations() {
    let folder = Folder::new(16, 32, 16);
    std::fs::write(folder.path("bench.v"), READS).unwrap();
    folder.run("iverilog", &["-g2005", "-o", "bench", "bench.v", "rom.v"]);
    let read = folder.run("vvp", &["-n", "bench"]);
    let bit = |i: usize, j: usize| usize::from((i * 7 + j * j) % 5 < 2);
    // Output o shows bit line 16 o + column; the last digit is output 0.
    let mut want: Vec<String> =
        (0..256).map(|a| format!("{}{}", bit(a / 16, 16 + a % 16), bit(a / 16, a % 16))).collect();
    want.extend(["xx".to_owned(), "xx".to_owned()]);
    assert_eq!(read.lines().collect::<Vec<_>>(), want);
}

#[test]
fn one_point_of_the_timing_file_measures_the_same() {
    let folder = Folder::new(64, 64, 16);
    let timing = Timing::parse(pfmc_asic::SKY130_TIMING).unwrap();
    let shape = MacroShape { word_lines: 64, bit_lines: 64, mux: 16 };
    let read = timing.read(shape, "tt_025C_1v80").unwrap();
    let path = std::fs::read_to_string(folder.path("rom_path.spice")).unwrap().replace("rom_path", "path");
    std::fs::write(folder.path("path.spice"), path).unwrap();
    let netlist = folder.text("path.spice");
    let line = script("characterise_macro.py", &[&models(), &netlist, "tt", "1.8", "25", "15", "20"]);
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |name: &str| -> f64 {
        let at = words.iter().position(|w| *w == name).unwrap();
        words[at + 1].parse().unwrap()
    };
    for (name, want) in [
        ("access_ps", read.access_ps[0]),
        ("open_ps", read.open_ps[0]),
        ("fall_ps", read.hold_after_fall_ps),
        ("recovery_ps", read.recovery_ps),
    ] {
        let got = value(name);
        assert!((got / want - 1.0).abs() < 0.02, "{name}: {got}, the file has {want}");
    }
}

#[test]
fn librelane_loads_the_configuration_and_misses_a_file() {
    let python = root().join("librelane/bin/python");
    assert!(python.is_file(), "{} is missing: run .ci/setup-referees first", python.display());
    let folder = Folder::new(16, 32, 16);
    let loader = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/referees/asic/librelane_load.py");
    let config = folder.text("librelane/config.json");
    let load = || Command::new(&python).arg(&loader).arg(&config).output().unwrap();
    let loaded = load();
    let text = String::from_utf8_lossy(&loaded.stdout).into_owned();
    let want = "rom rom0 rom_ss_n40C_1v62.lib rom_tt_025C_1v80.lib rom_ff_n40C_1v98.lib\n";
    assert!(text.ends_with(want), "{text}{}", String::from_utf8_lossy(&loaded.stderr));
    std::fs::remove_file(folder.path("rom.lef")).unwrap();
    assert!(!load().status.success());
}
