//! `swegym score`: how likely attempts resolved their issue.

use std::collections::BTreeSet;

use swegym::export::{self, Record};
use swegym::verify::{self, Judged, Score, Scorers, Verifier};
use swegym::{Error, curate, exit, models};

use crate::args::{Global, ScoreArgs, ScoringArgs, SplitPart};
use crate::commands;
use crate::ui::{DIM, Ui, table};

pub fn run(ui: &Ui, global: &Global, args: &ScoreArgs) -> Result<u8, Error> {
    if args.scoring.verifier.is_none() && args.scoring.fit.is_empty() {
        return Err(Error::input(
            "nothing to score by",
            "give --verifier DIR, --fit with graded attempts for the feature model, or both",
        ));
    }
    let (records, scores) = score(ui, global, &args.scoring)?;
    if let Some(path) = &args.out {
        let rows: Vec<_> = scores
            .iter()
            .map(|s| serde_json::to_value(s).expect("plain data"))
            .collect();
        curate::write(path, &rows)?;
    }
    let judged = verify::table(&scores);
    ui.answer(
        &(&judged, if args.out.is_none() { &scores[..] } else { &[] }),
        |ui| {
            print(ui, &scores, &judged);
        },
    );
    if scores.len() < records.len() {
        return Ok(exit::INTERRUPTED);
    }
    Ok(exit::SUCCESS)
}

/// The attempts that are asked for with their scores; fewer of these where it
/// was stopped.
pub fn score(
    ui: &Ui,
    global: &Global,
    args: &ScoringArgs,
) -> Result<(Vec<Record>, Vec<Score>), Error> {
    let home = commands::home(global)?;
    let base = match &args.base {
        None => None,
        Some(name) => Some(models::resolve(&home, name, &mut |line| ui.say(line))?),
    };
    let verifier = match &args.verifier {
        None => None,
        Some(dir) => Some(Verifier::open(dir, base.as_deref())?),
    };
    let mut fitted = BTreeSet::new();
    let features = if args.fit.is_empty() {
        None
    } else {
        let mut part = commands::part(&args.part);
        if let Some(part) = &mut part {
            part.first = true;
        }
        let records = export::read(&args.fit)?;
        let records = match &part {
            Some(part) => part.take(records),
            None => records,
        };
        fitted.extend(records.iter().map(|r| r.instance_id.clone()));
        Some(verify::fit_features(&records, args.part.split_seed)?)
    };
    if args.part.split == Some(SplitPart::Train) {
        ui.warn("these are the attempts that were trained on: their scores say little");
    }
    let groups = curate::read_groups(&args.trajectories, commands::part(&args.part).as_ref())?;
    let records: Vec<Record> = groups.into_iter().flat_map(|g| g.1).collect();
    if args.part.split != Some(SplitPart::Train) {
        unseen(&records, &fitted)?;
    }
    let scorers = Scorers { verifier, features };
    let scores = shown(ui, &records, &scorers)?;
    Ok((records, scores))
}

/// Scores attempts with a bar; fewer scores than attempts where it was stopped.
pub fn shown(ui: &Ui, records: &[Record], scorers: &Scorers) -> Result<Vec<Score>, Error> {
    let cancel = commands::cancel_on_ctrl_c();
    let progress = ui.progress(records.len(), "score");
    let scores = verify::score(records, scorers, &cancel, &mut |score, problem| {
        if let Some(why) = problem {
            progress.warn(format!("{} {}: {why}", score.instance_id, score.sample));
        }
        progress.advance("");
    })?;
    progress.finish();
    Ok(scores)
}

/// Refuses to score what the features were fitted to: it would look better
/// than it is.
fn unseen(records: &[Record], fitted: &BTreeSet<String>) -> Result<(), Error> {
    let seen = records.iter().filter(|r| fitted.contains(&r.instance_id));
    match seen.count() {
        0 => Ok(()),
        count => Err(Error::input(
            format!("{count} attempts are of instances that --fit has too"),
            "add --split test, or give other attempts to --fit",
        )),
    }
}

fn print(ui: &Ui, scores: &[Score], judged: &[(&str, Judged)]) {
    let shortened = scores.iter().filter(|s| s.shortened).count();
    ui.say(format!(
        "{} attempts scored, {shortened} of them shortened",
        scores.len()
    ));
    if judged.is_empty() {
        ui.say(format!(
            "{DIM}none is graded, so nothing can be said about the scores{DIM:#}"
        ));
        return;
    }
    let rows = judged.iter().map(|(name, j)| {
        let interval = j
            .interval
            .map_or("–".into(), |(a, b)| format!("{a:.3} to {b:.3}"));
        vec![
            (*name).to_owned(),
            j.count.to_string(),
            j.resolved.to_string(),
            j.auc.map_or("–".into(), |a| format!("{a:.3}")),
            interval,
            j.calibration_error
                .map_or("–".into(), |e| format!("{e:.3}")),
        ]
    });
    let header = [
        "score",
        "attempts",
        "resolved",
        "AUC",
        "95 %",
        "calibration error",
    ];
    ui.data(table(&header, &[1, 2, 3, 5], rows));
}
