//! One text for one JSON value, to be hashed: a digest must depend neither on white space nor on the order of names nor
//! on how a library happens to print floats.

use super::digest::digest;
use serde_json::Value;

/// xxh3-128 in hex of a value's canonical text.
pub fn digest_of(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    digest(text.as_bytes())
}

/// Compact JSON with names in the order of their bytes, in which a number that is no 64-bit integer is an `f` and the
/// 16 hex digits of the double's bits.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Number(n) => match n.as_f64() {
            Some(float) if n.is_f64() => out.push_str(&format!("f{:016x}", float.to_bits())),
            _ => out.push_str(&n.to_string()),
        },
        Value::Array(items) => joined('[', items, ']', out, write),
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(name, _)| *name);
            joined('{', &entries, '}', out, |(name, value), out| {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write(value, out);
            });
        }
        _ => out.push_str(&value.to_string()),
    }
}

fn joined<T>(open: char, items: &[T], close: char, out: &mut String, write: impl Fn(&T, &mut String)) {
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        let mut out = String::new();
        write(&serde_json::from_str(json).unwrap_or_default(), &mut out);
        out
    }

    #[test]
    fn the_text_of_a_value_is_one() {
        let text = text(r#" { "b": [1, -2, 1e-5, 2.0], "a": {"é\u0007\n": null, "": true} } "#);
        let want = r#"{"a":{"":true,"é\u0007\n":null},"b":[1,-2,f3ee4f8b588e368f1,f4000000000000000]}"#;
        assert_eq!(text, want);
    }
}
