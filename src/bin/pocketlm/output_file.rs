//! Files that commands write. A file appears under its name when it is complete, and replaces only
//! an older file of the same kind.

use std::fs::{self, File, Metadata};
use std::io::{self, IsTerminal, Read, Seek};
use std::path::{Path, PathBuf};

use pocketlm::grammar::Grammar;
use pocketlm::host::file::whole_file;
use pocketlm::import::ImportError;
use pocketlm::model::MAGIC;
use pocketlm::run::SnapshotHeader;

use crate::output::{Failure, Outcome, failure, file_failure, stdout_failure};
use crate::{c_header, svg};

/// What a file holds.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Image,
    Snapshot,
    Logits,
    Chart,
    CHeader,
    Grammar,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Image => "an image",
            Kind::Snapshot => "a snapshot",
            Kind::Logits => "a file of logits",
            Kind::Chart => "a chart of `plan` or `fit`",
            Kind::CHeader => "a C header of `plan`",
            Kind::Grammar => "a compiled grammar",
        }
    }

    /// Whether it can be shown at a terminal.
    fn is_text(self) -> bool {
        match self {
            Kind::Image | Kind::Snapshot | Kind::Logits | Kind::Grammar => false,
            Kind::Chart | Kind::CHeader => true,
        }
    }

    /// Whether a file is of this kind. False if it cannot be read.
    fn is_kind_of(self, path: &Path) -> bool {
        match self {
            Kind::Image => has_header(path, MAGIC),
            Kind::Snapshot => has_header(path, SnapshotHeader::MAGIC),
            Kind::Logits => holds_only_logits(path).unwrap_or(false),
            Kind::Chart => start(path, svg::START.len()) == svg::START.as_bytes(),
            Kind::CHeader => start(path, c_header::START.len()) == c_header::START.as_bytes(),
            Kind::Grammar => has_grammar_header(path),
        }
    }
}

/// The first bytes of a file, fewer if it is shorter.
fn start(path: &Path, length: usize) -> Vec<u8> {
    let mut found = Vec::new();
    let read = File::open(path).and_then(|file| file.take(length as u64).read_to_end(&mut found));
    match read {
        Ok(_) => found,
        Err(_) => Vec::new(),
    }
}

/// Whether a file begins with `magic` and the number of a version, four bytes. A text may begin
/// with the same letters, but no text continues with a number below 65536.
fn has_header(path: &Path, magic: [u8; 8]) -> bool {
    let header = start(path, magic.len() + 4);
    header.starts_with(&magic) && header.ends_with(&[0, 0]) && header.len() == magic.len() + 4
}

/// Whether a file begins as a compiled grammar: after the magic come the version and the width of
/// an offset, a byte each. No text continues with these bytes.
fn has_grammar_header(path: &Path) -> bool {
    let header = start(path, Grammar::MAGIC.len() + 2);
    let rest = header.strip_prefix(&Grammar::MAGIC);
    matches!(rest, Some([1..=8, 2..=3]))
}

/// Whether a file is a safetensors file with the tensor `logits` and no other.
fn holds_only_logits(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    // The header of one tensor is short.
    if length > 1 << 16 {
        return Ok(false);
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&header)?;
    let mut tensors = header.keys().filter(|name| *name != "__metadata__");
    Ok(tensors.next().is_some_and(|name| name == "logits") && tensors.next().is_none())
}

/// A file to write, checked before the work begins.
pub struct OutputFile {
    /// As the user gave it.
    name: PathBuf,
    kind: Kind,
    place: Place,
    /// What the command reads.
    inputs: Vec<Input>,
}

enum Place {
    /// A regular file, or the path of a new one. Symbolic links are resolved: the link stays, and
    /// its target is replaced.
    File(PathBuf),
    Stdout,
    /// A pipe or a device, which cannot be replaced.
    Stream,
}

/// A file that the command reads.
struct Input {
    identity: Identity,
    /// Whether it may be an earlier output: it is in a folder that the user named, and the command
    /// does not surely read it.
    may_be_output: bool,
}

