//! A reader who types what a document says: one shell in a folder of its own, with `tidegate` on the path, and further
//! terminals beside it. The ports that documents name are replaced by free ones, in what is typed and in what comes out, so
//! that documents are followed beside each other. Everything that was started ends with it.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::broker::binary;
use crate::{lasting_port, repository, wait_for};

/// Ports that documents name, as a broker has them without a configuration.
const PORTS: [&str; 2] = ["4433", "4480"];

/// How a command ended, and what it said on standard output and standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its exit code was 0.
    pub well: bool,
    /// What it printed.
    pub output: String,
}

/// The shell, and what was started from it.
pub struct Terminal {
    shell: Child,
    input: ChildStdin,
    ports: [u16; PORTS.len()],
    // Of what was typed so far.
    typed: usize,
    // Where what the last terminal beside it prints goes to.
    beside: Option<PathBuf>,
    folder: TempDir,
}

impl Terminal {
    /// A shell in a new folder.
    ///
    /// # Errors
    /// The folder cannot be made, or there is no `sh`.
    pub fn open() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tidegate-document-")
            .tempdir()?;
        let ports = [lasting_port()?, lasting_port()?];
        let programs = folder.path().join("bin");
        let work = folder.path().join("work");
        fs::create_dir(&programs)?;
        fs::create_dir(&work)?;
        let development = folder.path().join("development.toml");
        let configuration = fs::read_to_string(repository().join("examples/tidegate.toml"))?;
        fs::write(&development, on_ports(&configuration, ports))?;
        let program = programs.join("tidegate");
        fs::write(&program, wrapper(&binary()?, &development))?;
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;

        let mut command = Command::new("sh");
        // What the shell itself says, such as that a job was killed, belongs to no command.
        command.stderr(File::create(folder.path().join("shell"))?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        let mut shell = command
            .arg("-e")
            .current_dir(&work)
            .env("HOME", &work)
            .env_remove("XDG_CONFIG_HOME")
            .env("PATH", path_with(&programs)?)
            .env("TIDEGATE_ADDR", format!("127.0.0.1:{}", ports[0]))
            .env("TIDEGATE_ADMIN", format!("http://127.0.0.1:{}", ports[1]))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting sh")?;
        let input = shell.stdin.take().context("no standard input")?;
        Ok(Self {
            shell,
            input,
            ports,
            typed: 0,
            beside: None,
            folder,
        })
    }

    /// Types these lines and waits until all is done. After a line that fails the rest is not run, and nothing can be typed
    /// any more.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn run(&mut self, lines: &str) -> anyhow::Result<Said> {
        self.type_in(lines, ". $SCRIPT > $OUT 2>&1 < /dev/null; echo 0 > $CODE")?;
        self.outcome().await
    }

    /// Types these lines, which may fail, in a shell below this one, and waits until all is done.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn run_apart(&mut self, lines: &str) -> anyhow::Result<Said> {
        let apart = "if (set -e; . $SCRIPT) > $OUT 2>&1 < /dev/null; then echo 0 > $CODE; else echo 1 > $CODE; fi";
        self.type_in(lines, apart)?;
        self.outcome().await
    }

    /// Types these lines in a terminal beside this one, where they go on.
    ///
    /// # Errors
    /// The shell has ended.
    pub fn run_beside(&mut self, lines: &str) -> anyhow::Result<()> {
        self.type_in(lines, "(. $SCRIPT) > $OUT 2>&1 < /dev/null &")?;
        self.beside = Some(self.file("out"));
        Ok(())
    }

    /// What the terminal beside this one has printed, once `enough` says so.
    ///
    /// # Errors
    /// That takes too long; the message has what was printed.
    pub async fn beside(&mut self, enough: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let path = self.beside.clone().context("there is no other terminal")?;
        let mut last = String::new();
        let result = wait_for("the other terminal", async || {
            last = self.printed(&path);
            Ok(enough(&last).then(|| last.clone()))
        })
        .await;
        result.with_context(|| format!("it printed:\n{last}"))
    }

    /// Writes a file into the folder in which the shell was opened.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join("work").join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        let text = std::str::from_utf8(content).map(|text| on_ports(text, self.ports));
        fs::write(&path, text.as_deref().map_or(content, str::as_bytes))?;
        Ok(path)
    }

    // Of `how`, `$SCRIPT`, `$OUT` and `$CODE` are the files of this step.
    fn type_in(&mut self, lines: &str, how: &str) -> anyhow::Result<()> {
        self.typed += 1;
        fs::write(self.file("sh"), on_ports(lines, self.ports))?;
        let mut how = how.to_owned();
        for (name, end) in [("$SCRIPT", "sh"), ("$OUT", "out"), ("$CODE", "code")] {
            how = how.replace(name, &format!("'{}'", self.file(end).display()));
        }
        writeln!(self.input, "{how}").context("the shell has ended")
    }

    async fn outcome(&mut self) -> anyhow::Result<Said> {
        let (out, code) = (self.file("out"), self.file("code"));
        let finished = wait_for("the commands to end", async || {
            // Before the file is looked at: a shell that has ended writes none any more.
            let ended = self.shell.try_wait()?.is_some();
            match fs::read_to_string(&code).unwrap_or_default().as_str() {
                "0\n" => Ok(Some(true)),
                "1\n" => Ok(Some(false)),
                _ => Ok(ended.then_some(false)),
            }
        })
        .await;
        let output = self.printed(&out);
        let well = finished.with_context(|| format!("so far they printed:\n{output}"))?;
        Ok(Said { well, output })
    }

    fn file(&self, end: &str) -> PathBuf {
        self.folder.path().join(format!("{}.{end}", self.typed))
    }

    // With the ports that documents name.
    fn printed(&self, path: &Path) -> String {
        let mut text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        for (named, port) in PORTS.iter().zip(self.ports) {
            text = text.replace(&format!(":{port}"), &format!(":{named}"));
        }
        text
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // An error means that all of them have ended.
        let _ = kill_process_group(Pid::from_child(&self.shell), Signal::KILL);
        let _ = self.shell.wait();
    }
}

