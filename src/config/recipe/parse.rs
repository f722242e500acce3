//! Recipes out of JSON. By hand down to the parts that are small, so that an error names its field.

use super::{Cut, Ffn, Recipe, Selector, Sparse, TopHeads};
use crate::error::{Error, Result, one_line, quoted};
use crate::types::Level;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

impl Recipe {
    /// Reads a recipe: an object with `attn`, `head`, `embed`, `prompt` and `ffn`, and perhaps `query_heads`.
    ///
    /// # Errors
    /// `Error::Usage` naming the field. What a model does not allow is left to [`Recipe::validate`].
    pub fn parse(text: &str) -> Result<Recipe> {
        let value = serde_json::from_str(text).map_err(|e| wrong("recipe", &format!("no JSON: {e}")))?;
        let mut fields = Fields::of("recipe", value, &["attn", "head", "embed", "prompt", "ffn", "query_heads"])?;
        let heads = fields.map.remove("query_heads").filter(|heads| !heads.is_null());
        Ok(Recipe {
            attn: fields.take("attn")?,
            head: fields.take("head")?,
            embed: fields.take("embed")?,
            prompt: fields.take("prompt")?,
            ffn: ffn(fields.value("ffn")?)?,
            query_heads: heads.map(query_heads).transpose()?,
        })
    }
}

fn ffn(value: Value) -> Result<Ffn> {
    const KNOWN: [&str; 3] = ["dense", "certified", "sparse"];
    let given = Fields::of("recipe.ffn", value, &KNOWN)?;
    match given.only()? {
        ("dense", level) => Ok(Ffn::Dense(read::<Level>("recipe.ffn.dense", level)?)),
        ("certified", level) => Ok(Ffn::Certified(read::<Level>("recipe.ffn.certified", level)?)),
        (_, ranking) => Ok(Ffn::Sparse(sparse(ranking)?)),
    }
}

/// `{"top": 16}`, or a count for each layer.
fn query_heads(value: Value) -> Result<TopHeads> {
    let top = Fields::of("recipe.query_heads", value, &["top"])?.value("top")?;
    let each = if top.is_array() { top } else { Value::Array(vec![top]) };
    Ok(TopHeads { top: read("recipe.query_heads.top", each)? })
}

fn sparse(value: Value) -> Result<Sparse> {
    let mut fields = Fields::of("recipe.ffn.sparse", value, &["selector", "cuts"])?;
    let cuts: Vec<Value> = fields.take("cuts")?;
    let cut = |(i, cut)| read::<Cut>(&format!("recipe.ffn.sparse.cuts[{i}]"), cut);
    Ok(Sparse {
        selector: fields.take::<Selector>("selector")?,
        cuts: cuts.into_iter().enumerate().map(cut).collect::<Result<_>>()?,
    })
}

/// An object whose names are all known.
struct Fields {
    path: &'static str,
    known: &'static [&'static str],
    map: Map<String, Value>,
}

impl Fields {
    fn of(path: &'static str, value: Value, known: &'static [&'static str]) -> Result<Fields> {
        let Value::Object(map) = value else {
            return Err(wrong(path, &format!("no object; it has {}", known.join(", "))));
        };
        match map.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(wrong(path, &format!("{} is unknown; known are {}", quoted(name), known.join(", ")))),
            None => Ok(Fields { path, known, map }),
        }
    }

    fn value(&mut self, name: &'static str) -> Result<Value> {
        self.map.remove(name).ok_or_else(|| wrong(self.path, &format!("{name} is missing")))
    }

    fn take<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<T> {
        let value = self.value(name)?;
        read(&format!("{}.{name}", self.path), value)
    }

    /// The single field of an object that has one of the known.
    fn only(mut self) -> Result<(&'static str, Value)> {
        let given: Vec<_> = self.known.iter().filter(|name| self.map.contains_key(**name)).collect();
        match given[..] {
            [name] => Ok((name, self.value(name)?)),
            _ => Err(wrong(self.path, &format!("has {} fields; it has one of {}", given.len(), self.known.join(", ")))),
        }
    }
}

fn read<T: DeserializeOwned>(path: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| wrong(path, &e.to_string()))
}

fn wrong(path: &str, why: &str) -> Error {
    Error::usage(format!("{path}: {}", one_line(why)))
}
