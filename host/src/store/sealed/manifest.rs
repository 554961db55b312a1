//! The manifest: which generations are complete. A small text that an operator can read, replaced as a whole and never changed in
//! place; and the same for one generation, in which that describes itself.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::str::FromStr;

use crate::disk::{self, Access, FileSystem};
use crate::domain::{CommitNumber, Position};
use crate::store::file_names;

const TITLE: &str = "tidegate-manifest 1";
/// What the titles of all versions begin with; a number follows.
const TITLE_STEM: &str = "tidegate-manifest ";
const BYTES_MAX: u64 = 256 << 20;

/// A complete generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationInfo {
    /// Its number, also its folder's name. Never reused.
    pub id: u64,
    /// Its state and blocks are as of before this group; replay begins with it.
    pub mark: CommitNumber,
    /// Position of the first event it may hold, `None` when it holds no events.
    pub first_position: Option<Position>,
    /// Position of the last event it may hold.
    pub last_position: Option<Position>,
    /// Events in it.
    pub events: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// One sled database of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartInfo {
    pub(super) first_position: Position,
    pub(super) last_position: Position,
    /// Blocks.
    pub(super) items: u64,
    /// Sum of the items' CRC32C.
    pub(super) checksum: u64,
    /// Whether an operator accepted that it is gone.
    pub(super) is_lost: bool,
    /// Stretches of it whose loss an operator accepted, in order.
    pub(super) gaps: Vec<Gap>,
}

/// Damage within a part: whoever looks for the first block at or after a position from `from` on finds that of `to` instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: Position,
    pub(super) to: Position,
}

impl PartInfo {
    /// Where to look instead of at `from`, which is damaged.
    pub(super) fn beyond_gaps(&self, from: Position) -> Position {
        let skip = |from, gap: &Gap| match gap.from <= from && from < gap.to {
            true => gap.to,
            false => from,
        };
        self.gaps.iter().fold(from, skip)
    }

    /// Whether an operator accepted that what is at `position` is gone.
    pub(super) fn is_given_up(&self, position: Position) -> bool {
        self.is_lost || self.beyond_gaps(position) != position
    }
}

/// What the manifest says about one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) info: GenerationInfo,
    /// Items and checksum of the state; `None` when the state is gone or no longer kept.
    pub(super) state: Option<(u64, u64)>,
    pub(super) parts: Vec<PartInfo>,
}

/// Why there is no manifest to be had.
#[derive(Debug)]
pub(super) enum ManifestError {
    /// It is there but not what was written.
    Damaged,
    /// It is sound, as far as can be told, but says something that this version does not know.
    Format(String),
    /// The file system fails.
    Io(io::Error),
}

