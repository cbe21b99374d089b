//! JSON schemas as regular expressions: the part of JSON Schema whose texts a finite automaton can follow.
//!
//! Keywords: <https://json-schema.org/draft/2020-12/json-schema-validation>. Annotations (`title`, `description`, …) say nothing about
//! the text and are passed over; any other keyword that is not known is an error, never ignored.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, Repetition};
use serde_json::{Map, Value};

use super::ConstraintError;

/// Longest schema in bytes.
pub const MAX_SCHEMA_BYTES: usize = 16 * 1024;

/// Schemas within schemas, references followed.
const MAX_DEPTH: usize = 16;

/// Most whole numbers that `minimum` and `maximum` leave, which are listed.
const MAX_RANGE: i64 = 1_000;

/// Most elements and characters that can be counted.
const MAX_COUNT: u64 = 4_096;

/// Digits of a number without bounds: what 64 bits hold.
const DIGITS: u32 = 18;

/// Keywords that say nothing about the text, or (`format`) need not.
const ANNOTATIONS: [&str; 11] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "format",
];

/// The texts that `schema` allows: JSON with at most one space behind each comma and colon.
///
/// # Errors
/// [`ConstraintError::Schema`], with the JSON pointer of what is not supported.
pub(super) fn expression(schema: &str) -> Result<Hir, ConstraintError> {
    if schema.len() > MAX_SCHEMA_BYTES {
        let reason = format!("has {} bytes, at most {MAX_SCHEMA_BYTES} are allowed", schema.len());
        return Err(ConstraintError::schema("", reason));
    }
    let root: Value = serde_json::from_str(schema)
        .map_err(|error| ConstraintError::schema("", format!("is no JSON: {error}")))?;
    Reader { root: &root }.read(&root, "", 0)
}

struct Reader<'a> {
    root: &'a Value,
}

/// A schema that is an object, and where it stands.
struct Place<'a> {
    keywords: &'a Map<String, Value>,
    pointer: &'a str,
}

impl Place<'_> {
    fn error(&self, keyword: &str, reason: impl Into<String>) -> ConstraintError {
        ConstraintError::schema(&format!("{}/{keyword}", self.pointer), reason.into())
    }

    /// Refuses keywords other than these and annotations.
    fn only(&self, known: &[&str]) -> Result<(), ConstraintError> {
        let is_unknown =
            |key: &&String| !known.contains(&key.as_str()) && !ANNOTATIONS.contains(&key.as_str());
        match self.keywords.keys().find(is_unknown) {
            Some(key) => Err(self.error(key, "is not supported here")),
            None => Ok(()),
        }
    }

    /// A number of elements or characters.
    fn count(&self, keyword: &str) -> Result<Option<u32>, ConstraintError> {
        let Some(value) = self.keywords.get(keyword) else { return Ok(None) };
        match value.as_u64().filter(|&count| count <= MAX_COUNT) {
            Some(count) => Ok(Some(count as u32)),
            None => Err(self.error(keyword, format!("is not a whole number from 0 to {MAX_COUNT}"))),
        }
    }

    /// Least and most of `what`.
    fn counts(&self, least: &str, most: &str) -> Result<(u32, Option<u32>), ConstraintError> {
        let (min, max) = (self.count(least)?.unwrap_or(0), self.count(most)?);
        if max.is_some_and(|max| max < min) {
            return Err(self.error(most, format!("is below `{least}`")));
        }
        Ok((min, max))
    }

    fn bound(&self, keyword: &str) -> Result<Option<i64>, ConstraintError> {
        let Some(value) = self.keywords.get(keyword) else { return Ok(None) };
        value.as_i64().map(Some).ok_or_else(|| self.error(keyword, "is not a whole number of 64 bits"))
    }
}

