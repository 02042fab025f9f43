//! One manifest file: all of its documents, or why it cannot take effect.
//!
//! A file takes effect as a whole or not at all, so that an edit is never half applied.

use super::conflicts::Index;
use super::document::Reading;
use super::object::{Object, Placed, location};
use super::tree::Tree;
use super::yaml;
use crate::problem::{Level, Problem, Reason};

/// The largest file that is read.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// A file that can take effect.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// Its objects; not a `Vec`, whose spare room would be most of what a served object takes.
    pub objects: Box<[Placed]>,
    /// What is wrong without keeping the file from taking effect.
    pub problems: Vec<Problem>,
}

impl Content {
    /// When its first object was created; empty when unknown.
    pub fn created(&self) -> &str {
        match self.objects.first().map(|placed| &placed.object) {
            Some(Object::Pool { pool, .. }) => &pool.created,
            Some(Object::Service(service)) => &service.created,
            _ => "",
        }
    }
}

/// Reads a file; the name is for problems.
///
/// # Errors
///
/// Everything that is wrong with the file, at least one problem of them an error.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Content, Vec<Problem>> {
    if bytes.len() > MAX_FILE_BYTES {
        let message = format!("{} bytes long; expected at most {MAX_FILE_BYTES}", bytes.len());
        return Err(vec![of_whole_file(name, Reason::TooLarge, message)]);
    }
    let documents = yaml::documents(bytes).map_err(|error| {
        vec![Problem {
            level: Level::Error,
            object: None,
            location: Some(location(name, error.position)),
            reason: Reason::YamlSyntax,
            message: format!("cannot read YAML: {}", error.message),
        }]
    })?;
    let mut reading = Reading::default();
    for document in &documents {
        reading.document(name, document);
    }
    let Reading { objects, mut problems, invalid, .. } = reading;
    let conflicts = Index::default().add(name, &objects).err().unwrap_or_default();
    let invalid = invalid || !conflicts.is_empty();
    problems.extend(conflicts);
    let objects = objects.into();
    if invalid { Err(problems) } else { Ok(Content { objects, problems }) }
}

/// Reads an object that an API server has handed out; the name is for problems.
///
/// # Errors
///
/// Everything that is wrong with it, at least one problem of them an error.
pub fn served(name: &str, tree: &Tree) -> Result<Content, Vec<Problem>> {
    let mut reading = Reading { is_served: true, ..Reading::default() };
    reading.document(name, tree);
    let Reading { objects, problems, invalid, .. } = reading;
    let objects = objects.into();
    if invalid { Err(problems) } else { Ok(Content { objects, problems }) }
}

/// An error about a file as a whole.
pub fn of_whole_file(name: &str, reason: Reason, message: String) -> Problem {
    let location = Some(location(name, Default::default()));
    Problem { level: Level::Error, object: None, location, reason, message }
}
