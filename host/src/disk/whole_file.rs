//! Files that are read whole: configuration, certificates, keys. What lies at a path is somebody else's choice, so only a regular file
//! is read, which a pipe without a writer is not, and none beyond a length. How long a disk takes is its own affair: who serves
//! others meanwhile reads on a thread that nobody waits for.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// What certificates and keys in a file may take: a bundle of all authorities that a system trusts has a fifth of it.
pub const PEM_BYTES_MAX: u64 = 1 << 20;

/// All of the regular file at `path`.
///
/// # Errors
///
/// It cannot be read, is something else than a regular file, or has more than `bytes_max` bytes.
pub fn read_whole(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer otherwise. With regular files it changes nothing.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    must_be_regular(&file)?;
    read_up_to(file, bytes_max)
}

/// The same of a file that has text.
///
/// # Errors
///
/// As [`read_whole`], and when it is no UTF-8.
pub fn read_whole_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    text(read_whole(path, bytes_max)?)
}

/// All that `reader` has.
///
/// # Errors
///
/// It cannot be read, or has more than `bytes_max` bytes; of these little more is read.
pub fn read_up_to(reader: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let why = format!("it has more than the {bytes_max} bytes that it may have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// What was read, as text.
///
/// # Errors
///
/// It is no UTF-8.
pub fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        let why = format!("it is not UTF-8 text, from its byte {at} on");
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

fn must_be_regular(file: &File) -> io::Result<()> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    let why = format!("it is {what}, and has to be a regular file");
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_a_length_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), b"12345").expect("written");
        std::os::unix::fs::symlink(path("file"), path("link")).expect("linked");
        std::fs::write(path("no-text"), b"ab\xff").expect("written");
        let (mode, none) = (rustix::fs::Mode::RWXU, 0);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("pipe"),
            rustix::fs::FileType::Fifo,
            mode,
            none,
        )
        .expect("made");
        let read = |name: &str, max| {
            let read = read_whole_text(&path(name), max);
            read.map_err(|error| error.to_string())
        };
        assert_eq!(read("file", 5).as_deref(), Ok("12345"));
        assert_eq!(read("link", 5).as_deref(), Ok("12345"));
        let refused = |name: &str, max, why: &str| {
            let error = read(name, max).expect_err(why);
            assert!(error.contains(why), "{error}");
        };
        refused("file", 4, "more than the 4 bytes");
        refused("pipe", 5, "a pipe");
        refused("", 5, "a folder");
        refused("no-text", 5, "from its byte 3 on");
        refused("missing", 5, "No such file");
        let device = read_whole(Path::new("/dev/zero"), 5).expect_err("a device");
        assert!(device.to_string().contains("a device"), "{device}");
        // Which has no end.
        let error = read_up_to(io::repeat(0), 7).expect_err("too much");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
