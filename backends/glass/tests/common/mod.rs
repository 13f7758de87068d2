//! Programs of random matrices for the glass backend's tests.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod parts;

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_glass::{Glass, schedule};
use pfmc_ir::backend::{Backend, Emission, NoProgress, ProcessText, Target};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::origin::Origin;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{
    Activations, FixedMatrix, MatrixId, RealBlock, Scheme, Tile, TileContent, TileId, TileKind, TileSource,
};
use pfmc_ir::verify::Verified;

/// The built-in process with replaced lines.
pub fn process(replace: &[(&str, &str)]) -> ProcessText {
    replaced("borosilicate-phase", replace)
}

/// The process of masks with replaced lines.
pub fn mask(replace: &[(&str, &str)]) -> ProcessText {
    replaced("fused-silica-mask", replace)
}

fn replaced(name: &str, replace: &[(&str, &str)]) -> ProcessText {
    let mut p = Glass.processes().into_iter().find(|p| p.name == name).unwrap();
    for (from, to) in replace {
        assert!(p.toml.contains(from), "{from}");
        p.toml = p.toml.replace(from, to);
    }
    p
}

/// Opens a process or fails the test.
pub fn open(p: &ProcessText) -> Box<dyn Target> {
    Glass.open(p).unwrap_or_else(|e| panic!("{e}"))
}

/// A program and the content of its tiles.
pub struct Model {
    pub program: Verified<TileProgram>,
    pub content: BTreeMap<u32, RealBlock>,
}

impl Model {
    /// Fails the test unless one, two and three threads emit the same bytes.
    pub fn same_on_any_threads(&self, target: &dyn Target, name: &str) {
        let mut files = Vec::new();
        for threads in [1, 2, 3] {
            let dir = folder(&format!("{name}{threads}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| self.emit(target, &dir)).unwrap_or_else(|e| panic!("{e}"));
            files.push(std::fs::read(dir.join(schedule::FILE)).unwrap());
        }
        assert!(files.windows(2).all(|w| w[0] == w[1]));
    }

    /// One tile a matrix, nearly Gaussian weights.
    pub fn new(shapes: &[(u32, u32)]) -> Model {
        let mut program = TileProgram::default();
        let mut content = BTreeMap::new();
        for (m, &(k, n)) in shapes.iter().enumerate() {
            let origin =
                Origin::tensor(format!("layer{m}.weight")).with_range(0..u64::from(k), 0..u64::from(n));
            program.matrices.push(FixedMatrix {
                k,
                n,
                activations: Activations::Row,
                origin: origin.clone(),
            });
            let id = program.tiles.len() as u32;
            let kind =
                TileKind::Matrix { matrix: MatrixId(m as u32), k: 0..k, n: 0..n, scheme: Scheme::Real };
            program.tiles.push(Tile { name: format!("t{id}"), kind, origin });
            content.insert(id, weights(k as usize, n as usize, m as u64 + 1));
        }
        Model { program: Verified::new(program).unwrap(), content }
    }

    /// The reference content of a tile.
    pub fn reference(&self, id: u32) -> TileContent {
        TileContent::Real(self.content[&id].clone())
    }

    /// Plans and emits into a folder.
    pub fn emit(&self, target: &dyn Target, dir: &Path) -> Result<Emission, Diagnostics> {
        target.plan(&self.program)?.emit(self, dir, &NoProgress)
    }
}

impl TileSource for Model {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        match self.content.get(&id.0) {
            Some(b) => Ok(TileContent::Real(b.clone())),
            None => Err(Diagnostic::error(pfmc_glass::codes::CODES[0], "no such tile").into()),
        }
    }
}

/// Sums of four uniform values, from a 64-bit linear congruential generator.
pub fn weights(k: usize, n: usize, seed: u64) -> RealBlock {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 2f32.powi(24) - 0.5
    };
    RealBlock { k, n, values: (0..k * n).map(|_| (0..4).map(|_| next()).sum::<f32>() * 0.05).collect() }
}

/// A fresh folder under cargo's folder for temporary files of tests.
pub fn folder(name: &str) -> std::path::PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("glass-{name}"));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
