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
        if !dir.exists() {
            fs::create_dir_all(dir)?;
            let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
            File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Writes a plugin, durably. Writing it again changes nothing, unless what is there is damaged: then it is mended.
    pub(super) fn write(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        match self.read(digest) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "a plugin's file is written anew"),
        }
        let path = self.path(digest);
        let aside = path.with_extension("new");
        let written = write_durably(&aside, bytes);
        if let Err(error) = written {
            // On a full disk its space is wanted.
            let _ = fs::remove_file(&aside);
            return Err(error);
        }
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

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_noticed_and_mended_by_the_same_bytes() {
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
        files.write(&digest, b"component").expect("mended");
        assert_eq!(&files.read(&digest).expect("sound")[..], b"component");
    }
}
