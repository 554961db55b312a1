//! The one-way import rule of the host, kept by reading its source: which module may name which, and which crate
//! is known in which corner only.

mod graph;
mod lengths;
mod log_fields;
mod machine_access;
mod named_files;
mod planted;
mod rooms;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room of the host may import of the host. `cli` and `main` may import everything.
const MAY_IMPORT: [(&str, &[&str]); 16] = [
    ("locks", &[]),
    ("disk", &["locks"]),
    ("domain", &[]),
    // It parses the policy into what `auth` decides by.
    ("config", &["disk", "domain", "auth"]),
    ("pki", &["disk", "domain"]),
    ("tls", &["domain"]),
    ("telemetry", &["locks"]),
    ("runtime", &["locks", "domain", "telemetry"]),
    ("state", &["domain", "auth"]),
    ("store", &["locks", "disk", "domain", "runtime"]),
    ("plugin", &["locks", "disk", "domain", "runtime"]),
    ("auth", &["locks", "domain"]),
    (
        "broker",
        &[
            "locks",
            "disk",
            "domain",
            "runtime",
            "telemetry",
            "state",
            "store",
            "plugin",
            "auth",
        ],
    ),
    (
        "net",
        &[
            "locks",
            "domain",
            "runtime",
            "telemetry",
            "tls",
            "auth",
            "broker",
        ],
    ),
    (
        "admin",
        &["locks", "domain", "runtime", "telemetry", "auth", "broker"],
    ),
    (
        "app",
        &[
            "disk",
            "domain",
            "runtime",
            "telemetry",
            "config",
            "pki",
            "tls",
            "state",
            "store",
            "plugin",
            "auth",
            "broker",
            "net",
            "admin",
        ],
    ),
];

/// Crates that only some files know, by the beginning of their path.
const KNOWN_ONLY_IN: [(&str, &[&str]); 10] = [
    ("tidegate_wire", &["net", "domain/event.rs"]),
    ("tidegate_client", &["cli"]),
    ("sled", &["store/sealed/database.rs"]),
    ("rand", &["runtime/random.rs"]),
    ("wasmtime", &["plugin"]),
    ("wasm_encoder", &["plugin/while_allocating"]),
    ("wasmparser", &["plugin/while_allocating"]),
    ("quinn", &["net/quic"]),
    ("axum", &["admin"]),
    ("clap", &["cli", "main.rs"]),
];

#[test]
fn modules_of_the_host_import_one_way() {
    let mut breaches = Vec::new();
    let mut used = BTreeSet::new();
    for (path, source) in host_sources() {
        let module = module_of(&path);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            let free = ["cli", "main", "lib", "build"].contains(&module.as_str());
            assert!(free, "{path}: say in this test what `{module}` may import");
            continue;
        };
        let imported = imports(&source);
        let wrong = imported
            .iter()
            .filter(|name| **name != module && !allowed.contains(&name.as_str()));
        breaches.extend(wrong.map(|name| format!("{path} imports crate::{name}")));
        used.extend(imported.into_iter().map(|name| (module.clone(), name)));
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
    let permissions = MAY_IMPORT.iter().flat_map(|(module, allowed)| {
        let pair = move |name: &&str| ((*module).to_owned(), (*name).to_owned());
        allowed.iter().map(pair)
    });
    let unused: Vec<_> = permissions.filter(|pair| !used.contains(pair)).collect();
    assert!(
        unused.is_empty(),
        "take these permissions away, nobody needs them: {unused:#?}"
    );
}

