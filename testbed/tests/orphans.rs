//! No source file is forgotten: each is reached from a target of its crate by `mod`. A test in a
//! file that nobody declares never runs, and nothing else would tell.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MANIFESTS: [&str; 3] = ["Cargo.toml", "ebpf/programs/Cargo.toml", "testbed/fuzz/Cargo.toml"];

#[test]
fn every_source_file_belongs_to_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut reached = BTreeSet::new();
    for manifest in MANIFESTS {
        for target in targets(&root.join(manifest)) {
            follow(&target, &directory_of_root(&target), &mut reached);
        }
    }
    let mut files = BTreeSet::new();
    collect(root, &mut files);
    assert!(files.len() > 50, "found only {} source files below {}", files.len(), root.display());
    let orphans: Vec<_> = files.difference(&reached).collect();
    assert_eq!(orphans, Vec::<&PathBuf>::new(), "declare them with `mod`, or remove them");
}

#[test]
fn an_undeclared_file_is_found() {
    let directory = std::env::temp_dir().join(format!("herald-orphans-{}", std::process::id()));
    fs::create_dir_all(directory.join("seen")).unwrap();
    fs::write(directory.join("lib.rs"), "pub mod seen;\n// mod orphan;\n").unwrap();
    fs::write(directory.join("path.rs"), "#[path = \"seen/../named.rs\"]\nmod other;\n").unwrap();
    fs::write(directory.join("named.rs"), "mod seen;\n").unwrap();
    fs::write(directory.join("seen.rs"), "#[cfg(test)]\nmod deep;\n").unwrap();
    fs::write(directory.join("seen/deep.rs"), "").unwrap();
    fs::write(directory.join("orphan.rs"), "").unwrap();
    let (mut reached, mut files) = (BTreeSet::new(), BTreeSet::new());
    follow(&directory.join("lib.rs"), &directory, &mut reached);
    follow(&directory.join("path.rs"), &directory, &mut reached);
    collect(&directory, &mut files);
    let orphans: Vec<_> = files.difference(&reached).cloned().collect();
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(orphans, [directory.join("orphan.rs")]);
}

/// The root files of all targets of a manifest's packages.
fn targets(manifest: &Path) -> Vec<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let targets = packages.flat_map(|package| package["targets"].as_array().unwrap());
    targets.map(|target| target["src_path"].as_str().unwrap().into()).collect()
}

/// A target's root declares its modules beside itself, whatever its own name is.
fn directory_of_root(root: &Path) -> PathBuf {
    root.parent().unwrap().to_owned()
}

/// Follows the `mod name;` lines of a file whose modules lie in a directory, or where a `path`
/// says.
fn follow(file: &Path, directory: &Path, reached: &mut BTreeSet<PathBuf>) {
    reached.insert(file.to_owned());
    let text = fs::read_to_string(file).unwrap();
    let mut elsewhere = None;
    for line in text.lines() {
        let path = elsewhere.take();
        let Some(name) = declared(line) else {
            elsewhere = at_path(line).map(|path| file.parent().unwrap().join(path));
            continue;
        };
        if let Some(module) = path {
            let module = module.canonicalize().unwrap();
            follow(&module, module.parent().unwrap(), reached);
            continue;
        }
        let flat = directory.join(format!("{name}.rs"));
        let nested = directory.join(name).join("mod.rs");
        if let Some(module) = [flat, nested].iter().find(|path| path.is_file()) {
            follow(module, &directory.join(name), reached);
        }
    }
}

/// The path in `#[path = "..."]`.
fn at_path(line: &str) -> Option<&str> {
    line.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]")
}

/// The name in `mod name;`, whatever its visibility.
fn declared(line: &str) -> Option<&str> {
    let declaration = line.trim().strip_suffix(';')?;
    let (visibility, name) = declaration.rsplit_once("mod ")?;
    let is_visibility = visibility.is_empty() || visibility.starts_with("pub");
    (is_visibility && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}

fn collect(directory: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            collect(&path, files);
        } else if name.ends_with(".rs") {
            files.insert(path);
        }
    }
}