fn on_ports(text: &str, ports: [u16; PORTS.len()]) -> String {
    PORTS
        .iter()
        .zip(ports)
        .fold(text.to_owned(), |text, (named, port)| {
            text.replace(&format!("127.0.0.1:{named}"), &format!("127.0.0.1:{port}"))
        })
}

// `tidegate`, whose `serve` without a configuration has the development configuration as a file, on other ports.
fn wrapper(binary: &Path, development: &Path) -> String {
    let (binary, development) = (binary.display(), development.display());
    format!(
        "#!/bin/sh\n\
         case \" $* \" in\n\
         *' --config '*) ;;\n\
         ' serve '*) shift; set -- serve --config '{development}' \"$@\" ;;\n\
         esac\n\
         exec '{binary}' \"$@\"\n"
    )
}

fn path_with(programs: &Path) -> anyhow::Result<OsString> {
    let others = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&others));
    Ok(std::env::join_paths(all)?)
}

/// Whether a document's output says what a command printed. In `shown`, `…` stands for any characters of a line, and a line
/// of nothing else for any number of lines.
#[must_use]
pub fn shows(shown: &str, printed: &str) -> bool {
    let shown: Vec<&str> = shown.lines().map(str::trim_end).collect();
    // What takes longer than two seconds says what it waits for: on a busy machine anything does.
    let said = |line: &&str| {
        shown.contains(line) || !NOTICES.iter().any(|notice| line.starts_with(notice))
    };
    let printed = printed.lines().map(str::trim_end).filter(said);
    let printed: Vec<&str> = printed.collect();
    lines_match(&shown, &printed)
}

/// How lines begin that commands print only when they wait.
const NOTICES: [&str; 3] = ["waiting: ", "still waiting: ", "going on"];

fn lines_match(shown: &[&str], printed: &[&str]) -> bool {
    match shown {
        [] => printed.is_empty(),
        ["…", rest @ ..] => (0..=printed.len()).any(|skip| lines_match(rest, &printed[skip..])),
        [line, rest @ ..] => match printed {
            [first, others @ ..] => line_matches(line, first) && lines_match(rest, others),
            [] => false,
        },
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let Some((head, tail)) = shown.split_once('…') else {
        return shown == printed;
    };
    let Some(rest) = printed.strip_prefix(head) else {
        return false;
    };
    let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    ends.into_iter().any(|at| line_matches(tail, &rest[at..]))
}

/// Whether there is such a program on the path.
///
/// # Errors
/// There is no path.
pub fn has_program(name: &str) -> anyhow::Result<bool> {
    let path = std::env::var_os("PATH").context("no PATH")?;
    ensure!(!name.contains('/'), "`{name}` is no name of a program");
    Ok(std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_shows_what_was_printed() {
        let cases = [
            ("a\nb\n", "a\nb\n", true),
            ("a\n", "a\nb\n", false),
            ("a\nb\n", "a\n", false),
            ("a …\n", "a 12 b\n", true),
            ("a … c\n", "a 12 b\n", false),
            ("… b\n", "a b\n", true),
            ("…\nb\n", "b\n", true),
            ("…\nb\n", "x\ny\nb\n", true),
            ("…\nb\n…\n", "x\nb\ny\n", true),
            ("…\nb\n…\n", "x\ny\n", false),
            ("a\n", "waiting: so long\nstill waiting: so long\na\n", true),
            ("waiting: so long\n", "waiting: so long\n", true),
            ("waiting: so long\n", "", false),
            ("", "", true),
            ("…\n", "", true),
        ];
        for (shown, printed, matches) in cases {
            assert_eq!(shows(shown, printed), matches, "{shown:?} {printed:?}");
        }
    }
}
