//! Which program compiles plugins: this one, found as it runs now. How it is run is said elsewhere.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Compiler;

impl Compiler {
    /// This program, as it runs now: also when its file was replaced or removed since. Where the system does not say which that is, as
    /// without `/proc`, it is the file by which it was started.
    #[must_use]
    pub fn this_program() -> Self {
        let running = PathBuf::from("/proc/self/exe");
        if cfg!(target_os = "linux") && running.exists() {
            return Self::Child(running);
        }
        let called = std::env::args_os().next().unwrap_or_default();
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::current_exe().ok();
        let program = program.or_else(|| file_of_command(&called, &paths));
        program.map_or(Self::InProcess, Self::Child)
    }
}

// Where a command lies that was called so.
fn file_of_command(called: &OsStr, paths: &OsStr) -> Option<PathBuf> {
    let file = |path: PathBuf| {
        let path = std::path::absolute(path).ok()?;
        path.is_file().then_some(path)
    };
    match Path::new(called).components().count() {
        0 => None,
        1 if !called.as_encoded_bytes().contains(&b'/') => {
            std::env::split_paths(paths).find_map(|folder| file(folder.join(called)))
        }
        _ => file(called.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_by_its_path_or_else_in_the_folders_of_the_search_path() {
        let program = std::env::current_exe().expect("the system says which program this is");
        let folder = program.parent().expect("it lies in a folder");
        let name = program.file_name().expect("it has a name");
        let check = |called: &OsStr, folders: &[&Path], expected: Option<&Path>| {
            let paths = std::env::join_paths(folders).expect("no folder has a colon");
            let found = file_of_command(called, &paths);
            assert_eq!(found.as_deref(), expected, "{called:?} in {paths:?}");
        };
        let elsewhere = folder.join("elsewhere");
        check(program.as_os_str(), &[], Some(&program));
        check(name, &[&elsewhere, folder], Some(&program));
        check(name, &[&elsewhere], None);
        // A path is not looked for in the folders, and a folder is no program.
        check(OsStr::new("./no-such-program"), &[folder], None);
        check(folder.as_os_str(), &[], None);
        check(OsStr::new(""), &[folder], None);
    }
}
