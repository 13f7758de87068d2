//! Commands of the command line that are more than a call, and what all of them share.

pub mod bar;
pub mod estimate;
pub mod tools;

use std::sync::LazyLock;

use pfmc::{files, targets};

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
