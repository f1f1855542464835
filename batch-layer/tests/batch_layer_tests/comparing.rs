//! The comparison finds what differs, and nothing else.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use batch_layer::compare;
use views::View;

use crate::system::{CLICKS, application};

fn view(select: &str) -> Arc<View> {
    application(&format!("{CLICKS} CREATE MATERIALIZED VIEW v AS {select};")).views[0].clone()
}

fn rows(view: &View, rows: &[(Option<&str>, i64, f64, f64)]) -> RecordBatch {
    let urls: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0)));
    let counts: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
    let means: ArrayRef = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let medians: ArrayRef = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3)));
    let columns = [urls, counts, means, medians].into_iter().zip(view.output_schema.fields());
    let columns = columns.map(|(column, field)| arrow::compute::cast(&column, field.data_type()).expect("the type"));
    RecordBatch::try_new(view.output_schema.clone(), columns.collect()).expect("rows")
}

#[test]
fn each_column_as_exactly_as_it_promises() {
    let view = view(
        "SELECT url, count(*) AS views, avg(latency) AS mean, approx_median(latency) AS median FROM clicks GROUP BY url",
    );
    let truth = [(Some("/a"), 1, 1e6, 100.0), (Some("/b"), 2, 0.0, f64::NAN), (None, 3, 2.0, 2.0)];
    let different = |served: &[(Option<&str>, i64, f64, f64)]| {
        let found = compare(&view, &[rows(&view, &truth)], &[rows(&view, served)], None, 10).expect("compared");
        assert_eq!(found.different, found.differences.len() as u64);
        let place = |key: &[(String, String)], column: &Option<String>| format!("{}:{column:?}", key[0].1);
        found.differences.iter().map(|it| place(&it.key, &it.column)).collect::<Vec<_>>()
    };
    let nothing: [&str; 0] = [];
    assert_eq!(different(&truth), nothing);
    let [a, b, none] = truth;
    assert_eq!(different(&[none, b, a]), nothing, "order does not matter");
    assert_eq!(different(&[(a.0, 1, 1e6 + 1e-4, 104.0), (b.0, 2, 1e-10, f64::NAN), none]), nothing);
    assert_eq!(different(&[(a.0, 2, a.2, a.3), b, none]), ["/a:Some(\"views\")"]);
    assert_eq!(different(&[(a.0, 1, 1e6 + 1e-2, a.3), b, none]), ["/a:Some(\"mean\")"]);
    assert_eq!(different(&[(a.0, 1, a.2, 106.0), b, none]), ["/a:Some(\"median\")"]);
    assert_eq!(different(&[a, (b.0, 2, 0.0, 1.0), none]), ["/b:Some(\"median\")"]);
    assert_eq!(different(&[a, b]), [":None"], "a row is not served");
    assert_eq!(different(&[a, b, none, (Some("/c"), 0, 0.0, 0.0)]), ["/c:None"], "a row too many");
    assert_eq!(different(&[a, b, none, none]), [":None"], "a row twice");
    assert_eq!(different(&[]).len(), 3);
}

#[test]
fn rows_without_their_groups_are_matched_by_what_they_show() {
    let view = view("SELECT count(*) AS views FROM clicks GROUP BY url");
    let counts = |counts: &[i64]| {
        let counts: ArrayRef = Arc::new(Int64Array::from(counts.to_vec()));
        RecordBatch::try_new(view.output_schema.clone(), vec![counts]).expect("rows")
    };
    let different = |served: &[i64]| {
        compare(&view, &[counts(&[1, 2, 2, 5])], &[counts(served)], None, 1).expect("compared").different
    };
    assert_eq!(different(&[5, 2, 1, 2]), 0);
    assert_eq!(different(&[1, 2, 5]), 2, "matched in order, then one is missing");
    assert_eq!(different(&[1, 2, 2, 6]), 1);
}
