//! The register of targets: one line each.

use std::path::Path;

use pfmc_ir::backend::{Backend, ProcessText};
use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::codes::E0003;
use crate::files::io_error;

/// Every target.
pub static BACKENDS: [&dyn Backend; 2] = [&pfmc_asic::Asic, &pfmc_glass::Glass];

/// A target by name.
///
/// # Errors
/// When there is none of this name.
pub fn backend(name: &str) -> Result<&'static dyn Backend, Diagnostics> {
    let names: Vec<&str> = BACKENDS.iter().map(|b| b.name()).collect();
    BACKENDS.iter().find(|b| b.name() == name).copied().ok_or_else(|| {
        Diagnostic::error(&E0003, format!("there is no target {name:?}"))
            .help(format!("targets are {}", names.join(", ")))
            .into()
    })
}

/// A process of a target: a built-in one by name, a file by path, or the default.
///
/// # Errors
/// When neither exists.
pub fn process(backend: &dyn Backend, choice: Option<&str>) -> Result<ProcessText, Diagnostics> {
    let built_in = backend.processes();
    let names: Vec<String> = built_in.iter().map(|p| p.name.clone()).collect();
    let missing = || Diagnostics::from(Diagnostic::error(&E0003, "this target has no built-in process"));
    let Some(choice) = choice else { return built_in.into_iter().next().ok_or_else(missing) };
    if let Some(p) = built_in.into_iter().find(|p| p.name == choice) {
        return Ok(p);
    }
    let path = Path::new(choice);
    let toml = std::fs::read_to_string(path).map_err(|e| {
        io_error("read process file", path, &e).help(format!(
            "built-in processes of {} are {}",
            backend.name(),
            names.join(", ")
        ))
    })?;
    let name = path.file_stem().map_or_else(|| choice.to_owned(), |s| s.to_string_lossy().into_owned());
    Ok(ProcessText { name, toml })
}