impl OutputFile {
    /// Checks that the file can be written without destroying anything. `-` is standard output.
    /// `inputs` are the files and folders that the command reads.
    pub fn new(path: &Path, kind: Kind, inputs: &[&Path]) -> Outcome<OutputFile> {
        let mut output = OutputFile {
            name: path.to_owned(),
            kind,
            place: Place::Stdout,
            inputs: inputs.iter().flat_map(|path| files_of(path)).collect(),
        };
        output.inputs.extend(standard_input());
        if is_stdout(path) {
            if !kind.is_text() && io::stdout().is_terminal() {
                let what = kind.name();
                return Err(Failure::Usage(format!(
                    "{what} cannot be shown at a terminal; redirect standard output, or name a \
                     file"
                )));
            }
            return if standard_output().is_some_and(|it| output.is_input(it, false)) {
                Err(output.failure("goes to a file that this command reads; redirect it elsewhere"))
            } else {
                Ok(output)
            };
        }
        output.place = output.find()?;
        if let Place::File(file) = &output.place {
            output.check(file)?;
            // This fails now if the folder cannot be written to.
            output.create(file)?;
        }
        Ok(output)
    }

    /// Whether what is written goes to standard output.
    pub fn is_stdout(&self) -> bool {
        is_stdout(&self.name)
    }

    /// Calls `write` with an empty file, then moves it to its path. If `write` fails, an older file
    /// stays.
    pub fn write<T>(&self, write: impl FnOnce(&mut File) -> Outcome<T>) -> Outcome<T> {
        let Place::File(path) = &self.place else {
            // `write` may seek, and a stream cannot.
            let mut file = tempfile::tempfile().map_err(|error| {
                file_failure(
                    std::env::temp_dir(),
                    format_args!("no temporary file: {error}"),
                )
            })?;
            let result = write(&mut file)?;
            self.copy_to_stream(&mut file)?;
            return Ok(result);
        };
        let mut file = self.create(path)?;
        let result = write(file.as_file_mut())?;
        // Another program may have written a file there in the meantime.
        self.check(path)?;
        if let Ok(replaced) = path.metadata() {
            like(&replaced, file.as_file()).map_err(|error| self.cannot_write(error))?;
        }
        let synced = file.as_file().sync_all();
        synced.map_err(|error| self.cannot_write(error))?;
        file.persist(path)
            .map_err(|error| self.cannot_write(error.error))?;
        Ok(result)
    }

    /// The error for a failure to write.
    pub fn cannot_write(&self, error: io::Error) -> Failure {
        self.failure(format_args!("cannot be written: {error}"))
    }

    fn failure(&self, reason: impl std::fmt::Display) -> Failure {
        if self.is_stdout() {
            failure(format_args!("standard output: {reason}"))
        } else {
            file_failure(&self.name, reason)
        }
    }

    /// Finds out what the name refers to.
    fn find(&self) -> Outcome<Place> {
        let is_folder = || self.failure("is a folder; name a file to write");
        if names_a_folder(&self.name) {
            return Err(is_folder());
        }
        match self.name.metadata() {
            Ok(found) if found.is_dir() => Err(is_folder()),
            Ok(found) if found.is_file() => self
                .name
                .canonicalize()
                .map(Place::File)
                .map_err(|error| self.cannot_write(error)),
            Ok(found) if is_stream(&found) => Ok(Place::Stream),
            Ok(_) => Err(self.failure("is neither a file nor a stream; name a file to write")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Place::File(link_target(&self.name)))
            }
            Err(error) => Err(self.cannot_write(error)),
        }
    }

    /// Checks an existing file: it must not be an input, of another kind, or write protected. An
    /// empty file of any kind may be replaced.
    fn check(&self, file: &Path) -> Outcome {
        let Ok(found) = file.metadata() else {
            return Ok(());
        };
        let of_kind = found.len() > 0 && self.kind.is_kind_of(file);
        let kind = self.kind.name();
        if identity(file).is_some_and(|it| self.is_input(it, of_kind)) {
            return Err(self.failure("is read by this command; name another file"));
        }
        if found.len() > 0 && !of_kind {
            return Err(self.failure(format_args!(
                "exists and is not {kind}; name another file, or delete it first"
            )));
        }
        match File::options().write(true).open(file) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.cannot_write(error)),
        }
    }

    /// Whether the command reads a file. `is_output` says that it looks like an earlier output.
    fn is_input(&self, identity: Identity, is_output: bool) -> bool {
        self.inputs
            .iter()
            .any(|input| input.identity == identity && !(input.may_be_output && is_output))
    }

    fn create(&self, file: &Path) -> Outcome<tempfile::NamedTempFile> {
        whole_file(file).map_err(|error| {
            let named = ImportError {
                path: Some(self.name.clone()),
                ..error
            };
            named.into()
        })
    }

    fn copy_to_stream(&self, file: &mut File) -> Outcome {
        file.rewind().map_err(|error| self.cannot_write(error))?;
        if self.is_stdout() {
            io::copy(file, &mut io::stdout().lock()).map_err(stdout_failure)?;
            return Ok(());
        }
        let stream = File::options().write(true).open(&self.name);
        stream
            .and_then(|mut stream| io::copy(file, &mut stream))
            .map_err(|error| self.cannot_write(error))?;
        Ok(())
    }
}

