//! The entries of a safetensors header, straight from its JSON text: no tree of values in between, which would take
//! twenty times the text, and no name that comes twice, of which every parser would take another one.

use crate::error::quoted;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Dimensions of a tensor; numpy and torch stop there as well.
const MAX_RANK: usize = 64;

/// What a header says, in the order of its text.
#[derive(Debug, Default)]
pub struct Entries {
    pub metadata: BTreeMap<String, String>,
    pub tensors: Vec<(String, RawTensor)>,
}

/// A tensor as it is declared, not yet checked.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTensor {
    pub dtype: String,
    pub shape: Shape,
    pub data_offsets: [u64; 2],
}

/// At most [`MAX_RANK`] sizes.
#[derive(Debug)]
pub struct Shape(pub Vec<u64>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut metadata: Option<Strings> = None;
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let inside = |e: A::Error| A::Error::custom(format!("in {}: {e}", quoted(&name)));
            if name != "__metadata__" {
                let tensor = map.next_value().map_err(inside)?;
                tensors.push((name, tensor));
            } else if metadata.replace(map.next_value().map_err(inside)?).is_some() {
                return Err(A::Error::custom("__metadata__ comes twice"));
            }
        }
        Ok(Entries { metadata: metadata.unwrap_or_default().0, tensors })
    }
}

/// A map of strings in which no name comes twice.
#[derive(Default)]
struct Strings(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(StringsVisitor)
    }
}

struct StringsVisitor;

impl<'de> Visitor<'de> for StringsVisitor {
    type Value = Strings;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
        let mut strings = Strings::default();
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            let shown = quoted(&name);
            if strings.0.insert(name, value).is_some() {
                return Err(A::Error::custom(format!("{shown} comes twice")));
            }
        }
        Ok(strings)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a shape of at most {MAX_RANK} sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Shape, A::Error> {
        let mut shape = Vec::new();
        while let Some(size) = sizes.next_element()? {
            if shape.len() == MAX_RANK {
                return Err(A::Error::invalid_length(MAX_RANK + 1, &self));
            }
            shape.push(size);
        }
        Ok(Shape(shape))
    }
}
