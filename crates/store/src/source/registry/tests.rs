use std::collections::HashMap;

use super::*;

fn settings(env: &[(&str, &str)]) -> Settings {
    let env: HashMap<_, _> = env.iter().copied().collect();
    let pip = || {
        Ok(Pip {
            index: "https://conf/simple".into(),
            certificate: Some("/conf.pem".into()),
        })
    };
    Settings::read(&|name| env.get(name).map(|value| (*value).to_owned()), &pip).unwrap()
}

#[test]
fn settings_come_from_the_first_place_that_has_them() {
    let index = |env: &[(&str, &str)]| settings(env).index;
    assert_eq!(index(&[]), "https://conf/simple");
    assert_eq!(index(&[("PIP_INDEX_URL", "p")]), "p");
    assert_eq!(index(&[("PIP_INDEX_URL", "p"), ("UV_INDEX_URL", "u")]), "u");
    assert_eq!(
        index(&[("UV_INDEX_URL", "u"), ("UV_DEFAULT_INDEX", "d")]),
        "d"
    );
    assert_eq!(settings(&[]).certificate, Some("/conf.pem".into()));
    let certificate = settings(&[("PIP_CERT", "/env.pem")]).certificate;
    assert_eq!(certificate, Some("/env.pem".into()));
}

#[test]
fn pip_itself_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("pip.conf");
    std::fs::write(
        &conf,
        "# index-url = no\n[list]\nindex-url = no\n[global]\nindex_url = https://conf/simple\ncert=/conf.pem\n",
    )
    .unwrap();
    let output = Command::new("python3")
        .args(["-c", ASK_PIP])
        .env("PIP_CONFIG_FILE", &conf)
        .env_remove("PIP_INDEX_URL")
        .env_remove("PIP_CERT")
        .output()
        .expect("a python3 on PATH");
    let pip: Pip =
        serde_json::from_slice(&output.stdout).expect("an answer: does python3 have pip?");
    assert_eq!(pip.index, "https://conf/simple");
    assert_eq!(pip.certificate.as_deref(), Some("/conf.pem"));
}

#[test]
fn links_are_resolved_against_their_page() {
    let page = "https://host:1/root/simple/tool/";
    for (link, expected) in [
        ("https://other/f", "https://other/f"),
        ("//other/f", "https://other/f"),
        ("/f/x", "https://host:1/f/x"),
        ("f", "https://host:1/root/simple/tool/f"),
        ("../../f/./x", "https://host:1/root/f/x"),
        ("../../../../../f", "https://host:1/f"),
    ] {
        assert_eq!(join(page, link), expected, "{link}");
    }
}

#[test]
fn passwords_are_cut_out() {
    assert_eq!(without_password("https://u:p@host/x"), "https://host/x");
    assert_eq!(without_password("https://host/a@b"), "https://host/a@b");
}
