//! Avro schemas as the rest of Tidemark sees them: a tree of [`Type`]s, its columns in SQL, and the reader schemas
//! that `arrow-avro` is given.
//!
//! `apache-avro` parses and checks the JSON. The tree that is made of it has every named type written out where it is
//! used. `arrow-avro` therefore never meets a reference, whose meaning would depend on which fields were pruned away
//! before it. The price: a type that contains itself is refused. SQL has no column type for one anyway.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use apache_avro::Schema as ApacheSchema;
use apache_avro::schema::{InnerDecimalSchema, Name, UuidSchema};
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use datafusion::arrow::datatypes::{DataType, Field as ArrowField, FieldRef, Schema, SchemaRef, TimeUnit, UnionFields};
use serde_json::{Value, json};

use crate::source::SYSTEM_COLUMNS;

/// Writing named types out may multiply a schema: a schema that becomes larger than this is refused.
const MAX_TYPES: usize = 20_000;
/// The deepest nesting of types.
const MAX_DEPTH: usize = 64;

/// How finely a time is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Thousandths of a second.
    Millis,
    /// Millionths of a second.
    Micros,
    /// Billionths of a second.
    Nanos,
}

impl Unit {
    /// Which timestamps are accepted: those of the years 1678 to 2261. Avro's milliseconds and microseconds reach much
    /// further, but DataFusion bins and truncates times as nanoseconds in 64 bits: one event beyond them would make every view
    /// with tiles fail.
    pub fn accepted(self) -> std::ops::RangeInclusive<i64> {
        let per_second: i64 = match self {
            Self::Millis => 1_000,
            Self::Micros => 1_000_000,
            Self::Nanos => 1_000_000_000,
        };
        // 1678-01-01T00:00:00Z and the moment before 2262-01-01T00:00:00Z.
        -9_214_560_000 * per_second..=9_214_646_400 * per_second - 1
    }
}

/// The name of a named type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeName {
    /// With its namespace.
    pub full: String,
    /// Other names that a reader accepts for it, with their namespaces.
    pub aliases: Vec<String>,
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// The names it has had.
    pub aliases: Vec<String>,
    /// Its type.
    pub data: Type,
    /// What a reader takes when the writer did not have the field, as a schema's JSON.
    pub default: Option<Value>,
}

/// A record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its name.
    pub name: TypeName,
    /// Its fields, in order.
    pub fields: Vec<Field>,
}

/// A `fixed`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fixed {
    /// Its name.
    pub name: TypeName,
    /// How many bytes it has.
    pub size: usize,
}

/// An enum.
#[derive(Debug, Clone, PartialEq)]
pub struct Enum {
    /// Its name.
    pub name: TypeName,
    /// Its symbols, in order.
    pub symbols: Vec<String>,
    /// What a reader takes for a symbol it does not have.
    pub default: Option<String>,
}

/// An Avro type, named types written out.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    /// A string that holds a UUID.
    Uuid,
    /// Days since 1970-01-01.
    Date,
    /// Milliseconds since midnight.
    TimeMillis,
    /// Microseconds since midnight.
    TimeMicros,
    /// Time since 1970-01-01 00:00, in UTC or, when `local`, in no particular zone.
    Timestamp {
        unit: Unit,
        local: bool,
    },
    /// An unscaled big-endian two's complement integer, in bytes or in a `fixed`.
    Decimal {
        precision: usize,
        scale: usize,
        fixed: Option<Fixed>,
    },
    Fixed(Fixed),
    /// A `fixed` of 16 bytes that holds a UUID.
    FixedUuid(Fixed),
    /// A `fixed` of 12 bytes: months, days, milliseconds, each a little-endian u32.
    Duration(Fixed),
    Enum(Enum),
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    Record(Record),
}

