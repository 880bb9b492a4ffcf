//! Mirrors, exports and histories, with the git program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use swegym_core::Source;
use swegym_store::source::{Change, Diff, Mirrors, Repo, SourceError, leaks, single_commit};

use crate::support::{Bench, at, bench, listing, put, run};

/// Runs git as an author of fixtures would, away from the user's settings.
fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .current_dir(dir)
        .args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "init.defaultBranch=main",
        ])
        .args([
            "-c",
            "protocol.file.allow=always",
            "-c",
            "commit.gpgsign=false",
        ])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    run(&mut command).trim().to_owned()
}

/// A repository with history before and after a base commit.
struct Upstream {
    dir: PathBuf,
    base: String,
    fix: String,
}

fn upstream(b: &Bench) -> Upstream {
    let dir = b.path("upstream");
    fs::create_dir(&dir).unwrap();
    git(&dir, &["init", "-q"]);
    put(&dir.join("src/a.py"), "a = 1\n");
    put(&dir.join("run.sh"), "#!/bin/sh\n");
    put(&dir.join("link"), "-> src/a.py");
    put(&dir.join("crlf.txt"), "one\ntwo\n");
    put(
        &dir.join(".gitattributes"),
        "*.txt eol=crlf\n*.py filter=upper ident\n",
    );
    put(&dir.join("odd \"name\"\n.txt"), "odd\n");
    commit(&dir, "first");
    git(&dir, &["tag", "-a", "-m", "release", "v1"]);
    git(&dir, &["tag", "light"]);
    git(&dir, &["checkout", "-q", "-b", "side"]);
    put(&dir.join("side.py"), "side = 1\n");
    commit(&dir, "side");
    git(&dir, &["checkout", "-q", "main"]);
    put(&dir.join("src/b.py"), "b = 1\n");
    commit(&dir, "second");
    git(&dir, &["merge", "-q", "--no-ff", "-m", "merge", "side"]);
    let base = git(&dir, &["rev-parse", "HEAD"]);
    put(&dir.join("src/a.py"), "a = 2  # the fix\n");
    commit(&dir, "fix");
    let fix = git(&dir, &["rev-parse", "HEAD"]);
    git(&dir, &["tag", "-a", "-m", "later", "v2"]);
    Upstream { dir, base, fix }
}

fn commit(dir: &Path, message: &str) {
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "-m", message]);
}

fn mirrors(b: &Bench) -> Mirrors {
    Mirrors {
        root: b.path("mirrors"),
        folders: Vec::new(),
        url_templates: Vec::new(),
    }
}

fn local(b: &Bench, upstream: &Upstream) -> Repo {
    let source = Source::Git {
        url: None,
        path: Some(upstream.dir.clone()),
        commit: upstream.base.clone(),
    };
    mirrors(b).resolve(Some(&source), "", "").unwrap().0
}

#[test]
fn an_export_has_the_bytes_of_the_commit() {
    let b = bench();
    let up = upstream(&b);
    let dest = b.path("tree");
    let done = local(&b, &up).export_tree(&up.base, &dest).unwrap();
    assert_eq!((done.files, done.submodules.len()), (8, 0));
    assert_eq!(
        fs::read_to_string(dest.join("src/a.py")).unwrap(),
        "a = 1\n"
    );
    assert_eq!(fs::read(dest.join("crlf.txt")).unwrap(), b"one\ntwo\n");
    let found = listing(&dest, true);
    assert!(found["run.sh"].starts_with("file 755"));
    assert!(found["link"].starts_with("-> src/a.py"));
    assert!(found.contains_key("odd \"name\"\n.txt"));
    let files = found.values().filter(|line| !line.starts_with("dir"));
    for line in files {
        assert!(
            line.ends_with(&format!("@{}", swegym_store::MTIME)),
            "{line}"
        );
    }
}

/// A work tree and its history, through the store and back.
fn checkout(b: &Bench, repo: &Repo, commit: &str, name: &str) -> PathBuf {
    let tree = b.path(&format!("export-{name}"));
    repo.export_tree(commit, &tree).unwrap();
    let dot_git = b.path(&format!("history-{name}"));
    repo.history(commit, &dot_git).unwrap();
    stored(b, &tree, &dot_git, name)
}

