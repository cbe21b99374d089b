//! The published schemas of the manifest and of the report are those of the code.

use novaq_cli::compress::report::Report;
use novaq_engine::artifact::Manifest;
use schemars::{JsonSchema, schema_for};
use std::path::Path;

/// Compares `docs/FILE` with the schema of `T`. With `UPDATE_SCHEMA=1` in the environment the file is written instead.
fn check<T: JsonSchema>(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    let schema = serde_json::to_string_pretty(&schema_for!(T)).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some_and(|value| value == "1") {
        std::fs::write(&path, &schema).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(published == schema, "docs/{file} differs: run this test with UPDATE_SCHEMA=1");
}

#[test]
fn the_published_schema_is_that_of_the_code() {
    check::<Manifest>("manifest.schema.json");
    check::<Report>("report.schema.json");
}