impl Record {
    /// Parses and checks the JSON of a record schema.
    ///
    /// # Errors
    ///
    /// A message for the author of the schema.
    pub fn parse(avro_json: &str) -> Result<Self, String> {
        let schema = ApacheSchema::parse_str(avro_json).map_err(|e| format!("not an Avro schema: {e}"))?;
        let mut tree = Tree { named: HashMap::new(), open: HashSet::new(), types: 0 };
        match tree.grow(&schema, "", 0)? {
            Type::Record(record) => Ok(record),
            _ => Err("the schema of events must be a record".to_owned()),
        }
    }

    /// The record with only those fields that `keep` names, in the record's order.
    #[must_use]
    pub fn pruned(&self, keep: impl Fn(&Field) -> bool) -> Self {
        Self { name: self.name.clone(), fields: self.fields.iter().filter(|f| keep(f)).cloned().collect() }
    }

    /// The record as a schema for `arrow-avro`: no documentation, no references, and UUIDs as the strings they are.
    pub fn arrow_json(&self) -> String {
        record_json(self).to_string()
    }

    /// The Arrow schema that `arrow-avro` decodes this record to when it was written as `writer`.
    fn decoded(&self, writer: &Record) -> Result<SchemaRef, String> {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(0), AvroSchema::new(writer.arrow_json())).map_err(|e| e.to_string())?;
        let decoder = ReaderBuilder::new()
            .with_writer_schema_store(store)
            .with_reader_schema(AvroSchema::new(self.arrow_json()))
            .build_decoder()
            .map_err(|e| e.to_string())?;
        Ok(decoder.schema())
    }
}

/// The columns of a source whose events have this schema: the event's own, then [`SYSTEM_COLUMNS`].
///
/// # Errors
///
/// A message for the author of the schema: it does not parse, it is not a record, a field cannot be a column.
pub fn source_schema(avro_json: &str) -> Result<SchemaRef, String> {
    let record = Record::parse(avro_json)?;
    check_fields(&record)?;
    let decoded = record.decoded(&record).map_err(|e| blame(&record, |part| part.decoded(part)).unwrap_or(e))?;
    // A default must be one that the decoder can fill in for a writer that did not know the field.
    let bare = record.pruned(|field| field.default.is_none());
    record.decoded(&bare).map_err(|e| {
        blame(&record, |part| part.decoded(&part.pruned(|field| field.default.is_none())))
            .map_or(e, |message| format!("default of {message}"))
    })?;
    let mut fields: Vec<FieldRef> = decoded.fields().iter().map(normal_field).collect();
    fields.extend(system_fields());
    Ok(Arc::new(Schema::new(fields)))
}

/// The Avro reader schema with only `fields`: what `arrow-avro` is given to decode no other column.
///
/// The order is that of the schema, not that of `fields`. Defaults and aliases stay.
///
/// # Errors
///
/// A message when the schema does not parse or has no such field.
pub fn reader_schema(avro_json: &str, fields: &[&str]) -> Result<String, String> {
    let record = Record::parse(avro_json)?;
    if let Some(unknown) = fields.iter().find(|name| !record.fields.iter().any(|f| f.name == **name)) {
        return Err(format!("{} has no field {unknown:?}", record.name.full));
    }
    Ok(record.pruned(|field| fields.contains(&field.name.as_str())).arrow_json())
}

/// The type of a column in SQL, given what `arrow-avro` decodes: enums are text, and no field carries metadata.
pub fn normal_type(decoded: &DataType) -> DataType {
    match decoded {
        DataType::Dictionary(_, values) => normal_type(values),
        DataType::List(item) => DataType::List(normal_field(item)),
        DataType::Map(entries, sorted) => DataType::Map(normal_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(normal_field).collect()),
        DataType::Union(fields, mode) => {
            let (ids, fields): (Vec<i8>, Vec<FieldRef>) =
                fields.iter().map(|(id, field)| (id, normal_field(field))).unzip();
            // The ids are those of a valid union, so the new one is valid too.
            UnionFields::try_new(ids, fields).map_or_else(|_| decoded.clone(), |fields| DataType::Union(fields, *mode))
        }
        other => other.clone(),
    }
}

fn normal_field(field: &FieldRef) -> FieldRef {
    Arc::new(ArrowField::new(field.name(), normal_type(field.data_type()), field.is_nullable()))
}

