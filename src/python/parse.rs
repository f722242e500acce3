//! Arguments as the core knows them. `Error::Usage` names what is wrong.

use crate::config::{Architecture, Recipe};
use crate::engine::{Arithmetic, Verify};
use crate::error::{Error, Result};
use crate::types::Level;
use serde::de::DeserializeOwned;

/// What JSON holds; `what` names it in the error.
pub fn of<T: DeserializeOwned>(what: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::usage(format!("this is no {what}: {e}")))
}

/// Recipes.
pub fn recipes(recipes: &[String]) -> Result<Vec<Recipe>> {
    recipes.iter().map(|recipe| Recipe::parse(recipe)).collect()
}

/// An architecture that makes sense.
pub fn architecture(json: &str) -> Result<Architecture> {
    let arch: Architecture = of("architecture", json)?;
    arch.validate().map_err(Error::usage)?;
    Ok(arch)
}

/// A level.
pub fn level(bits: u32) -> Result<Level> {
    Level::try_from(bits).map_err(Error::usage)
}

/// What levels 4 and 8 are computed in.
pub fn act(act: &str) -> Result<Arithmetic> {
    match act {
        "auto" => Ok(Arithmetic::Integer),
        "f32" => Ok(Arithmetic::Float),
        _ => Err(Error::usage(format!("act {act:?}; auto and f32 are known"))),
    }
}

/// When records are checked.
pub fn verify(verify: &str) -> Result<Verify> {
    match verify {
        "first" => Ok(Verify::First),
        "always" => Ok(Verify::Always),
        "never" => Ok(Verify::Never),
        _ => Err(Error::usage(format!("verify {verify:?}; first, always and never are known"))),
    }
}
