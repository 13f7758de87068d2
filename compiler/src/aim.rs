//! Choosing the settings of a process for a volume or a signal-to-noise ratio.
//!
//! A target names the settings to choose among ([`Backend::variants`](pfmc_ir::backend::Backend::variants)). The model is cut and planned under
//! each, and what the plan should reach and take is compared; nothing is designed or written meanwhile but what the target's
//! forecast needs.

use std::fmt;

use pfmc_ir::backend::{Forecast, Plan, Progress, Settings, Wishes};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use rayon::prelude::*;

use crate::codes::{E0004, E0406};
use crate::compile::{Fixed, OpenTarget};
use crate::partition::partition;
use crate::quantise::options::{Budget, Quantisation};
use crate::quantise::plan::WeightPlan;
use crate::source::ModelSource;

/// What the choice is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// The least volume in which every tile reaches a signal-to-noise ratio, dB.
    Ratio(f64),
    /// The best ratio of the worst tile in a volume, mm3.
    Volume(f64),
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Aim::Ratio(db) => write!(f, "{db} dB"),
            Aim::Volume(mm3) => write!(f, "{mm3} mm3"),
        }
    }
}

impl Aim {
    /// Takes the aim out of the options.
    ///
    /// # Errors
    /// An aim beside a plan, which has been chosen for one.
    pub fn take(q: &mut Quantisation) -> Result<Option<Aim>, Diagnostics> {
        let aim = match (q.snr_target_db, q.budget) {
            (Some(db), _) => Aim::Ratio(db),
            (None, Some(Budget::Mm3(volume))) => Aim::Volume(volume),
            _ => return Ok(None),
        };
        if q.plan.is_some() {
            return Err(Diagnostic::error(&E0004, "a plan says what was chosen of the process")
                .help("leave out --snr-target and --budget beside --plan or --base")
                .into());
        }
        q.snr_target_db = None;
        if let Aim::Volume(_) = aim {
            q.budget = None;
        }
        Ok(Some(aim))
    }

    /// Whether a plan does what is asked for.
    fn meets(self, f: &Forecast) -> bool {
        match self {
            Aim::Ratio(db) => f.reached.db >= db,
            Aim::Volume(mm3) => f.volume_mm3 <= mm3,
        }
    }

    /// Of plans that do what is asked for, the better is the less.
    fn order(self, a: &Forecast, b: &Forecast) -> std::cmp::Ordering {
        let best = b.reached.db.total_cmp(&a.reached.db);
        let least = a.volume_mm3.total_cmp(&b.volume_mm3).then(a.time_s.total_cmp(&b.time_s));
        match self {
            Aim::Ratio(_) => least.then(best),
            Aim::Volume(_) => best.then(least),
        }
    }

    /// Why no plan does what is asked for.
    fn refusal(self, all: &[(Settings, Forecast)]) -> Diagnostics {
        let (text, help) = match self {
            Aim::Ratio(db) => {
                let Some((_, f)) = all.iter().max_by(|a, b| a.1.reached.db.total_cmp(&b.1.reached.db)) else {
                    return Diagnostic::error(&E0406, "nothing can be planned").into();
                };
                let r = &f.reached;
                let text = format!(
                    "{db} dB are more than the best settings of the process reach, {:.1} dB in {:.3} mm3; the largest noise is {} ({:.1} dB)",
                    r.db, f.volume_mm3, r.limit, r.limit_db
                );
                (text, "give a lower --snr-target, or a process with less of that noise")
            }
            Aim::Volume(mm3) => {
                let least = all.iter().fold(f64::INFINITY, |least, (_, f)| least.min(f.volume_mm3));
                (format!("{mm3} mm3 are less than the least, {least:.3} mm3"), "give a larger --budget")
            }
        };
        Diagnostic::error(&E0406, text).help(help).into()
    }
}

/// What was chosen.
pub struct Chosen {
    /// The target with the process as chosen.
    pub open: OpenTarget,
    /// What was chosen of the process.
    pub settings: Settings,
    /// What it should give and take.
    pub forecast: Forecast,
}

