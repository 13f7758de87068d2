//! Changes of a process file that the command line asks for: presets of the designer.

use pfmc_ir::backend::{ProcessText, Wishes};

/// A named set of settings.
pub struct Preset {
    /// Name on the command line.
    pub name: &'static str,
    /// What it gives.
    pub about: &'static str,
    /// Keys of `[design]` with their values.
    keys: &'static [(&'static str, &'static str)],
}

/// All presets.
pub const PRESETS: [Preset; 2] = [
    Preset {
        name: "fast",
        about: "at least 36 dB from 8 levels",
        keys: &[("cg_steps", "8"), ("clip_steps", "2"), ("flip_steps", "60"), ("snr_target_db", "37.0")],
    },
    Preset {
        name: "best",
        about: "at least 46 dB from 8 levels",
        keys: &[("cg_steps", "12"), ("clip_steps", "3"), ("flip_steps", "60"), ("snr_target_db", "46.5")],
    },
];

/// The built-in process: borosilicate glass and a fast writer.
const BUILT_IN: &str = include_str!("../process/borosilicate-phase.toml");

/// Masks of half-wave pixels in fused silica.
const MASK: &str = include_str!("../process/fused-silica-mask.toml");

/// Other writers, as what differs from the built-in process.
const WRITERS: [(&str, &str); 3] = [
    ("borosilicate-stage-100mm-s", include_str!("../process/writers/stage-100mm-s.toml")),
    ("borosilicate-scanner-200khz", include_str!("../process/writers/scanner-200khz.toml")),
    ("borosilicate-two-levels", include_str!("../process/writers/two-levels.toml")),
];

/// The built-in processes.
pub fn processes() -> Vec<ProcessText> {
    let mut all = vec![ProcessText { name: "borosilicate-phase".to_owned(), toml: BUILT_IN.to_owned() }];
    all.extend(WRITERS.iter().map(|&(name, changes)| ProcessText {
        name: name.to_owned(),
        toml: with_changes(BUILT_IN, changes),
    }));
    all.push(ProcessText { name: "fused-silica-mask".to_owned(), toml: MASK.to_owned() });
    all
}

/// A process text with the values of another's keys; a key it has not is added, so that reading it refuses the name.
fn with_changes(text: &str, changes: &str) -> String {
    let (mut out, mut table) = (text.to_owned(), String::new());
    for line in changes.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            table = name.trim().to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.split('#').next().unwrap_or_default().trim();
            out =
                set(&out, &table, key.trim(), value).unwrap_or_else(|| format!("{out}\n[{table}]\n{line}\n"));
        }
    }
    out
}

/// The process with what is wished for.
///
/// # Errors
/// A wish that glass does not know, or a file without the keys it concerns; what to do about it.
pub fn adapt(mut process: ProcessText, wishes: &Wishes) -> Result<ProcessText, String> {
    if let Some(name) = &wishes.preset {
        let preset = PRESETS.iter().find(|p| p.name == name).ok_or_else(|| {
            let all: Vec<String> = PRESETS.iter().map(|p| format!("{} ({})", p.name, p.about)).collect();
            format!("glass has no preset {name:?}; it has {}", all.join(", "))
        })?;
        for (key, value) in preset.keys {
            process.toml = set(&process.toml, "design", key, value)
                .ok_or_else(|| format!("process {} has no key design.{key} to set", process.name))?;
        }
    }
    for (name, value) in &wishes.settings {
        process.toml = name
            .split_once('.')
            .and_then(|(table, key)| set(&process.toml, table, key, value))
            .ok_or_else(|| format!("process {} has no key {name} to set", process.name))?;
    }
    if let Some(measured) = &wishes.calibration {
        let table = |t: &str| {
            t.parse::<toml::Table>().map_err(|e| format!("--calibration: {}", e.to_string().trim_end()))
        };
        if let Some(other) = table(measured)?.keys().find(|k| *k != "calibration") {
            return Err(format!("--calibration: a table {other:?}; all are named [calibration.…]"));
        }
        if table(&process.toml)?.contains_key("calibration") {
            return Err(format!("process {} has a calibration already", process.name));
        }
        process.toml = format!("{}\n{measured}", process.toml);
    }
    Ok(process)
}

/// The text with another value for a key of a table; comments stay. `None` where the key is not there.
pub fn set(text: &str, table: &str, key: &str, value: &str) -> Option<String> {
    let mut inside = false;
    let mut found = false;
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            inside = trimmed.trim_start_matches('[').split(']').next().map(str::trim) == Some(table);
        }
        let mine = inside && line.split_once('=').is_some_and(|(k, _)| k.trim() == key);
        if mine {
            found = true;
            let comment = line.split_once('#').map(|(_, c)| format!(" #{c}")).unwrap_or_default();
            out.push_str(&format!("{key} = {value}{comment}"));
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hologram::Hologram;

    #[test]
    fn every_writer_is_a_valid_process_of_the_same_glass() {
        let all = processes();
        let base = Hologram::parse("t", &all[0].toml).unwrap().base;
        for p in &all[1..=WRITERS.len()] {
            let p = Hologram::parse(&p.name, &p.toml).unwrap_or_else(|e| panic!("{e}")).base;
            assert!(p.voxel_um == base.voxel_um && p.index == base.index);
            assert!(p.rate_hz < base.rate_hz || p.levels < base.levels);
        }
        let unknown = with_changes(BUILT_IN, "[write]\nrate_khz = 3");
        assert!(Hologram::parse("t", &unknown).is_err());
    }

    #[test]
    fn a_calibration_is_kept_behind_the_process() {
        let process = processes().remove(0);
        let give = |text: &str, to: &ProcessText| {
            adapt(to.clone(), &Wishes { calibration: Some(text.into()), ..Wishes::default() })
        };
        let text = "[calibration.focus]\ndepth_ratio = 1.5\n";
        let with = give(text, &process).unwrap();
        assert_eq!(Hologram::parse("t", &with.toml).unwrap().base.depth_ratio(), 1.5);
        assert!(give(text, &with).unwrap_err().contains("already"));
        assert!(give("[write]\nrate_hz = 1", &process).unwrap_err().contains("write"));
        assert!(give("[calibration", &process).is_err());
    }

    #[test]
    fn presets_set_their_keys_and_nothing_else() {
        let toml = include_str!("../process/borosilicate-phase.toml").to_owned();
        let process = ProcessText { name: "t".into(), toml };
        let built_in = Hologram::parse("t", &process.toml).unwrap();
        let preset = |name: &str| {
            let wishes = Wishes { preset: Some(name.into()), ..Wishes::default() };
            adapt(process.clone(), &wishes).map(|p| Hologram::parse("t", &p.toml).unwrap())
        };
        assert_eq!(preset("best").unwrap(), built_in);
        let fast = preset("fast").unwrap();
        assert_eq!((fast.cg_steps, fast.clip_steps, fast.flip_steps), (8, 2, 60));
        assert_eq!(fast.base.levels, built_in.base.levels);
        assert!(preset("slow").unwrap_err().contains("best"));
        assert_eq!(
            set("[a]\nx = 1 # one\n[b]\nx = 2\n", "b", "x", "3").unwrap(),
            "[a]\nx = 1 # one\n[b]\nx = 3\n"
        );
        assert_eq!(set("[a]\ny = 1", "a", "x", "3"), None);
    }
}
