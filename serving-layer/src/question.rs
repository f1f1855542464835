//! Questions: the parameters of a lookup, checked against the view, in the exact types of its columns.
//!
//! ```text
//! col=value      a key column, or a filter by equality on another group column
//! col.null=true  the same, for null (the empty string is the empty string)
//! key.col=value  the same, for a column that has an option's name
//! from, to       tiles in [from, to); RFC 3339
//! last=1h        tiles from now - 1h on
//! rollup=true    all selected tiles merged into one row; rollup=1h: into larger tiles
//! order=-a,b     by answer columns, `-` descending, nulls last; default: by group
//! limit, cursor  pages
//! explain=true   what each layer contributed
//! min_position   wait until the answer reaches it, at most `timeout`
//! max_staleness  503 rather than an answer that is staler
//! big=string     integers beyond 2^53 and decimals as strings
//! ```

use std::borrow::Cow;
use std::hash::{Hash as _, Hasher};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use datafusion::scalar::ScalarValue;
use view_store::KeyRange;
use views::Position;

use crate::body::Json;
use crate::clock::now_us;
use crate::error::{Problem, Result};
use crate::json::Big;
use crate::parse;
use crate::prepared::PreparedView;

/// How many rows a page has when nothing is said.
pub const DEFAULT_LIMIT: usize = 1000;
/// How many rows a page may have.
pub const MAX_LIMIT: usize = 10_000;
/// How long `min_position` waits when nothing is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long `min_position` may wait.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(30);

const OPTIONS: [&str; 12] = [
    "from",
    "to",
    "last",
    "rollup",
    "order",
    "limit",
    "cursor",
    "explain",
    "min_position",
    "timeout",
    "max_staleness",
    "big",
];

/// Which tiles become one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rollup {
    /// All of them.
    All,
    /// Those that begin within one slot of this many microseconds, counted from the epoch.
    Width(i64),
}

/// Everything about a lookup but the key.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only tiles at or after.
    pub from: Option<ScalarValue>,
    /// Only tiles before.
    pub to: Option<ScalarValue>,
    /// Merge tiles.
    pub rollup: Option<Rollup>,
    /// Answer columns, with whether they descend.
    pub order: Vec<(usize, bool)>,
    /// At most this many rows.
    pub limit: Option<usize>,
    /// Where the page before ended.
    pub cursor: Option<Vec<u8>>,
    /// Show what each layer contributed.
    pub explain: bool,
    /// The answer must reach this far.
    pub min_position: Option<Position>,
    /// How long to wait for `min_position`.
    pub timeout: Option<Duration>,
    /// The answer must not be staler.
    pub max_staleness: Option<Duration>,
    /// How big numbers are written.
    pub big: Big,
}

/// One lookup.
#[derive(Debug, Clone)]
pub struct Question {
    /// The key columns' values.
    pub key: Vec<ScalarValue>,
    /// Other group columns that must have a value.
    pub filters: Vec<(usize, ScalarValue)>,
    /// The rest.
    pub options: Options,
}

