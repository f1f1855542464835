//! One whole schema made of a schema and those it refers to.
//!
//! A type of another schema is written where it is used first, and named from then on. Every type is given its namespace, because
//! the one it would inherit is that of the place where it now stands.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// The deepest nesting of JSON; what parses JSON goes no deeper.
const MAX_DEPTH: usize = 120;

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// Writes the types of `referenced` into `schema`.
///
/// # Errors
///
/// When a type is defined in two ways, or types are nested too deeply.
pub(super) fn inline(schema: &Value, referenced: &[Value]) -> Result<Value, String> {
    let mut definitions = HashMap::new();
    for other in referenced {
        collect(other, "", 0, &mut definitions)?;
    }
    Inliner { definitions, written: HashSet::new() }.write(schema, "", 0)
}

/// A named type where it is defined, and the namespace around it.
struct Definition<'a> {
    json: &'a Map<String, Value>,
    around: String,
}

/// A type's name without its namespace, and the namespace, which may be empty.
fn name_of<'a>(json: &'a Map<String, Value>, around: &'a str) -> Option<(&'a str, &'a str)> {
    let name = json.get("name")?.as_str()?;
    Some(match name.rsplit_once('.') {
        Some((namespace, name)) => (name, namespace),
        None => (name, json.get("namespace").and_then(Value::as_str).unwrap_or(around)),
    })
}

fn full(name: &str, namespace: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

/// The kind of a type that stands as an object.
enum Kind<'a> {
    /// A record, an enum or a fixed: its name and its namespace.
    Named(&'a str, &'a str),
    Array,
    Map,
    Primitive,
    /// A name in an object of its own.
    Name(&'a str),
    /// A type in an object of its own.
    Wrapped,
}

fn kind<'a>(json: &'a Map<String, Value>, around: &'a str) -> Result<Kind<'a>, String> {
    Ok(match json.get("type") {
        Some(Value::String(kind)) => match kind.as_str() {
            "record" | "error" | "enum" | "fixed" => {
                let (name, namespace) = name_of(json, around).ok_or_else(|| format!("a type of {kind} has no name"))?;
                Kind::Named(name, namespace)
            }
            "array" => Kind::Array,
            "map" => Kind::Map,
            primitive if PRIMITIVES.contains(&primitive) => Kind::Primitive,
            name => Kind::Name(name),
        },
        Some(_) => Kind::Wrapped,
        None => return Err("a type without \"type\"".to_owned()),
    })
}

fn check_depth(depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH { Err(format!("types are nested deeper than {MAX_DEPTH} levels of JSON")) } else { Ok(()) }
}

/// Finds every named type of a schema, however deep it stands.
fn collect<'a>(
    schema: &'a Value,
    around: &str,
    depth: usize,
    found: &mut HashMap<String, Definition<'a>>,
) -> Result<(), String> {
    check_depth(depth)?;
    let json = match schema {
        Value::Array(branches) => {
            return branches.iter().try_for_each(|branch| collect(branch, around, depth + 1, found));
        }
        Value::Object(json) => json,
        _ => return Ok(()),
    };
    let part = |name: &str| json.get(name).unwrap_or(&Value::Null);
    match kind(json, around)? {
        Kind::Named(name, namespace) => {
            let full = full(name, namespace);
            if let Some(known) = found.get(&full) {
                let same = known.json == json;
                return if same { Ok(()) } else { Err(format!("the type {full} is defined in two ways")) };
            }
            found.insert(full, Definition { json, around: around.to_owned() });
            let fields = json.get("fields").and_then(Value::as_array);
            for field in fields.into_iter().flatten() {
                collect(field.get("type").unwrap_or(&Value::Null), namespace, depth + 3, found)?;
            }
            Ok(())
        }
        Kind::Array => collect(part("items"), around, depth + 1, found),
        Kind::Map => collect(part("values"), around, depth + 1, found),
        Kind::Wrapped => collect(part("type"), around, depth + 1, found),
        Kind::Primitive | Kind::Name(_) => Ok(()),
    }
}

struct Inliner<'a> {
    definitions: HashMap<String, Definition<'a>>,
    /// The types that have been written, or are just being.
    written: HashSet<String>,
}

impl Inliner<'_> {
    /// A type as it is to stand where `around` is the namespace.
    fn write(&mut self, schema: &Value, around: &str, depth: usize) -> Result<Value, String> {
        check_depth(depth)?;
        match schema {
            Value::String(name) => self.write_name(name, around, depth),
            Value::Array(branches) => branches.iter().map(|branch| self.write(branch, around, depth + 1)).collect(),
            Value::Object(json) => self.write_object(json, around, depth),
            other => Ok(other.clone()),
        }
    }

    fn write_name(&mut self, name: &str, around: &str, depth: usize) -> Result<Value, String> {
        if PRIMITIVES.contains(&name) {
            return Ok(name.into());
        }
        let full = self.resolve(name, around);
        match self.definitions.get(&full) {
            Some(Definition { json, around: theirs }) if !self.written.contains(&full) => {
                let (json, theirs) = (*json, theirs.clone());
                self.write_object(json, &theirs, depth)
            }
            _ => Ok(reference(full, around)),
        }
    }

    /// The full name of a type that is named where `around` is the namespace. What is not found there has none, as Java has it.
    fn resolve(&self, name: &str, around: &str) -> String {
        if let Some(bare) = name.strip_prefix('.') {
            return bare.to_owned();
        }
        if name.contains('.') || around.is_empty() {
            return name.to_owned();
        }
        let here = full(name, around);
        let known = |name: &str| self.definitions.contains_key(name) || self.written.contains(name);
        if !known(&here) && known(name) { name.to_owned() } else { here }
    }

    fn write_object(&mut self, json: &Map<String, Value>, around: &str, depth: usize) -> Result<Value, String> {
        check_depth(depth)?;
        let mut out = json.clone();
        let part = |name: &str| json.get(name).unwrap_or(&Value::Null);
        match kind(json, around)? {
            Kind::Named(name, namespace) => {
                let full = full(name, namespace);
                let other = self.definitions.get(&full).is_some_and(|definition| definition.json != json);
                if other {
                    return Err(format!("the type {full} is defined in two ways"));
                }
                // A nested type of another schema may have been used before the type around it.
                if self.definitions.contains_key(&full) && self.written.contains(&full) {
                    return Ok(reference(full, around));
                }
                self.written.insert(full);
                out.insert("name".to_owned(), name.into());
                out.insert("namespace".to_owned(), namespace.into());
                for field in out.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(data) = field.get_mut("type") {
                        *data = self.write(data, namespace, depth + 3)?;
                    }
                }
            }
            Kind::Array => {
                out.insert("items".to_owned(), self.write(part("items"), around, depth + 1)?);
            }
            Kind::Map => {
                out.insert("values".to_owned(), self.write(part("values"), around, depth + 1)?);
            }
            Kind::Primitive => {}
            Kind::Name(name) => return self.write_name(name, around, depth),
            Kind::Wrapped => return self.write(part("type"), around, depth + 1),
        }
        Ok(Value::Object(out))
    }
}

/// The name of a type that has been written, as it is to stand where `around` is the namespace.
fn reference(full: String, around: &str) -> Value {
    // A name without a dot would be looked for in that namespace.
    if full.contains('.') || around.is_empty() { full.into() } else { format!(".{full}").into() }
}
