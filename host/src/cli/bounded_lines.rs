//! Lines of a file or a pipe, each of them no longer than it may be: of one that is, little more is read.

use anyhow::Context;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// What is read from.
pub(super) type Reader = Box<dyn AsyncBufRead + Send + Unpin>;

/// The lines of a reader.
pub(super) struct BoundedLines {
    reader: Reader,
    // What was read of the next one.
    line: Vec<u8>,
}

impl BoundedLines {
    pub(super) fn new(reader: Reader) -> Self {
        Self {
            reader,
            line: Vec::new(),
        }
    }

    /// The next line without its end, or nothing when there is none. Cancel-safe.
    ///
    /// # Errors
    ///
    /// It cannot be read, or has more than `bytes_max` bytes.
    pub(super) async fn next(&mut self, bytes_max: usize) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            let read = self.reader.fill_buf().await;
            let read = read.context("cannot read the events")?;
            if read.is_empty() {
                let rest = std::mem::take(&mut self.line);
                return Ok((!rest.is_empty()).then_some(rest));
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = &read[..end.unwrap_or(read.len())];
            if self.line.len() + part.len() > bytes_max {
                anyhow::bail!(too_long(bytes_max));
            }
            self.line.extend_from_slice(part);
            let taken = part.len() + usize::from(end.is_some());
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }
}

/// All that a reader has.
///
/// # Errors
///
/// It cannot be read, or has more than `bytes_max` bytes.
pub(super) async fn all_of(reader: Reader, bytes_max: usize) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut reader = reader.take((bytes_max as u64).saturating_add(1));
    reader.read_to_end(&mut content).await?;
    if content.len() > bytes_max {
        anyhow::bail!(too_long(bytes_max));
    }
    Ok(content)
}

fn too_long(bytes_max: usize) -> String {
    format!(
        "it has more than {bytes_max} bytes, so no event that the broker takes is in it (limits.event_bytes_max of the broker)"
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    fn reader(content: &'static [u8]) -> Reader {
        // Lines come in pieces.
        Box::new(BufReader::with_capacity(3, content))
    }

    #[tokio::test]
    async fn lines_end_where_they_end_and_none_is_too_long() {
        let mut lines = BoundedLines::new(reader(b"ab\n\ncdefg\r\nlast"));
        let mut found = Vec::new();
        while let Some(line) = lines.next(6).await.expect("short enough") {
            found.push(String::from_utf8(line).expect("text"));
        }
        assert_eq!(found, ["ab", "", "cdefg\r", "last"]);

        let mut lines = BoundedLines::new(reader(b"abcd\nabcde\n"));
        assert_eq!(
            lines.next(4).await.expect("as long").as_deref(),
            Some(&b"abcd"[..])
        );
        let error = lines.next(4).await.expect_err("longer");
        assert!(error.to_string().contains("more than 4 bytes"), "{error}");
        assert_eq!(all_of(reader(b"abc"), 3).await.expect("as long"), b"abc");
        assert!(all_of(reader(b"abcd"), 3).await.is_err());
    }

    #[tokio::test]
    async fn what_never_ends_is_given_up() {
        let endless = || -> Reader { Box::new(BufReader::new(tokio::io::repeat(b'x'))) };
        assert!(BoundedLines::new(endless()).next(10_000).await.is_err());
        assert!(all_of(endless(), 10_000).await.is_err());
    }
}
