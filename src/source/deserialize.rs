//! Typed values out of a located tree, by serde.
//!
//! Every mismatch names the field, its place, what was found and what was expected; fields that the
//! type does not know are collected and not dropped in silence. This is generic over the type and
//! knows nothing of Kubernetes.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Expected, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::tree::{Entry, FieldPath, Position, Tree, Value};
use crate::problem::Reason;

/// A field that the type does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The way to it.
    pub path: FieldPath,
    /// Where its key stands.
    pub position: Position,
}

/// A value that does not fit the type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The way to the field.
    pub path: FieldPath,
    /// Where it stands.
    pub position: Position,
    /// What kind of mismatch it is.
    pub reason: Reason,
    /// What was found and what was expected.
    pub message: String,
}

/// Reads a value of type `T`; `path` is the way from the object's root to this tree.
///
/// # Errors
///
/// The first field that does not fit.
pub fn deserialize<T: DeserializeOwned>(
    tree: &Tree,
    path: &FieldPath,
    unknown: &mut Vec<Unknown>,
) -> Result<T, Mismatch> {
    let collected = RefCell::new(Vec::new());
    let cursor = Cursor { tree, trail: Trail::Start(path), unknown: &collected };
    let result = T::deserialize(cursor).map_err(|error| error.at(cursor).into_mismatch());
    unknown.append(&mut collected.into_inner());
    result
}

/// A tree, the way that led to it, and where to put what nobody knows.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    tree: &'a Tree,
    trail: Trail<'a>,
    unknown: &'a RefCell<Vec<Unknown>>,
}

/// The way to a field as a chain on the stack; it becomes a `FieldPath` only when it is shown.
#[derive(Clone, Copy)]
enum Trail<'a> {
    Start(&'a FieldPath),
    Field(&'a Trail<'a>, &'a Entry),
    Index(&'a Trail<'a>, usize),
}

impl Trail<'_> {
    fn path(&self) -> FieldPath {
        match self {
            Self::Start(path) => (*path).clone(),
            Self::Field(parent, entry) => parent.path().field(&entry.key),
            Self::Index(parent, index) => parent.path().index(*index),
        }
    }
}

/// An error that learns its place on the way out.
#[derive(Debug)]
struct Error {
    reason: Reason,
    message: String,
    place: Option<(FieldPath, Position)>,
}

impl Error {
    fn new(reason: Reason, message: String) -> Self {
        Self { reason, message, place: None }
    }

    fn at(mut self, cursor: Cursor<'_>) -> Self {
        self.place.get_or_insert_with(|| (cursor.trail.path(), cursor.tree.position));
        self
    }

    fn into_mismatch(self) -> Mismatch {
        let (path, position) = self.place.unwrap_or_default();
        Mismatch { path, position, reason: self.reason, message: self.message }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Reason::BadValue, message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Reason::WrongType, format!("{}: expected {expected}", words(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Reason::BadValue, format!("{}: expected {expected}", words(found)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Reason::MissingField, format!("field {field} is missing"))
    }
}

fn words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => super::tree::quoted(text),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unit => "nothing".to_owned(),
        other => other.to_string(),
    }
}

impl<'a> Cursor<'a> {
    fn expected(self, what: &str) -> Error {
        let message = format!("{}: expected {what}", self.tree.found());
        Error::new(Reason::WrongType, message).at(self)
    }

    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.tree.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visit_integer(*value, visitor),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => {
                visitor.visit_seq(Items { cursor: self, items: items.iter().enumerate() })
            }
            Value::Map(entries) => {
                visitor.visit_map(Entries { cursor: self, entries: entries.iter(), current: None })
            }
        }
        .map_err(|error| error.at(self))
    }

    fn is_null(self) -> bool {
        matches!(self.tree.value, Value::Null)
    }
}

fn visit_integer<'de, V: Visitor<'de>>(value: i128, visitor: V) -> Result<V::Value, Error> {
    if let Ok(value) = i64::try_from(value) {
        visitor.visit_i64(value)
    } else if let Ok(value) = u64::try_from(value) {
        visitor.visit_u64(value)
    } else {
        visitor.visit_i128(value)
    }
}

/// Methods for types whose mismatch is clear before the visitor sees the value.
macro_rules! expect {
    ($($method:ident: $pattern:pat => $what:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match &self.tree.value {
                $pattern => self.visit(visitor),
                _ => Err(self.expected($what)),
            }
        })*
    };
}

