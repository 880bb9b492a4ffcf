//! `swegym study`: how results scale.

use swegym::improve::results::{self, InferenceStudy};
use swegym::{Error, exit};

use crate::args::{Global, InferenceArgs, StudyCommand};
use crate::commands::score;
use crate::ui::{DIM, Ui, table};

pub fn run(ui: &Ui, global: &Global, command: StudyCommand) -> Result<u8, Error> {
    match command {
        StudyCommand::Inference(args) => inference(ui, global, &args),
    }
}

fn inference(ui: &Ui, global: &Global, args: &InferenceArgs) -> Result<u8, Error> {
    if args.k.is_empty() || args.k.contains(&0) {
        return Err(Error::input(
            "--k needs numbers from 1 on",
            "such as --k 1,2,4,8",
        ));
    }
    let (records, scores) = score::score(ui, global, &args.scoring)?;
    if scores.len() < records.len() {
        return Ok(exit::INTERRUPTED);
    }
    let study = results::inference(&records, &scores, &args.k, args.scoring.part.split_seed);
    if study.pass.is_empty() {
        return Err(Error::input(
            format!(
                "no instance has {} graded attempts",
                args.k.iter().max().unwrap_or(&1)
            ),
            "ask for a smaller --k, or give more graded runs with --trajectories",
        ));
    }
    study.write(&args.out)?;
    ui.answer(&study, |ui| print(ui, &study));
    ui.say(format!("{DIM}study in {}{DIM:#}", args.out.display()));
    Ok(exit::SUCCESS)
}

fn print(ui: &Ui, study: &InferenceStudy) {
    let row = |name: &str, auc: Option<f64>, curve: &[_]| {
        let mut row = vec![
            name.to_owned(),
            auc.map_or("–".into(), |a| format!("{a:.3}")),
        ];
        row.extend(
            curve
                .iter()
                .map(|(_, e)| crate::commands::improve::share(e)),
        );
        row
    };
    let mut rows = vec![row("pass@k", None, &study.pass)];
    for ranking in &study.rankings {
        rows.push(row(&ranking.name, ranking.auc, &ranking.best));
    }
    let mut header = vec!["best@k by".to_owned(), "AUC".to_owned()];
    header.extend(study.pass.iter().map(|(k, _)| format!("k = {k}")));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let right: Vec<usize> = (1..header.len()).collect();
    ui.data(table(&header, &right, rows));
    let instances = study.pass.first().map_or(0, |(_, e)| e.instances);
    ui.say(format!(
        "{} attempts at {instances} instances, {} with fewer left out; 95 % intervals over instances",
        study.attempts, study.left_out
    ));
}