/// The columns that every source has.
fn system_fields() -> [FieldRef; 5] {
    let [topic, partition, offset, append_time, key] = SYSTEM_COLUMNS;
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    [
        Arc::new(ArrowField::new(topic, DataType::Utf8, false)),
        Arc::new(ArrowField::new(partition, DataType::Int32, false)),
        Arc::new(ArrowField::new(offset, DataType::Int64, false)),
        Arc::new(ArrowField::new(append_time, time, false)),
        Arc::new(ArrowField::new(key, DataType::Utf8, true)),
    ]
}

fn check_fields(record: &Record) -> Result<(), String> {
    // An event must take at least one byte: `arrow-avro` loses datums that take none.
    if record.fields.is_empty() {
        return Err(format!("{} has no fields", record.name.full));
    }
    if let Some(field) = record.fields.iter().find(|field| has_bare_null(&field.data)) {
        return Err(format!("field {:?}: a null outside a union holds nothing, which no column can", field.name));
    }
    let mut seen: HashMap<String, &str> = HashMap::new();
    for field in &record.fields {
        let folded = field.name.to_lowercase();
        if SYSTEM_COLUMNS.contains(&folded.as_str()) {
            return Err(format!("field {:?} has the name of a system column", field.name));
        }
        if let Some(other) = seen.insert(folded, &field.name) {
            return Err(format!("fields {other:?} and {:?} differ only in case", field.name));
        }
    }
    Ok(())
}

/// Whether a `null` stands where it is the only value.
fn has_bare_null(data: &Type) -> bool {
    match data {
        Type::Null => true,
        Type::Array(inner) | Type::Map(inner) => has_bare_null(inner),
        Type::Record(record) => record.fields.iter().any(|field| has_bare_null(&field.data)),
        Type::Union(branches) => {
            let alone = branches.len() == 1;
            branches.iter().any(|branch| has_bare_null(branch) && (alone || !matches!(branch, Type::Null)))
        }
        _ => false,
    }
}

/// `arrow-avro` does not say which field it refuses: finds the first that it refuses alone.
fn blame(record: &Record, attempt: impl Fn(&Record) -> Result<SchemaRef, String>) -> Option<String> {
    record.fields.iter().find_map(|field| {
        let alone = record.pruned(|other| other.name == field.name);
        attempt(&alone).err().map(|e| format!("field {:?}: {e}", field.name))
    })
}

/// Makes [`Type`]s of `apache-avro`'s schemas.
struct Tree {
    named: HashMap<String, ApacheSchema>,
    open: HashSet<String>,
    types: usize,
}

