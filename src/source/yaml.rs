//! YAML (and so JSON) into located trees.
//!
//! This is the only file that knows the YAML crate. It takes arbitrary bytes and never panics:
//! documents, nodes, depth and alias expansion are bounded by a budget. What the documents mean is
//! the business of `document`. Read the crate's `Spanned` for how a value learns its place.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

use super::tree::{Entry, Position, Tree, Value};

/// The bytes are no YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where reading stopped.
    pub position: Position,
    /// What is wrong there.
    pub message: String,
}

/// All documents of a file; empty documents are left out.
///
/// # Errors
///
/// The first place at which the bytes are not UTF-8, not YAML, hold a key twice in one mapping, or
/// are more deeply nested or larger in number than any real manifest.
pub fn documents(bytes: &[u8]) -> Result<Vec<Tree>, SyntaxError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        SyntaxError { position: end_of(&good), message: "this is not UTF-8 text".to_owned() }
    })?;
    // A mark at the beginning says UTF-8 and is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents: Vec<Spanned<Located>> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
            let error = error.without_snippet();
            let message = UserMessageFormatter.format_message(error).into_owned();
            // Without a place of its own the error is about the end of what was read.
            let position = error.location().map_or_else(|| end_of(text), |found| at(&found));
            SyntaxError { position, message: plain(&message) }
        })?;
    Ok(documents.into_iter().map(Tree::from).collect())
}

/// Bounds on what is read. The largest real files are dumps of a cluster's Services: ten thousand
/// of them with some forty nodes each.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 65_536,
            max_nodes: 2_000_000,
            max_events: 4_000_000,
            // Reading and using the tree recurses, so depth is stack.
            max_depth: 48,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        with_snippet: false,
        // A Service may be called y. Where a truth value is wanted, `deserialize` takes yes and no.
        strict_booleans: true,
    }
}

fn at(location: &serde_saphyr::Location) -> Position {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).max(1);
    Position { line: number(location.line()), column: number(location.column()) }
}

/// The place right after the text.
fn end_of(text: &str) -> Position {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position { line: number(line), column: number(column) }
}

/// The message on one line: it quotes the file, and the file may hold anything.
fn plain(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A value below a `Spanned`, which knows the place.
struct Located(Value);

impl From<Spanned<Located>> for Tree {
    fn from(spanned: Spanned<Located>) -> Self {
        // For an alias the place of its use: that is the line that the reader's field is on.
        Self { position: at(&spanned.referenced), value: spanned.value.0 }
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LocatedVisitor).map(Self)
    }
}

struct LocatedVisitor;

impl<'de> Visitor<'de> for LocatedVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_bytes<E: de::Error>(self, _value: &[u8]) -> Result<Value, E> {
        Err(E::custom("binary values are not used in manifests"))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Located>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let position = at(&key.referenced);
            let value = entries.next_value::<Spanned<Located>>()?.into();
            map.push(Entry { key: key.value, position, value });
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field<'a>(tree: &'a Tree, names: &[&str]) -> &'a Tree {
        names.iter().fold(tree, |tree, name| tree.field(name).unwrap())
    }

    #[test]
    fn counts_lines_in_the_file_and_not_in_the_document() {
        let trees = documents(b"# head\na: 1\n---\n\nb:\n  - x\n  - y: z\n---\n").unwrap();
        assert_eq!(trees.len(), 2);
        assert_eq!(field(&trees[0], &["a"]).position, Position { line: 2, column: 4 });
        let items = field(&trees[1], &["b"]).items().unwrap();
        assert_eq!(items[0].position, Position { line: 6, column: 5 });
        assert_eq!(field(&items[1], &["y"]).position, Position { line: 7, column: 8 });
    }

    #[test]
    fn keeps_types_apart() {
        let trees = documents(b"[80, '80', 1.5, true, ~, ::1, 192.0.2.1, 0x10, y, no]").unwrap();
        let values: Vec<_> = trees[0].items().unwrap().iter().map(|tree| &tree.value).collect();
        assert_eq!(
            values,
            [
                &Value::Integer(80),
                &Value::Text("80".into()),
                &Value::Float(1.5),
                &Value::Bool(true),
                &Value::Null,
                &Value::Text("::1".into()),
                &Value::Text("192.0.2.1".into()),
                &Value::Integer(16),
                &Value::Text("y".into()),
                &Value::Text("no".into()),
            ]
        );
    }

    #[test]
    fn reads_json_with_tabs() {
        let trees = documents(b"{\n\t\"kind\": \"List\",\n\t\"items\": []\n}\n").unwrap();
        assert_eq!(field(&trees[0], &["items"]).position.line, 3);
    }

    #[test]
    fn reads_past_carriage_returns_and_a_byte_order_mark() {
        let trees = documents("\u{feff}a: 1\r\nb: 2\r\n".as_bytes()).unwrap();
        assert_eq!(field(&trees[0], &["b"]).position, Position { line: 2, column: 4 });
    }

    #[test]
    fn says_where_the_syntax_breaks() {
        let error = documents(b"a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.position.line >= 2, "{error:?}");
        let error = documents(b"a: 1\n\xff\n").unwrap_err();
        assert_eq!(error.position, Position { line: 2, column: 1 });
        let error = documents(b"a: 1\na: 2\n").unwrap_err();
        assert_eq!(error.position, Position { line: 2, column: 1 });
    }

    #[test]
    fn refuses_bombs() {
        let deep = "[".repeat(100_000);
        assert!(documents(deep.as_bytes()).is_err());
        let mut bomb = "a0: &a0 [x]\n".to_owned();
        for level in 1..30 {
            let before = format!("*a{}, ", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(documents(bomb.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = documents(&bytes);
        }

        #[test]
        fn never_panics_on_what_looks_like_yaml(
            text in "([a-c*&!|>'\"#%@`{}\\[\\],:?~ \n\t-]|---\n|\\.\\.\\.\n|<<: |é|\u{feff}){0,60}"
        ) {
            let _ = documents(text.as_bytes());
        }
    }
}
