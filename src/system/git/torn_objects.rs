//! Finds loose objects whose file ends too early, before libgit2 reads one. Removes none.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use flate2::{Decompress, FlushDecompress, Status};

use crate::domain::git::{ObjectFormat, ObjectId};
use crate::system::files;

/// The first loose object whose file ends before its content does; `None` when there is none. libgit2
/// 1.9 never returns from reading such a file, so it has to be found before. Files with names of another
/// format than that of the store do not count: libgit2 would not read them.
pub fn torn_object(git_dir: &Path, format: ObjectFormat) -> Option<(PathBuf, ObjectId)> {
    loose(git_dir).into_iter().find(|(path, id)| id.format() == format && is_torn(path))
}

/// Whether the file of a loose object is no whole zlib stream. A missing file is not torn.
pub(super) fn is_torn(path: &Path) -> bool {
    match files::open_plain(path) {
        Ok(Some(file)) => !is_whole(file),
        Ok(None) => false,
        Err(_) => true,
    }
}

fn is_whole(mut file: impl io::Read) -> bool {
    let mut inflate = Decompress::new(true);
    let (mut input, mut output) = (vec![0; 1 << 14], vec![0; 1 << 16]);
    loop {
        let Ok(read) = file.read(&mut input) else { return false };
        let mut rest = input.get(..read).unwrap_or_default();
        loop {
            let before = (inflate.total_in(), inflate.total_out());
            match inflate.decompress(rest, &mut output, FlushDecompress::None) {
                Ok(Status::StreamEnd) => return true,
                Ok(Status::Ok | Status::BufError) => {}
                Err(_) => return false,
            }
            let after = (inflate.total_in(), inflate.total_out());
            if before == after {
                break;
            }
            rest = rest.get((after.0 - before.0) as usize..).unwrap_or_default();
        }
        if read == 0 {
            return false;
        }
    }
}

/// The files that are named as loose objects of either format, one directory after the other.
pub(in crate::system) fn loose(git_dir: &Path) -> Vec<(PathBuf, ObjectId)> {
    let Ok(dirs) = fs::read_dir(git_dir.join("objects")) else { return Vec::new() };
    let mut dirs: Vec<PathBuf> = dirs.flatten().map(|entry| entry.path()).collect();
    dirs.sort();
    let name = |path: &Path| path.file_name().and_then(OsStr::to_str).map(str::to_owned);
    let mut found = Vec::new();
    for dir in dirs {
        // "info" and "pack" are next to the directories of objects.
        let Some(first) = name(&dir).filter(|first| first.len() == 2) else { continue };
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let id = name(&path).and_then(|rest| format!("{first}{rest}").parse::<ObjectId>().ok());
            found.extend(id.map(|id| (path, id)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::system::git::torn_objects::*;

    #[test]
    fn a_torn_object_is_distinguished_from_a_whole_one() {
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut whole = Vec::new();
        let mut deflate = flate2::read::ZlibEncoder::new(&*content, flate2::Compression::fast());
        io::Read::read_to_end(&mut deflate, &mut whole).unwrap();
        assert!(is_whole(&*whole));
        for length in [0, 1, 2, 100, whole.len() / 2, whole.len() - 1] {
            assert!(!is_whole(&whole[..length]), "{length}");
        }
        assert!(!is_whole(&[0x5a; 500][..]));
    }
}
