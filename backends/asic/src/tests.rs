//! Emission and read-back together, on small programs.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_ir::backend::{Backend, Emission, NoProgress, ProcessText, Target};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::numerics;
use pfmc_ir::origin::Origin;
use pfmc_ir::program::{DataEntry, TileProgram};
use pfmc_ir::tile::{
    Activations, FixedMatrix, Levels, MatrixId, Scheme, Tile, TileContent, TileId, TileKind, TileSource,
};
use pfmc_ir::verify::Verified;

use crate::process::Process;
use crate::{Asic, Rom};

pub(crate) fn process() -> Process {
    Process::open(&ProcessText { name: "sky130".into(), toml: crate::SKY130.into() }).unwrap()
}

/// The process, and its variant that is programmed on via.
pub(crate) fn variants() -> [Rom; 2] {
    let via1 = ProcessText { name: "sky130-via1".into(), toml: crate::SKY130_VIA1.into() };
    [rom(), Rom { process: Process::open(&via1).unwrap() }]
}

/// The same process without macros: tiles are arrays alone.
pub(crate) fn bare() -> Rom {
    let mut file: toml::Table = crate::SKY130.parse().unwrap();
    crate::process::PERIPHERY.iter().for_each(|part| drop(file.remove(*part)));
    Rom { process: Process::open(&ProcessText { name: "sky130".into(), toml: file.to_string() }).unwrap() }
}

/// A fixed sequence of values that look random.
pub(crate) fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }
}

/// Tiles with their contents.
pub(crate) struct Model {
    pub program: TileProgram,
    pub contents: Vec<TileContent>,
}

impl TileSource for Model {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        Ok(self.contents[id.index()].clone())
    }
}

impl Model {
    pub fn new() -> Self {
        Model { program: TileProgram::default(), contents: Vec::new() }
    }

    /// A matrix that is one tile.
    pub fn codes(mut self, k: u32, n: u32, bits: u8, group: u32, seed: u64) -> Self {
        let mut next = noise(seed);
        let values: Vec<f32> =
            (0..k * n).map(|_| (next() % 2001) as f32 / 1000.0 - 1.0 + (next() % 7) as f32 * 0.01).collect();
        let block = numerics::quantize_codes(&values, k as usize, n as usize, bits, group as usize);
        let matrix = MatrixId(self.program.matrices.len() as u32);
        let origin = Origin::tensor(format!("layer.{matrix}.weight"));
        let scheme = block.scheme();
        let activations = Activations::Row;
        self.program.matrices.push(FixedMatrix { k, n, activations, origin: origin.clone() });
        self.program.tiles.push(Tile {
            name: format!("w{matrix}"),
            kind: TileKind::Matrix { matrix, k: 0..k, n: 0..n, scheme },
            origin: origin.with_range(0..u64::from(k), 0..u64::from(n)),
        });
        self.contents.push(TileContent::Codes(block));
        self
    }

    /// As [`Model::codes`], with a codebook.
    pub fn codebook(self, k: u32, n: u32, bits: u8, group: u32, seed: u64) -> Self {
        let mut model = self.codes(k, n, bits, group, seed);
        let mut next = noise(seed ^ 77);
        let mut codebook: Vec<i8> = (-127..=127).collect();
        while codebook.len() > 1 << bits {
            codebook.remove(next() as usize % codebook.len());
        }
        if let Some(TileContent::Codes(block)) = model.contents.last_mut() {
            block.levels.iter_mut().for_each(|l| *l = codebook[next() as usize % codebook.len()]);
            block.codebook = codebook;
            if let Some(Tile { kind: TileKind::Matrix { scheme, .. }, .. }) = model.program.tiles.last_mut() {
                *scheme = block.scheme();
            }
        }
        model
    }

    /// A tensor of bytes that is one tile.
    pub fn data(mut self, len: u64, seed: u64) -> Self {
        let mut next = noise(seed);
        let offset = self.program.data.last().map_or(0, |e| e.offset + e.len);
        let origin = Origin::tensor(format!("bias.{offset}"));
        self.program.data.push(DataEntry { offset, len, origin: origin.clone() });
        self.program.tiles.push(Tile {
            name: format!("d{offset}"),
            kind: TileKind::Data { offset, len },
            origin,
        });
        self.contents.push(TileContent::Data((0..len).map(|_| next() as u8).collect()));
        self
    }

    pub fn emit(&self, rom: &Rom, dir: &Path) -> Emission {
        let program = Verified::new(self.program.clone()).unwrap();
        rom.plan(&program).unwrap().emit(self, dir, &NoProgress).unwrap()
    }

