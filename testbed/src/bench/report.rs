//! What every benchmark tells in the same way: the machine, the rows of the table, the file.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Serialize;

/// Where the values were measured; without it they mean nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The processor, as it calls itself.
    pub processor: String,
    /// How many of them this process may use.
    pub cpus: usize,
    /// All memory, in MiB.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured, with its unit.
    pub name: String,
    /// The value.
    pub value: f64,
    /// The most it should be; none where it is only told.
    pub at_most: Option<f64>,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn here() -> anyhow::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("no {path}"));
        let (processors, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
        let processor = field(&processors, "model name").unwrap_or("unknown").to_owned();
        let kib = field(&memory, "MemTotal").and_then(|text| text.split(' ').next());
        let kib: u64 = kib.unwrap_or("0").parse().context("MemTotal is no number")?;
        Ok(Self {
            processor,
            cpus: std::thread::available_parallelism()?.get(),
            memory_mib: kib >> 10,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }
}

impl Row {
    /// A value that is only told.
    pub fn told(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, at_most: None }
    }

    /// A value with an aim.
    pub fn aimed(name: impl Into<String>, value: f64, at_most: f64) -> Self {
        Self { name: name.into(), value, at_most: Some(at_most) }
    }
}

/// The value of the first `name: value` line of a file of the kernel's.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values.map(|(key, value)| (key.trim(), value.trim())).find(|it| it.0 == name).map(|it| it.1)
}

/// The rows for people, with what became of each aim.
pub fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Row { name, value, at_most } in rows {
        let aim = match at_most {
            None => String::new(),
            Some(aim) if value <= aim => format!("  ok, at most {aim}"),
            Some(aim) => format!("  MISSED, at most {aim}"),
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {name:width$}  {value:>10.2}{aim}");
    }
    text
}

/// Fails before anything is measured where the values could not be written afterwards.
///
/// # Errors
///
/// Why no file can be there.
pub fn can_hold_a_file(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    ensure!(directory.is_dir(), "cannot write {}: no such directory", path.display());
    ensure!(!path.is_dir(), "cannot write {}: it is a directory", path.display());
    Ok(())
}

/// Writes the file whole or not at all.
///
/// # Errors
///
/// If it cannot be written.
pub fn write_file(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    // A device, such as /dev/stdout, cannot be replaced.
    if path.exists() && !path.is_file() {
        return fs::write(path, contents)
            .with_context(|| format!("cannot write {}", path.display()));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, contents)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_which_aims_were_missed() {
        let rows =
            [Row::told("time s", 1.5), Row::aimed("ratio", 1.2, 1.3), Row::aimed("x", 2., 1.)];
        assert_eq!(
            table(&rows),
            "  time s        1.50\n\
             \x20 ratio         1.20  ok, at most 1.3\n\
             \x20 x             2.00  MISSED, at most 1\n"
        );
    }

    #[test]
    fn reads_fields_of_the_kernels_files() {
        let text = "VmPeak:\t  100 kB\nVmRSS:\t   42 kB\n";
        assert_eq!(field(text, "VmRSS"), Some("42 kB"));
        assert_eq!(field(text, "VmSwap"), None);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let path = std::env::temp_dir().join(format!("herald-bench-{}.json", std::process::id()));
        write_file(&path, b"first").unwrap();
        write_file(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert!(!path.with_extension("json.new").exists());
        fs::remove_file(&path).unwrap();
    }
}
