//! Environment recipes: what must be installed to run the tests of a
//! codebase, and the steps that install it.
//!
//! A recipe comes from the row of a data set, from a spec, or from the
//! codebase itself; the first that applies. Everything but [`host`] is a pure
//! function of its arguments: the caller runs the steps of a [`BuildPlan`] in
//! a sandbox. See docs/design/recipes.md.
//!
//! Tasks from injected bugs are made here too, as pure text: [`mutate`] breaks
//! functions, [`twin`] rewrites hidden tests, [`symptom`] writes the issue. See
//! docs/design/mutation.md.

pub mod changelog;
mod directives;
mod error;
mod functions;
pub mod host;
mod infer;
mod ini;
mod install;
pub mod mutate;
pub mod outline;
mod pattern;
mod plan;
pub mod pulls;
mod python;
mod random;
mod recipe;
mod rows;
mod shell;
mod specs;
pub mod split;
pub mod symptom;
mod tree;
pub mod twin;
mod version;
pub mod visible;

pub use error::ForgeError;
pub use plan::{BuildPlan, Layer, Layout, REGISTRY_VARIABLES, Step, StepName};
pub use recipe::{Candidate, Framework, Origin, Recipe};
pub use specs::Specs;
pub use tree::{DirTree, MemoryTree, Tree};
pub use version::PyVersion;

use jiff::civil::Date;
use swegym_core::Instance;

use crate::host::Interpreter;

/// Which sources of recipes may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The row, then the specs, then the codebase.
    #[default]
    Auto,
    /// The specs, then the codebase.
    IgnoreRow,
    /// The codebase alone.
    InferredOnly,
}

/// Name of a codebase's licence, as its metadata states it (`MIT`,
/// `BSD License`), else as its classifiers do; none where neither does.
pub fn license(tree: &dyn Tree) -> Option<String> {
    // Which interpreter reads setup.py decides nothing here.
    on_deep_stack(|| infer::Project::read(tree, PyVersion::new(3, 9)).license())
}

/// The recipe for an instance: the first of [`recipes_for`].
///
/// # Errors
/// As [`recipes_for`].
pub fn recipe_for(
    instance: &Instance,
    tree: &dyn Tree,
    mode: Mode,
    specs: &Specs,
    available: &[Interpreter],
) -> Result<Recipe, ForgeError> {
    let mut candidates = recipes_for(instance, tree, mode, specs, available)?;
    Ok(candidates.swap_remove(0).recipe)
}

/// All recipes for an instance, best first; never empty. A builder tries them
/// in order and records which one succeeded.
///
/// # Errors
/// [`ForgeError::Field`] if the row's recipe has wrong content,
/// [`ForgeError::NoRecipe`] if nothing says how to build the codebase.
pub fn recipes_for(
    instance: &Instance,
    tree: &dyn Tree,
    mode: Mode,
    specs: &Specs,
    available: &[Interpreter],
) -> Result<Vec<Candidate>, ForgeError> {
    on_deep_stack(|| candidates(instance, tree, mode, specs, available))
}

/// Stack for the Python parser, which recurses with the nesting of a source;
/// memory that is not touched costs nothing.
const DEEP_STACK: usize = 256 << 20;

pub(crate) fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("recipes".into())
            .stack_size(DEEP_STACK)
            .spawn_scoped(scope, work)
            .expect("the system refuses another thread");
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn candidates(
    instance: &Instance,
    tree: &dyn Tree,
    mode: Mode,
    specs: &Specs,
    available: &[Interpreter],
) -> Result<Vec<Candidate>, ForgeError> {
    let versions: Vec<PyVersion> = available.iter().map(|i| i.version).collect();
    let mut out = Vec::new();
    if mode == Mode::Auto {
        out.extend(rows::from_environment(instance, tree)?);
        if out.is_empty() {
            out.extend(rows::from_install_config(instance, tree)?);
        }
    }
    if mode != Mode::InferredOnly && out.is_empty() {
        out.extend(rows::from_spec(instance, tree, specs));
    }
    // A row that says how it is built is not built otherwise.
    let from_row = out.first().is_some_and(|c| c.recipe.origin != Origin::Spec);
    if !from_row {
        out.extend(infer::infer(instance, tree, &versions));
    }
    for candidate in &mut out {
        rows::own_test_command(&mut candidate.recipe, instance, tree);
        install::for_old_python(&mut candidate.recipe, tree);
    }
    if out.is_empty() {
        return Err(ForgeError::NoRecipe {
            instance: instance.instance_id.clone(),
            reason: "neither the row nor a spec has a recipe, and no Python fits".into(),
        });
    }
    Ok(out)
}

/// When the codebase of an instance was current: the date of its base commit,
/// or else of the row.
pub(crate) fn date_of(instance: &Instance, tree: &dyn Tree) -> Option<Date> {
    let row = instance.created_at.as_deref();
    tree.date()
        .or_else(|| row.and_then(|text| text.get(..10)?.parse().ok()))
}

/// One line of a text, at most `most` characters long.
pub(crate) fn excerpt(text: &str, most: usize) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(most) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests;