impl Reader<'_> {
    fn read(&self, schema: &Value, pointer: &str, depth: usize) -> Result<Hir, ConstraintError> {
        let Some(keywords) = schema.as_object() else {
            return Err(ConstraintError::schema(pointer, "is not a schema: an object is expected"));
        };
        if depth > MAX_DEPTH {
            let reason = format!("is more than {MAX_DEPTH} schemas deep, or refers to itself");
            return Err(ConstraintError::schema(pointer, reason));
        }
        let place = Place { keywords, pointer };
        if let Some(reference) = keywords.get("$ref") {
            place.only(&["$ref"])?;
            let target = reference.as_str().and_then(|text| text.strip_prefix('#'));
            let found = target.and_then(|target| Some((target, self.root.pointer(target)?)));
            let Some((target, schema)) = found else {
                return Err(place.error("$ref", format!("{reference} is not in this schema")));
            };
            return self.read(schema, target, depth + 1);
        }
        if let Some(value) = keywords.get("const") {
            place.only(&["const", "type"])?;
            return scalar(value).ok_or_else(|| place.error("const", "is no text, number, boolean or null"));
        }
        if let Some(values) = keywords.get("enum") {
            place.only(&["enum", "type"])?;
            let values = values.as_array().filter(|values| !values.is_empty());
            let values = values.and_then(|values| values.iter().map(scalar).collect::<Option<Vec<_>>>());
            let Some(values) = values else {
                let reason = "is not a list of at least one text, number, boolean or null";
                return Err(place.error("enum", reason));
            };
            return Ok(Hir::alternation(values));
        }
        if let Some(schemas) = keywords.get("anyOf") {
            place.only(&["anyOf"])?;
            let Some(schemas) = schemas.as_array().filter(|schemas| !schemas.is_empty()) else {
                return Err(place.error("anyOf", "is not a list of at least one schema"));
            };
            let read = |(at, schema)| self.read(schema, &format!("{pointer}/anyOf/{at}"), depth + 1);
            return Ok(Hir::alternation(schemas.iter().enumerate().map(read).collect::<Result<_, _>>()?));
        }
        match keywords.get("type").and_then(Value::as_str) {
            Some("object") => self.object(&place, depth),
            Some("array") => self.array(&place, depth),
            Some("string") => {
                place.only(&["type", "minLength", "maxLength"])?;
                let (min, max) = place.counts("minLength", "maxLength")?;
                Ok(Hir::concat(vec![literal("\""), repeated(character(), min, max), literal("\"")]))
            }
            Some("integer") => integer(&place),
            Some("number") => {
                place.only(&["type"])?;
                let fraction = Hir::concat(vec![literal("."), digits(1, DIGITS)]);
                let sign = optional(Hir::alternation(vec![literal("+"), literal("-")]));
                let e = Hir::alternation(vec![literal("e"), literal("E")]);
                let exponent = Hir::concat(vec![e, sign, digits(1, 2)]);
                Ok(Hir::concat(vec![
                    optional(literal("-")),
                    whole(false),
                    optional(fraction),
                    optional(exponent),
                ]))
            }
            Some("boolean") => {
                place.only(&["type"])?;
                Ok(Hir::alternation(vec![literal("true"), literal("false")]))
            }
            Some("null") => {
                place.only(&["type"])?;
                Ok(literal("null"))
            }
            _ => {
                let names = "object, array, string, integer, number, boolean or null";
                let reason = format!("is not one of {names}, and there is no enum, const, anyOf or $ref");
                Err(place.error("type", reason))
            }
        }
    }

    /// All properties, in the order in which `required` names them.
    fn object(&self, place: &Place, depth: usize) -> Result<Hir, ConstraintError> {
        place.only(&["type", "properties", "required", "additionalProperties"])?;
        if place.keywords.get("additionalProperties").is_some_and(|value| *value != Value::Bool(false)) {
            return Err(place.error("additionalProperties", "can only be false"));
        }
        let none = Map::new();
        let properties = match place.keywords.get("properties") {
            None => &none,
            Some(properties) => {
                properties.as_object().ok_or_else(|| place.error("properties", "is not an object"))?
            }
        };
        let required =
            place.keywords.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let names: Vec<&str> = required.iter().filter_map(Value::as_str).collect();
        if let Some(missing) = properties.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(
                place.error("required", format!("is without the property `{missing}`: all are required"))
            );
        }
        let mut parts = vec![literal("{")];
        for (at, name) in names.iter().enumerate() {
            let Some(property) = properties.get(*name).filter(|_| !names[..at].contains(name)) else {
                return Err(place.error("required", format!("`{name}` is no property, or is there twice")));
            };
            if at > 0 {
                parts.push(separator(","));
            }
            parts.push(quoted(name));
            parts.push(separator(":"));
            parts.push(self.read(property, &format!("{}/properties/{name}", place.pointer), depth + 1)?);
        }
        parts.push(literal("}"));
        Ok(Hir::concat(parts))
    }

    fn array(&self, place: &Place, depth: usize) -> Result<Hir, ConstraintError> {
        place.only(&["type", "items", "minItems", "maxItems"])?;
        let Some(items) = place.keywords.get("items") else {
            return Err(place.error("items", "is missing"));
        };
        let item = self.read(items, &format!("{}/items", place.pointer), depth + 1)?;
        let (min, max) = place.counts("minItems", "maxItems")?;
        let (open, close) = (literal("["), literal("]"));
        if max == Some(0) {
            return Ok(Hir::concat(vec![open, close]));
        }
        let more = Hir::concat(vec![separator(","), item.clone()]);
        let more = repeated(more, min.saturating_sub(1), max.map(|max| max - 1));
        let some = Hir::concat(vec![item, more]);
        Ok(Hir::concat(vec![open, if min == 0 { optional(some) } else { some }, close]))
    }
}