impl<'de> de::Deserializer<'de> for Cursor<'_> {
    type Error = Error;

    expect! {
        deserialize_i8: Value::Integer(_) => "a whole number";
        deserialize_i16: Value::Integer(_) => "a whole number";
        deserialize_i32: Value::Integer(_) => "a whole number";
        deserialize_i64: Value::Integer(_) => "a whole number";
        deserialize_u8: Value::Integer(_) => "a whole number";
        deserialize_u16: Value::Integer(_) => "a whole number";
        deserialize_u32: Value::Integer(_) => "a whole number";
        deserialize_u64: Value::Integer(_) => "a whole number";
        deserialize_str: Value::Text(_) => "text (in quotes where it looks like something else)";
        deserialize_string: Value::Text(_) => "text (in quotes where it looks like something else)";
        deserialize_seq: Value::List(_) => "a list";
        deserialize_map: Value::Map(_) => "a mapping of keys to values";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = match &self.tree.value {
            Value::Bool(value) => *value,
            // kubectl reads YAML 1.1, where these are truth values (yaml.org/type/bool.html).
            Value::Text(text) => match text.as_str() {
                "yes" | "Yes" | "YES" | "on" | "On" | "ON" => true,
                "no" | "No" | "NO" | "off" | "Off" | "OFF" => false,
                _ => return Err(self.expected("true or false")),
            },
            _ => return Err(self.expected("true or false")),
        };
        visitor.visit_bool(value).map_err(|error: Error| error.at(self))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.tree.value {
            Value::Map(_) => self.visit(visitor),
            _ => Err(self.expected("a mapping of fields to values")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) };
        value.map_err(|error| error.at(self))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self).map_err(|error| error.at(self))
    }

    /// Only asked for by fields that the type does not know.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let position = match self.trail {
            Trail::Field(_, entry) => entry.position,
            _ => self.tree.position,
        };
        self.unknown.borrow_mut().push(Unknown { path: self.trail.path(), position });
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items<'a> {
    cursor: Cursor<'a>,
    items: std::iter::Enumerate<std::slice::Iter<'a, Tree>>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some((index, tree)) = self.items.next() else {
            return Ok(None);
        };
        let trail = Trail::Index(&self.cursor.trail, index);
        seed.deserialize(Cursor { tree, trail, ..self.cursor }).map(Some)
    }
}

struct Entries<'a> {
    cursor: Cursor<'a>,
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.current = self.entries.next();
        let Some(entry) = self.current else {
            return Ok(None);
        };
        let place = || (self.cursor.trail.path().field(&entry.key), entry.position);
        seed.deserialize(StrDeserializer::new(&entry.key)).map(Some).map_err(|mut error: Error| {
            error.place.get_or_insert_with(place);
            error
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(entry) = self.current else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let trail = Trail::Field(&self.cursor.trail, entry);
        let cursor = Cursor { tree: &entry.value, trail, ..self.cursor };
        seed.deserialize(cursor).map_err(|error| error.at(cursor))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde::Deserialize;

    use super::super::yaml;
    use super::*;

    fn read<T: DeserializeOwned>(text: &str) -> (Result<T, Mismatch>, Vec<Unknown>) {
        let tree = yaml::documents(text.as_bytes()).unwrap().remove(0);
        let mut unknown = Vec::new();
        let result = deserialize(&tree, &FieldPath::root(), &mut unknown);
        (result, unknown)
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Small {
        name: String,
        count: u8,
        on: Option<bool>,
    }

    #[test]
    fn names_the_field_and_what_was_expected() {
        let mismatch = read::<Small>("name: x\ncount: many\n").0.unwrap_err();
        assert_eq!(
            mismatch,
            Mismatch {
                path: FieldPath::root().field("count"),
                position: Position { line: 2, column: 8 },
                reason: Reason::WrongType,
                message: "\"many\": expected a whole number".into(),
            }
        );
        let mismatch = read::<Small>("name: x\ncount: 300\n").0.unwrap_err();
        assert_eq!(mismatch.position, Position { line: 2, column: 8 });
        assert_eq!(mismatch.message, "300: expected u8");
        let mismatch = read::<Small>("\nname: x\n").0.unwrap_err();
        assert_eq!(mismatch.message, "field count is missing");
        assert_eq!(mismatch.position, Position { line: 2, column: 1 });
    }

    #[test]
    fn collects_fields_that_nobody_knows() {
        let (small, unknown) = read::<Small>("name: x\ncount: 3\non: null\ncuont: 4\n");
        assert_eq!(small.unwrap(), Small { name: "x".into(), count: 3, on: None });
        let position = Position { line: 4, column: 1 };
        assert_eq!(unknown, [Unknown { path: FieldPath::root().field("cuont"), position }]);
    }

    #[test]
    fn takes_yes_and_no_where_a_truth_value_is_wanted() {
        let small = read::<Small>("name: no\ncount: 3\non: no\n").0.unwrap();
        assert_eq!(small, Small { name: "no".into(), count: 3, on: Some(false) });
    }

    #[test]
    fn reads_kubernetes_types() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: x, \
                    creationTimestamp: \"2026-01-02T03:04:05Z\"}\nspec:\n  ports:\n  - port: 80\n    \
                    targetPort: http\n  - port: 81\n    targetPort: 8081\n  flavour: salt\n";
        let (service, unknown) = read::<Service>(text);
        let ports = service.unwrap().spec.unwrap().ports.unwrap();
        assert_eq!(ports.len(), 2);
        assert_eq!(unknown[0].path.to_string(), "spec.flavour");
        let (service, _) = read::<Service>(
            "apiVersion: v1\nkind: Service\nspec:\n  ports:\n  - {}\n  - port: [80]\n",
        );
        let mismatch = service.unwrap_err();
        assert_eq!(mismatch.path.to_string(), "spec.ports[1].port");
        assert_eq!(mismatch.message, "a list: expected a whole number");
    }
}
