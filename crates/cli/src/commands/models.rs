//! `swegym models`: what this program can run.

use std::path::Path;

use swegym::models::{self, Listed};
use swegym::train::{Dtype, Model, learn};
use swegym::{Error, exit};

use crate::args::{DtypeKind, Global, ModelForm, ModelsCommand};
use crate::commands;
use crate::ui::{Ui, human_bytes, table};

pub fn run(ui: &Ui, global: &Global, command: ModelsCommand) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let mut say = |line: &str| ui.say(line);
    match command {
        ModelsCommand::List => {
            let found = models::list(&home)?;
            ui.answer(&found, |ui| print(ui, &found));
        }
        ModelsCommand::Pull { name } => {
            let path = models::pull(&home, &name, &mut say)?;
            ui.say(format!(
                "{name} is in {}; use it as local:{name}",
                path.display()
            ));
        }
        ModelsCommand::Import { path, name } => {
            let to = models::import(&home, &path, name.as_deref())?;
            let name = to.file_name().unwrap_or_default().to_string_lossy();
            ui.say(format!("use it as local:{name}"));
        }
        ModelsCommand::Export {
            model,
            adapter,
            to,
            dtype,
            out,
        } => {
            let path = models::resolve(&home, &model, &mut say)?;
            export(&path, adapter.as_deref(), to, dtype, &out)?;
            ui.say(format!("written to {}", out.display()));
        }
    }
    Ok(exit::SUCCESS)
}

fn export(
    model: &Path,
    adapter: Option<&Path>,
    to: ModelForm,
    dtype: Option<DtypeKind>,
    out: &Path,
) -> Result<(), Error> {
    let mut model = Model::read(model, Dtype::Stored).map_err(learn)?;
    if let Some(dir) = adapter {
        model.network.read_lora(dir).map_err(learn)?;
    }
    match to {
        ModelForm::Peft => model.network.write_lora(out, &model.name),
        ModelForm::Safetensors => {
            model.network.merge_lora();
            let dtype = match dtype {
                None => Dtype::Stored,
                Some(DtypeKind::F32) => Dtype::F32,
                Some(DtypeKind::Bf16) => Dtype::Bf16,
            };
            model.write(out, dtype)
        }
    }
    .map_err(learn)
}

fn print(ui: &Ui, found: &[Listed]) {
    if found.is_empty() {
        ui.say("no model yet");
        ui.hint("`swegym models pull smollm2` fetches the embedded default");
        return;
    }
    let number = |n: Option<usize>| n.map_or("–".into(), |n| n.to_string());
    let rows = found.iter().map(|m| {
        vec![
            m.name.clone(),
            m.architecture
                .clone()
                .unwrap_or_else(|why| format!("unreadable: {why}")),
            m.parameters
                .map_or("–".into(), |n| format!("{:.1} M", n as f64 / 1e6)),
            number(m.context),
            human_bytes(m.size),
        ]
    });
    let header = ["model", "architecture", "parameters", "context", "size"];
    ui.data(table(&header, &[2, 3, 4], rows));
}