fn integer(place: &Place) -> Result<Hir, ConstraintError> {
    place.only(&["type", "minimum", "maximum"])?;
    match (place.bound("minimum")?, place.bound("maximum")?) {
        // Many readers of JSON take `-0` for a float.
        (None, None) => {
            let negative = Hir::concat(vec![literal("-"), whole(true)]);
            Ok(Hir::alternation(vec![negative, whole(false)]))
        }
        (Some(0), None) => Ok(whole(false)),
        (Some(1), None) => Ok(whole(true)),
        (Some(min), Some(max))
            if min <= max && max.checked_sub(min).is_some_and(|range| range < MAX_RANGE) =>
        {
            Ok(Hir::alternation((min..=max).map(|number| literal(&number.to_string())).collect()))
        }
        _ => {
            let reason = format!(
                "and `minimum` leave no numbers or more than {MAX_RANGE}; without `maximum`, `minimum` can be 0 or 1"
            );
            Err(place.error("maximum", reason))
        }
    }
}

fn literal(text: &str) -> Hir {
    Hir::literal(text.as_bytes())
}

/// A text, number, boolean or null as JSON writes it.
fn scalar(value: &Value) -> Option<Hir> {
    (!value.is_array() && !value.is_object()).then(|| literal(&value.to_string()))
}

fn quoted(text: &str) -> Hir {
    literal(&Value::from(text).to_string())
}

/// A mark and at most one space.
fn separator(mark: &str) -> Hir {
    Hir::concat(vec![literal(mark), optional(literal(" "))])
}

fn repeated(hir: Hir, min: u32, max: Option<u32>) -> Hir {
    Hir::repetition(Repetition { min, max, greedy: true, sub: Box::new(hir) })
}

fn optional(hir: Hir) -> Hir {
    repeated(hir, 0, Some(1))
}

fn range(ranges: &[(char, char)]) -> Hir {
    let ranges = ranges.iter().map(|&(first, last)| ClassUnicodeRange::new(first, last));
    Hir::class(Class::Unicode(ClassUnicode::new(ranges)))
}

fn digits(min: u32, max: u32) -> Hir {
    repeated(range(&[('0', '9')]), min, Some(max))
}

/// A whole number without a sign or leading zeros; with `positive`, not zero.
fn whole(positive: bool) -> Hir {
    let number = Hir::concat(vec![range(&[('1', '9')]), digits(0, DIGITS - 1)]);
    if positive { number } else { Hir::alternation(vec![literal("0"), number]) }
}

/// A character of a string, or what stands for one.
fn character() -> Hir {
    let plain = range(&[(' ', '!'), ('#', '['), (']', char::MAX)]);
    let short = range(&[
        ('"', '"'),
        ('/', '/'),
        ('\\', '\\'),
        ('b', 'b'),
        ('f', 'f'),
        ('n', 'n'),
        ('r', 'r'),
        ('t', 't'),
    ]);
    // Surrogates stand for characters in pairs only, and JSON has those characters themselves.
    let hex = || range(&[('0', '9'), ('A', 'F'), ('a', 'f')]);
    let high = Hir::alternation(vec![
        Hir::concat(vec![range(&[('0', '9'), ('A', 'C'), ('E', 'F'), ('a', 'c'), ('e', 'f')]), hex()]),
        Hir::concat(vec![range(&[('D', 'D'), ('d', 'd')]), range(&[('0', '7')])]),
    ]);
    let unicode = Hir::concat(vec![literal("u"), high, hex(), hex()]);
    let escaped = Hir::concat(vec![literal("\\"), Hir::alternation(vec![short, unicode])]);
    Hir::alternation(vec![plain, escaped])
}
