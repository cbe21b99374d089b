//! The published schema of the manifest is that of the code.

use novaq_engine::artifact::Manifest;
use std::path::Path;

/// With `UPDATE_SCHEMA=1` in the environment the file is written instead.
#[test]
fn the_published_schema_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manifest.schema.json");
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(Manifest)).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some_and(|value| value == "1") {
        std::fs::write(&path, &schema).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(published == schema, "docs/manifest.schema.json differs: run this test with UPDATE_SCHEMA=1");
}
