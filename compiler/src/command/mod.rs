//! Commands of the command line that are more than a call, and what all of them share.

pub mod bar;
pub mod estimate;
pub mod tools;

use std::sync::LazyLock;

use clap::{Args, ValueEnum};
use pfmc::quantise::options::Quantisation;
use pfmc::{files, targets};
use pfmc_ir::tile::Levels;

/// Writes a line to stdout; a reader that went away is no error.
macro_rules! say {
    ($($arg:tt)*) => {
        if writeln!(std::io::stdout().lock(), $($arg)*).is_err() {
            return Ok(());
        }
    };
}
pub(crate) use say;

/// The version of pfmc and, with the first digits of their digests, of the process files that it holds.
pub static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut text = format!("{}\n\nprocess files (SHA-256):", env!("CARGO_PKG_VERSION"));
    for backend in targets::BACKENDS {
        for process in backend.processes() {
            let digest = files::sha256(process.toml.as_bytes());
            text += &format!(
                "\n  {:<6} {:<28} {}",
                backend.name(),
                process.name,
                &digest[..16.min(digest.len())]
            );
        }
    }
    text
});

/// How codes stand for weights.
#[derive(Args)]
pub struct SchemeArgs {
    /// Bits a weight code, 2 to 8.
    #[arg(long)]
    bits: Option<u8>,
    /// Rows of a column that share a scale; 0 for all rows of a tile.
    #[arg(long)]
    group: Option<u32>,
    /// What codes stand for: themselves, or entries of a codebook of each tile.
    #[arg(long)]
    levels: Option<LevelsArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LevelsArg {
    Uniform,
    Codebook,
}

impl SchemeArgs {
    /// Whether any of them is given.
    pub fn given(&self) -> bool {
        self.bits.is_some() || self.group.is_some() || self.levels.is_some()
    }

    /// Quantisation with these, and all else by default.
    pub fn quantisation(&self) -> Quantisation {
        let levels = self.levels.map(|l| match l {
            LevelsArg::Uniform => Levels::Uniform,
            LevelsArg::Codebook => Levels::Codebook,
        });
        Quantisation { bits: self.bits, group: self.group, levels, ..Quantisation::default() }
    }
}