impl Tree {
    fn grow(&mut self, schema: &ApacheSchema, path: &str, depth: usize) -> Result<Type, String> {
        self.types += 1;
        if self.types > MAX_TYPES {
            return Err(format!("the schema is too large: more than {MAX_TYPES} types, named ones written out"));
        }
        if depth > MAX_DEPTH {
            return Err(format!("{path}: nested deeper than {MAX_DEPTH} types"));
        }
        Ok(match schema {
            ApacheSchema::Null => Type::Null,
            ApacheSchema::Boolean => Type::Boolean,
            ApacheSchema::Int => Type::Int,
            ApacheSchema::Long => Type::Long,
            ApacheSchema::Float => Type::Float,
            ApacheSchema::Double => Type::Double,
            ApacheSchema::Bytes | ApacheSchema::BigDecimal | ApacheSchema::Uuid(UuidSchema::Bytes) => Type::Bytes,
            ApacheSchema::String => Type::String,
            ApacheSchema::Uuid(UuidSchema::String) => Type::Uuid,
            ApacheSchema::Date => Type::Date,
            ApacheSchema::TimeMillis => Type::TimeMillis,
            ApacheSchema::TimeMicros => Type::TimeMicros,
            ApacheSchema::TimestampMillis => Type::Timestamp { unit: Unit::Millis, local: false },
            ApacheSchema::TimestampMicros => Type::Timestamp { unit: Unit::Micros, local: false },
            ApacheSchema::TimestampNanos => Type::Timestamp { unit: Unit::Nanos, local: false },
            ApacheSchema::LocalTimestampMillis => Type::Timestamp { unit: Unit::Millis, local: true },
            ApacheSchema::LocalTimestampMicros => Type::Timestamp { unit: Unit::Micros, local: true },
            ApacheSchema::LocalTimestampNanos => Type::Timestamp { unit: Unit::Nanos, local: true },
            ApacheSchema::Array(array) => {
                Type::Array(Box::new(self.grow(&array.items, &format!("{path}[]"), depth + 1)?))
            }
            ApacheSchema::Map(map) => Type::Map(Box::new(self.grow(&map.types, &format!("{path}[]"), depth + 1)?)),
            ApacheSchema::Union(union) => {
                if union.variants().is_empty() {
                    return Err(format!("{path}: a union without branches has no values"));
                }
                let branches: Result<_, String> =
                    union.variants().iter().map(|branch| self.grow(branch, path, depth + 1)).collect();
                Type::Union(branches?)
            }
            ApacheSchema::Decimal(decimal) => {
                let fixed = match &decimal.inner {
                    InnerDecimalSchema::Bytes => None,
                    InnerDecimalSchema::Fixed(fixed) => {
                        self.remember(&fixed.name, schema);
                        Some(fixed_of(fixed))
                    }
                };
                Type::Decimal { precision: decimal.precision, scale: decimal.scale, fixed }
            }
            ApacheSchema::Fixed(fixed) if fixed.size == 0 => {
                return Err(format!("{path}: the fixed {} has no bytes, which no column can", fixed.name));
            }
            ApacheSchema::Fixed(fixed) => {
                self.remember(&fixed.name, schema);
                Type::Fixed(fixed_of(fixed))
            }
            ApacheSchema::Uuid(UuidSchema::Fixed(fixed)) => {
                self.remember(&fixed.name, schema);
                Type::FixedUuid(fixed_of(fixed))
            }
            ApacheSchema::Duration(fixed) => {
                self.remember(&fixed.name, schema);
                Type::Duration(fixed_of(fixed))
            }
            ApacheSchema::Enum(e) => {
                self.remember(&e.name, schema);
                Type::Enum(Enum {
                    name: type_name(&e.name, &e.aliases),
                    symbols: e.symbols.clone(),
                    default: e.default.clone(),
                })
            }
            ApacheSchema::Record(r) => {
                self.remember(&r.name, schema);
                let name = type_name(&r.name, &r.aliases);
                if !self.open.insert(name.full.clone()) {
                    return Err(format!("{path}: the record {} contains itself, which no column can", name.full));
                }
                let mut fields = Vec::with_capacity(r.fields.len());
                for field in &r.fields {
                    let below = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
                    fields.push(Field {
                        name: field.name.clone(),
                        aliases: field.aliases.clone(),
                        data: self.grow(&field.schema, &below, depth + 1)?,
                        default: field.default.clone(),
                    });
                }
                self.open.remove(&name.full);
                if fields.is_empty() && depth > 0 {
                    return Err(format!("{path}: the record {} has no fields, which no column can", name.full));
                }
                Type::Record(Record { name, fields })
            }
            ApacheSchema::Ref { name } => {
                let full = name.fullname(None);
                let Some(named) = self.named.get(&full).cloned() else {
                    return Err(format!("{path}: no type is named {full:?}"));
                };
                self.grow(&named, path, depth)?
            }
        })
    }

    fn remember(&mut self, name: &Name, schema: &ApacheSchema) {
        self.named.entry(name.fullname(None)).or_insert_with(|| schema.clone());
    }
}

fn type_name(name: &Name, aliases: &Option<Vec<apache_avro::schema::Alias>>) -> TypeName {
    let aliases = aliases.iter().flatten().map(|alias| alias.fullname(name.namespace())).collect();
    TypeName { full: name.fullname(None), aliases }
}

fn fixed_of(fixed: &apache_avro::schema::FixedSchema) -> Fixed {
    Fixed { name: type_name(&fixed.name, &fixed.aliases), size: fixed.size }
}