    /// The bytes of a file of the layout.
    pub fn file(&self, rom: &Rom, name: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        self.emit(rom, dir.path());
        std::fs::read(dir.path().join(name)).unwrap()
    }

    /// The bytes of the layout.
    pub fn layout(&self) -> Vec<u8> {
        self.file(&rom(), "layout.gds")
    }

    /// The bytes of the same layout in OASIS.
    pub fn oasis(&self) -> Vec<u8> {
        self.file(&rom(), "layout.oas")
    }
}

pub(crate) fn rom() -> Rom {
    Rom { process: process() }
}

/// One of everything.
pub(crate) fn mixed() -> Model {
    let model =
        Model::new().codes(70, 9, 4, 32, 1).codes(5, 33, 3, 2, 2).data(100, 3).codes(64, 16, 4, 32, 4);
    // Codebooks wider and narrower than the codes.
    model.codebook(40, 9, 4, 16, 5).codebook(33, 50, 2, 8, 6).codebook(9, 3, 6, 4, 7)
}

#[test]
fn what_is_emitted_reads_back_bit_for_bit() {
    reads_back(&rom());
    reads_back(&bare());
}

fn reads_back(rom: &Rom) {
    let mut model = Model::new();
    let mut seed = 0;
    for bits in 2..=8 {
        for (k, n, group) in [(1, 1, 1), (1, 3, 32), (7, 2, 3), (33, 17, 32), (62, 5, 64), (130, 9, 31)] {
            seed += 1;
            model = model.codes(k, n, bits, group, seed);
        }
    }
    for len in [1, 3, 127, 128, 129, 5000] {
        model = model.data(len, len);
    }
    let dir = tempfile::tempdir().unwrap();
    let emission = model.emit(rom, dir.path());
    assert_eq!(emission.files, ["layout.gds", "layout.oas"]);
    assert_eq!(emission.tiles.len(), model.contents.len());
    let program = Verified::new(model.program.clone()).unwrap();
    let read = rom.read_back(&program, dir.path(), &NoProgress).unwrap();
    for (i, (content, record)) in model.contents.iter().zip(&emission.tiles).enumerate() {
        let id = TileId(i as u32);
        assert_eq!(&read.tile(id).unwrap(), content, "tile {i}");
        for (name, value) in read.check(id, content).unwrap() {
            assert_eq!(record.measures[&name], value, "tile {i} {name}");
        }
    }
    assert!(read.tile(TileId(9999)).is_err());
}

#[test]
fn full_tiles_of_every_width_are_planned_within_the_largest_array() {
    let rom = rom();
    for bits in 2..=8 {
        let limit = rom.tile_limit(Scheme::Codes { bits, group: 32, levels: Levels::Uniform }).unwrap();
        let model = Model::new().codes(limit.k, limit.n, bits, 32, 1);
        let program = Verified::new(model.program).unwrap();
        assert!(rom.plan(&program).is_ok(), "{bits}");
        for (k, n) in [(limit.k + 1, limit.n), (limit.k, limit.n + 1)] {
            let model = Model::new().codes(k, n, bits, 32, 1);
            let program = Verified::new(model.program).unwrap();
            let problems = rom.plan(&program).err().unwrap();
            assert_eq!(problems.0[0].code.id, "E0504", "{problems}");
        }
    }
    assert!(rom.tile_limit(Scheme::Real).is_none());
}

#[test]
fn a_full_tile_takes_less_than_two_bytes_a_bit() {
    let rom = rom();
    let tile = |model: Model| model.codes(480, 256, 4, 32, 1);
    let two = tile(tile(Model::new()));
    let program = Verified::new(two.program.clone()).unwrap();
    let plan = rom.plan(&program).unwrap();
    let figures: BTreeMap<String, f64> = plan.figures().into_iter().map(|f| (f.name, f.value)).collect();
    assert_eq!((figures["tiles"], figures["dies"]), (2.0, 1.0));
    assert_eq!(figures["array bits"], 1024.0 * 511.0 * 2.0);
    let dir = tempfile::tempdir().unwrap();
    let emission = plan.emit(&two, dir.path(), &NoProgress).unwrap();
    let bytes = std::fs::metadata(dir.path().join("layout.gds")).unwrap().len() as f64;
    assert_eq!(emission.figures[0].value, bytes);
    assert!(bytes <= figures["layout.gds at most"]);
    // OASIS: 21 bits a pattern of 14 nodes, and 65 nodes for 64 bits. Both tiles hold the same weights.
    let more = two.oasis().len() - tile(Model::new()).oasis().len();
    assert!((more as f64) < 0.198 * 1024.0 * 511.0, "{more}");
    // A model of 22.7 million weights: definitions of pattern cells pay.
    let many = (0..185).fold(Model::new(), |model, _| tile(model));
    let program = Verified::new(many.program).unwrap();
    let plan = rom.plan(&program).unwrap();
    let most = plan.figures().iter().find(|f| f.name == "layout.gds at most").unwrap().value;
    assert!(most < 1.9 * 1024.0 * 511.0 * 185.0, "{most}");
}

