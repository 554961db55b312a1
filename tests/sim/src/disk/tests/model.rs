//! Random programs on the disk beside a naive one, which keeps every state that a file and a folder had since its last sync. What is
//! read is the last of them; what is found after an end is made of them as that end allows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_simulated::disk::{File, FileSystem};

use crate::disk::{DiskLife, End, Shape, SimDisk};
use crate::scheduler::mix;

const PROGRAMS: u64 = 10_000;
const STEPS: u64 = 24;
const SECTOR: usize = 512;
const FOLDERS: [&str; 2] = ["/a", "/b"];

type View = BTreeMap<PathBuf, usize>;

/// All states since the last sync; the first is durable.
struct Naive {
    files: Vec<Vec<Vec<u8>>>,
    folders: BTreeMap<&'static str, Vec<View>>,
}

impl Naive {
    fn view(&self, folder: &str) -> &View {
        self.folders[folder].last().unwrap()
    }

    fn file(&self, number: usize) -> &Vec<u8> {
        self.files[number].last().unwrap()
    }

    fn change(&mut self, number: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.file(number).clone();
        change(&mut content);
        self.files[number].push(content);
    }

    fn rename(&mut self, folder: &'static str, change: impl FnOnce(&mut View)) {
        let mut view = self.view(folder).clone();
        change(&mut view);
        self.folders.get_mut(folder).unwrap().push(view);
    }
}

struct Program {
    seed: u64,
    asked: u64,
    naive: Naive,
    life: DiskLife,
    open: Vec<Arc<dyn File>>,
}

impl Program {
    fn draw(&mut self, among: u64) -> usize {
        self.asked += 1;
        usize::try_from(mix(&[self.seed, self.asked]) % among).unwrap()
    }

    fn step(&mut self) {
        let folder = FOLDERS[self.draw(2)];
        let name = ["x", "y", "z"][self.draw(3)];
        let path = Path::new(folder).join(name);
        let at_path = self.naive.view(folder).get(&path).copied();
        match (self.draw(12), at_path) {
            (0 | 1, None) => {
                self.open.push(self.life.create(&path).unwrap());
                let number = self.naive.files.len();
                self.naive.files.push(vec![Vec::new()]);
                self.naive.rename(folder, |view| {
                    view.insert(path, number);
                });
            }
            (0, Some(number)) => {
                drop(self.life.create(&path).unwrap());
                self.naive.change(number, Vec::clear);
            }
            (1, Some(_)) => {
                self.life.remove(&path).unwrap();
                self.naive.rename(folder, |view| {
                    view.remove(&path);
                });
            }
            (2, Some(number)) => {
                let to = Path::new(folder).join(["x", "y", "z"][self.draw(3)]);
                self.life.rename(&path, &to).unwrap();
                self.naive.rename(folder, |view| {
                    view.remove(&path);
                    view.insert(to, number);
                });
            }
            (3, _) => {
                self.life.sync_dir(Path::new(folder)).unwrap();
                let states = self.naive.folders.get_mut(folder).unwrap();
                states.drain(..states.len() - 1);
            }
            (4 | 5, Some(number)) => {
                self.open[number].sync().unwrap();
                let states = &mut self.naive.files[number];
                states.drain(..states.len() - 1);
            }
            (6, Some(number)) => {
                let length = self.draw(2_000);
                self.open[number].set_length(length as u64).unwrap();
                self.naive
                    .change(number, |content| content.resize(length, 0));
            }
            (7, Some(number)) => {
                let length = self.draw(2_000);
                self.open[number].allocate(length as u64).unwrap();
                let length = length.max(self.naive.file(number).len());
                self.naive
                    .change(number, |content| content.resize(length, 0));
            }
            (_, Some(number)) => {
                let (at, length) = (self.draw(1_500), self.draw(1_200));
                let byte = u8::try_from(self.draw(255) + 1).unwrap();
                let bytes = vec![byte; length];
                self.open[number].write_at(&bytes, at as u64).unwrap();
                self.naive.change(number, |content| {
                    if length > 0 {
                        content.resize(content.len().max(at + length), 0);
                        content[at..at + length].copy_from_slice(&bytes);
                    }
                });
            }
            (_, None) => {}
        }
    }

