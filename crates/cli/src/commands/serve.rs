//! `swegym serve`: a model for other programs.

use std::net::SocketAddr;

use swegym::serve::{self, ServeOptions};
use swegym::{Error, exit, models};

use crate::args::{Global, ServeArgs};
use crate::commands;
use crate::ui::Ui;

pub fn run(ui: &Ui, global: &Global, args: &ServeArgs) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let name = match &args.adapter {
        Some(dir) => format!("{}+{}", args.model, dir.display()),
        None => args.model.clone(),
    };
    let mut model = models::open(&home, &name, &mut |line| ui.say(line))?;
    if let Some(name) = &args.name {
        model.name.clone_from(name);
    }
    let served = model.name.clone();
    let options = ServeOptions {
        address: SocketAddr::new(args.host, args.port),
        slots: args.slots.max(1),
        queue: args.queue.max(1),
    };
    let cancel = commands::cancel_on_ctrl_c();
    serve::run(model, &options, &cancel, &mut |address| {
        ui.say(format!("{served} on http://{address}/v1"));
        ui.hint(format!(
            "--model openai:{served}@http://{address}/v1 uses it"
        ));
    })?;
    Ok(exit::SUCCESS)
}
