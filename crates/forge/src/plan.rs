//! The steps that build an environment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::Interpreter;
use crate::recipe::Recipe;
use crate::shell::quote;

/// Variables of the host that direct installers to a package registry; a
/// builder hands those that are set to every step with network.
pub const REGISTRY_VARIABLES: [&str; 22] = [
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "PIP_CERT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_HTTP_TIMEOUT",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_INSECURE_HOST",
    "UV_SYSTEM_CERTS",
];

/// Where things are inside the place that runs the steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The virtual environment.
    pub venv: PathBuf,
    /// The codebase, writable.
    pub testbed: PathBuf,
    /// The uv program.
    pub uv: PathBuf,
    /// uv's cache, writable, shared between builds.
    pub cache: PathBuf,
    /// A writable directory that does not outlive the build.
    pub scratch: PathBuf,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            venv: "/opt/venv".into(),
            testbed: "/testbed".into(),
            uv: "/opt/swegym/uv".into(),
            cache: "/opt/swegym/uv-cache".into(),
            scratch: "/tmp/swegym-build".into(),
        }
    }
}

/// What to run, in order, to build an environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildPlan {
    /// The interpreter, at its own path.
    pub interpreter: Interpreter,
    /// The steps. One that fails ends the build.
    pub steps: Vec<Step>,
    /// Variables for running tests and sessions in the finished environment.
    pub run_env: BTreeMap<String, String>,
}

/// One step of a build: a bash script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Which step; also the name of its log.
    pub name: StepName,
    /// Which layer its writes belong to.
    pub layer: Layer,
    /// Script for bash.
    pub script: String,
    /// The whole environment of the script, but for [`REGISTRY_VARIABLES`].
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// Whether it needs the package registry.
    pub network: bool,
}

/// Names of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// Makes the virtual environment.
    Venv,
    /// Installs the requirements.
    Requirements,
    /// Runs the recipe's commands before the install.
    PreInstall,
    /// Installs the codebase.
    Install,
    /// Byte-compiles what was installed.
    Compile,
}

impl StepName {
    /// The name in logs and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Venv => "venv",
            Self::Requirements => "requirements",
            Self::PreInstall => "pre_install",
            Self::Install => "install",
            Self::Compile => "compile",
        }
    }
}

/// The layers of an environment that a build fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Dependencies: equal for all instances with equal
    /// [`Recipe::dependency_key`] and interpreter.
    Deps,
    /// The codebase, and what installing it changed.
    Code,
}

impl BuildPlan {
    /// Plans a build of a recipe with an interpreter.
    pub fn new(recipe: &Recipe, interpreter: &Interpreter, layout: &Layout) -> Self {
        let planner = Planner {
            recipe,
            interpreter,
            layout,
        };
        let mut steps = vec![
            planner.venv(),
            planner.requirements(),
            planner.compile(Layer::Deps),
        ];
        steps.extend(planner.codebase(StepName::PreInstall, &recipe.pre_install, Network::Open));
        steps.extend(planner.codebase(StepName::Install, recipe.install.as_slice(), Network::Open));
        steps.push(planner.compile(Layer::Code));
        Self {
            interpreter: interpreter.clone(),
            steps,
            run_env: planner.run_env(),
        }
    }

    /// The steps that build the codebase once more, over the dependencies and
    /// without network: those of the first build, with uv bound to its cache.
    /// What the codebase requires is not looked at again.
    pub fn rebuild(recipe: &Recipe, interpreter: &Interpreter, layout: &Layout) -> Vec<Step> {
        let planner = Planner {
            recipe,
            interpreter,
            layout,
        };
        let commands = [
            (StepName::PreInstall, recipe.pre_install.as_slice()),
            (StepName::Install, recipe.install.as_slice()),
        ];
        let steps = commands
            .iter()
            .filter_map(|(name, commands)| planner.codebase(*name, commands, Network::Cut));
        steps.collect()
    }
}

