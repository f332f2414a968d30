//! Puts a log that has grown aside, under upstream's name for it; what writes it opens a new one afterwards.

use jiff::Timestamp;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Rotated log files that are kept beside the current one.
const ROTATED_MAX: usize = 4;
/// Rotations in one second: a flood of some GB/s.
const SERIAL_MAX: u32 = 1000;

/// Renames `ATTEMPT.log` to `ATTEMPT.log.TIME`, with a serial number behind it where a second sees more than one, and removes the
/// oldest of those that are too many. The names sort by age. False if this second has no more names: the next one has.
pub(super) fn put_aside(directory: &Path, attempt: u32, now: Timestamp) -> io::Result<bool> {
    let stamp = now.strftime("%Y%m%d-%H%M%S").to_string();
    let name = |serial: u32| match serial {
        0 => directory.join(format!("{attempt}.log.{stamp}")),
        serial => directory.join(format!("{attempt}.log.{stamp}.{serial:03}")),
    };
    let mut before = rotated(directory, attempt)?;
    // Not a number that was free before and removed since: the newest would sort as the oldest.
    let newest = before.last().cloned();
    let free = (0..SERIAL_MAX).map(name).find(|path| newest.as_ref().is_none_or(|newest| path > newest));
    let Some(aside) = free else { return Ok(false) };
    match fs::rename(directory.join(format!("{attempt}.log")), &aside) {
        Ok(()) => before.push(aside),
        // Somebody removed it, or the shim has just put it aside itself.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for old in before.iter().rev().skip(ROTATED_MAX) {
        match fs::remove_file(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

/// The rotated files of one run, the oldest first.
fn rotated(directory: &Path, attempt: u32) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{attempt}.log.");
    let entries = fs::read_dir(directory)?.filter_map(Result::ok);
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_newest_stay_in_order_however_fast_they_come() {
        let directory = tempfile::tempdir().unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let moments =
            [(at("2026-01-01T00:00:00Z"), 3), (at("2026-01-01T00:00:01Z"), 12), (at("2026-01-01T00:00:02Z"), 1)];
        let mut written = 0;
        for (moment, times) in moments {
            for _ in 0..times {
                written += 1;
                fs::write(directory.path().join("0.log"), written.to_string()).unwrap();
                assert!(put_aside(directory.path(), 0, moment).unwrap());
            }
        }
        fs::write(directory.path().join("1.log.20260101-000000"), "another run").unwrap();
        let kept: Vec<String> =
            rotated(directory.path(), 0).unwrap().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(kept, ["13", "14", "15", "16"]);
        assert!(!directory.path().join("0.log").exists());
    }

    #[test]
    fn what_a_shim_put_aside_itself_keeps_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let (now, later) = ("2026-01-01T00:00:01Z".parse().unwrap(), "2026-01-01T00:00:02Z".parse().unwrap());
        fs::write(directory.path().join("0.log.20260101-000001.alone"), "1").unwrap();
        fs::write(directory.path().join("0.log"), "2").unwrap();
        assert!(!put_aside(directory.path(), 0, now).unwrap(), "a name of this second would sort before");
        assert!(put_aside(directory.path(), 0, later).unwrap());
        assert!(put_aside(directory.path(), 0, later).unwrap(), "a log that is not there is no error");
        let kept: Vec<String> =
            rotated(directory.path(), 0).unwrap().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(kept, ["1", "2"]);
    }
}