fn record_json(record: &Record) -> Value {
    let fields: Vec<Value> = record
        .fields
        .iter()
        .map(|field| {
            let mut json = json!({"name": field.name, "type": type_json(&field.data)});
            if !field.aliases.is_empty() {
                json["aliases"] = json!(field.aliases);
            }
            if let Some(default) = &field.default {
                json["default"] = complete_default(&field.data, default);
            }
            json
        })
        .collect();
    // The full name stands in `name`: then no namespace is inherited, and none is needed.
    let mut json = named_json("record", &record.name);
    json["fields"] = fields.into();
    json
}

fn type_json(data: &Type) -> Value {
    let logical = |base: &str, logical: &str| json!({"type": base, "logicalType": logical});
    match data {
        Type::Null => json!("null"),
        Type::Boolean => json!("boolean"),
        Type::Int => json!("int"),
        Type::Long => json!("long"),
        Type::Float => json!("float"),
        Type::Double => json!("double"),
        Type::Bytes => json!("bytes"),
        Type::String | Type::Uuid => json!("string"),
        Type::Date => logical("int", "date"),
        Type::TimeMillis => logical("int", "time-millis"),
        Type::TimeMicros => logical("long", "time-micros"),
        Type::Timestamp { unit, local } => {
            let unit = match unit {
                Unit::Millis => "millis",
                Unit::Micros => "micros",
                Unit::Nanos => "nanos",
            };
            logical("long", &format!("{}timestamp-{unit}", if *local { "local-" } else { "" }))
        }
        Type::Decimal { precision, scale, fixed } => {
            let mut json = fixed.as_ref().map_or_else(|| json!({"type": "bytes"}), fixed_json);
            json["logicalType"] = json!("decimal");
            json["precision"] = json!(precision);
            json["scale"] = json!(scale);
            json
        }
        Type::Fixed(fixed) | Type::FixedUuid(fixed) => fixed_json(fixed),
        Type::Duration(fixed) => {
            let mut json = fixed_json(fixed);
            json["logicalType"] = json!("duration");
            json
        }
        Type::Enum(e) => {
            let mut json = named_json("enum", &e.name);
            json["symbols"] = json!(e.symbols);
            if let Some(default) = &e.default {
                json["default"] = json!(default);
            }
            json
        }
        Type::Array(items) => json!({"type": "array", "items": type_json(items)}),
        Type::Map(values) => json!({"type": "map", "values": type_json(values)}),
        Type::Union(branches) => branches.iter().map(type_json).collect(),
        Type::Record(record) => record_json(record),
    }
}

fn named_json(kind: &str, name: &TypeName) -> Value {
    let mut json = json!({"type": kind, "name": name.full});
    if !name.aliases.is_empty() {
        json["aliases"] = json!(name.aliases);
    }
    json
}

fn fixed_json(fixed: &Fixed) -> Value {
    let mut json = named_json("fixed", &fixed.name);
    json["size"] = json!(fixed.size);
    json
}

/// A record's default may leave out fields that have defaults of their own; `arrow-avro` wants all of them.
fn complete_default(data: &Type, default: &Value) -> Value {
    match (data, default) {
        (Type::Record(record), Value::Object(given)) => record
            .fields
            .iter()
            .filter_map(|field| {
                let value = given.get(&field.name).or(field.default.as_ref())?;
                Some((field.name.clone(), complete_default(&field.data, value)))
            })
            .collect(),
        (Type::Array(items), Value::Array(given)) => given.iter().map(|item| complete_default(items, item)).collect(),
        (Type::Map(values), Value::Object(given)) => {
            given.iter().map(|(key, value)| (key.clone(), complete_default(values, value))).collect()
        }
        (Type::Union(branches), value) if !value.is_null() => {
            let branch = branches.iter().find(|branch| !matches!(branch, Type::Null));
            branch.map_or_else(|| value.clone(), |branch| complete_default(branch, value))
        }
        _ => default.clone(),
    }
}
