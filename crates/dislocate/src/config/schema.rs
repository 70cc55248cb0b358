//! The JSON Schema of the file, derived from the raw types.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::raw;

/// The schema, in which every type stands where it is used, so that a reader of it follows no references.
pub fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        settings.into_generator().into_root_schema_for::<raw::File>().to_value()
    });
    &SCHEMA
}
