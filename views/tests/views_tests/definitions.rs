//! What compiles to what, and what is refused, with file, line and reason.

use views::view::{Exactness, TimeColumn};

use crate::compile;

fn view(sql: &str) -> std::sync::Arc<views::View> {
    let application = compile(sql).unwrap_or_else(|problems| panic!("{problems:?}"));
    application.views[0].clone()
}

fn problem(sql: &str) -> String {
    match compile(sql) {
        Ok(_) => panic!("compiled: {sql}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn key_columns_come_first_then_the_tile_then_the_others() {
    let view = view(
        "CREATE MATERIALIZED VIEW v WITH (key = 'url', retention = '400 days', freshness_slo = '1s') AS
         SELECT date_bin(INTERVAL '1 minute', ts) AS minute, kind, url, count(*) AS views, sum(bytes) / count(*) AS mean
         FROM events WHERE status < 400 GROUP BY minute, kind, url HAVING count(*) > 1;",
    );
    let names: Vec<&String> = view.group_schema.fields().iter().map(|field| field.name()).collect();
    assert_eq!(names, ["url", "minute", "kind"]);
    assert_eq!(view.key_columns, 1);
    assert_eq!(view.time, Some(TimeColumn { index: 1, width_us: Some(60_000_000) }));
    let columns: Vec<&str> = view.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(columns, ["minute", "kind", "url", "views", "mean"]);
    assert_eq!(view.group_outputs, [Some(2), Some(0), Some(1)]);
    let inputs: Vec<&String> = view.input_schema.fields().iter().map(|field| field.name()).collect();
    assert_eq!(inputs, ["ts", "url", "status", "bytes", "kind"]);
    assert_eq!(view.retention, Some(std::time::Duration::from_secs(400 * 86_400)));
}

#[test]
fn the_default_key_is_every_group_column_but_the_tile() {
    let tiled = view(
        "CREATE MATERIALIZED VIEW v AS SELECT kind, date_trunc('hour', ts) AS h, url, count(*) FROM events GROUP BY kind, h, url",
    );
    assert_eq!(tiled.key_columns, 2);
    assert_eq!(tiled.time, Some(TimeColumn { index: 2, width_us: Some(3_600_000_000) }));
    let total = view("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM events");
    assert_eq!((total.key_columns, total.group_schema.fields().len()), (0, 1));
    let months =
        view("CREATE MATERIALIZED VIEW v AS SELECT date_trunc('month', ts) AS m, count(*) FROM events GROUP BY m");
    assert_eq!(months.time, Some(TimeColumn { index: 0, width_us: None }));
}

#[test]
fn columns_say_how_exact_they_are() {
    let view = view(
        "CREATE MATERIALIZED VIEW v AS SELECT url, count(*) AS a, sum(bytes) AS b, sum(ratio) AS c, avg(bytes) AS d,
         max(ratio) AS e, approx_median(ratio) AS f, approx_distinct(user) AS g, sum(price) AS h,
         count(*) + sum(ratio) AS i, median(ratio) AS j FROM events GROUP BY url",
    );
    use Exactness::{Exact, Float, Sketch};
    let classes: Vec<Exactness> = view.columns.iter().map(|column| column.exactness).collect();
    assert_eq!(classes, [Exact, Exact, Exact, Float, Float, Exact, Sketch, Exact, Exact, Float, Exact]);
}

#[test]
fn the_fingerprint_follows_the_meaning_not_the_layout() {
    let base = view("CREATE MATERIALIZED VIEW v AS SELECT url, count(*) AS n FROM events GROUP BY url");
    let spaced = view(
        "CREATE MATERIALIZED VIEW v WITH (retention = '1 day') AS -- more often\n SELECT url,count( * ) AS n FROM events GROUP BY url",
    );
    let other = view("CREATE MATERIALIZED VIEW v AS SELECT url, count(bytes) AS n FROM events GROUP BY url");
    let filtered = view("CREATE MATERIALIZED VIEW v AS SELECT url, count(*) AS n FROM events WHERE ok GROUP BY url");
    assert_eq!(base.fingerprint, spaced.fingerprint);
    assert_ne!(base.fingerprint, other.fingerprint);
    assert_ne!(base.fingerprint, filtered.fingerprint);
}

#[test]
fn order_inside_aggregates_is_settled_by_the_log() {
    let view = view(
        "CREATE MATERIALIZED VIEW v AS SELECT url, first_value(status ORDER BY ts) AS a, array_agg(kind) AS b,
         array_agg(DISTINCT kind) AS c FROM events GROUP BY url",
    );
    let sql = &view.oracle_sql;
    assert!(sql.contains("first_value(status ORDER BY ts, _partition, _offset)"), "{sql}");
    assert!(sql.contains("array_agg(kind ORDER BY _partition, _offset)"), "{sql}");
    assert!(sql.contains("array_agg(DISTINCT kind ORDER BY kind)"), "{sql}");
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_place_and_the_reason() {
    let select = |rest: &str| format!("CREATE MATERIALIZED VIEW v AS\nSELECT {rest};");
    let cases = [
        (
            select("url, random() AS r, count(*) FROM events GROUP BY url, r"),
            "views.sql:3: `random()` gives another value",
        ),
        (
            select("url, count(*) FROM events\nWHERE ts > now() GROUP BY url"),
            "views.sql:4: `now()` gives another value",
        ),
        (select("url FROM events"), "neither GROUP BY nor an aggregate"),
        (select("url, count(*) FROM events GROUP BY url\nLIMIT 3"), "views.sql:4: LIMIT is not part of a view"),
        (select("url, count(*) FROM events GROUP BY url\nORDER BY url"), "views.sql:4: ORDER BY is not part"),
        (select("DISTINCT url FROM events"), "SELECT DISTINCT is not supported"),
        (select("a.url, count(*) FROM events a\nJOIN events b ON a.id = b.id GROUP BY a.url"), "views.sql:4: a JOIN"),
        (select("url, count(*) FROM events, events e GROUP BY url"), "reads one source"),
        (select("url, count(*) FROM (SELECT * FROM events) GROUP BY url"), "FROM must name a source"),
        (select("url, (SELECT 1) AS one, count(*) FROM events GROUP BY url"), "a subquery is not supported"),
        (select("url, count(*) OVER () FROM events GROUP BY url"), "is a window function"),
        (select("url, any_value(kind) FROM events GROUP BY url"), "`any_value` may give any value"),
        (select("url, nth_value(kind, 2 ORDER BY ts) FROM events GROUP BY url"), "`nth_value` needs all its input"),
        (select("url, sum(bytes ORDER BY ts) FROM events GROUP BY url"), "ORDER BY means nothing inside `sum`"),
        (select("url, count(*) FROM events GROUP BY ROLLUP (url)"), "ROLLUP"),
        (select("url, count(*) FROM nowhere GROUP BY url"), "there is no source `nowhere`; there are: events"),
        (select("url,\n  sum(byte) AS b FROM events GROUP BY url"), "views.sql:4: "),
        (
            select("url,\n  sum(kind) AS b FROM events GROUP BY url"),
            "views.sql:4: there is no sum(Utf8); there is sum(Decimal), ",
        ),
        (
            select("upper(url, 2) AS u, count(*) FROM events GROUP BY u"),
            "views.sql:3: there is no upper(Utf8, Int64): Function 'upper' expects 1 arguments but received 2; there is upper(",
        ),
        (select("url, kind, count(*) FROM events GROUP BY url"), "kind"),
        (select("url, count(*) AS n, sum(bytes) AS n FROM events GROUP BY url"), "n"),
        (
            select(
                "date_bin(INTERVAL '1 minute', ts) AS m, date_trunc('day', ts) AS d, count(*) FROM events GROUP BY m, d",
            ),
            "second time column",
        ),
        (select("url, count(* FROM events GROUP BY url"), "views.sql:3: Expected"),
        ("CREATE TABLE t (a int)".to_owned(), "views.sql:2: expected `CREATE SOURCE` or"),
        (
            "CREATE MATERIALIZED VIEW v WITH (key = 'nope') AS SELECT url, count(*) FROM events GROUP BY url"
                .to_owned(),
            "`nope` is not a group column",
        ),
        (
            "CREATE MATERIALIZED VIEW v WITH (keys = 'url') AS SELECT url, count(*) FROM events GROUP BY url"
                .to_owned(),
            "unknown option `keys`; there are key, retention",
        ),
        (
            "CREATE MATERIALIZED VIEW v WITH (retention = 'soon') AS SELECT url, count(*) FROM events GROUP BY url"
                .to_owned(),
            "is not a duration",
        ),
        (
            "CREATE MATERIALIZED VIEW events AS SELECT url, count(*) FROM events GROUP BY url".to_owned(),
            "`events` is defined already, at views.sql:1",
        ),
        ("CREATE SOURCE s WITH (schema = 'none.avsc')".to_owned(), "no such *.avsc file"),
        ("CREATE SOURCE s WITH (partitions = 4)".to_owned(), "option `schema` is missing"),
        (
            "CREATE SOURCE s WITH (schema = 'event.avsc', key = 'nope')".to_owned(),
            "the schema has no field `nope`; it has id, ts",
        ),
        ("CREATE SOURCE s WITH (schema = 'event.avsc', event_time = 'url')".to_owned(), "it must be a timestamp"),
        (
            "CREATE SOURCE s WITH (schema = 'event.avsc', partitions = 0)".to_owned(),
            "must be a whole number from 1 to 4096",
        ),
        ("CREATE SOURCE s WITH (schema = 'event.avsc', dedupe_window = '1 day')".to_owned(), "needs `event_id`"),
        ("CREATE SOURCE s WITH (schema = 'event.avsc', schema = 'event.avsc')".to_owned(), "given twice"),
        ("CREATE SOURCE s WITH (schema = 'unclosed".to_owned(), "views.sql:2"),
    ];
    for (sql, expected) in cases {
        let found = problem(&sql);
        assert!(found.contains(expected), "{sql}\n  expected: {expected}\n  found:    {found}");
    }
}

#[test]
fn every_problem_is_shown_not_only_the_first() {
    let found = problem(
        "CREATE MATERIALIZED VIEW a AS SELECT url FROM events;
         CREATE MATERIALIZED VIEW b AS SELECT nope, count(*) FROM events GROUP BY nope;",
    );
    assert_eq!(found.lines().count(), 2, "{found}");
}