fn stored(b: &Bench, tree: &Path, dot_git: &Path, name: &str) -> PathBuf {
    let code = b.store.ingest(tree, &at("")).unwrap();
    let history = b.store.ingest(dot_git, &at(".git")).unwrap();
    let merged = b.path(name);
    for id in [code.id, history.id] {
        let layer = b.store.layer_tree(&id).unwrap();
        run(Command::new("cp")
            .arg("-a")
            .arg(layer.join("."))
            .arg(&merged));
    }
    merged
}

#[test]
fn a_history_ends_at_the_base_commit() {
    let b = bench();
    let up = upstream(&b);
    let work = checkout(&b, &local(&b, &up), &up.base, "work");
    let dot_git = work.join(".git");
    assert_eq!(
        leaks(&dot_git, &up.base, &[&up.fix, "v2"]).unwrap(),
        [""; 0]
    );
    assert_eq!(git(&work, &["rev-parse", "HEAD"]), up.base);
    assert_eq!(git(&work, &["tag"]), "light\nv1");
    assert_eq!(
        git(&work, &["describe"]),
        git(&up.dir, &["describe", &up.base])
    );
    assert_eq!(
        git(&work, &["log", "--format=%H %s"]),
        git(&up.dir, &["log", "--format=%H %s", &up.base])
    );
    git(&work, &["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn a_stored_checkout_is_clean_without_reading_a_file() {
    let b = bench();
    let up = upstream(&b);
    let work = checkout(&b, &local(&b, &up), &up.base, "work");
    assert_eq!(git(&work, &["status", "--porcelain"]), "");
    // Same size and time: only rereading would show the change.
    let path = work.join("src/a.py");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "a = 3\n").unwrap();
    fs::File::open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(git(&work, &["status", "--porcelain"]), "");
    // And a real edit, of the same size, does show.
    fs::write(&path, "a = 4\n").unwrap();
    assert_eq!(git(&work, &["status", "--porcelain"]), "M src/a.py");
    git(&work, &["commit", "-q", "-a", "-m", "agent"]);
    assert_eq!(git(&work, &["rev-parse", "HEAD~"]), up.base);
}

#[test]
fn leaks_are_named() {
    let b = bench();
    let up = upstream(&b);
    let clone = b.path("clone");
    git(
        b.dir.path(),
        &[
            "clone",
            "-q",
            "--",
            up.dir.to_str().unwrap(),
            clone.to_str().unwrap(),
        ],
    );
    git(&clone, &["reset", "-q", "--hard", &up.base]);
    let found = leaks(&clone.join(".git"), &up.base, &[&up.fix]).unwrap();
    for word in [
        "object",
        "no ancestor",
        "logs",
        "remote",
        "reached by nothing",
        "ORIG_HEAD",
    ] {
        assert!(
            found.iter().any(|leak| leak.contains(word)),
            "{word}: {found:#?}"
        );
    }
}

/// Long enough for epochs; what two instances share is stored once.
#[test]
fn instances_of_a_repository_share_its_older_history() {
    let b = bench();
    let dir = b.path("upstream");
    fs::create_dir(&dir).unwrap();
    git(&dir, &["init", "-q"]);
    let stream: String = (0..1200)
        .map(|n| {
            let content = format!("{}{n}\n", blake3::hash(&[n as u8, (n >> 8) as u8]).to_hex().repeat(40));
            format!(
                "commit refs/heads/main\ncommitter a <a@b> {n} +0000\ndata 1\nm\nM 100644 inline f{}\ndata {}\n{content}\n",
                n % 50,
                content.len(),
            )
        })
        .collect();
    let input = b.path("stream");
    fs::write(&input, stream).unwrap();
    run(Command::new("git")
        .current_dir(&dir)
        .args(["fast-import", "--quiet"])
        .stdin(fs::File::open(&input).unwrap()));
    let commits: Vec<String> = git(&dir, &["rev-list", "--reverse", "main"])
        .lines()
        .map(str::to_owned)
        .collect();
    let repo = mirrors(&b)
        .resolve(
            Some(&Source::Git {
                url: None,
                path: Some(dir.clone()),
                commit: commits[1199].clone(),
            }),
            "",
            "",
        )
        .unwrap()
        .0;
    let mut added = Vec::new();
    for n in [1199, 1190, 1023, 600, 10] {
        let dest = b.path(&format!("git-{n}"));
        repo.history(&commits[n], &dest).unwrap();
        let later: Vec<&str> = commits[n + 1..].iter().map(String::as_str).collect();
        assert_eq!(leaks(&dest, &commits[n], &later).unwrap(), [""; 0]);
        assert_eq!(
            git(&dest, &["rev-list", "--count", "HEAD"]),
            (n + 1).to_string()
        );
        let done = b.store.ingest(&dest, &at(".git")).unwrap();
        added.push((n, done.added_bytes, done.bytes));
    }
    let (first, second) = (added[0], added[1]);
    assert!(second.1 * 4 < first.1, "{added:?}");
}

#[test]
fn one_commit_of_a_plain_folder_is_deterministic_and_exact() {
    let b = bench();
    let files = [
        ("a.py", "a\n"),
        ("crlf.txt", "x\r\n"),
        ("sub/run", "#!x"),
        ("l", "-> sub/run"),
        (".gitattributes", "* text=auto eol=lf\n"),
        (".gitignore", "*.py\n"),
        ("quo\"te\\.txt", "q"),
        ("nested/.git/config", "not ours"),
    ];
    let (one, two) = (b.tree("one", &files), b.tree("two", &files));
    let id = single_commit(&one, &b.path("git-1"), "marshmallow 3.0.0").unwrap();
    assert_eq!(
        id,
        single_commit(&two, &b.path("git-2"), "marshmallow 3.0.0").unwrap()
    );
    let pack = |name: &str| listing(&b.path(name).join("objects"), false);
    assert_eq!(pack("git-1"), pack("git-2"));
    fs::remove_dir_all(one.join("nested")).unwrap();
    let work = stored(&b, &one, &b.path("git-1"), "work");
    assert_eq!(git(&work, &["status", "--porcelain", "--ignored"]), "");
    assert_eq!(git(&work, &["cat-file", "-s", "HEAD:crlf.txt"]), "3");
    assert_eq!(git(&work, &["rev-list", "--all"]), id);
    assert_eq!(git(&work, &["ls-files"]).lines().count(), 7);
    assert_eq!(leaks(&work.join(".git"), &id, &[]).unwrap(), [""; 0]);
}

#[test]
fn mirror_folders_of_all_layouts_are_found() {
    for layout in [
        "acme/tool.git",
        "acme__tool.git",
        "acme+tool/repo",
        "tool.git",
        "acme/tool",
    ] {
        let b = bench();
        let up = upstream(&b);
        let path = b.path("folder").join(layout);
        let bare = [
            "clone",
            "-q",
            "--bare",
            up.dir.to_str().unwrap(),
            path.to_str().unwrap(),
        ];
        git(b.dir.path(), &bare);
        let mirrors = Mirrors {
            folders: vec![b.path("absent"), b.path("folder")],
            ..mirrors(&b)
        };
        let (repo, full) = mirrors.resolve(None, "acme/tool", &up.base[..10]).unwrap();
        assert_eq!(full, up.base, "{layout}");
        assert!(repo.git_dir().starts_with(b.path("folder")), "{layout}");
    }
}

#[test]
fn a_url_is_cloned_once_and_fetched_when_a_commit_is_new() {
    let b = bench();
    let up = upstream(&b);
    let template = format!("file://{}/{{repo}}", b.dir.path().display());
    let mirrors = Mirrors {
        url_templates: vec![format!("{template}-absent"), template],
        ..mirrors(&b)
    };
    let (first, _) = mirrors.resolve(None, "upstream", &up.base).unwrap();
    put(&up.dir.join("new.py"), "new\n");
    commit(&up.dir, "newer");
    let newer = git(&up.dir, &["rev-parse", "HEAD"]);
    let (second, _) = mirrors.resolve(None, "upstream", &newer).unwrap();
    assert_eq!(first.git_dir(), second.git_dir());
    assert!(second.commit_time(&newer).unwrap() > 1_600_000_000);
    fs::remove_dir_all(&up.dir).unwrap();
    assert!(mirrors.resolve(None, "upstream", &newer).is_ok());
}

#[test]
fn what_is_missing_is_said() {
    let b = bench();
    let up = upstream(&b);
    let absent = "0123456789abcdef0123456789abcdef01234567";
    let none = mirrors(&b).resolve(None, "acme/tool", absent).unwrap_err();
    assert!(
        none.to_string().contains("no mirror in any folder"),
        "{none}"
    );
    let at_path = |path: PathBuf, commit: &str| {
        let source = Source::Git {
            url: None,
            path: Some(path),
            commit: commit.to_owned(),
        };
        mirrors(&b).resolve(Some(&source), "", "").unwrap_err()
    };
    assert!(matches!(
        at_path(up.dir.clone(), absent),
        SourceError::NoCommit { .. }
    ));
    assert!(matches!(
        at_path(up.dir.clone(), "main"),
        SourceError::BadCommit(_)
    ));
    assert!(matches!(
        at_path(b.path("nowhere"), absent),
        SourceError::NoMirror { .. }
    ));
    // A folder inside a repository is not that repository.
    assert!(matches!(
        at_path(up.dir.join("src"), absent),
        SourceError::NoMirror { .. }
    ));
    let offline = Mirrors {
        url_templates: vec!["http://127.0.0.1:1/{repo}.git".into()],
        ..mirrors(&b)
    };
    let refused = offline.resolve(None, "acme/tool", absent).unwrap_err();
    assert!(refused.to_string().contains("127.0.0.1"), "{refused}");
    let helper = Mirrors {
        url_templates: vec![format!("ext::touch% {}", b.path("ran").display())],
        ..mirrors(&b)
    };
    assert!(helper.resolve(None, "acme/tool", absent).is_err());
    assert!(!b.path("ran").exists());
}

#[test]
fn submodules_are_named_and_left_empty() {
    let b = bench();
    let up = upstream(&b);
    let dir = b.path("outer");
    fs::create_dir(&dir).unwrap();
    git(&dir, &["init", "-q"]);
    git(
        &dir,
        &[
            "submodule",
            "--quiet",
            "add",
            up.dir.to_str().unwrap(),
            "vendor/up",
        ],
    );
    commit(&dir, "outer");
    let base = git(&dir, &["rev-parse", "HEAD"]);
    let repo = local(
        &b,
        &Upstream {
            dir,
            base: base.clone(),
            fix: String::new(),
        },
    );
    let done = repo.export_tree(&base, &b.path("tree")).unwrap();
    assert_eq!(done.submodules.len(), 1);
    assert_eq!(done.submodules[0].path, Path::new("vendor/up"));
    assert_eq!(done.submodules[0].commit, up.fix);
    let work = checkout(&b, &repo, &base, "work");
    assert_eq!(git(&work, &["status", "--porcelain"]), "");
}

#[test]
fn a_shallow_repository_gives_a_shallow_history() {
    let b = bench();
    let up = upstream(&b);
    let clone = b.path("shallow");
    let url = format!("file://{}", up.dir.display());
    git(
        b.dir.path(),
        &["clone", "-q", "--depth=2", &url, clone.to_str().unwrap()],
    );
    let repo = local(&b, &Upstream { dir: clone, ..up });
    let base = repo_base(&repo);
    let work = checkout(&b, &repo, &base, "work");
    assert_eq!(leaks(&work.join(".git"), &base, &[]).unwrap(), [""; 0]);
    assert_eq!(git(&work, &["rev-list", "--count", "HEAD"]), "1");
    assert_eq!(git(&work, &["status", "--porcelain"]), "");
}

fn repo_base(repo: &Repo) -> String {
    git(repo.git_dir(), &["rev-parse", "HEAD~"])
}

/// Tasks of the shared data, with a folder of mirrors in `SWEGYM_MIRRORS`.
#[test]
fn real_repositories_give_clean_histories() {
    let shared = std::env::var_os("SWEGYM_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let tasks = fs::read_to_string(shared.join("data/tasks/real.jsonl"));
    let (Ok(tasks), Some(folder)) = (tasks, std::env::var_os("SWEGYM_MIRRORS")) else {
        eprintln!(
            "skipped: real_repositories_give_clean_histories needs SWEGYM_SHARED and SWEGYM_MIRRORS"
        );
        return;
    };
    let b = bench();
    let mirrors = Mirrors {
        folders: vec![folder.into()],
        ..mirrors(&b)
    };
    for line in tasks.lines() {
        let task: swegym_core::Instance = serde_json::from_str(line).unwrap();
        let Ok((repo, base)) = mirrors.resolve(None, &task.repo, &task.base_commit) else {
            continue;
        };
        let begun = std::time::Instant::now();
        let id = &task.instance_id;
        let (tree, dot_git) = (b.path("tree"), b.path("git"));
        let export = repo.export_tree(&base, &tree).unwrap();
        let exported = begun.elapsed();
        repo.history(&base, &dot_git).unwrap();
        let packed = begun.elapsed();
        let later = git(
            repo.git_dir(),
            &["rev-list", "--all", "--max-count=50", &format!("^{base}")],
        );
        let later: Vec<&str> = later.lines().collect();
        assert_eq!(leaks(&dot_git, &base, &later).unwrap(), [""; 0], "{id}");
        let code = b.store.ingest(&tree, &at("testbed")).unwrap();
        let history = b.store.ingest(&dot_git, &at("testbed/.git")).unwrap();
        eprintln!(
            "{id}: {} files, export {exported:.1?}, history {:.1?}; code {} KiB (+{}), git {} KiB (+{}), {} later commits hidden",
            code.files,
            packed - exported,
            code.bytes / 1024,
            code.added_bytes / 1024,
            history.bytes / 1024,
            history.added_bytes / 1024,
            later.len(),
        );
        let work = b.path("work");
        for done in [code, history] {
            let layer = b.store.layer_tree(&done.id).unwrap().join("testbed");
            run(Command::new("cp").arg("-a").arg(layer.join(".")).arg(&work));
        }
        let absent: Vec<String> = export
            .missing
            .iter()
            .map(|p| format!("D {}", p.display()))
            .collect();
        assert_eq!(
            git(&work, &["status", "--porcelain"]),
            absent.join("\n "),
            "{id}"
        );
        for dir in [tree, dot_git, work] {
            fs::remove_dir_all(dir).unwrap();
        }
    }
}

/// What a history says, oldest first: message, parents, difference.
fn history_of(repo: &Repo, limit: u64) -> Vec<Change> {
    let tip = repo.find_commit("HEAD").unwrap().unwrap();
    let ids: Vec<String> = repo
        .ancestors(&tip)
        .unwrap()
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    let mut found = Vec::new();
    repo.changes(&ids, limit, &mut |change| {
        found.push(change);
        Ok::<bool, SourceError>(true)
    })
    .unwrap();
    found
}

#[test]
fn a_history_is_read_change_by_change() {
    let b = bench();
    let up = upstream(&b);
    let dir = &up.dir;
    git(dir, &["mv", "src/b.py", "src/moved.py"]);
    fs::write(dir.join("data.bin"), [0, 1, 2, 255]).unwrap();
    // A line that could be taken for the end of a difference.
    put(&dir.join("mark.txt"), "=end of commit\n=\n");
    commit(dir, "move\n\nwith a body, and a line:\n=end of commit\n");
    fs::write(dir.join("latin.txt"), b"caf\xe9\n").unwrap();
    commit(dir, "latin");
    put(&dir.join("large.txt"), &"x\n".repeat(5000));
    commit(dir, "large");
    let repo = mirrors(&b).open_path(dir).unwrap();
    let found = history_of(&repo, 4096);
    let parents = |n: usize| found[n].parents.len();
    let subjects: Vec<&str> = found
        .iter()
        .map(|c| c.message.lines().next().unwrap())
        .collect();
    assert_eq!(subjects.first(), Some(&"first"));
    assert_eq!(subjects[4..], ["fix", "move", "latin", "large"]);
    assert_eq!((parents(0), parents(3), parents(4)), (0, 2, 1));
    assert!(found[5].message.contains("\n=end of commit\n"));
    let text = |n: usize| match &found[n].diff {
        Diff::Text(text) => text.as_str(),
        other => panic!("{subjects:?} {n}: {other:?}"),
    };
    // First commits and merges have no difference.
    assert_eq!((text(0), text(3)), ("", ""));
    assert!(text(4).contains("-a = 1\n+a = 2  # the fix\n"));
    for part in [
        "rename from src/b.py\nrename to src/moved.py\n",
        "GIT binary patch\n",
        "+=end of commit\n+=\n",
    ] {
        assert!(text(5).contains(part), "{part}: {}", text(5));
    }
    assert_eq!(found[6].diff, Diff::NotText);
    let Diff::TooLarge(size) = found[7].diff else {
        panic!("{:?}", found[7].diff);
    };
    assert!(size > 15_000, "{size}");
    // Between two commits, by the same rules.
    let diff = |from: &str, to: &str, limit| repo.diff(from, to, limit).unwrap();
    assert_eq!(diff(&up.base, &up.fix, 4096), found[4].diff);
    assert_eq!(diff(&found[6].id, &found[7].id, 4096), found[7].diff);
    let between = repo.commits_between(&up.base, &found[5].id).unwrap();
    let ids = |changes: &[Change]| changes.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&between), ids(&found[4..6]));
    let side = repo.find_commit("side").unwrap().unwrap();
    assert_eq!(repo.merge_base(&side, &up.fix).unwrap(), Some(side));
    assert_eq!(repo.find_commit("nothing").unwrap(), None);
    let file = repo.file(&up.fix, "src/a.py", 5).unwrap();
    assert_eq!(
        (file.as_slice(), repo.file(&up.fix, "none", 5)),
        (b"a = 2".as_slice(), None)
    );
    assert!(
        repo.files(&up.fix)
            .unwrap()
            .contains(&"src/a.py".to_owned())
    );
    assert!(!repo.files(&up.fix).unwrap().contains(&"link".to_owned()));
}

