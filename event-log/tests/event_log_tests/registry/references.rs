//! Schemas that refer to others come whole.

use event_log::LogError;
use event_log::registry::SchemaRegistry as _;
use serde_json::{Value, json};
use views::avro::{Record, Type};

use super::{connected, fresh, post, server};

/// Posts schemas, each referring to those before it that it names, and returns the last one's id.
async fn chain(url: &str, schemas: &[(&str, &str, &[usize])]) -> u32 {
    let run = fresh("ref");
    let mut id = 0;
    for (number, (_, schema, references)) in schemas.iter().enumerate() {
        let references: Vec<Value> = references
            .iter()
            .map(|it| json!({"name": schemas[*it].0, "subject": format!("{run}-{it}"), "version": 1}))
            .collect();
        let body = json!({"schema": schema, "schemaType": "AVRO", "references": references});
        id = post(url, &format!("{run}-{number}"), body).await;
    }
    id
}

/// The schema as our client gives it equals one that somebody wrote out by hand.
async fn comes_whole(schemas: &[(&str, &str, &[usize])], expected: &str) {
    let url = server().await;
    let id = chain(&url, schemas).await;
    let whole = connected(&url).await.schema(id).await.unwrap();
    println!("{whole}");
    let expected = Record::parse(expected).unwrap();
    assert_eq!(Record::parse(&whole).unwrap(), expected);
}

#[tokio::test]
async fn a_type_of_another_schema_is_written_where_it_is_used_first() {
    let address = r#"{"type":"record","name":"Address","namespace":"geo","fields":[{"name":"city","type":"string"}]}"#;
    let order = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"from","type":"geo.Address"},
        {"name":"to","type":["null","geo.Address"],"default":null},
        {"name":"via","type":{"type":"array","items":"geo.Address"}},
        {"name":"by","type":{"type":"map","values":"geo.Address"}}]}"#;
    let written = order.replacen("\"geo.Address\"", address, 1);
    comes_whole(&[("geo.Address", address, &[]), ("shop.Order", order, &[0])], &written).await;
}

#[tokio::test]
async fn references_of_references_and_diamonds() {
    let unit = r#"{"type":"enum","name":"Unit","namespace":"base","symbols":["KG","M"],"default":"KG"}"#;
    let weight = r#"{"type":"record","name":"Weight","namespace":"a","fields":[{"name":"unit","type":"base.Unit"}]}"#;
    let length = r#"{"type":"record","name":"Length","namespace":"b","fields":[{"name":"unit","type":"base.Unit"}]}"#;
    let parcel = r#"{"type":"record","name":"Parcel","namespace":"c","fields":[
        {"name":"weight","type":"a.Weight"},{"name":"length","type":"b.Length"},{"name":"unit","type":"base.Unit"}]}"#;
    let weight_whole = weight.replace("\"base.Unit\"", unit);
    let whole = parcel.replace("\"a.Weight\"", &weight_whole).replace("\"b.Length\"", length);
    let schemas: [(&str, &str, &[usize]); 4] = [
        ("base.Unit", unit, &[]),
        ("a.Weight", weight, &[0]),
        ("b.Length", length, &[0]),
        ("c.Parcel", parcel, &[1, 2, 0]),
    ];
    comes_whole(&schemas, &whole).await;
}

#[tokio::test]
async fn names_keep_the_namespaces_they_were_written_in() {
    // `Money` of the schema referred to is `pay.Money`; the order's own `Money` is `shop.Money`.
    let price = r#"{"type":"record","name":"Price","namespace":"pay","aliases":["Cost"],"fields":[
        {"name":"net","type":{"type":"fixed","name":"Money","size":8}},{"name":"gross","type":"Money"},
        {"name":"deep","type":{"type":"record","name":"other.Deep","fields":[
            {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["X"]}}]}}]}"#;
    let order = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"money","type":{"type":"enum","name":"Money","symbols":["COIN"]}},
        {"name":"price","type":"pay.Price"},
        {"name":"again","type":"Money"},
        {"name":"raw","type":"pay.Money"},
        {"name":"kind","type":"other.Kind"}]}"#;
    let whole = order.replace("\"pay.Price\"", price);
    comes_whole(&[("pay.Price", price, &[]), ("shop.Order", order, &[0])], &whole).await;
}

