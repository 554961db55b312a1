//! The bytes of plugins, one file each, named by digest, under the data directory. A plugin is on disk before the
//! catalog says that it exists.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::domain::Digest;

/// A directory of plugins.
#[derive(Clone, Debug)]
pub(super) struct PluginFiles {
    dir: PathBuf,
}

impl PluginFiles {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Writes a plugin, durably. Writing it again changes nothing.
    pub(super) fn write(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        if path.exists() {
            return Ok(());
        }
        let aside = path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Reads a plugin; one whose bytes are not what its name says is an error.
    pub(super) fn read(&self, digest: &Digest) -> io::Result<Bytes> {
        let bytes = fs::read(self.path(digest))?;
        if Sha256::digest(&bytes)[..] != digest.0 {
            let problem = format!(
                "{} is damaged; upload the plugin again",
                self.path(digest).display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(bytes.into())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name: String = digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(name).with_extension("wasm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = PluginFiles::open(dir.path()).expect("created");
        let digest = Digest(Sha256::digest(b"component").into());
        files.write(&digest, b"component").expect("written");
        files.write(&digest, b"component").expect("written again");
        assert_eq!(&files.read(&digest).expect("sound")[..], b"component");
        fs::write(files.path(&digest), b"else").expect("overwritten");
        assert_eq!(
            files.read(&digest).expect_err("damaged").kind(),
            io::ErrorKind::InvalidData
        );
    }
}