impl Question {
    /// Reads a query string.
    pub fn from_query(view: &PreparedView, query: &str) -> Result<Self> {
        let mut asked = Asked::new(view);
        let mut columns = AskedColumns::new(view);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name)
                .ok_or_else(|| Problem::parameter(&parse::shorten(name), "the name is not percent-encoded UTF-8"))?;
            let value =
                decoded(value).ok_or_else(|| Problem::parameter(&name, "the value is not percent-encoded UTF-8"))?;
            if !asked.option(&name, &value)? {
                columns.text(&name, &value)?;
            }
        }
        let (key, filters) = columns.finish()?;
        Self::new(view, key, filters, asked.finish()?)
    }

    /// A question about one key of many, given as a JSON object.
    pub fn from_json(view: &PreparedView, key: &Json, options: &Options) -> Result<Self> {
        let Json::Object(members) = key else {
            return Err(Problem::parameter("keys", "each key must be an object of column and value"));
        };
        let mut columns = AskedColumns::new(view);
        for (name, value) in members {
            columns.json(name, value)?;
        }
        let (key, filters) = columns.finish()?;
        Self::new(view, key, filters, options.clone())
    }

    fn new(
        view: &PreparedView,
        key: Vec<ScalarValue>,
        filters: Vec<(usize, ScalarValue)>,
        options: Options,
    ) -> Result<Self> {
        let mut question = Self { key, filters, options };
        if let Some(token) = question.options.cursor.take() {
            question.options.cursor = Some(question.open_cursor(view, &token)?);
        }
        Ok(question)
    }

    /// The rows to read.
    pub fn range(&self, view: &PreparedView) -> KeyRange {
        let mut range = KeyRange {
            key: Some(self.key.clone()),
            from: self.options.from.clone(),
            to: self.options.to.clone(),
            after: None,
        };
        // A tile that must equal a value needs no tiles before it.
        if let (None, Some(time)) = (&range.from, view.view.time)
            && let Some((_, value)) =
                self.filters.iter().find(|(column, value)| *column == time.index && !value.is_null())
        {
            range.from = Some(value.clone());
        }
        if self.in_group_order() && self.options.rollup.is_none() {
            range.after.clone_from(&self.options.cursor);
        }
        range
    }

    /// Whether rows come in the order of their groups.
    pub fn in_group_order(&self) -> bool {
        self.options.order.is_empty()
    }

    /// At most this many rows.
    pub fn limit(&self) -> usize {
        self.options.limit.unwrap_or(DEFAULT_LIMIT)
    }

    /// The cursor that continues after the row whose place is `place`: its encoded group, or with `order=` its encoded order
    /// columns and group. So a page goes on where the one before ended, whatever has been added since.
    pub fn cursor(&self, view: &PreparedView, place: &[u8]) -> String {
        let mut bytes = self.sign(view).to_be_bytes().to_vec();
        bytes.extend_from_slice(place);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn open_cursor(&self, view: &PreparedView, token: &[u8]) -> Result<Vec<u8>> {
        let not_ours = || Problem::parameter("cursor", "this is not a cursor of this question: begin again without it");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| not_ours())?;
        match bytes.split_at_checked(8) {
            Some((signature, place)) if signature == self.sign(view).to_be_bytes() && !place.is_empty() => {
                Ok(place.to_vec())
            }
            _ => Err(not_ours()),
        }
    }

    /// Tells questions apart whose cursors do not fit each other. The range is not part of it: `last=` moves.
    fn sign(&self, view: &PreparedView) -> u64 {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        view.view.fingerprint.0.hash(&mut hasher);
        self.key.hash(&mut hasher);
        self.filters.hash(&mut hasher);
        self.options.rollup.hash(&mut hasher);
        self.options.order.hash(&mut hasher);
        hasher.0
    }
}

/// FNV-1a: the same in every process, which the standard library's hasher does not promise.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The options as they come in.
pub struct Asked<'v> {
    view: &'v PreparedView,
    seen: [bool; OPTIONS.len()],
    last: bool,
    options: Options,
}

impl<'v> Asked<'v> {
    /// Nothing asked yet.
    pub fn new(view: &'v PreparedView) -> Self {
        Self { view, seen: [false; OPTIONS.len()], last: false, options: Options::default() }
    }

    /// Takes an option from a JSON body.
    pub fn json(&mut self, name: &str, value: &Json) -> Result<()> {
        let text = match value {
            Json::String(text) => Cow::Borrowed(text.as_str()),
            Json::Number(number) => Cow::Owned(number.to_string()),
            Json::Bool(true) => Cow::Borrowed("true"),
            Json::Bool(false) => Cow::Borrowed("false"),
            Json::Null => return Ok(()),
            Json::Array(_) | Json::Object(_) => return Err(Problem::parameter(name, "expected one value")),
        };
        if name == "cursor" {
            return Err(Problem::parameter(name, "continue one key at a time, with GET"));
        }
        if self.option(name, &text)? { Ok(()) } else { Err(unknown(self.view, name)) }
    }