#[test]
fn each_corner_keeps_its_crates_to_itself() {
    let mut breaches = Vec::new();
    for (path, source) in host_sources() {
        for (name, places) in KNOWN_ONLY_IN {
            let at_home = places.iter().any(|place| {
                path.strip_prefix(place)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
            });
            if !at_home && names_crate(&source, name) {
                breaches.push(format!("{path} knows {name}"));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// Rooms of the store that do not know each other: what is in one is named nowhere in the other.
const STORE_ROOMS: [&str; 2] = ["journal", "sealed"];

#[test]
fn the_journal_and_what_is_sealed_do_not_know_each_other() {
    let room_of = |path: &str| {
        let first = path.strip_prefix("store/")?.split(['/', '.']).next()?;
        STORE_ROOMS.into_iter().find(|room| *room == first)
    };
    let graph = graph::Graph::of(&host_sources());
    let in_rooms = graph.edges.keys().filter_map(|path| room_of(path));
    assert!(in_rooms.count() > 10, "the rooms are elsewhere");
    let mut breaches = Vec::new();
    for (path, others) in &graph.edges {
        let Some(room) = room_of(path) else { continue };
        let named = others
            .iter()
            .filter(|other| room_of(other).is_some_and(|of| of != room));
        breaches.extend(named.map(|other| format!("{path} names {other}")));
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

// So that other transports can carry them.
#[test]
fn sessions_do_not_know_what_carries_them() {
    let names = ["net::quic", "super::quic", "super::start", "net::start"];
    let knows = |source: &str| names.iter().any(|name| source.contains(name));
    let inside = |path: &str| path.starts_with("net/session") || path == "net/counters.rs";
    let sources = host_sources().into_iter();
    let sessions: Vec<_> = sources.filter(|(path, _)| inside(path)).collect();
    assert!(sessions.len() > 10, "the sessions are elsewhere");
    let breaches = sessions.iter().filter(|(_, source)| knows(source));
    let breaches: Vec<_> = breaches.map(|(path, _)| path).collect();
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// Ways to start something that nobody sees end, and to wait for it on a thread, and who may use them: the one place from which all of
/// it reaches the machine. Who starts something there by itself watches over it, or waits for it and looks at how it ended.
const STARTED_UNSEEN: [(&str, &[&str]); 7] = [
    ("tokio::spawn", &[]),
    ("TaskTracker", &["runtime/spawn.rs"]),
    (
        "JoinSet",
        &["runtime/task_set.rs", "plugin/filter_group.rs"],
    ),
    ("thread::spawn", &[]),
    ("spawn_blocking", &["runtime/executor.rs"]),
    ("block_on", &["runtime/executor.rs"]),
    (
        "thread::Builder",
        &[
            "runtime/executor.rs",
            // What it ends costs log lines, which are counted then; and it has to run before there is a Spawner.
            "telemetry/log_output.rs",
            // It goes on after a panic, and is woken as a thread.
            "plugin/engine.rs",
        ],
    ),
];

/// Ways to hand something over to that place, and who does it.
const STARTS: [&str; 4] = [
    "executor::blocking",
    "executor::thread",
    "strand(",
    "Workers",
];
const STARTS_BY_ITSELF: [(&str, &str); 12] = [
    ("runtime/executor.rs", "it is that place"),
    ("runtime/spawn.rs", "it watches over what it starts"),
    ("runtime/task_set.rs", "so does it"),
    ("runtime/blocking_threads.rs", "who has one started does"),
    (
        "runtime/unwaited.rs",
        "its end is an answer, also after a panic",
    ),
    (
        "app.rs",
        "before there is a Spawner; a panic is why the start is refused",
    ),
    ("broker/start.rs", "likewise"),
    (
        "broker/event_log/tail.rs",
        "a panic goes on in whoever waits",
    ),
    ("plugin/compile_queue.rs", "an end without an answer is one"),
    ("plugin/filter_group.rs", "a panic is logged, and an answer"),
    ("plugin/service.rs", "likewise"),
    ("plugin/transformer.rs", "likewise"),
];

#[test]
fn nothing_is_started_that_may_end_unseen() {
    let mut breaches = Vec::new();
    for (path, source) in host_sources() {
        if path.starts_with("cli") {
            continue;
        }
        for (way, places) in STARTED_UNSEEN {
            if source.contains(way) && !places.contains(&path.as_str()) {
                breaches.push(format!("{path} uses {way}; start it with a Spawner"));
            }
        }
        // So that none of its tasks goes past that place.
        let by_sets = source.matches("tasks.spawn(").count();
        if by_sets != source.matches("tasks.spawn(strand(").count() {
            breaches.push(format!("{path} puts a task into a set that is no strand"));
        }
        let starts = STARTS.iter().any(|way| source.contains(way));
        if starts != STARTS_BY_ITSELF.iter().any(|(file, _)| *file == path) {
            breaches.push(format!(
                "{path} starts something by itself, or it is listed and does not"
            ));
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// Who may name commands and flags of the command line. Everybody else says what is wrong in terms of the broker, since many
/// who read it sit before something else; `cli/error_hints.rs` adds which command helps.
const NAMES_COMMANDS: [&str; 3] = ["app", "cli", "main"];

#[test]
fn only_the_command_line_names_its_commands() {
    let mut breaches = Vec::new();
    for (path, source) in host_sources() {
        if NAMES_COMMANDS.contains(&module_of(&path).as_str()) {
            continue;
        }
        let lines = source.lines().filter(|line| names_command(line));
        breaches.extend(lines.map(|line| format!("{path}: {}", line.trim())));
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
    assert!(names_command("\"; `tidegate topic list` shows\""));
    assert!(names_command("\"start with --accept-loss to\""));
    assert!(!names_command("let tidegate = 1 - -2; \"a -- b\";"));
}

fn names_command(line: &str) -> bool {
    let is_flag = |(at, _): (usize, &str)| {
        let after = line[at + 3..].chars().next();
        after.is_some_and(|c| c.is_ascii_lowercase())
    };
    line.contains("`tidegate ") || line.match_indices(" --").any(is_flag)
}

/// What only some files of the client may name, so that it runs over any transport, and can be run again exactly: the transport it
/// has, the start of tasks and the source of randomness. The time is tokio's, which may be virtual.
const CLIENT_NAMES_ONLY_IN: [(&str, &[&str]); 5] = [
    (
        "quinn::",
        &[
            "transport/quic.rs",
            "transport/quic/own_endpoint.rs",
            "transport/quic/socket.rs",
        ],
    ),
    ("tokio::spawn", &["spawn.rs"]),
    ("rand::", &["random.rs"]),
    ("std::time::Instant", &[]),
    ("SystemTime", &[]),
];

#[test]
fn of_the_wire_only_the_streams_of_quic_know_quinn() {
    let sources = sources("../sdk/wire/src");
    let knows = sources
        .iter()
        .filter(|(_, source)| names_crate(source, "quinn"));
    let knows = knows.map(|(path, _)| path.as_str());
    let others: Vec<&str> = knows
        .filter(|path| !path.starts_with("stream/quic"))
        .collect();
    assert_eq!(others, Vec::<&str>::new());
}

#[test]
fn the_client_takes_what_varies_from_one_place() {
    let mut breaches = Vec::new();
    for (path, source) in sources("../sdk/client/src") {
        for (name, places) in CLIENT_NAMES_ONLY_IN {
            if source.contains(name) && !places.contains(&path.as_str()) {
                breaches.push(format!("{path} names {name}"));
            }
        }
        // Otherwise the order in which futures are looked at is drawn by lot.
        let in_order = source.matches("biased;").count();
        if source.matches("select! {").count() != in_order {
            breaches.push(format!("{path} has a select! that is not biased"));
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn the_scanner_sees_imports_in_every_form() {
    let check = |source: &str, expected: &[&str]| {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(imports(&without_comments(source)), expected, "{source}");
    };
    check("use crate::domain::Name;", &["domain"]);
    check(
        "use crate::{domain::Name, store, broker::{Broker, Publisher}};",
        &["broker", "domain", "store"],
    );
    check("let x = crate::net::listen();", &["net"]);
    check("// use crate::net;\n/// [`crate::store`]\nfn f() {}", &[]);
    check("pub(crate) fn f() {}", &[]);
    assert!(names_crate("use sled::Db;", "sled"));
    assert!(names_crate("let x = sled::open();", "sled"));
    assert!(!names_crate("use unsled::Db; let s = \"sled\";", "sled"));
}

fn host_sources() -> Vec<(String, String)> {
    sources("../host/src")
}

// Path and source, without comments and tests, of every file under `root`.
fn sources(root: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 10, "there is source at {}", root.display());
    files
        .into_iter()
        .map(|path| {
            let source = fs::read_to_string(&path).expect("a readable source file");
            let relative = path.strip_prefix(&root).expect("found under the root");
            (
                relative.to_string_lossy().into_owned(),
                without_tests(&without_comments(&source)),
            )
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn module_of(path: &str) -> String {
    let first = path.split('/').next().unwrap_or(path);
    first.trim_end_matches(".rs").to_owned()
}

fn without_comments(source: &str) -> String {
    let lines = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

// Unit tests stand at the end of a file and may use whatever helps them.
fn without_tests(source: &str) -> String {
    let tests = source.find("#[cfg(test)]\nmod tests {");
    source[..tests.unwrap_or(source.len())].to_owned()
}

// The first names after `crate::`, in plain paths and in groups of any depth.
fn imports(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, prefix) in source.match_indices("crate::") {
        let before = source[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &source[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(first_names(group)),
            None => names.extend(first_name(rest)),
        }
    }
    names
}

fn first_names(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = Vec::new();
    let mut start = true;
    for (at, character) in group.char_indices() {
        if start && depth == 0 && !character.is_whitespace() {
            names.extend(first_name(&group[at..]));
            start = false;
        }
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            _ => {}
        }
    }
    names
}

// Modules are lower case; a macro or item at the root of the crate is not a module.
fn first_name(path: &str) -> Option<String> {
    let name: String = path
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    name.starts_with(|c: char| c.is_ascii_lowercase())
        .then_some(name)
}

fn names_crate(source: &str, name: &str) -> bool {
    let path = format!("{name}::");
    source.match_indices(&path).any(|(at, _)| {
        let before = source[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}
