//! Files: mapped into memory, read whole, or written so that a failure loses nothing. All functions
//! that read reject Git LFS pointers and everything that is not a regular file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Deref;
use std::path::Path;
use std::prelude::rust_2024::*;
use std::thread;

use super::ImportError;
use crate::aligned::AlignedBytes;

/// A file mapped into memory, read only.
///
/// The file must not be shortened while it is mapped: the operating system would answer the next
/// access to a lost page with a signal.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the whole file.
    ///
    /// # Errors
    /// The file cannot be opened or mapped, or is not a regular file (a pipe would block, a device
    /// has no end).
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let file = regular(path)?;
        // SAFETY: the mapping is private to this process and read only, and `Mmap` unmaps it when
        // dropped. The caller must see to it that the file is not shortened meanwhile; the type's
        // documentation says so.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) };
        map.map(MappedFile)
            .map_err(|error| ImportError::new(format!("cannot be mapped: {error}")).in_file(path))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The least that a thread reads: starting one costs more for less.
const PIECE: usize = 16 << 20;

/// Reads a file whole, by several threads if it is large, into [memory](AlignedBytes) that is
/// faster to read than a mapped file. The file is not mapped, so its bytes do not count twice
/// against this process.
///
/// # Errors
/// The file cannot be opened or read, is not a regular file, or becomes shorter meanwhile.
pub fn read_whole(path: &Path) -> Result<AlignedBytes, ImportError> {
    let refuse =
        |error: std::io::Error| ImportError::new(format!("cannot be read: {error}")).in_file(path);
    let length = regular(path)?.metadata().map_err(refuse)?.len();
    let length = usize::try_from(length)
        .map_err(|_| ImportError::new("larger than memory").in_file(path))?;
    let mut bytes = AlignedBytes::zeroed(length);
    // Every thread opens the file, to have a position of its own.
    let read = |start: usize, piece: &mut [u8]| {
        let mut file = regular(path)?;
        file.seek(SeekFrom::Start(start as u64))
            .and_then(|_| file.read_exact(piece))
            .map_err(refuse)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let piece = length.div_ceil(threads).next_multiple_of(PIECE).max(PIECE);
    let read = &read;
    thread::scope(|scope| {
        let pieces = bytes.chunks_mut(piece).enumerate();
        let readers: Vec<_> = pieces
            .map(|(i, bytes)| scope.spawn(move || read(i * piece, bytes)))
            .collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().expect("reading does not panic"))
    })?;
    Ok(bytes)
}

/// Reads a file whole.
///
/// # Errors
/// The file cannot be read, is not a regular file, or is longer than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ImportError> {
    let refuse = |reason: String| ImportError::new(reason).in_file(path);
    let mut bytes = Vec::new();
    // One byte past the limit tells "too long" from "just fits", whatever the file's metadata said.
    match regular(path)?.take(limit + 1).read_to_end(&mut bytes) {
        Ok(n) if n as u64 > limit => Err(refuse(format!(
            "longer than {limit} bytes, which no such file is"
        ))),
        Ok(_) => Ok(bytes),
        Err(error) => Err(refuse(format!("cannot be read: {error}"))),
    }
}

/// Reads a text file whole. A byte order mark is not part of the text.
///
/// # Errors
/// As [`read`]; or the file is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String, ImportError> {
    let bytes = read(path, limit)?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.into()),
        Err(error) => Err(not_utf8(&bytes, &error).in_file(path)),
    }
}

fn not_utf8(bytes: &[u8], error: &std::str::Utf8Error) -> ImportError {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return ImportError::new("the text is UTF-16").help("save it as UTF-8");
    }
    ImportError::new(format!(
        "cannot be read: not UTF-8 at byte {}",
        error.valid_up_to()
    ))
}

/// Whether something has this name, even a folder or a broken link: reading it then fails with a
/// message that says what it is.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The start of a file, to find out its kind: up to `buffer.len()` bytes. Empty if the file cannot
/// be read; reading it whole then says why.
pub fn start<'b>(path: &Path, buffer: &'b mut [u8]) -> &'b [u8] {
    let mut filled = 0;
    if let Ok(mut file) = regular(path) {
        // One call may return less than there is.
        while let Ok(count @ 1..) = file.read(&mut buffer[filled..]) {
            filled += count;
        }
    }
    &buffer[..filled]
}

const PARTIAL: (&str, &str) = (".pocketlm-", ".partial");

/// A file that appears under its name when it is [persisted](tempfile::NamedTempFile::persist),
/// whole, and not before: until then it is `.pocketlm-*.partial` in the same folder, which a
/// failure removes. A process that is killed leaves it to the next call for that folder.
///
/// # Errors
/// The folder does not exist or cannot be written to.
pub fn whole_file(path: &Path) -> Result<tempfile::NamedTempFile, ImportError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let refuse =
        |reason: String| ImportError::new(format!("cannot be written: {reason}")).in_file(path);
    if !folder.is_dir() {
        return Err(refuse(format!("there is no folder {}", folder.display())));
    }
    remove_left_behind(folder);
    let mut builder = tempfile::Builder::new();
    builder.prefix(PARTIAL.0).suffix(PARTIAL.1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What a file gets by default; the umask takes its part.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    loop {
        let file = builder
            .tempfile_in(folder)
            .map_err(|error| refuse(error.kind().to_string()))?;
        // The lock says that the file is in use. Without support for locks, left-over files are not
        // removed.
        let locked = file.as_file().lock();
        // Before it was locked, another process may have removed it as left over.
        if locked.is_err() || file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes unfinished files that killed processes have left: those that are not locked.
fn remove_left_behind(folder: &Path) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_partial = name
            .to_str()
            .is_some_and(|name| name.starts_with(PARTIAL.0) && name.ends_with(PARTIAL.1));
        // A file that cannot be removed stays, which does no harm.
        if is_partial && regular(&entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Opens a file for reading. Every function above that reads comes through here.
fn regular(path: &Path) -> Result<File, ImportError> {
    let refuse = |reason: String| ImportError::new(reason).in_file(path);
    // This is checked before the file is opened, because opening a pipe waits for a writer.
    let metadata = path
        .metadata()
        .map_err(|error| refuse(format!("cannot be opened: {error}")))?;
    if !metadata.is_file() {
        let error = refuse("not a regular file".into());
        return Err(if metadata.is_dir() {
            error.help("it is a folder")
        } else {
            error
        });
    }
    let mut file =
        File::open(path).map_err(|error| refuse(format!("cannot be opened: {error}")))?;
    if metadata.len() <= LONGEST_POINTER && is_pointer(&mut file) {
        return Err(
            refuse("this is a Git LFS pointer, not the file that it stands for".into())
                .help("run `git lfs pull` in its repository, or download the file itself"),
        );
    }
    Ok(file)
}

/// No Git LFS pointer is longer, by its specification.
const LONGEST_POINTER: u64 = 1024;
/// How pointers begin. The second is from before Git LFS got its name.
const POINTERS: [&[u8]; 2] = [
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
];

/// Whether this is a Git LFS pointer instead of the real file. Reads from the start of the file,
/// and returns there.
fn is_pointer(file: &mut File) -> bool {
    let mut start = Vec::new();
    let read = file
        .take(LONGEST_POINTER)
        .read_to_end(&mut start)
        .and_then(|_| file.seek(SeekFrom::Start(0)));
    read.is_ok() && POINTERS.iter().any(|pointer| start.starts_with(pointer))
}
