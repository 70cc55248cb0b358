//! The first pass: keys, types, words and numbers, against the schema.
//!
//! The schema that `dislocate config schema` prints is what is checked here, so the two cannot differ. What is wrong
//! is reported and taken out of the document; the rest then always fits the raw types, and the later passes can look
//! at it too: one run finds the mistakes of every kind.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::names::nearest;
use super::problem::{Code, Problem, Problems, quoted};
use super::raw::Span;

/// Checks a document against the schema, and takes out of it what does not fit.
pub fn check(schema: &Value, document: &mut Spanned<DeTable<'_>>, problems: &mut Problems) {
    // The root's own span is the whole text; what is missing there is missing from the file.
    table("", None, schema, document.get_mut(), problems);
}

/// Whether the value may stay.
fn value(name: &str, schema: &Value, value: &mut Spanned<DeValue<'_>>, problems: &mut Problems) -> bool {
    let span = value.span();
    let kind = kind_of(value.get_ref());
    let Some(schema) = branch(schema, kind) else {
        problems.push(wrong_type(name, schema, kind, span));
        return false;
    };
    let verdict = match value.get_mut() {
        DeValue::Table(inner) => {
            table(name, Some(span), schema, inner, problems);
            return true;
        }
        DeValue::Array(items) => {
            let entries = within(name, schema, ["minItems", "maxItems"], items.len() as i128, " entries");
            let item_schema = schema.get("items").unwrap_or(&Value::Null);
            let all = std::mem::replace(items, DeArray::new()).into_iter();
            let keep = |mut item| self::value(name, item_schema, &mut item, problems).then_some(item);
            *items = all.filter_map(keep).collect();
            entries
        }
        DeValue::String(text) => word(name, schema, text),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => within(name, schema, ["minimum", "maximum"], number, ""),
            Err(_) => Err(Problem::new(Code::OutOfRange, None, format!("`{name}` is too large a number"))),
        },
        _ => Ok(()),
    };
    problems.keep(verdict.map_err(|problem| Problem { span: Some(span), ..problem })).is_some()
}

fn table(name: &str, span: Option<Span>, schema: &Value, table: &mut DeTable<'_>, problems: &mut Problems) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let mut meant = Vec::new();
    let all = std::mem::replace(table, DeTable::new()).into_iter();
    let keep = |(key, mut inner): (Spanned<_>, Spanned<_>)| match properties.get(key_text(&key)) {
        Some(schema) => {
            meant.push(key_text(&key).to_owned());
            value(key_text(&key), schema, &mut inner, problems).then_some((key, inner))
        }
        None => {
            let known = properties.keys().map(String::as_str);
            let near = if problems.are_many() { None } else { nearest_key(key_text(&key), known.clone()) };
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
            };
            meant.extend(near.map(str::to_owned));
            problems.push(unknown_key(key_text(&key), name, key.span(), help));
            None
        }
    };
    *table = all.filter_map(keep).collect();
    // A key that is there misspelt is one mistake and not two.
    for key in required(schema, &meant, table).into_iter().filter(|key| !meant.iter().any(|meant| meant == key)) {
        problems.push(missing_key(key, name, span.clone(), &properties[key]));
    }
}

/// The keys that must be there, some of them because of others.
fn required<'a>(schema: &'a Value, meant: &[String], table: &DeTable<'_>) -> Vec<&'a str> {
    let conditional = schema.get("allOf").and_then(Value::as_array).into_iter().flatten().chain([schema]);
    let chosen = conditional.filter_map(|schema| {
        let condition = schema.get("if")?;
        schema.get(if holds(condition, meant, table) { "then" } else { "else" })
    });
    [schema].into_iter().chain(chosen).flat_map(required_keys).collect()
}

/// Whether keys are there, and words are these.
fn holds(condition: &Value, meant: &[String], table: &DeTable<'_>) -> bool {
    let words = condition.get("properties").and_then(Value::as_object).into_iter().flatten();
    let is_word = |(key, schema): (&String, &Value)| match table.get(key.as_str()).map(|value| value.get_ref()) {
        Some(DeValue::String(text)) => schema["const"] == **text,
        _ => false,
    };
    required_keys(condition).all(|key| meant.iter().any(|meant| meant == key)) && words.into_iter().all(is_word)
}

fn required_keys(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn missing_key(key: &str, name: &str, span: Option<Span>, schema: &Value) -> Problem {
    let tables = type_of(&schema["items"]) == "object";
    let form = if tables { format!("a [[{key}]]") } else { format!("`{key} = …`") };
    let help = format!("add {form}; `dislocate config default` prints every key");
    Problem::new(Code::MissingKey, span, format!("`{key}` is missing {}", place(name))).help(help)
}

fn key_text<'a>(key: &'a Spanned<DeString<'_>>) -> &'a str {
    key.get_ref()
}

fn unknown_key(key: &str, name: &str, span: Span, help: String) -> Problem {
    match NOT_BUILT_KEYS.iter().find(|(later, _)| *later == key) {
        Some((_, instead)) => Problem::new(Code::NotBuilt, span, format!("`{key}` is not built yet")).help(*instead),
        None => Problem::new(Code::UnknownKey, span, format!("unknown key {} {}", quoted(key), place(name))).help(help),
    }
}

/// The known key that was probably meant: what others call ours, or the nearest by its letters.
fn nearest_key<'a>(key: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let alias = FOREIGN_WORDS.iter().find(|(word, _)| *word == key);
    alias.and_then(|(_, ours)| known.clone().find(|known| known == ours)).or_else(|| nearest(key, known))
}