#[tokio::test]
async fn a_nested_type_may_be_used_before_the_type_around_it() {
    let price = r#"{"type":"record","name":"Price","namespace":"pay","fields":[
        {"name":"net","type":{"type":"fixed","name":"Money","size":8}}]}"#;
    let order = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"raw","type":"pay.Money"},{"name":"price","type":"pay.Price"}]}"#;
    let whole = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"raw","type":{"type":"fixed","name":"pay.Money","size":8}},
        {"name":"price","type":{"type":"record","name":"Price","namespace":"pay","fields":[
            {"name":"net","type":"Money"}]}}]}"#;
    comes_whole(&[("pay.Price", price, &[]), ("shop.Order", order, &[0])], whole).await;
}

#[tokio::test]
async fn types_without_a_namespace_are_found_from_within_one() {
    let bare = r#"{"type":"enum","name":"Bare","symbols":["A","B"]}"#;
    let order = r#"{"type":"record","name":"Order","fields":[
        {"name":"one","type":{"type":"record","name":"In","namespace":"shop","fields":[
            {"name":"first","type":"Bare"},{"name":"second","type":"Bare"}]}},
        {"name":"two","type":"Bare"}]}"#;
    let whole = r#"{"type":"record","name":"Order","fields":[
        {"name":"one","type":{"type":"record","name":"In","namespace":"shop","fields":[
            {"name":"first","type":{"type":"enum","name":"Bare","namespace":"","symbols":["A","B"]}},
            {"name":"second","type":".Bare"}]}},
        {"name":"two","type":"Bare"}]}"#;
    comes_whole(&[("Bare", bare, &[]), ("Order", order, &[0])], whole).await;
}

#[tokio::test]
async fn the_latest_of_a_subject_and_its_history_come_whole_too() {
    let url = server().await;
    let (types, subject) = (fresh("types"), fresh("orders"));
    let unit = r#"{"type":"enum","name":"Unit","namespace":"base","symbols":["KG","M"]}"#;
    post(&url, &types, json!({"schema": unit})).await;
    let order = r#"{"type":"record","name":"Order","fields":[{"name":"unit","type":"base.Unit"}]}"#;
    let references = json!([{"name": "base.Unit", "subject": types, "version": 1}]);
    let id = post(&url, &subject, json!({"schema": order, "references": references})).await;
    let registry = connected(&url).await;
    let (latest, whole) = registry.latest(&subject).await.unwrap();
    assert_eq!(latest, id);
    let record = Record::parse(&whole).unwrap();
    assert!(matches!(&record.fields[0].data, Type::Enum(unit) if unit.name.full == "base.Unit"), "{record:?}");
    // The same, written out, is the same schema.
    assert_eq!(registry.register(&subject, &order.replace("\"base.Unit\"", unit)).await.unwrap(), id);
    let fewer = order.replace("\"base.Unit\"", &unit.replace(",\"M\"", ""));
    let Err(LogError::Invalid(message)) = registry.register(&subject, &fewer).await else { panic!("not refused") };
    assert!(message.contains("unit: the reader's enum has no symbol M"), "{message}");
}

#[tokio::test]
async fn long_chains_come_whole_and_what_cannot_is_refused_not_hung_on() {
    let url = server().await;
    // Each contains the one before: deeper than any schema we read.
    let names: Vec<String> = (0..80).map(|i| format!("n{i}.T{i}")).collect();
    let texts: Vec<String> = (0..80)
        .map(|i: usize| {
            let inner = i.checked_sub(1).map_or("int".to_owned(), |before| names[before].clone());
            format!(
                r#"{{"type":"record","name":"T{i}","namespace":"n{i}","fields":[{{"name":"v","type":"{inner}"}}]}}"#
            )
        })
        .collect();
    let befores: Vec<Vec<usize>> = (0..80).map(|i: usize| i.checked_sub(1).into_iter().collect()).collect();
    let all: Vec<(&str, &str, &[usize])> =
        (0..80).map(|i| (names[i].as_str(), texts[i].as_str(), befores[i].as_slice())).collect();
    let registry = connected(&url).await;
    let id = chain(&url, &all[..20]).await;
    assert_eq!(Record::parse(&registry.schema(id).await.unwrap()).unwrap().name.full, "n19.T19");
    let id = chain(&url, &all).await;
    let Err(LogError::Invalid(message)) = registry.schema(id).await else { panic!("not refused") };
    assert!(message.contains("nested deeper"), "{message}");
}
