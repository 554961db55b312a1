//! The data directory: made, closed to others on this machine, and the secret that is kept in it for a restart. What the parts of the
//! broker keep in it is their own business.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;

use crate::disk::{self, Access, RealFileSystem, read_whole, replace};
use crate::runtime::Random;

/// Bytes of the secret behind connection ids and reset tokens.
const RESET_KEY_BYTES: usize = 64;

/// Creates a folder, its parents included, so that a power cut does not take it away again with what is put into it.
pub(super) fn create_durably(dir: &Path) -> std::io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    disk::create_dir_all(dir)?;
    for folder in missing {
        // Its name is in the folder above.
        let above = folder
            .parent()
            .filter(|above| !above.as_os_str().is_empty());
        fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Closes what an older broker, or a restored copy, left open to others on this machine: events are in there, and keys. Only what is
/// the broker's own; the data directory itself may be a mount point, or have other things in it.
pub(super) fn close_to_others(data_dir: &Path) {
    let folders = ["store", "plugins", "plugin-cache", "pki"].map(|name| data_dir.join(name));
    let keys = [
        "reset.key",
        "pki/ca.key",
        "pki/server.key",
        "pki/client.key",
    ];
    for path in folders
        .into_iter()
        .chain(keys.map(|name| data_dir.join(name)))
    {
        match disk::close_to_others(&path) {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(path = %path.display(), "others on this machine could read this; from now on only the broker's user can");
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "others on this machine can read this, and that cannot be changed; see to it (chmod go-rwx)");
            }
        }
    }
}

/// The secret behind connection ids and reset tokens: made once, so that a restarted broker recognises packets
/// of connections that the one before it had.
pub(super) fn reset_key(data_dir: &Path, random: &Random) -> anyhow::Result<[u8; RESET_KEY_BYTES]> {
    let path = data_dir.join("reset.key");
    let kept = match read_whole(&path, RESET_KEY_BYTES as u64) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::FileTooLarge) => {
            Vec::new()
        }
        kept => kept.with_context(|| format!("cannot read {}", path.display()))?,
    };
    if let Ok(key) = kept.try_into() {
        return Ok(key);
    }
    let key: [u8; RESET_KEY_BYTES] = random.bytes();
    let aside = path.with_extension("key.new");
    let written = replace(&RealFileSystem, &path, &aside, Access::Owner, |file| {
        file.write_at(&key, 0)
    });
    written.context("cannot write reset.key")?;
    Ok(key)
}