fn word(name: &str, schema: &Value, text: &str) -> Result<(), Problem> {
    let Some(words) = schema.get("enum").and_then(Value::as_array) else { return Ok(()) };
    let words = words.iter().filter_map(Value::as_str);
    if words.clone().any(|word| word == text) {
        return Ok(());
    }
    let is_later = |&(key, later, beside): &(&str, &str, &str)| {
        (key, later) == (name, text) && words.clone().any(|word| word == beside)
    };
    if NOT_BUILT_WORDS.iter().any(is_later) {
        let message = format!("`{name} = \"{text}\"` is not built yet");
        return Err(Problem::new(Code::NotBuilt, None, message).help(one_of(words)));
    }
    let help = match nearest(text, words.clone()) {
        Some(meant) => format!("did you mean \"{meant}\"? {}", one_of(words)),
        None => one_of(words),
    };
    Err(Problem::new(Code::UnknownValue, None, format!("`{name}` cannot be {}", quoted(text))).help(help))
}

fn within(name: &str, schema: &Value, [min, max]: [&str; 2], number: i128, unit: &str) -> Result<(), Problem> {
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64).map(i128::from);
    let (min, max) = (bound(min).unwrap_or(0), bound(max).unwrap_or(i128::MAX));
    if (min..=max).contains(&number) {
        return Ok(());
    }
    let message = format!("`{name}` has {number}{unit}");
    let message = if unit.is_empty() { format!("`{name}` cannot be {number}") } else { message };
    Err(Problem::new(Code::OutOfRange, None, message).help(format!("it takes {min} to {max}{unit}")))
}

fn wrong_type(name: &str, schema: &Value, kind: &str, span: Span) -> Problem {
    let wanted = match branches(schema) {
        Some(branches) => branches.iter().map(type_of).collect::<Vec<_>>(),
        None => vec![type_of(schema)],
    };
    let wanted: Vec<_> = wanted.into_iter().map(spoken).collect();
    let message = format!("`{name}` is {}, and must be {}", spoken(kind), wanted.join(" or "));
    let problem = Problem::new(Code::WrongType, span, message);
    match (type_of(schema), kind) {
        ("array", "object") => problem.help(format!("write the table's head with two brackets: [[{name}]]")),
        ("object", "array") => problem.help(format!("write the table's head with one bracket: [{name}]")),
        _ => problem,
    }
}

/// The part of the schema that speaks of values of this kind.
fn branch<'a>(schema: &'a Value, kind: &str) -> Option<&'a Value> {
    match branches(schema) {
        Some(branches) => branches.iter().find(|branch| type_of(branch) == kind),
        None => (type_of(schema) == kind).then_some(schema),
    }
}

fn branches(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").and_then(Value::as_array)
}

fn type_of(schema: &Value) -> &str {
    schema.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(_) => "number",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "date",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "object",
    }
}

/// The name of a type as TOML has it.
fn spoken(kind: &str) -> &str {
    match kind {
        "string" => "a text in quotes",
        "integer" => "a whole number",
        "number" => "a fraction",
        "boolean" => "true or false",
        "date" => "a date",
        "array" => "a list",
        _ => "a table",
    }
}

fn one_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    format!("it takes one of: {}", words.collect::<Vec<_>>().join(", "))
}

fn place(name: &str) -> String {
    match name {
        "" => "at the top of the file".into(),
        "listener" | "service" => format!("in [[{name}]]"),
        "source" => "in [[service.source]]".into(),
        "node" | "admin" => format!("in [{name}]"),
        _ => format!("in `{name}`"),
    }
}

/// Keys that are agreed on and come later, and what to do until then.
const NOT_BUILT_KEYS: [(&str, &str); 1] =
    [("tokens_file", "leave it out, and let the admin API listen on loopback or on a unix path")];

/// Words that are agreed on and come later, each with its key and a word that the key takes already.
const NOT_BUILT_WORDS: [(&str, &str, &str); 2] = [("send_proxy", "v1", "v2"), ("kind", "mesh", "consul")];

/// What other load balancers call our keys.
const FOREIGN_WORDS: [(&str, &str); 10] = [
    ("bind", "listen"),
    ("port", "listen"),
    ("upstream", "service"),
    ("pool", "service"),
    ("cluster", "service"),
    ("frontend", "listener"),
    ("servers", "backends"),
    ("algorithm", "balance"),
    ("lb_policy", "balance"),
    ("maxconn", "max_connections"),
];
