//! Any text gets a configuration or a report, and any report can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let report = match dislocate::config::parse("fuzz.toml", text) {
        Ok(config) => config.warnings,
        Err(report) => {
            assert!(!report.problems().is_empty(), "a text is refused without a reason");
            report
        }
    };
    report.render(true);
    report.json();
});
