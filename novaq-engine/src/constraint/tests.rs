use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tokenizer::Tokenizer;

/// A tokenizer of the fixtures.
fn tokenizer(name: &str) -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/fixtures/tokenizers/{name}.tokenizer.json"));
    Tokenizer::from_json(&fs::read(path).unwrap()).unwrap()
}

/// Tokenizers of all kinds that models have which go on with texts.
fn names() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers");
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| {
            Some(entry.unwrap().file_name().to_str()?.strip_suffix(".tokenizer.json")?.to_owned())
        })
        .filter(|name| !name.contains("bert") && !name.contains("wordpiece"))
        .collect();
    names.sort();
    names
}

fn schema() -> impl Strategy<Value = Value> {
    let bounds = || (0..4u64, 0..6u64);
    let leaf = prop_oneof![
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
        Just(json!({"type": "integer"})),
        Just(json!({"type": "number"})),
        (-20..20i64, 0..30i64)
            .prop_map(|(min, range)| json!({"type": "integer", "minimum": min, "maximum": min + range})),
        bounds().prop_map(|(min, more)| json!({"type": "string", "minLength": min, "maxLength": min + more})),
        prop::collection::vec("[a-z\"\\\\é ]{0,6}", 1..5).prop_map(|values| json!({"enum": values})),
        Just(json!({"const": 42})),
    ];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        prop_oneof![
            (inner.clone(), bounds())
                .prop_map(|(items, (min, more))| json!({"type": "array", "items": items, "minItems": min, "maxItems": min + more})),
            prop::collection::btree_map("[a-z\"]{1,5}", inner.clone(), 0..4).prop_map(|properties| {
                let required: Vec<&String> = properties.keys().rev().collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }),
            prop::collection::vec(inner, 1..3).prop_map(|schemas| json!({"anyOf": schemas})),
        ]
    })
}

/// Whether `value` is what `schema` describes.
fn conforms(schema: &Value, value: &Value) -> bool {
    let number =
        |keyword: &str, otherwise: i64| schema.get(keyword).map_or(otherwise, |it| it.as_i64().unwrap());
    let within = |count: usize, min: &str, max: &str| {
        (number(min, 0)..=number(max, i64::MAX)).contains(&(count as i64))
    };
    if let Some(constant) = schema.get("const") {
        return constant == value;
    }
    if let Some(values) = schema.get("enum") {
        return values.as_array().unwrap().contains(value);
    }
    if let Some(schemas) = schema.get("anyOf") {
        return schemas.as_array().unwrap().iter().any(|schema| conforms(schema, value));
    }
    match schema["type"].as_str().unwrap() {
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value
            .as_i64()
            .is_some_and(|it| (number("minimum", i64::MIN)..=number("maximum", i64::MAX)).contains(&it)),
        "string" => value.as_str().is_some_and(|text| within(text.chars().count(), "minLength", "maxLength")),
        "array" => value.as_array().is_some_and(|items| {
            within(items.len(), "minItems", "maxItems")
                && items.iter().all(|item| conforms(&schema["items"], item))
        }),
        "object" => value.as_object().is_some_and(|fields| {
            let properties = schema["properties"].as_object().unwrap();
            fields.len() == properties.len()
                && fields
                    .iter()
                    .all(|(name, field)| properties.get(name).is_some_and(|schema| conforms(schema, field)))
        }),
        other => panic!("{other}"),
    }
}

fn constraint(schema: &Value, tokens: &Arc<TokenBytes>) -> Arc<Constraint> {
    Arc::new(Constraint::new(&schema.to_string(), Arc::clone(tokens), vec![END]).unwrap())
}

/// A token behind every vocabulary.
const END: u32 = 1_000_000;

#[test]
fn whatever_is_drawn_is_json_of_the_schema() {
    let tokenizers: Vec<(Tokenizer, Arc<TokenBytes>)> = names()
        .iter()
        .map(|name| {
            let tokenizer = tokenizer(name);
            let tokens = Arc::new(TokenBytes::of(&tokenizer));
            (tokenizer, tokens)
        })
        .collect();
    assert!(tokenizers.len() >= 3, "byte-level BPE and SentencePiece");
    let inputs = (0..tokenizers.len(), schema(), prop::collection::vec(any::<prop::sample::Index>(), 400));
    proptest!(ProptestConfig::with_cases(300), |((which, schema, draws) in inputs)| {
        let (tokenizer, tokens) = &tokenizers[which];
        let mut following = Following::new(constraint(&schema, tokens));
        let mut drawn = Vec::new();
        let mut ended = following.is_complete();
        for draw in draws {
            if ended {
                break;
            }
            let allowed = following.allowed().to_vec();
            if allowed.is_empty() {
                // Small vocabularies have no token for some bytes.
                let state = following.state.unwrap();
                let lacks = |byte: u8| {
                    following.constraint.automaton.step(state, byte).is_some() && !tokens.has_byte(byte)
                };
                prop_assert!((0..=u8::MAX).any(lacks), "{schema} leaves nothing behind {:?}", tokenizer.decode(&drawn, true));
                break;
            }
            let token = *draw.get(&allowed);
            ended = token == END;
            if !ended {
                following.push(token);
                drawn.push(token);
                ended = following.is_complete();
            }
        }
        let text = tokenizer.decode(&drawn, true).unwrap();
        if ended {
            let value: Value = serde_json::from_str(&text).map_err(|error| TestCaseError::fail(format!("{text:?}: {error}")))?;
            prop_assert!(conforms(&schema, &value), "{text} is not of {schema}");
        }
    });
}

