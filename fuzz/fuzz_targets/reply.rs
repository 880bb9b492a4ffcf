//! What a model writes: any text is an answer, and a call that was read comes
//! back when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use swegym_agent::text_form::{parse_call, render_call};
use swegym_core::Tool;

fuzz_target!(|answer: &str| {
    let parameters = json!({
        "type": "object",
        "properties": {
            "command": {"type": "string"},
            "line": {"type": "integer"},
            "range": {"type": "array"},
        },
        "required": ["command"],
    });
    let tools = [
        Tool::new("edit", "", Some(parameters)),
        Tool::new("finish", "", None),
    ];
    let Ok(Some(parsed)) = parse_call(answer, &tools) else {
        return;
    };
    assert!(parsed.text.ends_with("</function>"));
    let text = render_call(&parsed.call).expect("what was read can be written");
    if let Ok(Some(again)) = parse_call(&text, &tools) {
        assert_eq!(again.call, parsed.call);
    }
});