/// Whether a path is a name of standard output.
fn is_stdout(path: &Path) -> bool {
    let names: &[&str] = if cfg!(unix) {
        &["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]
    } else {
        &["-"]
    };
    names.iter().any(|name| path == Path::new(name))
}

/// Whether a path can only name a folder.
fn names_a_folder(path: &Path) -> bool {
    let end = path.as_os_str().as_encoded_bytes().last();
    end.is_some_and(|&end| std::path::is_separator(end.into())) || path.file_name().is_none()
}

/// The target of a symbolic link, which need not exist; other paths are returned as they are.
fn link_target(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // Linux follows as many links.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// Checks that stdout does not go to a file that the command reads: `run MODEL >> MODEL` would
/// damage it.
pub fn keep_from_stdout(input: &Path) -> Outcome {
    let Some(output) = standard_output() else {
        return Ok(());
    };
    let is_read = |file: &Input| file.identity == output && !file.may_be_output;
    if files_of(input).iter().any(is_read) {
        return Err(file_failure(
            input,
            "standard output goes to this file, which the command reads; redirect it elsewhere",
        ));
    }
    Ok(())
}

/// The files that are read if the user gives `path`: the file itself, all files of a folder, and
/// the tokenizers beside llama2.c weights.
fn files_of(path: &Path) -> Vec<Input> {
    let input = |file: &Path, is_weights: bool| {
        Some(Input {
            identity: identity(file)?,
            may_be_output: !is_weights,
        })
    };
    let mut inputs = Vec::from_iter(input(path, true));
    if let Ok(entries) = path.read_dir() {
        let index = path.join("model.safetensors.index.json");
        let index = fs::read_to_string(index).unwrap_or_default();
        let is_weights = |name: &str| {
            ["model.safetensors", "weights.safetensors"].contains(&name)
                || index.contains(&format!("\"{name}\""))
        };
        inputs.extend(entries.flatten().filter_map(|entry| {
            let name = entry.file_name();
            input(&entry.path(), name.to_str().is_some_and(is_weights))
        }));
    } else {
        let beside = ["tokenizer.bin", "tokenizer.model"];
        inputs.extend(
            beside
                .iter()
                .filter_map(|name| input(&path.with_file_name(name), false)),
        );
    }
    inputs
}

/// Gives a new file the permissions of the one that it replaces, and its owner if that is possible.
fn like(replaced: &Metadata, file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        _ = fchown(file, Some(replaced.uid()), Some(replaced.gid()));
    }
    file.set_permissions(replaced.permissions())
}

/// Is equal for two names of one file: device and inode number, where these exist.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = PathBuf;

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    path.metadata()
        .ok()
        .filter(Metadata::is_file)
        .map(of_metadata)
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<Identity> {
    path.canonicalize().ok().filter(|path| path.is_file())
}

#[cfg(unix)]
fn of_metadata(file: Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino())
}

/// The file that standard input comes from.
fn standard_input() -> Option<Input> {
    #[cfg(unix)]
    return Some(Input {
        identity: open_file(io::stdin())?,
        may_be_output: false,
    });
    #[cfg(not(unix))]
    None
}

/// The file that standard output goes to.
fn standard_output() -> Option<Identity> {
    #[cfg(unix)]
    return open_file(io::stdout());
    #[cfg(not(unix))]
    None
}

#[cfg(unix)]
fn open_file(stream: impl std::os::fd::AsFd) -> Option<Identity> {
    let file = File::from(stream.as_fd().try_clone_to_owned().ok()?);
    file.metadata()
        .ok()
        .filter(Metadata::is_file)
        .map(of_metadata)
}

/// Whether a file is a stream: a pipe, a terminal, `/dev/null`.
fn is_stream(file: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        file.file_type().is_fifo() || file.file_type().is_char_device()
    }
    #[cfg(not(unix))]
    {
        _ = file;
        false
    }
}
