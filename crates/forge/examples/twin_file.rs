//! Writes twins of a test file, for a person or a script that runs them.
//!
//! ```text
//! cargo run -p swegym-forge --example twin_file -- FILE PATH OUT SEED < ids
//! ```
//!
//! `PATH` is what the ids call the file. `OUT/<k>.py` has the k-th alternative
//! of every test that has so many; `OUT/kinds.txt` says how many tests there
//! are, and the kind of each one's first.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use swegym_forge::twin::{alternatives, compose};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, path, out, seed] = &args[..] else {
        return Err("FILE PATH OUT SEED < ids".into());
    };
    let text = fs::read_to_string(file)?;
    let ids: Vec<String> = std::io::stdin().lines().collect::<Result<_, _>>()?;
    let all = alternatives(path, &text, &ids, seed.parse()?)?;
    let out = PathBuf::from(out);
    fs::create_dir_all(&out)?;
    let mut kinds = BTreeMap::<String, usize>::new();
    for test in &all {
        let kind = match (test.alternatives.first(), &test.reason) {
            (Some(first), _) => format!("{:?}", first.kind),
            (None, reason) => format!("none: {}", reason.as_deref().unwrap_or_default()),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let most = all.iter().map(|t| t.alternatives.len()).max().unwrap_or(0);
    for k in 0..most {
        let mut chosen = Vec::new();
        for alternative in all.iter().filter_map(|t| t.alternatives.get(k)) {
            // Tests may share what they alter in two ways; the first has it.
            let mut more = chosen.clone();
            more.push(alternative);
            if compose(&text, more.iter().copied()).is_ok() {
                chosen = more;
            }
        }
        fs::write(out.join(format!("{k}.py")), compose(&text, chosen)?)?;
    }
    let lines: Vec<String> = kinds.iter().map(|(k, n)| format!("{n} {k}\n")).collect();
    fs::write(out.join("kinds.txt"), lines.concat())?;
    Ok(())
}
