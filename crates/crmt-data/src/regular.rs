//! Reads files whole: regular ones only, up to a stated size.
//! Does not know what they hold.
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// No description, configuration or table of settings is larger.
pub const MOST_TEXT: u64 = 16 << 20;

/// The contents of a file of at most `most` bytes. What would block a reader for ever, or never
/// end, is refused before it is opened: FIFOs, sockets, devices.
///
/// # Errors
/// Says what is there instead of a file, or how large the file is.
pub fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        let problem = format!("is {}, expected a file", kind(found.file_type()));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let too_large = |bytes: u64| {
        let problem = format!("holds {bytes} bytes, more than the {most} that are read");
        Err(io::Error::new(io::ErrorKind::FileTooLarge, problem))
    };
    if found.len() > most {
        return too_large(found.len());
    }
    let mut bytes = vec![];
    bytes
        .try_reserve_exact(found.len() as usize)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    // It may grow while it is read.
    File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        too_large(bytes.len() as u64)
    } else {
        Ok(bytes)
    }
}

/// The same as text.
///
/// # Errors
/// Also when it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read_regular(path, MOST_TEXT)?);
    text.map_err(|e| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not UTF-8: {}", e.utf8_error()),
        )
    })
}

/// In words.
fn kind(found: fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kinds = [
            (found.is_fifo(), "a FIFO"),
            (found.is_socket(), "a socket"),
            (
                found.is_char_device() || found.is_block_device(),
                "a device",
            ),
        ];
        if let Some((_, kind)) = kinds.into_iter().find(|(is, _)| *is) {
            return kind;
        }
    }
    if found.is_dir() {
        "a directory"
    } else {
        "no regular file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_stated_size_are_read() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("file");
        fs::write(&file, b"12345")?;
        assert_eq!(read_regular(&file, 5)?, b"12345");
        let message =
            |path: &Path, most| read_regular(path, most).expect_err("refused").to_string();
        assert_eq!(
            message(&file, 4),
            "holds 5 bytes, more than the 4 that are read"
        );
        assert_eq!(message(dir.path(), 4), "is a directory, expected a file");
        fs::write(&file, b"\xff")?;
        assert!(read_text(&file).is_err_and(|e| e.to_string().starts_with("not UTF-8")));
        Ok(())
    }

    /// Reading a FIFO would wait for ever, and this test with it.
    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_named_and_never_opened() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let message = |path: &Path| read_regular(path, 10).expect_err("refused").to_string();
        let fifo = dir.path().join("fifo");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()?
                .success()
        );
        assert_eq!(message(&fifo), "is a FIFO, expected a file");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket)?;
        assert_eq!(message(&socket), "is a socket, expected a file");
        assert_eq!(
            message(Path::new("/dev/zero")),
            "is a device, expected a file"
        );
        let circle = dir.path().join("circle");
        std::os::unix::fs::symlink(&circle, &circle)?;
        assert!(
            message(&circle).contains("symbolic links"),
            "{}",
            message(&circle)
        );
        Ok(())
    }
}
