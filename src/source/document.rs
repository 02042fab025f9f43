//! One YAML document into objects: dispatch by apiVersion and kind.
//!
//! Unknown kinds are no error, because people keep pools beside Deployments. A `List` is taken
//! apart. What a wrong object leads to for its file is decided in `file`.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use super::convert::{self, Findings};
use super::deserialize::{Mismatch, Unknown, deserialize};
use super::object::{Kind, Object, ObjectKey, Placed, location};
use super::tree::{FieldPath, Position, Tree, Value, quoted};
use crate::observed::Exclusions;
use crate::problem::{Level, Problem, Reason};

/// What has been read of a file so far.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Objects that can take effect.
    pub objects: Vec<Placed>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Whether something is wrong that keeps the file from taking effect.
    pub invalid: bool,
    /// Whether an API server has handed the objects out. It has checked its own kinds then, so that
    /// what is wrong with a part of such an object does not keep the rest from taking effect.
    pub is_served: bool,
}

impl Reading {
    /// Reads one document of a file.
    pub fn document(&mut self, file: &str, tree: &Tree) {
        if !matches!(tree.value, Value::Map(_)) {
            let message = format!(
                "{}: expected a Kubernetes object with apiVersion, kind and metadata",
                tree.found()
            );
            return self.error(file, None, tree.position, Reason::NotAnObject, message);
        }
        let (Some(api_version), Some(kind)) =
            (self.required(file, tree, "apiVersion"), self.required(file, tree, "kind"))
        else {
            return;
        };
        if (api_version, kind) == ("v1", "List") {
            return self.list(file, tree);
        }
        let known = Kind::ALL.iter().find(|known| known.name() == kind);
        match known {
            Some(Kind::ConfigMap) if !is_exclusions(tree) => {
                self.not_read(file, tree, api_version, kind, None);
            }
            Some(known) if known.api_versions().contains(&api_version) => {
                self.object(file, tree, *known)
            }
            _ => self.not_read(file, tree, api_version, kind, known.copied()),
        }
    }

    fn list(&mut self, file: &str, tree: &Tree) {
        match tree.field("items") {
            Some(Tree { value: Value::List(items), .. }) => {
                items.iter().for_each(|item| self.document(file, item));
            }
            Some(Tree { value: Value::Null, .. }) | None => {}
            Some(other) => {
                let message = format!("items: {}: expected a list", other.found());
                self.error(file, None, other.position, Reason::WrongType, message);
            }
        }
    }

