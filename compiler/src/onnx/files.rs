//! The files of a model: the mapped model file, and external data inside its folder.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use prost::Message;

use super::ModelFile;
use super::codes::{E0102, E0110, E0111};
use super::proto::ModelProto;
use crate::files::{map, try_map};

/// The model file and the external files opened so far.
pub(super) struct Files {
    model: ModelFile,
    /// Where external data may be; nowhere for a model that is in memory only.
    folder: Option<PathBuf>,
    /// By location as the model writes it.
    external: BTreeMap<String, Result<Bytes, Diagnostic>>,
}

impl Files {
    /// Maps a model file.
    pub(super) fn open(path: &Path) -> Result<Files, Diagnostics> {
        let bytes = map(path)?;
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
            _ => PathBuf::from("."),
        };
        Ok(Files { model: ModelFile { name, bytes }, folder: Some(folder), external: BTreeMap::new() })
    }

    /// A model in memory, which can have no external data.
    pub(super) fn memory(bytes: Bytes) -> Files {
        Files { model: ModelFile { name: String::new(), bytes }, folder: None, external: BTreeMap::new() }
    }

    /// The model file's bytes.
    pub(super) fn model(&self) -> &Bytes {
        &self.model.bytes
    }

    /// Bytes of an external file; the same failure is returned each time it is asked for.
    pub(super) fn external(&mut self, location: &str) -> Result<Bytes, Diagnostic> {
        if let Some(known) = self.external.get(location) {
            return known.clone();
        }
        let opened = self.open_external(location);
        self.external.insert(location.to_owned(), opened.clone());
        opened
    }

    fn open_external(&self, location: &str) -> Result<Bytes, Diagnostic> {
        let outside = |why: &str| {
            Diagnostic::error(&E0110, format!("external data location {location:?} {why}"))
                .help("external data must be a file in the model's folder")
        };
        let missing = |e: std::io::Error| {
            Diagnostic::error(&E0111, format!("cannot read external data {location:?}: {e}"))
                .help("put the file beside the model under this name")
        };
        if location.is_empty() {
            return Err(outside("is empty"));
        }
        let relative = Path::new(location);
        if location.contains('\\')
            || relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir))
        {
            return Err(outside("is no path below the model's folder"));
        }
        let Some(folder) = &self.folder else {
            return Err(outside("belongs to a model that is in no folder"));
        };
        let folder = folder.canonicalize().map_err(missing)?;
        let path = folder.join(relative).canonicalize().map_err(missing)?;
        if !path.starts_with(&folder) {
            return Err(outside("is a link that leaves the model's folder"));
        }
        try_map(&path).map_err(missing)
    }

    /// All files that could be read.
    pub(super) fn into_files(self) -> Vec<ModelFile> {
        let external = self
            .external
            .into_iter()
            .filter_map(|(name, bytes)| Some(ModelFile { name, bytes: bytes.ok()? }));
        std::iter::once(self.model).chain(external).collect()
    }
}

/// Decodes a model without copying its weights: the message shares `bytes`.
///
/// # Errors
/// When it is no ONNX model.
pub fn decode(bytes: &Bytes) -> Result<ModelProto, Diagnostics> {
    let bad = |why: String| {
        let d = Diagnostic::error(&E0102, format!("this is no ONNX model: {why}"));
        if bytes.starts_with(b"version https://git-lfs") {
            d.note("it is a Git LFS pointer; `git lfs pull` fetches the model")
        } else if bytes.is_empty() {
            d.note("the file is empty")
        } else {
            d
        }
    };
    let model = ModelProto::decode(bytes.clone()).map_err(|e| bad(e.to_string()))?;
    match model.graph {
        Some(_) => Ok(model),
        None => Err(bad("it has no graph".into()).into()),
    }
}
