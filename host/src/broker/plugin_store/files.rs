//! The bytes of plugins, one file each, named by digest, under the data directory. A plugin is on disk before the
//! catalog says that it exists, and goes after the catalog has let it go. Only files with names that are given here are touched.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::disk::{Access, FileSystem, replace};
use crate::domain::Digest;
use crate::store::Folders;

/// A directory of plugins.
#[derive(Clone)]
pub(crate) struct PluginFiles {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// The store's, beside which this lies.
    folders: Option<Arc<Folders>>,
}

impl PluginFiles {
    pub(crate) fn open(fs: Arc<dyn FileSystem>, dir: &Path) -> io::Result<Self> {
        if !fs.is_dir(dir) {
            fs.create_dir(dir)?;
            let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
            fs.sync_dir(above.unwrap_or(Path::new(".")))?;
        }
        Ok(Self {
            fs,
            dir: dir.to_owned(),
            folders: None,
        })
    }

    /// The same, but nothing is written or removed while the store is not where it was opened: what lies here then may be
    /// another broker's.
    pub(crate) fn beside(self, folders: Arc<Folders>) -> Self {
        let folders = Some(folders);
        Self { folders, ..self }
    }

    fn check_folders(&self) -> io::Result<()> {
        match self.folders.as_ref().and_then(|folders| folders.look()) {
            Some(why) => Err(io::Error::other(why)),
            None => Ok(()),
        }
    }

    /// Writes a plugin, durably. Writing it again changes nothing, unless what is there is damaged: then it is mended.
    pub(crate) fn write(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        self.check_folders()?;
        match self.read(digest) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "a plugin's file is written anew"),
        }
        let path = self.path(digest);
        let aside = path.with_extension("new");
        replace(&*self.fs, &path, &aside, Access::Usual, |file| {
            file.write_at(bytes, 0)
        })?;
        Ok(())
    }

    /// Reads a plugin; one whose bytes are not what its name says is an error.
    pub(crate) fn read(&self, digest: &Digest) -> io::Result<Bytes> {
        let bytes = self.fs.read(&self.path(digest)).map_err(|error| {
            let path = self.path(digest);
            let problem = match error.kind() {
                io::ErrorKind::NotFound => {
                    format!("{} is missing; upload the plugin again", path.display())
                }
                _ => format!("cannot read {}: {error}", path.display()),
            };
            io::Error::new(error.kind(), problem)
        })?;
        if Sha256::digest(&bytes)[..] != digest.0 {
            let problem = format!(
                "{} is damaged; upload the plugin again",
                self.path(digest).display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(bytes.into())
    }

    /// Removes a plugin. There need not be one.
    pub(crate) fn remove(&self, digest: &Digest) -> io::Result<()> {
        self.check_folders()?;
        match self.fs.remove(&self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Should a power cut bring it back, the next start removes it.
            _ => Ok(()),
        }
    }

    /// Removes what was being written when a broker ended, and the plugins that are not in `kept`, unless these `stay` for now.
    /// Answers how many files went and how many stay. What cannot be removed is logged and stays.
    pub(crate) fn keep_only(
        &self,
        kept: &HashSet<Digest>,
        stay: bool,
    ) -> io::Result<(usize, usize)> {
        self.check_folders()?;
        let (mut removed, mut staying) = (0, 0);
        for path in self.fs.list(&self.dir)? {
            let name = path.file_name().and_then(OsStr::to_str);
            let is_file = !self.fs.is_dir(&path) && !self.fs.is_symlink(&path);
            let goes = match name.and_then(digest_of) {
                Some((_, true)) => true,
                Some((digest, false)) if kept.contains(&digest) => continue,
                Some((_, false)) => !stay,
                None => continue,
            };
            if !is_file {
                continue;
            }
            match goes.then(|| self.fs.remove(&path)) {
                Some(Ok(())) => removed += 1,
                Some(Err(error)) => {
                    staying += 1;
                    tracing::warn!(path = %path.display(), %error, "a file of a plugin that does not exist cannot be removed");
                }
                None => staying += 1,
            }
        }
        Ok((removed, staying))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name: String = digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(name).with_extension("wasm")
    }
}

// Whose file it is, and whether it was still being written; nothing if it is not ours.
fn digest_of(name: &str) -> Option<(Digest, bool)> {
    let (digest, extension) = name.split_once('.')?;
    let is_aside = match extension {
        "wasm" => false,
        "new" => true,
        _ => return None,
    };
    let is_ours = digest.len() == 64
        && digest
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let digest = is_ours.then(|| format!("sha256:{digest}").parse().ok())??;
    Some((digest, is_aside))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::RealFileSystem;

    fn opened(dir: &Path) -> PluginFiles {
        PluginFiles::open(Arc::new(RealFileSystem), dir).expect("created")
    }

    #[test]
    fn damage_is_noticed_and_mended_by_the_same_bytes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = opened(dir.path());
        let digest = Digest(Sha256::digest(b"component").into());
        files.write(&digest, b"component").expect("written");
        files.write(&digest, b"component").expect("written again");
        assert_eq!(&files.read(&digest).expect("sound")[..], b"component");
        let missing = files
            .read(&Digest([0; 32]))
            .expect_err("missing")
            .to_string();
        assert!(
            missing.contains("0000.wasm is missing; upload"),
            "{missing}"
        );
        fs::write(files.path(&digest), b"else").expect("overwritten");
        assert_eq!(
            files.read(&digest).expect_err("damaged").kind(),
            io::ErrorKind::InvalidData
        );
        files.write(&digest, b"component").expect("mended");
        assert_eq!(&files.read(&digest).expect("sound")[..], b"component");
    }

    #[test]
    fn what_nobody_has_goes_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = opened(dir.path());
        let digest = |text: &str| Digest(Sha256::digest(text).into());
        let write = |text: &str| files.write(&digest(text), text.as_bytes());
        for text in ["kept", "orphan", "removed"] {
            write(text).expect("written");
        }
        files.remove(&digest("removed")).expect("removed");
        files.remove(&digest("removed")).expect("not there");
        let unfinished = files.path(&digest("cut off")).with_extension("new");
        let upper = files.path(&digest("kept")).display().to_string();
        let foreign = [
            "notes.txt".to_owned(),
            "0123.wasm".to_owned(),
            format!("{}.bak", upper.rsplit('/').next().expect("a name")),
            "lost+found".to_owned(),
        ];
        fs::write(&unfinished, b"half").expect("written");
        for name in &foreign {
            fs::write(dir.path().join(name), b"x").expect("written");
        }
        let kept = HashSet::from([digest("kept")]);
        // After a loss: only what was never whole goes.
        assert_eq!(files.keep_only(&kept, true).expect("swept"), (1, 1));
        assert!(!unfinished.exists());
        assert!(files.read(&digest("orphan")).is_ok());
        assert_eq!(files.keep_only(&kept, false).expect("swept"), (1, 0));
        assert!(files.read(&digest("orphan")).is_err());
        assert!(files.read(&digest("kept")).is_ok());
        assert!(foreign.iter().all(|name| dir.path().join(name).exists()));
    }
}