    fn required<'t>(&mut self, file: &str, tree: &'t Tree, field: &str) -> Option<&'t str> {
        let (position, reason, message) = match tree.field(field) {
            Some(value) => match value.text() {
                Some(text) => return Some(text),
                None => {
                    let message = format!("{field}: {}: expected text", value.found());
                    (value.position, Reason::WrongType, message)
                }
            },
            None => {
                let message = format!("field {field} is missing; expected a Kubernetes object");
                (tree.position, Reason::MissingField, message)
            }
        };
        self.error(file, None, position, reason, message);
        None
    }

    fn not_read(
        &mut self,
        file: &str,
        tree: &Tree,
        api_version: &str,
        kind: &str,
        known: Option<Kind>,
    ) {
        // A known kind in another version is probably meant to take effect.
        let belongs_here =
            known.is_some_and(|known| group(known.api_versions()[0]) == group(api_version));
        let (level, message) = match known {
            Some(known) if belongs_here => (
                Level::Warning,
                format!(
                    "kind {kind} of {} is not supported yet; expected apiVersion {}",
                    quoted(api_version),
                    known.api_versions().join(" or ")
                ),
            ),
            _ => (
                Level::Notice,
                format!(
                    "kind {} of {} is not supported yet; the object has no effect",
                    quoted(kind),
                    quoted(api_version)
                ),
            ),
        };
        let field = if belongs_here { "apiVersion" } else { "kind" };
        self.problems.push(Problem {
            level,
            object: Some(loose_name(tree, kind)),
            location: Some(location(file, tree.locate(&FieldPath::root().field(field)))),
            reason: Reason::KindNotSupported,
            message,
        });
    }

    fn object(&mut self, file: &str, tree: &Tree, kind: Kind) {
        let mut reader =
            ObjectReader { tree, kind, unknown: Vec::new(), findings: Findings::default() };
        match reader.read() {
            Ok((key, object)) => self.finish(file, reader, key, object),
            Err(mismatch) => {
                let name = loose_name(tree, kind.name());
                let message = with_path(&mismatch.path, &mismatch.message);
                self.error(file, Some(name), mismatch.position, mismatch.reason, message);
            }
        }
    }

    fn finish(
        &mut self,
        file: &str,
        reader: ObjectReader<'_>,
        key: ObjectKey,
        object: Option<Object>,
    ) {
        let name = key.to_string();
        let is_checked = self.is_served && reader.kind.is_built_in();
        let (unknown, findings) = (reader.unknown, reader.findings.0);
        let mut problem = |level, position, reason, message| {
            self.problems.push(Problem {
                level,
                object: Some(name.clone()),
                location: Some(location(file, position)),
                reason,
                message,
            });
        };
        let mut invalid = false;
        let unknown = unknown.into_iter().filter(|it| !is_checked && is_worth_saying(it));
        for Unknown { path, position } in unknown {
            let level = reader.kind.level_of_unknown(&path);
            invalid |= level == Level::Error;
            let message = with_path(
                &path,
                "unknown field; expected one of the API's fields, is it misspelt?",
            );
            problem(level, position, Reason::UnknownField, message);
        }
        for mut finding in findings {
            if is_checked && finding.level == Level::Error {
                finding.level = Level::Warning;
            }
            invalid |= finding.level == Level::Error;
            let position = reader.tree.locate(&finding.path);
            // These messages name the field in the middle of the sentence.
            let message = match finding.reason {
                Reason::NotSupportedYet if finding.message.starts_with("not supported") => {
                    finding.message
                }
                _ => with_path(&finding.path, &finding.message),
            };
            problem(finding.level, position, finding.reason, message);
        }
        self.invalid |= invalid;
        if let (false, Some(object)) = (invalid, object) {
            self.objects.push(Placed { key, position: reader.tree.position, object });
        }
    }

    fn error(
        &mut self,
        file: &str,
        object: Option<String>,
        position: Position,
        reason: Reason,
        message: String,
    ) {
        self.invalid = true;
        let location = Some(location(file, position));
        self.problems.push(Problem { level: Level::Error, object, location, reason, message });
    }
}

/// Reads the typed parts of one object.
struct ObjectReader<'t> {
    tree: &'t Tree,
    kind: Kind,
    unknown: Vec<Unknown>,
    findings: Findings,
}