#[test]
fn changes_whose_objects_are_missing_are_told_from_the_others() {
    let b = bench();
    let up = upstream(&b);
    put(&up.dir.join("src/b.py"), "b = 2\n");
    commit(&up.dir, "lost");
    let blob = git(&up.dir, &["rev-parse", "HEAD:src/b.py"]);
    put(&up.dir.join("src/a.py"), "a = 3\n");
    commit(&up.dir, "later");
    let object = up
        .dir
        .join(".git/objects")
        .join(&blob[..2])
        .join(&blob[2..]);
    fs::remove_file(object).unwrap();
    let repo = mirrors(&b).open_path(&up.dir).unwrap();
    let found = history_of(&repo, 4096);
    let lost = &found[5];
    let Diff::Missing(why) = &lost.diff else {
        panic!("{:?}", lost.diff);
    };
    assert!(why.contains(&blob), "{why}");
    assert_eq!(repo.diff(&up.fix, &lost.id, 4096).unwrap(), lost.diff);
    assert!(matches!(&found[4].diff, Diff::Text(text) if text.contains("+a = 2")));
    assert!(matches!(&found[6].diff, Diff::Text(text) if text.contains("+a = 3")));
}

#[test]
fn a_reader_of_changes_may_stop() {
    let b = bench();
    let up = upstream(&b);
    let repo = mirrors(&b).open_path(&up.dir).unwrap();
    let ids: Vec<String> = repo
        .ancestors(&up.fix)
        .unwrap()
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    let mut seen = 0;
    repo.changes(&ids, 4096, &mut |_| {
        seen += 1;
        Ok::<bool, SourceError>(seen < 2)
    })
    .unwrap();
    assert_eq!(seen, 2);
    let failed = repo.changes(&ids, 4096, &mut |_| {
        Err(SourceError::BadCommit("mine".to_owned()))
    });
    assert!(
        matches!(failed, Err(SourceError::BadCommit(_))),
        "{failed:?}"
    );
}