/// The generations, oldest first; `None` when there is no manifest.
pub(super) fn load(
    fs: &dyn FileSystem,
    dir: &Path,
) -> Result<Option<Vec<Described>>, ManifestError> {
    match read(fs, &file_names::manifest(dir)) {
        Err(ManifestError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Replaces the manifest. After an error it is not known which one the disk holds.
pub(super) fn save(fs: &dyn FileSystem, dir: &Path, generations: &[Described]) -> io::Result<()> {
    let path = file_names::manifest(dir);
    let aside = path.with_extension("new");
    let text = encode(generations);
    disk::replace(fs, &path, &aside, Access::Usual, |file| {
        file.write_at(text.as_bytes(), 0)
    })?;
    Ok(())
}

/// What a generation's folder says about itself; it is there only when the generation is complete.
pub(super) fn load_about(fs: &dyn FileSystem, folder: &Path) -> Result<Described, ManifestError> {
    read(fs, &file_names::about(folder))?
        .pop()
        .ok_or(ManifestError::Damaged)
}

/// Completes a generation's folder; everything else in it must be durable.
pub(super) fn save_about(fs: &dyn FileSystem, folder: &Path, one: &Described) -> io::Result<()> {
    let file = fs.create(&file_names::about(folder))?;
    file.write_at(encode(std::slice::from_ref(one)).as_bytes(), 0)?;
    file.sync()?;
    fs.sync_dir(folder)
}

fn read(fs: &dyn FileSystem, path: &Path) -> Result<Vec<Described>, ManifestError> {
    let file = fs.open(path).map_err(ManifestError::Io)?;
    let length = file.length().map_err(ManifestError::Io)?;
    if length > BYTES_MAX {
        return Err(ManifestError::Damaged);
    }
    let mut bytes = vec![0; length as usize];
    let read = file.read_at(&mut bytes, 0).map_err(ManifestError::Io)?;
    bytes.truncate(read);
    let text = String::from_utf8(bytes).map_err(|_| ManifestError::Damaged)?;
    decode(&text)
}

fn encode(generations: &[Described]) -> String {
    let mut text = format!("{TITLE}\n");
    for Described { info, state, parts } in generations {
        let (items, checksum) = state.map_or((-1, 0), |(items, sum)| (items as i64, sum));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "generation {} mark {} events {} bytes {} state {items} {checksum:x}",
            info.id, info.mark, info.events, info.bytes
        );
        for part in parts {
            let word = if part.is_lost { "lost" } else { "part" };
            let _ = writeln!(
                text,
                "{word} {} {} blocks {} {:x}",
                part.first_position, part.last_position, part.items, part.checksum
            );
            for Gap { from, to } in &part.gaps {
                let _ = writeln!(text, "gap {from} {to}");
            }
        }
    }
    let crc = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "crc {crc:08x}");
    text
}

fn decode(text: &str) -> Result<Vec<Described>, ManifestError> {
    let end = text.trim_end().rfind('\n').ok_or(ManifestError::Damaged)?;
    let (body, crc) = text.split_at(end + 1);
    let crc = crc.trim().strip_prefix("crc ").unwrap_or_default();
    let crc = u32::from_str_radix(crc, 16).map_err(|_| ManifestError::Damaged);
    let title = body.lines().next().unwrap_or_default();
    let is_sound = |body: &str| {
        let found = crc32c::crc32c(body.as_bytes());
        crc.as_ref().is_ok_and(|crc| *crc == found)
    };
    let sound = is_sound(body);
    if title != TITLE {
        // A title that was damaged leaves the rest, and the checksum, as they were.
        let was_ours = is_sound(&body.replacen(title, TITLE, 1));
        let version = title.strip_prefix(TITLE_STEM).map(str::parse::<u32>);
        return Err(match version {
            Some(Ok(_)) if sound || !was_ours => ManifestError::Format(title.to_owned()),
            _ => ManifestError::Damaged,
        });
    }
    if !sound {
        return Err(ManifestError::Damaged);
    }
    let mut generations = Vec::new();
    for line in body.lines().skip(1) {
        describe(line, &mut generations).ok_or_else(|| ManifestError::Format(line.to_owned()))?;
    }
    Ok(generations)
}

// Adds what one line says; `None` when this version does not know it.
fn describe(line: &str, generations: &mut Vec<Described>) -> Option<()> {
    let words: Vec<&str> = line.split(' ').collect();
    match *words.as_slice() {
        [
            "generation",
            id,
            "mark",
            mark,
            "events",
            events,
            "bytes",
            bytes,
            "state",
            items,
            sum,
        ] => {
            let items: i64 = number(items)?;
            let sum = u64::from_str_radix(sum, 16).ok()?;
            generations.push(Described {
                info: GenerationInfo {
                    id: number(id)?,
                    mark: CommitNumber(number(mark)?),
                    first_position: None,
                    last_position: None,
                    events: number(events)?,
                    bytes: number(bytes)?,
                },
                state: u64::try_from(items).ok().map(|items| (items, sum)),
                parts: Vec::new(),
            });
        }
        [word @ ("part" | "lost"), first, last, "blocks", items, sum] => {
            let part = PartInfo {
                first_position: Position(number(first)?),
                last_position: Position(number(last)?),
                items: number(items)?,
                checksum: u64::from_str_radix(sum, 16).ok()?,
                is_lost: word == "lost",
                gaps: Vec::new(),
            };
            let generation = generations.last_mut()?;
            generation
                .info
                .first_position
                .get_or_insert(part.first_position);
            generation.info.last_position = Some(part.last_position);
            generation.parts.push(part);
        }
        ["gap", from, to] => {
            let gap = Gap {
                from: Position(number(from)?),
                to: Position(number(to)?),
            };
            generations.last_mut()?.parts.last_mut()?.gaps.push(gap);
        }
        _ => return None,
    }
    Some(())
}

fn number<T: FromStr>(word: &str) -> Option<T> {
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_every_flip_is_noticed() {
        let parts = vec![PartInfo {
            first_position: Position(4),
            last_position: Position(9),
            items: 2,
            checksum: 77,
            is_lost: false,
            gaps: vec![Gap {
                from: Position(5),
                to: Position(8),
            }],
        }];
        let info = GenerationInfo {
            id: 3,
            mark: CommitNumber(12),
            first_position: Some(Position(4)),
            last_position: Some(Position(9)),
            events: 5,
            bytes: 4096,
        };
        let described = vec![
            Described {
                info: info.clone(),
                state: None,
                parts,
            },
            Described {
                info: GenerationInfo {
                    id: 4,
                    first_position: None,
                    last_position: None,
                    ..info
                },
                state: Some((2, 1)),
                parts: Vec::new(),
            },
        ];
        let text = encode(&described);
        assert_eq!(decode(&text).expect("sound"), described);
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8(bytes).expect("still ASCII");
            let is_damaged = matches!(decode(&flipped), Err(ManifestError::Damaged));
            assert!(is_damaged, "flip at {at}");
        }
        for cut in ["", &text[..text.len() / 2]] {
            assert!(matches!(decode(cut), Err(ManifestError::Damaged)));
        }
    }

    fn sealed(body: &str) -> String {
        format!("{body}crc {:08x}\n", crc32c::crc32c(body.as_bytes()))
    }

    #[test]
    fn what_another_version_wrote_is_not_called_damage() {
        let check = |text: &str, said: &str| match decode(text) {
            Err(ManifestError::Format(found)) => assert_eq!(found, said),
            other => panic!("{text}: {other:?}"),
        };
        check(
            &sealed("tidegate-manifest 2\nwords\n"),
            "tidegate-manifest 2",
        );
        check(&sealed(&format!("{TITLE}\nretention 5\n")), "retention 5");
        // One that has checksums of its own.
        check(
            "tidegate-manifest 3\nwords\nsha 12\n",
            "tidegate-manifest 3",
        );
        let other = sealed("another-manifest 1\n");
        assert!(matches!(decode(&other), Err(ManifestError::Damaged)));
    }
}
