//! The small vectors of a model: always in memory, in f32.

use crate::error::{Error, Result};
use crate::store::Store;
use crate::types::Matrix;

/// Gains of all norms, and biases.
#[derive(Debug)]
pub struct Vectors {
    layers: Vec<LayerVectors>,
    norm_final: Vec<f32>,
}

/// Those of a layer.
#[derive(Debug)]
pub struct LayerVectors {
    /// In front of attention.
    pub norm_attn: Vec<f32>,
    /// In front of the FFN.
    pub norm_ffn: Vec<f32>,
    /// Of the matrices that have one.
    biases: Vec<(Matrix, Vec<f32>)>,
}

impl Vectors {
    /// Reads them, and checks their digests.
    ///
    /// # Errors
    /// The store's.
    pub fn load(store: &Store) -> Result<Vectors> {
        let layers = (0..store.manifest.architecture.layers).map(|layer| LayerVectors::load(store, layer));
        Ok(Vectors { layers: layers.collect::<Result<_>>()?, norm_final: store.vector(None, "norm.final")? })
    }

    /// Those of a layer.
    ///
    /// # Errors
    /// `Error::Usage` for a layer that the model does not have.
    pub fn layer(&self, layer: usize) -> Result<&LayerVectors> {
        let missing = || Error::usage(format!("layer {layer} of a model with {}", self.layers.len()));
        self.layers.get(layer).ok_or_else(missing)
    }

    /// The gain of the norm in front of the head.
    pub fn norm_final(&self) -> &[f32] {
        &self.norm_final
    }

    /// A norm's gain: `attn` or `ffn` of a layer, `final` (any layer).
    ///
    /// # Errors
    /// `Error::Usage` for names and layers that there are not.
    pub fn norm(&self, layer: usize, which: &str) -> Result<&[f32]> {
        match which {
            "attn" => Ok(&self.layer(layer)?.norm_attn),
            "ffn" => Ok(&self.layer(layer)?.norm_ffn),
            "final" => Ok(&self.norm_final),
            _ => Err(Error::usage(format!("there is no norm {which:?}; attn, ffn and final are known"))),
        }
    }
}

impl LayerVectors {
    fn load(store: &Store, layer: usize) -> Result<LayerVectors> {
        let vector = |name: &str| store.vector(Some(layer), name);
        let bias = |matrix: &Matrix| Ok((*matrix, vector(&format!("bias.{}", matrix.name()))?));
        Ok(LayerVectors {
            norm_attn: vector("norm.attn")?,
            norm_ffn: vector("norm.ffn")?,
            biases: store.manifest.architecture.biases.iter().map(bias).collect::<Result<_>>()?,
        })
    }

    /// A matrix's bias, if it has one.
    pub fn bias(&self, matrix: Matrix) -> Option<&[f32]> {
        self.biases.iter().find(|(of, _)| *of == matrix).map(|(_, bias)| bias.as_slice())
    }
}
