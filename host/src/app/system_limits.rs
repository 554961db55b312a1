//! What the machine gives beside what the configuration asks for: file descriptors and disk. Raises what may be raised, and says
//! at a start what will not do; a broker that starts on too little of either is told by it later in a worse place.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::disk::{FileSystem, RealFileSystem};
use crate::store::StoreUsage;

/// Descriptors for everything beside the journal and admin connections: sockets, databases that are open or being written, what
/// wasmtime and the runtime hold.
const OTHER_FILES: u64 = 256;
/// So many admin connections there are at least.
const CONNECTIONS_MIN: u64 = 16;

/// Lets the process have as many files open as the system allows it, and returns how many that are.
pub(super) fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let wanted = Rlimit {
            current: maximum,
            maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::warn!(%error, ?current, ?maximum, "cannot raise the number of files that may be open");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many admin connections there may be, so that the store never lacks a file: those are refused first. Connections over QUIC
/// take none.
pub(super) fn admin_connections(config: &Config, open_files: u64) -> u64 {
    let asked = u64::from(config.limits.admin_connections_max);
    let journal = journal_files(config);
    let left = open_files.saturating_sub(journal + OTHER_FILES);
    if left < asked {
        tracing::warn!(
            open_files,
            journal,
            admin_connections = asked,
            "fewer files may be open than these limits need; raise it (LimitNOFILE, ulimit -n), or there are fewer admin connections"
        );
    }
    asked.min(left.max(CONNECTIONS_MIN))
}

// A descriptor for each file of a full journal, and some for the ones that are written and prepared.
fn journal_files(config: &Config) -> u64 {
    let store = &config.store;
    store.journal_bytes_max / store.journal_file_bytes.max(1) + 8
}

/// Warns when the disk is smaller than what the journal and its reserve may take.
pub(super) fn compare_disk(config: &Config, dir: &Path, usage: &StoreUsage) {
    let Ok(free) = RealFileSystem.free_bytes(dir) else {
        return;
    };
    let used = usage.journal_bytes + usage.generation_bytes;
    if let Some(missing) = missing_bytes(config, used, free) {
        tracing::warn!(
            free,
            used,
            missing,
            journal_bytes_max = config.store.journal_bytes_max,
            "the disk is smaller than the limits: publishes will be refused before the journal is full; lower `store.journal_bytes_max`, or give it more"
        );
    }
}

// What lacks for a full journal, the file that it begins next and the reserve, beside what is there.
fn missing_bytes(config: &Config, used: u64, free: u64) -> Option<u64> {
    let store = &config.store;
    let wanted =
        store.journal_bytes_max + 2 * store.journal_file_bytes + store.generation_part_bytes;
    let missing = wanted.saturating_sub(used + free);
    (missing > 0).then_some(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_disk_that_is_smaller_than_the_limits_is_noticed() {
        let config = Config::default();
        assert!(missing_bytes(&config, 0, 5 * GIB).is_none());
        assert!(missing_bytes(&config, 3 * GIB, 2 * GIB).is_none());
        let missing = missing_bytes(&config, 0, 4 * GIB).expect("no room for a reserve");
        assert!(missing < GIB, "{missing}");
    }

    #[test]
    fn admin_connections_leave_files_for_the_store() {
        let config = Config::default();
        let asked = u64::from(config.limits.admin_connections_max);
        assert_eq!(admin_connections(&config, 1 << 20), asked);
        let few = journal_files(&config) + OTHER_FILES + asked - 1;
        assert_eq!(admin_connections(&config, few), asked - 1);
        assert_eq!(admin_connections(&config, 0), CONNECTIONS_MIN.min(asked));
    }

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let open_files = raise_open_files();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert_eq!(open_files, current.unwrap_or(u64::MAX));
    }
}