    /// Takes a parameter if it is an option; `false` if it is not.
    pub fn option(&mut self, name: &str, value: &str) -> Result<bool> {
        let Some(index) = OPTIONS.iter().position(|option| *option == name) else {
            return Ok(false);
        };
        if std::mem::replace(&mut self.seen[index], true) {
            return Err(Problem::parameter(name, "given more than once"));
        }
        let invalid = |expected: String| Problem::parameter(name, expected);
        let options = &mut self.options;
        match name {
            "from" => options.from = Some(time(self.view, name, value)?),
            "to" => options.to = Some(time(self.view, name, value)?),
            "last" => {
                let from = now_us().saturating_sub(parse::duration_us(value).map_err(invalid)?);
                options.from = Some(bound(self.view, name, from)?);
                self.last = true;
            }
            "rollup" => options.rollup = rollup(self.view, value)?,
            "order" => options.order = order(self.view, value)?,
            "limit" => match value.parse() {
                Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => options.limit = Some(limit),
                _ => return Err(invalid(format!("expected a number from 1 to {MAX_LIMIT}"))),
            },
            "cursor" => options.cursor = Some(value.as_bytes().to_vec()),
            "explain" => options.explain = boolean(value).map_err(invalid)?,
            "min_position" => {
                options.min_position = Some(Position::from_token(value).map_err(|error| invalid(error.to_string()))?);
            }
            "timeout" => {
                let timeout = parse::duration(value).map_err(invalid)?;
                if timeout > MAX_TIMEOUT {
                    return Err(invalid("at most 30s".to_owned()));
                }
                options.timeout = Some(timeout);
            }
            "max_staleness" => options.max_staleness = Some(parse::duration(value).map_err(invalid)?),
            "big" => {
                options.big = match value {
                    "string" => Big::String,
                    "number" => Big::Number,
                    _ => return Err(invalid("expected `string` or `number`".to_owned())),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The options, if they go together.
    pub fn finish(self) -> Result<Options> {
        let given = |name: &str| OPTIONS.iter().zip(self.seen).any(|(option, seen)| seen && *option == name);
        if self.last && (given("from") || given("to")) {
            return Err(Problem::parameter("last", "cannot be combined with `from` or `to`"));
        }
        let tile = self.view.tile_output;
        if self.options.rollup == Some(Rollup::All)
            && let Some(tile) = tile
            && self.options.order.iter().any(|(column, _)| *column == tile)
        {
            return Err(Problem::parameter("order", "with `rollup=true` rows have no time column"));
        }
        Ok(self.options)
    }
}

/// The group columns as they come in.
struct AskedColumns<'v> {
    view: &'v PreparedView,
    values: Vec<Option<ScalarValue>>,
}

impl<'v> AskedColumns<'v> {
    fn new(view: &'v PreparedView) -> Self {
        Self { view, values: vec![None; view.view.group_schema.fields().len()] }
    }

    /// The column a parameter names, and whether it asks for null.
    fn column(&self, name: &str) -> Result<(usize, bool)> {
        let plain =
            |name: &str| self.view.group_column(name).or_else(|| self.view.group_column(name.strip_prefix("key.")?));
        if let Some(column) = plain(name) {
            return Ok((column, false));
        }
        let null = name.strip_suffix(".null").and_then(plain);
        null.map(|column| (column, true)).ok_or_else(|| unknown(self.view, name))
    }

    fn text(&mut self, name: &str, value: &str) -> Result<()> {
        let (column, null) = self.column(name)?;
        let field = self.view.group_field(column);
        let invalid = |expected: String| Problem::parameter(name, expected).of_view(&self.view.view.name);
        let value = match (null, value) {
            (false, value) => parse::scalar(value, field).map_err(invalid)?,
            (true, "true") => parse::null(field).map_err(invalid)?,
            (true, _) => return Err(invalid("expected `true`".to_owned())),
        };
        self.set(name, column, value)
    }

    fn json(&mut self, name: &str, value: &Json) -> Result<()> {
        let column = self.view.group_column(name).ok_or_else(|| unknown(self.view, name))?;
        let value = parse::from_json(value, self.view.group_field(column))
            .map_err(|expected| Problem::parameter(name, expected).of_view(&self.view.view.name))?;
        self.set(name, column, value)
    }

    fn set(&mut self, name: &str, column: usize, value: ScalarValue) -> Result<()> {
        match self.values[column].replace(value) {
            None => Ok(()),
            Some(_) => Err(Problem::parameter(name, "given more than once")),
        }
    }

    #[allow(clippy::type_complexity)]
    fn finish(self) -> Result<(Vec<ScalarValue>, Vec<(usize, ScalarValue)>)> {
        let key_columns = self.view.view.key_columns;
        let mut key = Vec::with_capacity(key_columns);
        let mut filters = Vec::new();
        for (column, value) in self.values.into_iter().enumerate() {
            match value {
                Some(value) if column < key_columns => key.push(value),
                Some(value) => filters.push((column, value)),
                None if column < key_columns => {
                    let name = self.view.group_field(column).name();
                    let problem = Problem::parameter(name, "this key column is missing");
                    return Err(problem.of_view(&self.view.view.name));
                }
                None => {}
            }
        }
        Ok((key, filters))
    }
}

fn unknown(view: &PreparedView, name: &str) -> Problem {
    let columns: Vec<&str> = view.view.group_schema.fields().iter().map(|field| field.name().as_str()).collect();
    let detail =
        format!("unknown; `{}` has the columns {} and the options of lookups", view.view.name, columns.join(", "));
    Problem::parameter(&parse::shorten(name), detail).of_view(&view.view.name)
}

fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected `true` or `false`".to_owned()),
    }
}

fn time(view: &PreparedView, name: &str, value: &str) -> Result<ScalarValue> {
    let us = parse::time_us(value).ok_or_else(|| {
        Problem::parameter(name, format!("expected a time in RFC 3339, got `{}`", parse::shorten(value)))
    })?;
    bound(view, name, us)
}

fn bound(view: &PreparedView, name: &str, us: i64) -> Result<ScalarValue> {
    let time = view.view.time.ok_or_else(|| no_time_column(view, name))?;
    parse::time_bound(us, view.group_field(time.index).data_type())
        .map_err(|expected| Problem::parameter(name, expected).of_view(&view.view.name))
}

fn no_time_column(view: &PreparedView, name: &str) -> Problem {
    Problem::parameter(name, format!("`{}` has no time column", view.view.name)).of_view(&view.view.name)
}

fn rollup(view: &PreparedView, value: &str) -> Result<Option<Rollup>> {
    let invalid = |expected: String| Problem::parameter("rollup", expected).of_view(&view.view.name);
    if value == "false" {
        return Ok(None);
    }
    let time = view.view.time.ok_or_else(|| no_time_column(view, "rollup"))?;
    if value == "true" {
        return Ok(Some(Rollup::All));
    }
    let width =
        parse::duration_us(value).map_err(|_| invalid("expected `true` or a duration such as `1h`".to_owned()))?;
    match time.width_us {
        None => Err(invalid("the view's tiles are calendar units: only `rollup=true` merges them".to_owned())),
        Some(tile) if width > 0 && width % tile == 0 => Ok(Some(Rollup::Width(width))),
        Some(tile) => {
            let tile = humantime::format_duration(Duration::from_micros(tile.unsigned_abs()));
            Err(invalid(format!("expected a multiple of the view's tiles, which are {tile} wide")))
        }
    }
}

fn order(view: &PreparedView, value: &str) -> Result<Vec<(usize, bool)>> {
    let mut order: Vec<(usize, bool)> = Vec::new();
    for part in value.split(',').map(str::trim) {
        let (name, descending) = part.strip_prefix('-').map_or((part, false), |name| (name, true));
        let column = view.view.columns.iter().position(|column| column.name == name).ok_or_else(|| {
            let name = parse::shorten(name);
            Problem::parameter("order", format!("the answer has no column `{name}`")).of_view(&view.view.name)
        })?;
        if order.iter().any(|(earlier, _)| *earlier == column) {
            return Err(Problem::parameter("order", format!("`{name}` is there more than once")));
        }
        order.push((column, descending));
    }
    view.order_converter(&order)?;
    Ok(order)
}

/// Undoes percent-encoding and `+`; `None` when the result is not UTF-8 or an escape is broken.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| byte == b'%' || byte == b'+') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}
