//! A sealed database as one file, with the names of `host/src/store/sealed/database.rs`: it is there, missing or damaged as a whole, and
//! what of it survives is up to the disk. Nothing of it is in the file before a flush.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes};

use super::generation_files::DATABASE;
use crate::disk::{File, FileSystem};
use crate::locks::lock;
use crate::store::error::{DatabaseError, ReadError};

/// How the file begins.
const MAGIC: &[u8; 8] = b"TGSIM001";
const SUM_BYTES: usize = 4;

/// What a database takes of the disk with next to nothing in it.
pub(super) const EMPTY_BYTES: u64 = 4 << 10;

/// Whether a panic of this thread would be told as what is wrong with a database.
#[must_use]
pub fn is_panic_expected() -> bool {
    false
}

/// An open database.
pub(super) struct Database {
    path: PathBuf,
    file: Arc<dyn File>,
    pairs: Mutex<Pairs>,
}

type Pairs = Arc<BTreeMap<Bytes, Bytes>>;

/// A key or a value, as it is read.
pub(super) type Value = Bytes;

/// Keys with their values, rising.
pub(super) struct Values<'a>(Range<'a, Bytes, Bytes>);

impl Database {
    /// A new, empty one.
    pub(super) fn create(fs: &dyn FileSystem, path: &Path) -> Result<Self, DatabaseError> {
        let file = path.join(DATABASE);
        if fs.open(&file).is_ok() {
            return Err(DatabaseError::Io(io::ErrorKind::AlreadyExists.into()));
        }
        fs.create_dir(path).map_err(DatabaseError::Io)?;
        Ok(Self {
            path: path.to_owned(),
            file: fs.create(&file).map_err(DatabaseError::Io)?,
            pairs: Mutex::default(),
        })
    }

    /// One that was sealed.
    pub(super) fn open(fs: &dyn FileSystem, path: &Path) -> Result<Self, ReadError> {
        let file = match fs.open(&path.join(DATABASE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let missing = format!("the database, whose file `{DATABASE}` is missing,");
                return Err(ReadError::damaged(path, missing));
            }
            other => other.map_err(ReadError::io(path))?,
        };
        let bytes = whole(&*file).map_err(ReadError::io(path))?;
        let pairs = decode(bytes).ok_or_else(|| ReadError::damaged(path, "the database"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            pairs: Mutex::new(Arc::new(pairs)),
        })
    }

    /// Reads from the first key that is not below `from` on.
    pub(super) fn read<T>(
        &self,
        from: &[u8],
        read: impl FnOnce(&mut Values<'_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let pairs = lock(&self.pairs).clone();
        let range = (Bound::Included(from), Bound::Unbounded);
        read(&mut Values(pairs.range::<[u8], _>(range)))
    }

    /// Puts these keys in, with their values.
    pub(super) fn insert_all(
        &self,
        batch: Vec<(impl AsRef<[u8]>, Vec<u8>)>,
    ) -> Result<(), DatabaseError> {
        let mut pairs = lock(&self.pairs);
        let batch = batch.into_iter();
        let batch = batch.map(|(key, value)| (Bytes::copy_from_slice(key.as_ref()), value.into()));
        Arc::make_mut(&mut pairs).extend(batch);
        Ok(())
    }

    /// Hands everything to the operating system. Not yet durable.
    pub(super) fn flush(&self) -> Result<(), DatabaseError> {
        let pairs = lock(&self.pairs).clone();
        let written = self.file.write_at(&encode(&pairs), 0);
        written.map_err(DatabaseError::Io)
    }

    /// Closes it.
    pub(super) fn close(self) -> io::Result<()> {
        Ok(())
    }
}

impl Values<'_> {
    /// The next key with its value.
    pub(super) fn next(&mut self) -> Result<Option<(Value, Value)>, ReadError> {
        Ok(self
            .0
            .next()
            .map(|(key, value)| (key.clone(), value.clone())))
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.path).finish()
    }
}

fn whole(file: &dyn File) -> io::Result<Bytes> {
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes.into())
}

fn encode(pairs: &BTreeMap<Bytes, Bytes>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.put_u64_le(pairs.len() as u64);
    for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
        bytes.put_u64_le(part.len() as u64);
        bytes.extend_from_slice(part);
    }
    let sum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(sum);
    bytes
}

fn decode(mut bytes: Bytes) -> Option<BTreeMap<Bytes, Bytes>> {
    let mut sum = bytes.split_off(bytes.len().checked_sub(SUM_BYTES)?);
    if crc32c::crc32c(&bytes) != sum.get_u32_le() || !bytes.starts_with(MAGIC) {
        return None;
    }
    bytes.advance(MAGIC.len());
    let count = bytes.try_get_u64_le().ok()?;
    let mut part = || {
        let length = usize::try_from(bytes.try_get_u64_le().ok()?).ok()?;
        (length <= bytes.len()).then(|| bytes.split_to(length))
    };
    (0..count).map(|_| Some((part()?, part()?))).collect()
}