#[test]
fn tokens_are_those_that_can_be_followed_one_by_one() {
    let names = names();
    let tokenizer = tokenizer(&names[0]);
    let tokens = Arc::new(TokenBytes::of(&tokenizer));
    proptest!(ProptestConfig::with_cases(30), |(schema in schema(), draws in prop::collection::vec(any::<prop::sample::Index>(), 12))| {
        let mut following = Following::new(constraint(&schema, &tokens));
        for draw in draws {
            let allowed = following.allowed().to_vec();
            let followed: Vec<u32> = (0..tokenizer.vocab_size() as u32)
                .filter(|&token| {
                    let mut next = following.clone();
                    next.push(token);
                    next.state.is_some()
                })
                .collect();
            prop_assert_eq!(allowed.iter().copied().filter(|&token| token != END).collect::<Vec<_>>(), followed);
            if allowed.is_empty() || following.is_complete() {
                break;
            }
            following.push(*draw.get(&allowed));
        }
    });
}

#[test]
fn json_of_the_schema_can_be_drawn() {
    let tokens = Arc::new(TokenBytes::of(&tokenizer(&names()[0])));
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"agent": {
            "type": "object",
            "properties": {"role": {"enum": ["writer", "reviewer"]}, "count": {"type": "integer", "minimum": 1, "maximum": 20}},
            "required": ["role", "count"]
        }},
        "title": "Plan",
        "type": "object",
        "properties": {"agents": {"type": "array", "items": {"$ref": "#/$defs/agent"}, "minItems": 1}, "why": {"type": "string"}},
        "required": ["agents", "why"]
    });
    let constraint = constraint(&schema, &tokens);
    let leads = |text: &str| {
        let end = text
            .bytes()
            .try_fold(constraint.automaton.start, |state, byte| constraint.automaton.step(state, byte));
        end.is_some_and(|state| constraint.automaton.is_match(state))
    };
    assert!(leads(
        r#"{"agents": [{"role": "writer", "count": 20}, {"role": "reviewer", "count": 1}], "why": "é\u00e9\n"}"#
    ));
    assert!(leads(r#"{"agents":[{"role":"writer","count":2}],"why":""}"#));
    for text in [
        r#"{"agents": [], "why": ""}"#,
        r#"{"agents": [{"role": "writer", "count": 0}], "why": ""}"#,
        r#"{"agents": [{"role": "writer", "count": 21}], "why": ""}"#,
        r#"{"agents": [{"count": 2, "role": "writer"}], "why": ""}"#,
        r#"{"why": "", "agents": [{"role": "writer", "count": 2}]}"#,
        r#"{"agents": [{"role": "writer", "count": 2}], "why": "\ud800"}"#,
        r#"{"agents": [{"role": "writer", "count": 2}], "why": ""} "#,
    ] {
        assert!(!leads(text), "{text}");
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let tokens = Arc::new(TokenBytes::of(&tokenizer(&names()[0])));
    let cases = [
        ("{", "`json_schema`: is no JSON"),
        ("true", "`json_schema`: is not a schema"),
        ("{}", "`json_schema` at `/type`: is not one of"),
        (r#"{"type": "string", "pattern": "a+"}"#, "`json_schema` at `/pattern`: is not supported"),
        (
            r#"{"type": "string", "maxLength": 1e9}"#,
            "`json_schema` at `/maxLength`: is not a whole number from 0 to 4096",
        ),
        (
            r#"{"type": "string", "minLength": 3, "maxLength": 2}"#,
            "`json_schema` at `/maxLength`: is below `minLength`",
        ),
        (
            r#"{"type": "integer", "minimum": 0, "maximum": 1000000}"#,
            "`json_schema` at `/maximum`: and `minimum` leave",
        ),
        (r#"{"type": "array"}"#, "`json_schema` at `/items`: is missing"),
        (r#"{"type": "array", "items": {"type": "tuple"}}"#, "`json_schema` at `/items/type`: is not one of"),
        (
            r#"{"type": "object", "properties": {"a": {"type": "null"}}}"#,
            "`json_schema` at `/required`: is without the property `a`",
        ),
        (r#"{"type": "object", "required": ["a"]}"#, "`json_schema` at `/required`: `a` is no property"),
        (
            r#"{"type": "object", "additionalProperties": true}"#,
            "`json_schema` at `/additionalProperties`: can only be false",
        ),
        (r##"{"$ref": "#/$defs/a"}"##, "`json_schema` at `/$ref`: \"#/$defs/a\" is not in this schema"),
        (r##"{"$ref": "#"}"##, "`json_schema`: is more than 16 schemas deep, or refers to itself"),
        (r#"{"enum": []}"#, "`json_schema` at `/enum`: is not a list of at least one"),
        (r#"{"const": [1]}"#, "`json_schema` at `/const`: is no text"),
        (
            r#"{"type": "array", "items": {"type": "string", "maxLength": 4096}, "maxItems": 4096}"#,
            "`json_schema`: its automaton",
        ),
    ];
    for (schema, expected) in cases {
        let error = Constraint::new(schema, Arc::clone(&tokens), vec![]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{schema}: {error}");
    }
    let long = format!(r#"{{"const": "{}"}}"#, "a".repeat(MAX_SCHEMA_BYTES));
    assert!(check(&long).unwrap_err().to_string().contains("bytes, at most 16384 are allowed"));
}