#[test]
fn tags_that_are_no_versions_describe_last() {
    let b = bench();
    let up = upstream(&b);
    let repo = mirrors(&b).open_path(&up.dir).unwrap();
    // `v1`, `light` and `v2` are all there are: the nearest counts.
    assert!(repo.describe(&up.fix).unwrap().starts_with("v2-0-g"));
    git(&up.dir, &["tag", "v1.0", &up.base]);
    git(&up.dir, &["tag", "data-28", &up.fix]);
    assert!(repo.describe(&up.fix).unwrap().starts_with("v1.0-1-g"));
}

#[test]
fn repositories_open_for_their_history() {
    let b = bench();
    let up = upstream(&b);
    let empty = b.path("empty");
    fs::create_dir(&empty).unwrap();
    let mirrors = mirrors(&b);
    let error = mirrors.open_path(&empty).unwrap_err();
    assert!(matches!(error, SourceError::NotRepository(_)), "{error}");
    git(&empty, &["init", "-q"]);
    let error = mirrors.open_path(&empty).unwrap_err();
    assert!(matches!(error, SourceError::NoHistory(_)), "{error}");
    let url = format!("file://{}", up.dir.display());
    let clone = mirrors.open_url(&url, None).unwrap();
    assert_eq!(clone.origin().as_deref(), Some(url.as_str()));
    assert_eq!(clone.find_commit("HEAD").unwrap(), Some(up.fix.clone()));
    put(&up.dir.join("src/a.py"), "a = 3\n");
    commit(&up.dir, "later");
    // What is known is enough; otherwise the clone is brought up to date.
    let known = mirrors.open_url(&url, Some(&up.fix)).unwrap();
    assert_eq!(known.find_commit("HEAD").unwrap(), Some(up.fix.clone()));
    let newer = mirrors.open_url(&url, None).unwrap();
    assert_ne!(newer.find_commit("HEAD").unwrap(), Some(up.fix));
}
