//! That the disk does what is asked of it, loses what a real one may lose, and nothing else.

mod faulty;
mod model;
mod survived;

use std::path::Path;
use std::sync::Arc;

use tidegate_simulated::disk::{File, FileSystem};

use super::{DiskLife, End, Shape, SimDisk};

const FOLDER: &str = "/data";

// A disk with one folder that lasts, and the life that made it.
fn disk(shape: Shape) -> (SimDisk, DiskLife) {
    let disk = SimDisk::new(shape);
    let life = disk.life();
    life.create_dir(Path::new(FOLDER)).unwrap();
    life.sync_dir(Path::new("/")).unwrap();
    (disk, life)
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(FOLDER).join(name)
}

// A file that lasts, with this in it.
fn lasting(life: &DiskLife, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = life.create(&path(name)).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    life.sync_dir(Path::new(FOLDER)).unwrap();
    file
}

// What the next life finds of a file after such an end.
fn found(disk: &SimDisk, how: End, name: &str) -> Option<Vec<u8>> {
    disk.end(how);
    disk.image().remove(&path(name)).flatten()
}