/// Opens a target with some settings.
fn with(from: &OpenTarget, settings: &Settings) -> Result<OpenTarget, Diagnostics> {
    let wishes = Wishes { settings: settings.clone(), ..Wishes::default() };
    let process =
        from.backend.adapt(from.process.clone(), &wishes).map_err(|e| Diagnostic::error(&E0004, e))?;
    OpenTarget::new(from.backend, process)
}

/// Cuts and plans a model under some settings and asks something of the plan.
fn planned<T>(
    from: &OpenTarget,
    fixed: &Fixed,
    settings: &Settings,
    ask: impl Fn(&dyn Plan, &ModelSource) -> Result<T, Diagnostics>,
) -> Result<T, Diagnostics> {
    let OpenTarget { target, .. } = with(from, settings)?;
    let caps = target.caps();
    let plan = WeightPlan::uniform(&fixed.found, caps.default_scheme);
    let limit = |scheme| target.tile_limit(scheme);
    let (program, source) =
        partition(fixed.graph.clone(), &fixed.found, &plan, &limit, caps.data_tile_bytes)?;
    ask(&*target.plan(&program)?, &source)
}

/// What a model should give and take under the settings to choose among.
pub struct Choices<'a> {
    from: &'a OpenTarget,
    /// Of the last list, each with what was kept of those before; none where the target has no settings to choose.
    tried: Option<Vec<(Settings, Forecast)>>,
}

impl<'a> Choices<'a> {
    /// Forecasts a model under each of the settings, list after list.
    ///
    /// # Errors
    /// What makes all settings of a list unfit for the model.
    pub fn of(
        from: &'a OpenTarget,
        fixed: &Fixed,
        progress: &dyn Progress,
    ) -> Result<Choices<'a>, Diagnostics> {
        let lists = from.backend.variants(&from.process)?;
        let mut tried: Option<Vec<(Settings, Forecast)>> = None;
        if lists.is_empty() {
            return Ok(Choices { from, tried });
        }
        let hardest = planned(from, fixed, &Settings::new(), |plan, source| plan.hardest(source))?;
        for list in &lists {
            let kept = match &tried {
                None => Settings::new(),
                // Of each list but the last what reaches most.
                Some(before) => match best(Aim::Volume(f64::INFINITY), before) {
                    Some((settings, _)) => settings.clone(),
                    None => break,
                },
            };
            progress.begin("choosing settings", list.len() as u64);
            let results: Vec<Result<Option<(Settings, Forecast)>, Diagnostics>> = list
                .par_iter()
                .map(|more| {
                    let mut all = kept.clone();
                    all.extend(more.clone());
                    let found = match &hardest {
                        None => Ok(None),
                        Some(hardest) => planned(from, fixed, &all, |plan, _| plan.forecast(hardest)),
                    };
                    progress.advance(1);
                    Ok(found?.map(|f| (all, f)))
                })
                .collect();
            let mut unfit = None;
            let mut fit = Vec::new();
            for result in results {
                match result {
                    Ok(found) => fit.extend(found),
                    Err(e) => unfit = unfit.or(Some(e)),
                }
            }
            if let (true, Some(e)) = (fit.is_empty(), unfit) {
                return Err(e);
            }
            tried = Some(fit);
        }
        Ok(Choices { from, tried })
    }

    /// Chooses the settings for an aim.
    ///
    /// # Errors
    /// E0004 for a target without a choice, E0406 where no settings do what is asked for.
    pub fn choose(&self, aim: Aim) -> Result<Chosen, Diagnostics> {
        let Some(tried) = &self.tried else {
            let text = format!("the target {} has no settings to choose for {aim}", self.from.backend.name());
            return Err(Diagnostic::error(&E0004, text)
                .help("--snr-target and budgets in mm3 are for targets that write a volume")
                .into());
        };
        let (settings, forecast) = best(aim, tried).cloned().ok_or_else(|| aim.refusal(tried))?;
        Ok(Chosen { open: with(self.from, &settings)?, settings, forecast })
    }
}

/// Of the settings that do what is asked for the best.
fn best(aim: Aim, tried: &[(Settings, Forecast)]) -> Option<&(Settings, Forecast)> {
    tried.iter().filter(|t| aim.meets(&t.1)).min_by(|a, b| aim.order(&a.1, &b.1))
}
