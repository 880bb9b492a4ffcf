//! Trajectories of anybody: a document is imported or refused, and what was
//! imported is valid and comes back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swegym_data::trajectory::{import, native};

fuzz_target!(|text: &str| {
    let Ok(document) = serde_json::from_str::<serde_json::Value>(text) else {
        return;
    };
    let Ok(imported) = import(document.clone()) else {
        return;
    };
    imported.trajectory.check().expect("what was imported is valid");
    if document.get("schema_version").is_none() {
        let back = native(&imported.trajectory).expect("it was not changed");
        assert_eq!(back, document);
    }
});