    fn look(&self) {
        for folder in FOLDERS {
            let view = self.naive.view(folder);
            let mut listed = self.life.list(Path::new(folder)).unwrap();
            listed.sort();
            assert!(listed.iter().eq(view.keys()));
            for (path, number) in view {
                assert_eq!(self.life.read(path).unwrap(), *self.naive.file(*number));
            }
        }
    }
}

fn sector(content: &[u8], at: usize, length: usize) -> Vec<u8> {
    let from = (at * SECTOR).min(content.len());
    let to = ((at + 1) * SECTOR).min(content.len());
    let mut sector = content[from..to].to_vec();
    sector.resize(length, 0);
    sector
}

// Whether such a file may be found after an end of this kind.
fn may_be(found: &[u8], states: &[Vec<u8>], how: End) -> bool {
    let last = states.last().unwrap();
    match how {
        End::Killed => found == last,
        End::Cruel => found == states[0],
        // One of the states, or one and the beginning of the step to the next.
        End::Mild => {
            let is_between = |pair: &[Vec<u8>]| {
                let byte = |content: &[u8], at| content.get(at).copied().unwrap_or_default();
                let (low, high) = (
                    pair[0].len().min(pair[1].len()),
                    pair[0].len().max(pair[1].len()),
                );
                let at = |at| [byte(&pair[0], at), byte(&pair[1], at)].contains(&byte(found, at));
                (low..=high).contains(&found.len()) && (0..found.len()).all(at)
            };
            found == states[0] || states.windows(2).any(is_between)
        }
        End::Usual | End::Ordered => {
            let lengths = states.iter().any(|state| state.len() == found.len());
            lengths
                && found.chunks(SECTOR).enumerate().all(|(at, held)| {
                    let of = |state: &Vec<u8>| sector(state, at, SECTOR)[..held.len()] == *held;
                    states.iter().any(of)
                })
        }
    }
}

fn check(seed: u64) {
    let disk = SimDisk::new(Shape::of(seed));
    let life = disk.life();
    for folder in FOLDERS {
        life.create_dir(Path::new(folder)).unwrap();
    }
    life.sync_dir(Path::new("/")).unwrap();
    let naive = Naive {
        files: Vec::new(),
        folders: FOLDERS.map(|folder| (folder, vec![View::new()])).into(),
    };
    let mut program = Program {
        seed,
        asked: 0,
        naive,
        life,
        open: Vec::new(),
    };
    for _ in 0..STEPS {
        program.step();
    }
    program.look();
    let how = End::ALL[program.draw(5)];
    disk.end(how);
    let image = disk.image();
    for folder in FOLDERS {
        let found: BTreeMap<&PathBuf, &Vec<u8>> = image
            .iter()
            .filter(|(path, _)| path.parent() == Some(Path::new(folder)))
            .map(|(path, content)| (path, content.as_ref().unwrap()))
            .collect();
        let states = &program.naive.folders[folder];
        let states = match how {
            End::Killed => &states[states.len() - 1..],
            End::Cruel => &states[..1],
            End::Mild | End::Usual | End::Ordered => &states[..],
        };
        let is_this = |view: &View| {
            view.keys().eq(found.keys().copied())
                && view
                    .iter()
                    .all(|(path, number)| may_be(found[path], &program.naive.files[*number], how))
        };
        assert!(
            states.iter().any(is_this),
            "seed {seed}, {how:?}: {folder} holds what it never did"
        );
    }
    // The next life finds that, and all of it lasts.
    let next = disk.life();
    for (path, content) in image.iter().filter(|(_, content)| content.is_some()) {
        assert_eq!(Some(&next.read(path).unwrap()), content.as_ref());
    }
    disk.end(End::Cruel);
    assert_eq!(disk.image(), image);
}

#[test]
fn a_disk_and_a_naive_one_agree() {
    (0..PROGRAMS).for_each(check);
}
