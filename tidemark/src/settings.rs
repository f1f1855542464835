//! Settings: data, read once at the start, from five places.
//!
//! Built-in defaults < the application's `tidemark.toml` < `--config FILE` < environment < flags. They are laid over each
//! other one by one, and the whole is checked after each, so that a mistake is reported with the place it was made in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::{Deserialize, Serialize};

use crate::units::{Schedule, Size, Span};

/// The defaults, commented: the reference of all settings.
pub const DEFAULTS: &str = include_str!("default.toml");

/// What environment variables that are settings begin with.
const PREFIX: &str = "TIDEMARK__";

/// All settings. `default.toml` says what each is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // default.toml documents them
pub struct Settings {
    pub data: PathBuf,
    pub log: Log,
    pub registry: Registry,
    pub archive: Archive,
    pub store: Store,
    pub speed: Speed,
    pub batch: Batch,
    pub serve: Serve,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Log {
    pub kind: LogKind,
    pub fsync: bool,
    pub file_bytes: Size,
    pub brokers: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<u16>,
    pub group: String,
    pub topic_prefix: String,
    pub kafka: BTreeMap<String, toml::Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogKind {
    Embedded,
    Kafka,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Registry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    pub subjects: Subjects,
    pub unknown_id: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Subjects {
    TopicName,
    RecordName,
    TopicRecordName,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Archive {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub s3: BTreeMap<String, toml::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Store {
    pub kind: StoreKind,
    pub cache: Size,
    pub nodes: Vec<String>,
    pub keyspace: String,
    pub replication: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    pub read_consistency: String,
    pub write_consistency: String,
    pub in_flight: usize,
    pub create: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum StoreKind {
    Embedded,
    Cql,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Speed {
    pub flush_interval: Span,
    pub memory: Size,
    pub backfill_rate: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Batch {
    pub every: Schedule,
    pub engine: Engine,
    pub scheduler: String,
    pub tasks: usize,
    pub memory: Size,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Engine {
    Local,
    Ballista,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Serve {
    pub listen: String,
    pub workers: usize,
    pub body_limit: Size,
}

/// The places settings come from, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The `tidemark.toml` of the application: what to call it, and its text.
    pub application: Option<(String, String)>,
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Environment variables; those that are no settings are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags that are settings: the setting, the flag, the value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// The effective settings, with where each came from.
#[derive(Debug)]
pub struct Effective {
    /// The settings.
    pub settings: Settings,
    figment: Figment,
}

/// A setting that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// What was written is wrong; the message names the place, the key and what was expected.
    #[error("{0}")]
    Wrong(String),
}

/// One place, read: a name and what it sets.
struct Layer {
    name: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

impl Effective {
    /// Reads settings from all places.
    ///
    /// # Errors
    ///
    /// The first mistake, with its place and key.
    pub fn read(places: &Places) -> Result<Self, SettingsError> {
        let mut layers = Vec::new();
        if let Some((name, text)) = &places.application {
            layers.push(from_toml(name, text)?);
        }
        if let Some(path) = &places.file {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| SettingsError::Wrong(format!("--config {name}: {error}")))?;
            layers.push(from_toml(&name, &text)?);
        }
        layers.extend(places.environment.iter().filter_map(|(name, value)| from_variable(name, value)));
        for (key, flag, value) in &places.flags {
            let values = nested(key, Value::from(value.as_str()));
            layers.push(Layer { name: format!("flag {flag}"), values });
        }

        let mut figment = Figment::from(from_toml("default", DEFAULTS)?);
        let mut settings = extract(&figment, "default")?;
        for layer in layers {
            let name = layer.name.clone();
            figment = figment.merge(layer);
            settings = extract(&figment, &name)?;
        }
        Ok(Self { settings, figment })
    }

    /// The settings as TOML, each that is not a default with its origin, secrets masked.
    pub fn to_toml(&self) -> String {
        let mut out = String::from("# The effective settings. A comment names the place of what is not a default.\n");
        if let Ok(toml::Value::Table(table)) = toml::Value::try_from(&self.settings) {
            self.write_table(&mut out, "", &table);
        }
        out
    }

    fn write_table(&self, out: &mut String, path: &str, table: &toml::Table) {
        let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        // Plain values first: in TOML they belong to the table that was opened last.
        for (key, value) in table.iter().filter(|(_, value)| !value.is_table()) {
            let full = join(key);
            let shown = masked(&full, value).to_string();
            let line = format!("{} = {shown}", quoted(key));
            match self.figment.find_metadata(&full).map(|metadata| metadata.name.as_ref()) {
                Some(name) if name != "default" => out.push_str(&format!("{line:<40} # {name}\n")),
                _ => out.push_str(&format!("{line}\n")),
            }
        }
        for (key, value) in table {
            let toml::Value::Table(inner) = value else { continue };
            let full = join(key);
            out.push_str(&format!("\n[{full}]\n"));
            self.write_table(out, &full, inner);
        }
    }
}

fn from_toml(name: &str, text: &str) -> Result<Layer, SettingsError> {
    let wrong = |error: figment::Error| SettingsError::Wrong(format!("{name}: {}", error.to_string().trim_end()));
    let values = Toml::string(text).data().map_err(wrong)?.remove(&Profile::Default).unwrap_or_default();
    Ok(Layer { name: name.to_owned(), values })
}

/// `TIDEMARK__SPEED__FLUSH_INTERVAL=5ms` sets `speed.flush_interval`.
fn from_variable(name: &str, value: &str) -> Option<Layer> {
    let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase().replace("__", ".");
    // Never fails: what is no number, bool or array is a string.
    let value: Value = value.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    Some(Layer { name: format!("environment {name}"), values: nested(&key, value) })
}

fn nested(key: &str, value: Value) -> Dict {
    match figment::util::nest(key, value) {
        Value::Dict(_, values) => values,
        _ => Dict::new(),
    }
}

fn extract(figment: &Figment, place: &str) -> Result<Settings, SettingsError> {
    use figment::error::Kind;
    figment.extract().map_err(|error: figment::Error| {
        let path = error.path.join(".");
        let message = match &error.kind {
            Kind::UnknownField(field, known) => {
                let key = match path.as_str() {
                    "" => field.clone(),
                    // Some deserializers count the unknown key itself into the path.
                    path if path == field || path.ends_with(&format!(".{field}")) => path.to_owned(),
                    path => format!("{path}.{field}"),
                };
                format!("unknown setting `{key}`; there are {}", known.join(", "))
            }
            Kind::UnknownVariant(found, known) => {
                format!("`{path}`: `{found}` is not one of {}", known.join(", "))
            }
            Kind::InvalidType(found, expected) if expected.starts_with("struct ") => {
                format!("`{path}`: found {found}, expected a table of settings")
            }
            kind => format!("`{path}`: {kind}"),
        };
        SettingsError::Wrong(format!("{place}: {message}"))
    })
}

fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { key.to_owned() } else { toml::Value::from(key).to_string() }
}

/// The value, unless it is a secret: one by the name of its key, or a password inside a URL.
fn masked(key: &str, value: &toml::Value) -> toml::Value {
    const SECRET: [&str; 5] = ["password", "secret", "token", "credential", "sasl.username"];
    let key = key.to_ascii_lowercase();
    if SECRET.iter().any(|word| key.contains(word)) {
        return toml::Value::from("***");
    }
    if let Some(text) = value.as_str()
        && let Some((scheme, rest)) = text.split_once("://")
        && let Some((_, host)) = rest.split_once('@')
    {
        return toml::Value::from(format!("{scheme}://***@{host}"));
    }
    value.clone()
}
