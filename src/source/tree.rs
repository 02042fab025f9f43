//! A YAML document as a tree that still knows where everything stood in its file.
//!
//! The tree exists so that any later finding about a field, be it a wrong type or a reversed range,
//! can point at the line and column of that field. It knows nothing of Kubernetes and nothing of
//! the YAML crate; `yaml` builds it, `deserialize` reads typed values out of it.

use std::fmt;

/// Where a node stands in its file; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line in the file, not in the document.
    pub line: u32,
    /// The column in characters.
    pub column: u32,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// Where the value begins.
    pub position: Position,
    /// The value.
    pub value: Value,
}

/// A YAML value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// A mapping, in the order of the file, no key twice.
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub position: Position,
    /// What it leads to.
    pub value: Tree,
}

impl Tree {
    /// The value of a field, if this is a mapping that has it.
    pub fn field(&self, name: &str) -> Option<&Tree> {
        match &self.value {
            Value::Map(entries) => {
                entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value)
            }
            _ => None,
        }
    }

    /// The items, if this is a list.
    pub fn items(&self) -> Option<&[Tree]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The text, if this is text.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Where the field stands, or the nearest thing around it when it is absent.
    pub fn locate(&self, path: &FieldPath) -> Position {
        let mut here = self;
        for step in &path.0 {
            let next = match step {
                Step::Field(name) => here.field(name),
                Step::Index(index) => here.items().and_then(|items| items.get(*index)),
            };
            match next {
                Some(next) => here = next,
                None => break,
            }
        }
        here.position
    }

    /// A tree without places.
    pub fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i128() {
                Some(whole) => Value::Integer(whole),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => Value::List(items.iter().map(Self::from_json).collect()),
            Json::Object(map) => Value::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        position: Position::default(),
                        value: Self::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self { position: Position::default(), value }
    }

    /// The value alone.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::{Number, Value as Json};
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Integer(value) => Number::from_i128(*value).map_or(Json::Null, Json::Number),
            Value::Float(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => Json::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
            ),
        }
    }

    /// What was found here, in a few words, to be followed by what was expected.
    pub fn found(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(text) => quoted(text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Text as it is shown in a message: quoted, on one line, and not too long.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The way from the root of an object to a field, printed as `spec.addresses[1]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Field(String),
    Index(usize),
}

impl FieldPath {
    /// The object itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The way to a field below `spec`.
    pub fn spec(name: &str) -> Self {
        Self::root().field("spec").field(name)
    }

    /// The way to an annotation.
    pub fn annotation(name: &str) -> Self {
        Self::root().field("metadata").field("annotations").field(name)
    }

    /// One step further, to a field.
    #[must_use]
    pub fn field(mut self, name: &str) -> Self {
        self.0.push(Step::Field(name.to_owned()));
        self
    }

    /// One step further, to an item of a list; the first is 0, as in Kubernetes.
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }

    /// Whether this leads to the object itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the way begins with this field of the object.
    pub fn starts_with(&self, name: &str) -> bool {
        matches!(self.0.first(), Some(Step::Field(first)) if first == name)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Field(name) if is_plain(name) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    f.write_str(name)?;
                }
                // Labels and annotations contain dots and slashes of their own.
                Step::Field(name) => write!(f, "[{}]", name.escape_debug())?,
            }
        }
        Ok(())
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_in_kubernetes() {
        let path = FieldPath::spec("addresses").index(1);
        assert_eq!(path.to_string(), "spec.addresses[1]");
        let path = FieldPath::annotation("metallb.io/loadBalancerIPs");
        assert_eq!(path.to_string(), "metadata.annotations[metallb.io/loadBalancerIPs]");
    }

    #[test]
    fn a_missing_field_is_looked_for_at_what_is_around_it() {
        let at = |line| Position { line, column: 1 };
        let labels = Tree { position: at(3), value: Value::Map(Vec::new()) };
        let entry = Entry { key: "metadata".into(), position: at(2), value: labels };
        let tree = Tree { position: at(1), value: Value::Map(vec![entry]) };
        let labels = FieldPath::root().field("metadata").field("labels");
        assert_eq!(tree.locate(&labels.field("app")), at(3));
        assert_eq!(tree.locate(&FieldPath::spec("ports").index(0)), at(1));
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let shown = quoted(&"ä".repeat(200));
        assert_eq!(shown, format!("\"{}\"...", "ä".repeat(80)));
    }
}