/// Whether a step may ask the package registry.
#[derive(Clone, Copy, PartialEq)]
enum Network {
    Open,
    Cut,
}

struct Planner<'p> {
    recipe: &'p Recipe,
    interpreter: &'p Interpreter,
    layout: &'p Layout,
}

impl Planner<'_> {
    fn step(&self, name: StepName, layer: Layer, network: bool, body: &str) -> Step {
        let scratch = quote(&self.layout.scratch.to_string_lossy());
        Step {
            name,
            layer,
            script: format!("set -eo pipefail\nmkdir -p {scratch}\n{body}"),
            env: self.build_env(layer),
            cwd: match layer {
                Layer::Deps => "/".into(),
                Layer::Code => self.layout.testbed.clone(),
            },
            network,
        }
    }

    fn venv(&self) -> Step {
        let python = quote(&self.interpreter.executable.to_string_lossy());
        let venv = quote(&self.layout.venv.to_string_lossy());
        let body = format!("\"$SWEGYM_UV\" venv --quiet --clear --python {python} {venv}\n");
        self.step(StepName::Venv, Layer::Deps, false, &body)
    }

    fn requirements(&self) -> Step {
        let recipe = self.recipe;
        // Recorded versions are taken whatever their date.
        let mut body = self.bounds(!recipe.no_deps, Network::Open);
        let required = self.path("requirements.txt");
        body += &here(&required, &recipe.requirements);
        let deps = if recipe.no_deps { " --no-deps" } else { "" };
        let optional = self.path("optional.txt");
        match (recipe.optional.is_empty(), recipe.tolerant) {
            (true, _) => _ = writeln!(body, "uv pip install{deps} -r {required}"),
            (false, false) => {
                body += &here(&optional, &recipe.optional);
                _ = writeln!(body, "uv pip install{deps} -r {required} -r {optional}");
            }
            // All together if that can be; else one by one, each bound by
            // what the codebase itself requires.
            (false, true) => {
                body += &here(&optional, &recipe.optional);
                _ = write!(
                    body,
                    "if ! uv pip install{deps} -r {required} -r {optional}; then
  uv pip install{deps} -r {required}
  while IFS= read -r requirement; do
    uv pip install -r {required} \"$requirement\" ||
      echo \"swegym: left out: $requirement\"
  done < {optional}
fi
"
                );
            }
        }
        self.step(StepName::Requirements, Layer::Deps, true, &body)
    }

    fn codebase(&self, name: StepName, commands: &[String], network: Network) -> Option<Step> {
        if commands.is_empty() {
            return None;
        }
        let mut body = self.bounds(true, network);
        body += LIKE_DEVELOP;
        for command in commands {
            body += command;
            body.push('\n');
        }
        let mut step = self.step(name, Layer::Code, network == Network::Open, &body);
        step.env.extend(self.recipe.install_env.clone());
        Some(step)
    }

    /// Compiles what has no byte code yet. The store pins the time stamps of
    /// sources and headers alike, so the byte code stays valid in its copies
    /// and an edited source is still noticed (docs/design/store.md).
    fn compile(&self, layer: Layer) -> Step {
        let body = "python - <<'PYTHON'
import glob, importlib.util, os, py_compile, sys, warnings
warnings.simplefilter('ignore')
for root in glob.glob(os.path.join(sys.prefix, 'lib*/python*/site-packages')):
    if os.path.islink(os.path.dirname(os.path.dirname(root))):
        continue
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith('.py') and not os.path.exists(importlib.util.cache_from_source(path)):
                try:
                    py_compile.compile(path, doraise=True)
                except (py_compile.PyCompileError, OSError, ValueError, RecursionError):
                    pass  # sources for another Python
PYTHON
";
        self.step(StepName::Compile, layer, false, body)
    }

    /// A shell function in front of uv that applies the recipe's dates and
    /// bounds, so that recorded commands obey them too.
    fn bounds(&self, dated: bool, network: Network) -> String {
        let recipe = self.recipe;
        let mut flags = String::new();
        let mut own = "";
        if network == Network::Cut {
            flags += " --offline";
            own = ALONE;
        }
        if let Some(date) = recipe.exclude_newer.filter(|_| dated) {
            _ = write!(flags, " --exclude-newer {date}");
            for (name, date) in &recipe.exclude_newer_package {
                _ = write!(flags, " --exclude-newer-package {name}={date}");
            }
        }
        for name in &recipe.only_binary {
            _ = write!(flags, " --only-binary {name}");
        }
        let mut out = String::new();
        for (option, name, bounds) in [
            ("--constraints", "constraints.txt", &recipe.constraints),
            (
                "--build-constraints",
                "build-constraints.txt",
                &recipe.build_constraints,
            ),
        ] {
            if !bounds.is_empty() {
                let path = self.path(name);
                out += &here(&path, bounds);
                _ = write!(flags, " {option} {path}");
            }
        }
        _ = write!(
            out,
            "uv() {{
  if [ \"$1 $2\" = 'pip install' ]; then
    shift 2
{own}    \"$SWEGYM_UV\" pip install{flags} $like_develop \"$@\"
  else
    \"$SWEGYM_UV\" \"$@\"
  fi
}}
"
        );
        out
    }

    fn path(&self, name: &str) -> String {
        quote(&self.layout.scratch.join(name).to_string_lossy())
    }

    fn base_env(&self) -> BTreeMap<String, String> {
        let venv = self.layout.venv.to_string_lossy();
        let pairs = [
            ("PATH", format!("{venv}/bin:/usr/local/bin:/usr/bin:/bin")),
            ("VIRTUAL_ENV", venv.to_string()),
            ("HOME", "/tmp".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn run_env(&self) -> BTreeMap<String, String> {
        let mut env = self.base_env();
        env.extend(self.recipe.env.clone());
        env
    }

    fn build_env(&self, layer: Layer) -> BTreeMap<String, String> {
        let scratch = &self.layout.scratch;
        let mut env = self.base_env();
        if layer == Layer::Code {
            // Settings for tests, such as warnings that are errors, are none
            // for the build.
            let own = self.recipe.env.clone().into_iter();
            env.extend(own.filter(|(n, _)| !n.starts_with("PYTHON") && !n.starts_with("PYTEST")));
        }
        let ours = [
            ("HOME", scratch.join("home").to_string_lossy().into_owned()),
            ("SWEGYM_UV", self.layout.uv.to_string_lossy().into_owned()),
            (
                "UV_CACHE_DIR",
                self.layout.cache.to_string_lossy().into_owned(),
            ),
            ("UV_LINK_MODE", "copy".to_owned()),
            ("UV_NO_PROGRESS", "1".to_owned()),
            ("UV_PYTHON_DOWNLOADS", "never".to_owned()),
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
            ("PYTHONNOUSERSITE", "1".to_owned()),
            ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
        ];
        env.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        env
    }
}

/// Has setuptools put the folder of an editable codebase on `sys.path`, as
/// `setup.py develop` did: its newer way, an import hook, breaks projects that
/// look for their modules there. Other build back ends refuse the setting.
const LIKE_DEVELOP: &str = r#"if ! grep -qs '^ *build-backend' pyproject.toml ||
   grep -q '^ *build-backend *= *.setuptools' pyproject.toml; then
  like_develop='-C editable_mode=compat'
fi
"#;

/// Leaves out what the codebase requires when only its own build counts.
const ALONE: &str = r#"    case " $* " in
      *' --no-deps '*) ;;
      *' -e '*) set -- --no-deps "$@" ;;
    esac
"#;

/// A file written by the script, one item a line. The end mark is no
/// requirement, so that none can end the text early.
fn here(path: &str, lines: &[String]) -> String {
    let mut out = format!("cat > {path} <<'### END ###'\n");
    for line in lines.iter().flat_map(|l| l.lines()) {
        if line != "### END ###" {
            out += line;
            out.push('\n');
        }
    }
    out + "### END ###\n"
}
