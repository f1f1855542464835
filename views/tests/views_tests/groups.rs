//! Groups that are too long to be kept, and events that a view cannot fold.

use std::sync::Arc;

use datafusion::arrow::array::*;
use datafusion::arrow::datatypes::DataType;
use views::fold::first_failure;
use views::stored::{MAX_GROUP, StateCodec};
use views::{Fold, View};

use crate::compile;

fn views(sql: &str) -> Vec<Arc<View>> {
    compile(sql).unwrap_or_else(|problems| panic!("{problems:?}")).views
}

/// Events as a view reads them: texts of these lengths in every text column, ones in the others.
fn events(view: &View, lengths: &[usize]) -> RecordBatch {
    let texts = || lengths.iter().map(|length| "x".repeat(*length));
    let column = |field: &datafusion::arrow::datatypes::FieldRef| -> ArrayRef {
        match field.data_type() {
            DataType::Utf8 => Arc::new(StringArray::from_iter_values(texts())),
            DataType::Binary => Arc::new(BinaryArray::from_iter_values(texts())),
            DataType::Int32 => Arc::new(Int32Array::from(vec![1; lengths.len()])),
            DataType::Int64 => Arc::new(Int64Array::from(vec![1; lengths.len()])),
            DataType::List(_) => {
                let mut tags = ListBuilder::new(StringBuilder::new());
                for text in texts() {
                    tags.append_value([Some(text)]);
                }
                Arc::new(tags.finish())
            }
            other => panic!("{other}"),
        }
    };
    let columns = view.input_schema.fields().iter().map(|field| {
        let column = column(field);
        datafusion::arrow::compute::cast(&column, field.data_type()).unwrap()
    });
    RecordBatch::try_new(view.input_schema.clone(), columns.collect()).unwrap()
}

#[test]
fn a_group_is_refused_exactly_when_it_cannot_be_kept() {
    let views = views(
        "CREATE MATERIALIZED VIEW one AS SELECT url, count(*) AS n FROM events GROUP BY url;
         CREATE MATERIALIZED VIEW both AS SELECT url, user, status, count(*) AS n FROM events GROUP BY url, user, status;
         CREATE MATERIALIZED VIEW twice AS SELECT concat(url, url) AS u, count(*) AS n FROM events GROUP BY u;
         CREATE MATERIALIZED VIEW bytes AS SELECT raw, count(*) AS n FROM events GROUP BY raw;
         CREATE MATERIALIZED VIEW lists AS SELECT tags, count(*) AS n FROM events GROUP BY tags;
         CREATE MATERIALIZED VIEW cut AS SELECT left(url, 10) AS u, count(*) AS n FROM events GROUP BY u;",
    );
    for view in &views {
        let (mut kept, mut refused) = (0, 0);
        let at = [MAX_GROUP / 2, MAX_GROUP * 32 / 33, MAX_GROUP];
        let around = at.iter().flat_map(|length| (length - 400..length + 400).step_by(13));
        for length in [0, 1, 31, 32, 33, 20_000, 200_000].into_iter().chain(around) {
            let mut fold = Fold::new(view).unwrap();
            let outcome = fold.update(&events(view, &[1, length, 2]));
            // What would have been stored, had it not been refused.
            let groups: Vec<ArrayRef> = view
                .group_schema
                .fields()
                .iter()
                .map(|field| {
                    let text = match &*view.name {
                        "twice" => "x".repeat(2 * length),
                        "cut" => "x".repeat(length.min(10)),
                        _ => "x".repeat(length),
                    };
                    match field.data_type() {
                        DataType::Int32 => Arc::new(Int32Array::from(vec![1])) as ArrayRef,
                        DataType::List(_) => {
                            let mut tags = ListBuilder::new(StringBuilder::new());
                            tags.append_value([Some(text)]);
                            datafusion::arrow::compute::cast(&tags.finish(), field.data_type()).unwrap()
                        }
                        other => datafusion::arrow::compute::cast(&StringArray::from(vec![text]), other).unwrap(),
                    }
                })
                .collect();
            let batch = RecordBatch::try_new(view.group_schema.clone(), groups).unwrap();
            let encoded = StateCodec::new(view).unwrap().encode_groups(&batch).unwrap().group(0).len();
            match &outcome {
                Ok(()) => kept += 1,
                Err(error) => {
                    assert!(error.to_string().contains(&format!("takes {encoded} bytes")), "{}: {error}", view.name);
                    assert_eq!(first_failure(view, &events(view, &[1, length, 2])), Some(1));
                    refused += 1;
                }
            }
            assert_eq!(outcome.is_ok(), encoded <= MAX_GROUP, "{} with {length}: {encoded}", view.name);
        }
        assert!(kept > 0 && (refused > 0 || &*view.name == "cut"), "{}: {kept} kept, {refused} refused", view.name);
    }
}

#[test]
fn the_first_event_that_fails_is_found() {
    let view = &views("CREATE MATERIALIZED VIEW v AS SELECT url, sum(10 / status) AS n FROM events GROUP BY url;")[0];
    let events = |statuses: &[i32]| {
        let columns = view.input_schema.fields().iter().map(|field| -> ArrayRef {
            match field.name().as_str() {
                "status" => Arc::new(Int32Array::from(statuses.to_vec())),
                _ => Arc::new(StringArray::from(vec!["/"; statuses.len()])),
            }
        });
        RecordBatch::try_new(view.input_schema.clone(), columns.collect()).unwrap()
    };
    for length in 1..20 {
        assert_eq!(first_failure(view, &events(&vec![1; length])), None);
        for first in 0..length {
            for second in first..length {
                let mut statuses = vec![1; length];
                (statuses[first], statuses[second]) = (0, 0);
                assert_eq!(first_failure(view, &events(&statuses)), Some(first));
            }
        }
    }
    assert_eq!(first_failure(view, &events(&[])), None);
}

#[test]
fn group_fields_are_what_group_columns_are_made_of() {
    let views = views(
        "CREATE MATERIALIZED VIEW a AS SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, max(user) AS u FROM events GROUP BY url, minute;
         CREATE MATERIALIZED VIEW b AS SELECT upper(user) || kind AS k, count(*) AS n FROM events WHERE url > '' GROUP BY k;
         CREATE MATERIALIZED VIEW c AS SELECT _key, _partition, count(*) AS n FROM events GROUP BY _key, _partition;
         CREATE MATERIALIZED VIEW d AS SELECT max(url) AS n FROM events;",
    );
    let names = |view: &Arc<View>| -> Vec<String> {
        view.group_fields().iter().map(|field| view.source.schema.field(*field).name().clone()).collect()
    };
    // The key of the source is `url`.
    let expected: [&[&str]; 4] = [&["ts", "url"], &["user", "kind"], &["url"], &[]];
    for (view, expected) in views.iter().zip(expected) {
        assert_eq!(names(view), expected, "{}", view.name);
    }
}