#[test]
fn the_plan_bounds_the_file_tightly() {
    let rom = rom();
    let model = mixed();
    let program = Verified::new(model.program.clone()).unwrap();
    let most = rom.plan(&program).unwrap().figures().iter().find(|f| f.unit == "B").unwrap().value;
    let bytes = model.layout().len() as f64;
    assert!(bytes <= most && most < 1.7 * bytes, "{bytes} {most}");
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let model = mixed();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| [model.layout(), model.oasis()])
    };
    let one = with(1);
    assert!(one == with(2) && one == with(5));
}

#[test]
fn tiles_lie_apart_on_dies_within_the_reticle() {
    let mut rom = bare();
    rom.process.reticle.width_nm = 300_000;
    rom.process.reticle.height_nm = 200_000;
    let mut model = Model::new();
    for i in 0..40 {
        model = model.codes(20 + 7 * (i % 5), 8 + i % 9, 4, 32, u64::from(i));
    }
    let dir = tempfile::tempdir().unwrap();
    let emission = model.emit(&rom, dir.path());
    let dies: std::collections::BTreeSet<u32> =
        emission.tiles.iter().map(|t| t.measures["die"] as u32).collect();
    assert!(dies.len() > 1 && dies.iter().copied().eq(0..dies.len() as u32));
    let gap = rom.process.tile.spacing_nm;
    for (i, a) in emission.tiles.iter().enumerate() {
        for axis in 0..2 {
            assert!(a.region.min_nm[axis] >= gap);
            assert!(a.region.max_nm[axis] <= [300_000, 200_000][axis] - gap);
        }
        for b in &emission.tiles[..i] {
            let apart = (0..2).any(|x| {
                a.region.min_nm[x] >= b.region.max_nm[x] + gap
                    || b.region.min_nm[x] >= a.region.max_nm[x] + gap
            });
            assert!(apart || a.measures["die"] != b.measures["die"], "{a:?} {b:?}");
        }
    }
    let program = Verified::new(model.program.clone()).unwrap();
    let read = rom.read_back(&program, dir.path(), &NoProgress).unwrap();
    for (i, content) in model.contents.iter().enumerate() {
        read.check(TileId(i as u32), content).unwrap();
    }
}

#[test]
fn problems_of_a_program_are_reported_together() {
    let mut model =
        Model::new().codes(8, 8, 4, 8, 1).codes(8, 8, 4, 8, 2).data(70_000, 3).codes(8, 8, 4, 8, 4);
    model.program.tiles[1].name = "w0_prog".into();
    model.program.tiles[3].name = "die7".into();
    model.program.matrices.push(FixedMatrix {
        k: 1,
        n: 1,
        activations: Activations::Row,
        origin: Origin::tensor("r"),
    });
    model.program.tiles.push(Tile {
        name: "r".into(),
        kind: TileKind::Matrix { matrix: MatrixId(3), k: 0..1, n: 0..1, scheme: Scheme::Real },
        origin: Origin::tensor("r"),
    });
    let rom = rom();
    let program = Verified::new(model.program).unwrap();
    let problems = rom.plan(&program).err().unwrap();
    let ids: Vec<&str> = problems.0.iter().map(|d| d.code.id).collect();
    assert_eq!(ids, ["E0504", "E0503", "E0505", "E0505"], "{problems}");
}

#[test]
fn content_that_does_not_fit_is_not_written() {
    let rom = rom();
    for change in 0..5 {
        let mut model = mixed();
        match (&mut model.contents[0], change) {
            (TileContent::Codes(b), 0) => b.levels[3] = -8,
            (TileContent::Codes(b), 1) => b.k = 71,
            (TileContent::Codes(b), 2) => {
                b.scales.pop();
            }
            (TileContent::Codes(b), 3) => b.bits = 5,
            (content, _) => *content = TileContent::Data(vec![1]),
        }
        let program = Verified::new(model.program.clone()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let problems = rom.plan(&program).unwrap().emit(&model, dir.path(), &NoProgress).unwrap_err();
        assert_eq!(problems.0[0].code.id, "E0506", "{problems}");
        assert_eq!(problems.0[0].origin.tensor.as_deref(), Some("layer.0.weight"));
    }
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let (rom, model) = (rom(), mixed());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("layout.gds"), "mine").unwrap();
    let program = Verified::new(model.program.clone()).unwrap();
    let problems = rom.plan(&program).unwrap().emit(&model, dir.path(), &NoProgress).unwrap_err();
    assert_eq!(problems.0[0].code.id, "E0001");
}

