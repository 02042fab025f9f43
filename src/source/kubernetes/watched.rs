//! An object as an API server sends it, read straight into a tree, without what nobody reads and
//! what is most of its size: `managedFields`, and the manifest that kubectl keeps in an annotation.
//!
//! Every speaker reads every change of every Service; on the way through a general object it would
//! be built three times.

use std::borrow::Cow;
use std::fmt;

use kube::Resource;
use kube::api::{ApiResource, ObjectMeta, TypeMeta};
use kube::core::DynamicResourceScope;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess,
};

use crate::source::tree::{Entry, Position, Tree, Value};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object of any kind.
#[derive(Clone, Debug)]
pub struct Watched {
    tree: Tree,
    /// Its name, namespace and version, for the watch.
    meta: ObjectMeta,
}

impl Watched {
    /// The object, with its kind: the items of a list do not repeat what the list says.
    pub fn into_tree(self, types: &TypeMeta) -> Tree {
        let mut tree = self.tree;
        for (key, text) in [("apiVersion", &types.api_version), ("kind", &types.kind)] {
            let is_missing = tree.field(key).is_none();
            if let Value::Map(entries) = &mut tree.value
                && is_missing
            {
                let value = without_place(Value::Text(text.clone()));
                entries.push(Entry { key: key.to_owned(), position: Position::default(), value });
            }
        }
        tree
    }
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tree = Place::Object.deserialize(deserializer)?;
        let text = |name| Some(tree.field("metadata")?.field(name)?.text()?.to_owned());
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            uid: text("uid"),
            ..ObjectMeta::default()
        };
        Ok(Self { tree, meta })
    }
}

impl Resource for Watched {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// Where in an object a value stands: what is left out depends on it.
#[derive(Clone, Copy)]
enum Place {
    Object,
    Metadata,
    Annotations,
    Elsewhere,
}

impl Place {
    fn of_field(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Object, "metadata") => Some(Self::Metadata),
            (Self::Metadata, "managedFields") | (Self::Annotations, LAST_APPLIED) => None,
            (Self::Metadata, "annotations") => Some(Self::Annotations),
            _ => Some(Self::Elsewhere),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Place {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(without_place(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
        Ok(without_place(Value::Bool(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
        Ok(without_place(Value::Integer(value.into())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
        Ok(without_place(Value::Integer(value.into())))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        Ok(without_place(Value::Float(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
        Ok(without_place(Value::Text(value.to_owned())))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Tree, E> {
        Ok(without_place(Value::Text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(Self::Elsewhere)? {
            items.push(item);
        }
        Ok(without_place(Value::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let Some(place) = self.of_field(&key) else {
                let IgnoredAny = map.next_value()?;
                continue;
            };
            let value = map.next_value_seed(place)?;
            entries.push(Entry { key, position: Position::default(), value });
        }
        Ok(without_place(Value::Map(entries)))
    }
}

const fn without_place(value: Value) -> Tree {
    Tree { position: Position { line: 0, column: 0 }, value }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn read(json: &Json) -> Json {
        let types = TypeMeta { api_version: "v1".into(), kind: "Service".into() };
        let watched: Watched = serde_json::from_str(&json.to_string()).unwrap();
        watched.into_tree(&types).to_json()
    }

    #[test]
    fn an_item_of_a_list_gets_the_kind_of_the_list_and_others_keep_theirs() {
        let expected = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}});
        assert_eq!(read(&json!({"metadata": {"name": "a"}})), expected);
        let other = json!({"apiVersion": "v2", "kind": "Other", "metadata": {}});
        assert_eq!(read(&other), other);
    }

    #[test]
    fn leaves_out_what_nobody_reads_and_that_alone() {
        let all = |more: Json, last: Json| {
            let annotations = json!({"a": "b", LAST_APPLIED: last});
            let mut object = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {
                    "name": "x", "labels": {"managedFields": "kept"}, "managedFields": more,
                    "annotations": annotations,
                },
                "spec": {"managedFields": [{}], "n": -1, "m": 1.5, "none": null, "yes": true},
            });
            let parts = object["metadata"].as_object_mut().unwrap();
            parts.retain(|_, value| *value != json!("gone"));
            parts["annotations"].as_object_mut().unwrap().retain(|_, it| *it != json!("gone"));
            object
        };
        let sent = all(json!([{"manager": "kubectl"}]), json!("{}"));
        assert_eq!(read(&sent), all(json!("gone"), json!("gone")));
    }

    #[test]
    fn tells_the_watch_who_it_is() {
        let object = json!({"metadata": {
            "name": "x", "namespace": "y", "resourceVersion": "7", "uid": "u",
        }});
        let watched: Watched = serde_json::from_value(object).unwrap();
        let meta = watched.meta();
        assert_eq!(
            (&meta.name, &meta.namespace, &meta.resource_version, &meta.uid),
            (&Some("x".into()), &Some("y".into()), &Some("7".into()), &Some("u".into()))
        );
    }
}
