//! `swegym best-of`: the likeliest attempt at each instance, as predictions.

use std::collections::BTreeSet;

use swegym::best_of::{self, Chosen};
use swegym::export::{self, Record};
use swegym::improve::results::Ranking;
use swegym::verify::{self, Scorers, Verifier};
use swegym::{Error, exit, tasks};

use crate::args::{BestOfArgs, Global, RankingKind};
use crate::commands::score;
use crate::ui::Ui;

pub fn run(ui: &Ui, _: &Global, args: &BestOfArgs) -> Result<u8, Error> {
    let by = ranking(args)?;
    let records = export::read(&args.runs)?;
    let fit = export::read(&args.fit)?;
    let fitted: BTreeSet<&str> = fit.iter().map(|r| r.instance_id.as_str()).collect();
    let records = best_of::first(records, args.k);
    let seen = |r: &&Record| fitted.contains(r.instance_id.as_str());
    if let Some(seen) = records.iter().find(seen) {
        return Err(Error::input(
            format!("--fit has attempts at {} as well", seen.instance_id),
            "fit to attempts at other instances: of its own, the choice would look better than it is",
        ));
    }
    let scorers = Scorers {
        verifier: match &args.verifier {
            Some(dir) => Some(Verifier::open(dir, None)?),
            None => None,
        },
        features: match fit.as_slice() {
            [] => None,
            fit => Some(verify::fit_features(fit, 42)?),
        },
    };
    let scores = score::shown(ui, &records, &scorers)?;
    if scores.len() < records.len() {
        return Ok(exit::INTERRUPTED);
    }
    let chosen = best_of::choose(&records, &scores, by);
    let predictions: Vec<_> = chosen.iter().map(|c| c.prediction(&args.name)).collect();
    tasks::write_lines(&args.out, &predictions)?;
    ui.answer(&chosen, |ui| print(ui, &chosen, args));
    Ok(exit::SUCCESS)
}

fn ranking(args: &BestOfArgs) -> Result<Ranking, Error> {
    let needs = |there: bool, option: &str| match there {
        true => Ok(()),
        false => Err(Error::input(
            format!("to rank so, best-of needs {option}"),
            "or choose another ranking with --by",
        )),
    };
    let by = match (args.by, &args.verifier) {
        (Some(by), _) => by,
        (None, Some(_)) => RankingKind::Verifier,
        (None, None) => RankingKind::Features,
    };
    let verifier = || needs(args.verifier.is_some(), "--verifier DIR");
    let fit = || needs(!args.fit.is_empty(), "--fit with graded attempts");
    Ok(match by {
        RankingKind::Verifier => verifier().map(|()| Ranking::Verifier)?,
        RankingKind::Hybrid => verifier().map(|()| Ranking::Hybrid)?,
        RankingKind::Features => fit().map(|()| Ranking::Features)?,
        RankingKind::Ensemble => verifier()
            .and_then(|()| fit())
            .map(|()| Ranking::Ensemble)?,
        RankingKind::Logprob => Ranking::LogProbability,
        RankingKind::Tests => Ranking::VisibleTests,
    })
}

fn print(ui: &Ui, chosen: &[Chosen], args: &BestOfArgs) {
    let unscored = chosen.iter().filter(|c| c.score.is_none()).count();
    ui.say(format!(
        "{} predictions in {}{}",
        chosen.len(),
        args.out.display(),
        match unscored {
            0 => String::new(),
            n => format!("; {n} instances have no attempt with a score, and their first is taken"),
        }
    ));
    let graded: Vec<&Chosen> = chosen.iter().filter(|c| c.resolved.is_some()).collect();
    if !graded.is_empty() {
        let resolved = graded.iter().filter(|c| c.resolved == Some(true)).count();
        let any = graded.iter().filter(|c| c.any_resolved).count();
        ui.say(format!(
            "{resolved} of {} are resolved; {any} instances have an attempt that is",
            graded.len()
        ));
    }
}