#[test]
fn the_backend_opens_its_own_process_files_and_explains_its_codes() {
    for process in Asic.processes() {
        assert!(Asic.open(&process).is_ok(), "{}", process.name);
    }
    let mut ids: Vec<&str> = Asic.codes().iter().map(|c| c.id).collect();
    assert!(ids.iter().all(|id| id.starts_with("E05")));
    ids.dedup();
    assert_eq!(ids.len(), Asic.codes().len());
}

#[test]
fn an_empty_program_is_an_empty_library() {
    let rom = rom();
    let model = Model::new();
    let dir = tempfile::tempdir().unwrap();
    assert!(model.emit(&rom, dir.path()).tiles.is_empty());
    let program = Verified::new(model.program.clone()).unwrap();
    assert!(rom.read_back(&program, dir.path(), &NoProgress).is_ok());
}

/// Every built-in process.
pub(crate) fn built_in() -> Vec<Process> {
    Asic.processes().iter().map(|text| Process::open(text).unwrap()).collect()
}

#[test]
fn every_built_in_process_holds_what_was_emitted() {
    let processes = built_in();
    assert_eq!(processes.len(), 3);
    for process in processes {
        let rom = Rom { process };
        let model = mixed();
        let dir = tempfile::tempdir().unwrap();
        let emission = model.emit(&rom, dir.path());
        let program = Verified::new(model.program.clone()).unwrap();
        let read = rom.read_back(&program, dir.path(), &NoProgress).unwrap();
        for (i, (content, record)) in model.contents.iter().zip(&emission.tiles).enumerate() {
            let measures = read.check(TileId(i as u32), content).unwrap();
            assert_eq!(record.measures["bit_line_cuts"], measures["bit_line_cuts"], "{i}");
        }
        // The layout of one process is none of another.
        for other in built_in().into_iter().filter(|p| p.name != rom.process.name) {
            let other = Rom { process: other };
            let problems = other.read_back(&program, dir.path(), &NoProgress).err().unwrap();
            assert_eq!(problems.0[0].code.id, "E0515", "{problems}");
        }
    }
}

/// The codes of what keeps a program from being planned.
fn refused(rom: &Rom, model: Model) -> Vec<&'static str> {
    let program = Verified::new(model.program).unwrap();
    let problems = rom.plan(&program).err().unwrap();
    problems.0.iter().map(|d| d.code.id).collect()
}

#[test]
fn dies_too_small_and_names_too_long_are_refused_before_anything_is_written() {
    for process in built_in() {
        let mut rom = Rom { process };
        let mut model = Model::new().codes(20, 9, 4, 32, 1).codes(20, 9, 4, 32, 2).data(40, 3);
        // With `_prog` it would be longer than a cell's name may be: no program has it, so no plan sees it.
        model.program.tiles[1].name = "a".repeat(28);
        assert_eq!(Verified::new(model.program).err().unwrap().0[0].code.id, "E0302");
        // Each of three tiles is larger than the die less the spacing around it.
        rom.process.reticle.width_nm = 2 * rom.process.tile.spacing_nm + 5;
        assert_eq!(refused(&rom, Model::new().codes(20, 9, 4, 32, 1).data(40, 3)), ["E0504", "E0504"]);
    }
}

#[test]
fn outlines_of_lanes_have_the_area_of_their_cells() {
    let rom = rom();
    let model = Model::new().codes(480, 256, 4, 32, 1).data(100, 2);
    let program = Verified::new(model.program).unwrap();
    let figures = rom.plan(&program).unwrap().figures();
    let drawn = figures.iter().find(|f| f.name == "outlines of lanes").unwrap().value;
    // 64 lanes of 3,084 um2 and a sequencer of 5,705 um2, at a share of 0.7; data have none.
    let cells = (64.0 * 3084.0 + 5705.0) * 1e-6 / 0.7;
    assert!(drawn >= cells && drawn < 1.0001 * cells, "{drawn} {cells}");
}

#[test]
fn power_straps_that_miss_a_tile_are_refused() {
    let mut rom = rom();
    rom.process.die.strap_pitch_nm = 1_000_000;
    let model = Model::new().codes(20, 9, 4, 32, 1);
    let program = Verified::new(model.program).unwrap();
    let problems = rom.plan(&program).err().unwrap();
    assert!(problems.0[0].code.id == "E0502", "{problems}");
    assert!(problems.to_string().contains("no met5 strap of a net crosses tile w0"), "{problems}");
}
