//! How the files of the host may depend on each other: the order of the inner rooms, and that there are no circles. Which room may
//! name which outside of it is said one level up.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::Graph;
use super::host_sources;

type Inner = &'static [(&'static str, &'static [&'static str])];

/// What each inner room may use of its neighbours. A file that lies between the rooms is a room of its own, called without its
/// ending. Rooms lie along the way of an event: each uses those that stand before it.
const INSIDE: &[(&str, Inner)] = &[
    (
        "broker",
        &[
            ("counters", &[]),
            ("error", &[]),
            ("gauges", &[]),
            ("event_log", &[]),
            ("subscriptions", &[]),
            ("task_names", &[]),
            (
                "commit",
                &[
                    "counters",
                    "error",
                    "event_log",
                    "subscriptions",
                    "task_names",
                ],
            ),
            ("folder_watch", &["commit"]),
            ("idle_subscriptions", &["commit", "subscriptions"]),
            (
                "checkpoint",
                &[
                    "commit",
                    "counters",
                    "error",
                    "event_log",
                    "subscriptions",
                    "task_names",
                ],
            ),
            (
                "delivery",
                &["commit", "counters", "error", "event_log", "subscriptions"],
            ),
            (
                "matching",
                &["counters", "delivery", "event_log", "subscriptions"],
            ),
            ("plugin_store", &["commit", "error"]),
            ("spec_validation", &["error"]),
            (
                "handle",
                &[
                    "checkpoint",
                    "commit",
                    "delivery",
                    "error",
                    "gauges",
                    "event_log",
                    "plugin_store",
                    "subscriptions",
                    "spec_validation",
                ],
            ),
            (
                "start",
                &[
                    "checkpoint",
                    "commit",
                    "counters",
                    "delivery",
                    "folder_watch",
                    "handle",
                    "idle_subscriptions",
                    "event_log",
                    "matching",
                    "plugin_store",
                    "subscriptions",
                    "task_names",
                ],
            ),
            ("stop", &["handle"]),
        ],
    ),
    (
        "store",
        &[
            ("block_cache", &[]),
            ("folders", &[]),
            ("file_names", &[]),
            ("little_endian", &[]),
            ("loss", &[]),
            ("options", &[]),
            ("checkpoint_pace", &[]),
            ("block_format", &["little_endian"]),
            ("error", &["loss"]),
            ("lost_folder", &["file_names"]),
            ("existence_marker", &["error"]),
            ("disk_reserve", &["file_names"]),
            ("unreadable_events", &["error"]),
            (
                "journal",
                &[
                    "block_format",
                    "error",
                    "folders",
                    "file_names",
                    "little_endian",
                    "loss",
                    "lost_folder",
                    "disk_reserve",
                ],
            ),
            (
                "sealed",
                &[
                    "block_format",
                    "block_cache",
                    "error",
                    "folders",
                    "file_names",
                    "little_endian",
                    "loss",
                    "lost_folder",
                    "disk_reserve",
                    "unreadable_events",
                ],
            ),
            (
                "checkpoint",
                &[
                    "error",
                    "journal",
                    "loss",
                    "checkpoint_pace",
                    "disk_reserve",
                    "sealed",
                    "unreadable_events",
                ],
            ),
            (
                "reader",
                &[
                    "block_cache",
                    "block_format",
                    "error",
                    "folders",
                    "journal",
                    "sealed",
                    "unreadable_events",
                ],
            ),
            (
                "startup",
                &[
                    "block_cache",
                    "checkpoint",
                    "error",
                    "folders",
                    "journal",
                    "file_names",
                    "loss",
                    "existence_marker",
                    "options",
                    "reader",
                    "disk_reserve",
                    "sealed",
                    "unreadable_events",
                ],
            ),
        ],
    ),
    (
        "net",
        &[
            ("counters", &[]),
            ("session", &["counters"]),
            ("door", &["session"]),
            ("quic", &["session", "counters"]),
            ("start", &["quic", "session"]),
        ],
    ),
];

/// Files that depend on each other all the same, and why that reads better than taking them apart. There are none.
const TIED: &[(&[&str], &str)] = &[];

#[test]
fn inner_rooms_keep_their_order() {
    let graph = Graph::of(&host_sources());
    for (room, inner) in INSIDE {
        let used = used_inside(&graph, room);
        let mut known = BTreeSet::new();
        for (name, allowed) in *inner {
            let uses = used.get(*name).cloned().unwrap_or_default();
            assert!(
                graph
                    .edges
                    .keys()
                    .any(|file| inner_room(room, file).as_deref() == Some(*name)),
                "there is no `{room}/{name}` any more: take it off the list"
            );
            let wrong: Vec<_> = uses
                .iter()
                .filter(|(other, _)| !allowed.contains(&other.as_str()))
                .map(|(other, files)| format!("{name} uses {other}: {files:?}"))
                .collect();
            assert!(wrong.is_empty(), "in `{room}`: {wrong:#?}");
            let unused: Vec<_> = allowed
                .iter()
                .filter(|other| !uses.contains_key(**other))
                .collect();
            assert!(
                unused.is_empty(),
                "`{room}/{name}` does not need {unused:?} any more: take the permission away"
            );
            let ahead: Vec<_> = allowed
                .iter()
                .filter(|other| !known.contains(**other))
                .collect();
            assert!(
                ahead.is_empty(),
                "`{room}/{name}` may use only what stands before it, not {ahead:?}"
            );
            known.insert(*name);
        }
        let unlisted: Vec<_> = used
            .keys()
            .filter(|name| !known.contains(name.as_str()))
            .collect();
        assert!(
            unlisted.is_empty(),
            "say in this test what these of `{room}` may use: {unlisted:?}"
        );
    }
}

#[test]
fn files_depend_on_each_other_one_way() {
    let circles = Graph::of(&host_sources()).circles();
    let is_within = |circle: &BTreeSet<String>, tied: &[&str]| {
        circle.iter().all(|file| tied.contains(&file.as_str()))
    };
    let unlisted: Vec<_> = circles
        .iter()
        .filter(|circle| !TIED.iter().any(|(tied, _)| is_within(circle, tied)))
        .collect();
    assert!(
        unlisted.is_empty(),
        "files that depend on each other; move what both need below them: {unlisted:#?}"
    );
    for (tied, _) in TIED {
        let together: BTreeSet<&str> = circles
            .iter()
            .filter(|circle| is_within(circle, tied))
            .flatten()
            .map(String::as_str)
            .collect();
        let free: Vec<_> = tied
            .iter()
            .filter(|file| !together.contains(*file))
            .collect();
        assert!(
            free.is_empty(),
            "no longer tied, take them off the list: {free:?} of {tied:?}"
        );
    }
}

// Of each inner room, which others it uses, and the files that do.
fn used_inside(graph: &Graph, room: &str) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let mut used: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for (file, others) in &graph.edges {
        let Some(name) = inner_room(room, file) else {
            continue;
        };
        let of_room = used.entry(name.clone()).or_default();
        for other in others {
            if let Some(other_name) = inner_room(room, other)
                && other_name != name
            {
                of_room
                    .entry(other_name)
                    .or_default()
                    .push(format!("{file} -> {other}"));
            }
        }
    }
    used
}

// `broker/commit/inbox.rs` → `commit`, `broker/handle.rs` → `handle`.
fn inner_room(room: &str, file: &str) -> Option<String> {
    let inside = file.strip_prefix(room)?.strip_prefix('/')?;
    let first = inside.split('/').next().unwrap_or(inside);
    Some(first.trim_end_matches(".rs").to_owned())
}