impl ObjectReader<'_> {
    /// The object and its name; no object if it is without effect, as the findings then say.
    fn read(&mut self) -> Result<(ObjectKey, Option<Object>), Mismatch> {
        let (meta, object) = match self.kind {
            Kind::IpAddressPool => {
                let meta = self.part_or_default::<ObjectMeta>("metadata")?;
                let spec = self.part("spec")?;
                let (mut pool, paths) = convert::pool(&meta, &spec, &mut self.findings);
                pool.status = self.status();
                let positions = paths.iter().map(|path| self.tree.locate(path)).collect();
                (meta, Some(Object::Pool { pool: pool.into(), positions }))
            }
            Kind::L2Advertisement => {
                let meta = self.part_or_default::<ObjectMeta>("metadata")?;
                // No spec at all is common and means: every pool, every node.
                let spec = self.part_or_default("spec")?;
                let announced = convert::advertisement(&meta, &spec, &mut self.findings);
                (meta, Some(Object::Advertisement(announced.into())))
            }
            Kind::CiliumPool => {
                let meta = self.part_or_default::<ObjectMeta>("metadata")?;
                let spec = self.part("spec")?;
                let mut pool = convert::cilium_pool(&meta, &spec, &mut self.findings);
                pool.status = self.status();
                pool.api_version = self.api_version();
                (meta, Some(Object::Pool { pool: pool.into(), positions: Vec::new() }))
            }
            Kind::CiliumPolicy => {
                let meta = self.part_or_default::<ObjectMeta>("metadata")?;
                let spec = self.part_or_default("spec")?;
                let announced = convert::cilium_policy(&meta, &spec, &mut self.findings);
                (meta, Some(Object::Advertisement(announced.into())))
            }
            Kind::Namespace => {
                let meta = self.part_or_default::<ObjectMeta>("metadata")?;
                let name = meta.name.clone().unwrap_or_default();
                let mut labels = meta.labels.clone().unwrap_or_default();
                // The API server sets this label on every namespace (NamespaceDefaultLabelName).
                labels.insert("kubernetes.io/metadata.name".into(), name.clone());
                (meta, Some(Object::Namespace { name, labels }))
            }
            Kind::Service => {
                let service = self.whole::<core::Service>()?;
                let typed = convert::service(&service, &mut self.findings);
                (service.metadata, Some(Object::Service(Arc::new(typed))))
            }
            Kind::EndpointSlice => {
                let slice = self.whole::<EndpointSlice>()?;
                let typed = convert::endpoints(&slice, &mut self.findings);
                let object =
                    typed.map(|(service, endpoints)| Object::Endpoints { service, endpoints });
                (slice.metadata, object)
            }
            Kind::ConfigMap => {
                let map = self.whole::<core::ConfigMap>()?;
                let typed = convert::exclusions(&map, &mut self.findings);
                (map.metadata, Some(Object::Exclusions(typed)))
            }
            Kind::Node => {
                let node = self.whole::<core::Node>()?;
                let typed = convert::node(&node, &mut self.findings);
                (node.metadata, Some(Object::Node(typed.into())))
            }
        };
        Ok((self.key(&meta), object))
    }

    fn api_version(&self) -> &'static str {
        let text = self.tree.field("apiVersion").and_then(Tree::text);
        let versions = self.kind.api_versions();
        versions.iter().find(|known| Some(**known) == text).unwrap_or(&versions[0])
    }

    fn status(&self) -> serde_json::Value {
        self.tree.field("status").map(Tree::to_json).unwrap_or_default()
    }

    fn key(&mut self, meta: &ObjectMeta) -> ObjectKey {
        let name = meta.name.clone().unwrap_or_default();
        if name.is_empty() {
            let path = FieldPath::root().field("metadata").field("name");
            self.findings.error(path, Reason::MissingField, "is missing; expected a name");
        }
        let namespace = match &meta.namespace {
            _ if !self.kind.is_namespaced() => String::new(),
            Some(namespace) => namespace.clone(),
            None => "default".to_owned(),
        };
        ObjectKey { kind: self.kind, namespace, name }
    }

    fn whole<T: DeserializeOwned>(&mut self) -> Result<T, Mismatch> {
        deserialize(self.tree, &FieldPath::root(), &mut self.unknown)
    }

    fn part<T: DeserializeOwned>(&mut self, field: &str) -> Result<T, Mismatch> {
        match self.tree.field(field) {
            Some(tree) => deserialize(tree, &FieldPath::root().field(field), &mut self.unknown),
            None => Err(Mismatch {
                path: FieldPath::root(),
                position: self.tree.position,
                reason: Reason::MissingField,
                message: format!("field {field} is missing"),
            }),
        }
    }

    fn part_or_default<T: DeserializeOwned + Default>(
        &mut self,
        field: &str,
    ) -> Result<T, Mismatch> {
        match self.tree.field(field) {
            None | Some(Tree { value: Value::Null, .. }) => Ok(T::default()),
            Some(_) => self.part(field),
        }
    }
}

impl Kind {
    /// How much an unknown field matters. The specs of pools are short and each field changes which
    /// addresses are given away, so a misspelt one must not pass. Kubernetes' own types grow with
    /// every release, and a field newer than Herald is none of its business.
    fn level_of_unknown(self, path: &FieldPath) -> Level {
        match self {
            Self::IpAddressPool | Self::L2Advertisement | Self::CiliumPool | Self::CiliumPolicy
                if path.starts_with("spec") =>
            {
                Level::Error
            }
            _ => Level::Warning,
        }
    }
}

/// Whether it is the one ConfigMap that is read.
fn is_exclusions(tree: &Tree) -> bool {
    let name = tree.field("metadata").and_then(|meta| meta.field("name")).and_then(Tree::text);
    name == Some(Exclusions::CONFIG_MAP)
}

/// Servers add fields to metadata and status of what they hand out; nobody wrote them.
fn is_worth_saying(unknown: &Unknown) -> bool {
    !unknown.path.starts_with("status")
}

fn with_path(path: &FieldPath, message: &str) -> String {
    if path.is_root() { message.to_owned() } else { format!("{path}: {message}") }
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// The object's name as far as it can be read.
fn loose_name(tree: &Tree, kind: &str) -> String {
    let meta = tree.field("metadata");
    let part = |field| meta.and_then(|meta| meta.field(field)).and_then(Tree::text);
    match (part("namespace"), part("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        (_, None) => kind.to_owned(),
    }
}
