//! Configuration, validated once into plain structs: what the model is and how its weights are coded.

mod recipe;

pub use recipe::{Above, Cut, Ffn, Recipe, Selector, Sparse, TopHeads, Trace};

use crate::types::{BLOCK, Matrix, Plane};
use serde::{Deserialize, Serialize};

/// Sizes beyond which a number in a manifest is an attack, not a model. With them no product in the layout overflows.
const MAX_DIM: usize = 1 << 24;
/// The longest record: what 64 of them take stays below 128 MiB.
const MAX_HIDDEN: usize = 1 << 20;
/// File names have five digits for the layer; a manifest of 4 MiB has room for this many entries.
const MAX_LAYERS: usize = 1 << 14;

/// The architecture spec: data read by every backend, written into the manifest by the converter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Family whose tensor names and rules were used, e.g. `llama`.
    pub family: String,
    /// Decoder layers.
    pub layers: usize,
    /// Model dimension: the length of every record.
    pub hidden: usize,
    /// Neurons of a layer's FFN.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a query head reads head `h * kv_heads / heads`.
    pub kv_heads: usize,
    /// Dimension of a head.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Positions the model was made for.
    pub context: usize,
    /// RMS norm's epsilon.
    pub norm_eps: f32,
    /// FFN activation, in the canonical names of [`Activation`].
    pub activation: Activation,
    /// Whether the FFN has a gate.
    pub gated: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Matrices with a bias.
    pub biases: Vec<Matrix>,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// Order of rotary pairs in a head; only `half` is computed, importers permute to it.
    pub rope_layout: String,
    /// Rope parameters, read by the Python side.
    pub rope: serde_json::Value,
    /// Named but not built: refused unless null.
    #[serde(default)]
    pub moe: Option<serde_json::Value>,
    /// Named but not built: refused unless null.
    #[serde(default)]
    pub sliding_window: Option<usize>,
    /// Named but not built: refused unless false.
    #[serde(default)]
    pub qk_norm: bool,
    /// Named but not built: refused unless null.
    #[serde(default)]
    pub soft_cap: Option<f32>,
    /// Named but not built: refused unless 1.
    #[serde(default = "whole")]
    pub partial_rope: f32,
    /// Named but not built: refused unless false.
    #[serde(default)]
    pub parallel_blocks: bool,
    /// Named but not built: refused unless false.
    #[serde(default)]
    pub alibi: bool,
}

fn whole() -> f32 {
    1.0
}

/// FFN activations, by the function they compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// max(x, 0).
    Relu,
    /// max(x, 0) squared.
    Relu2,
    /// min(max(x, 0), 6).
    Relu6,
    /// x * Phi(x), by erf.
    Gelu,
    /// The tanh approximation of gelu.
    GeluTanh,
    /// x * sigmoid(1.702 x).
    QuickGelu,
}

impl Activation {
    /// Whether it is 0 wherever its argument is not above 0.
    pub fn rests_at_zero(self) -> bool {
        matches!(self, Activation::Relu | Activation::Relu2 | Activation::Relu6)
    }

    /// Its canonical name, as manifests spell it.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Relu => "relu",
            Activation::Relu2 => "relu2",
            Activation::Relu6 => "relu6",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::QuickGelu => "quick_gelu",
        }
    }

    /// All of them.
    pub const ALL: [Activation; 7] = [
        Activation::Silu,
        Activation::Relu,
        Activation::Relu2,
        Activation::Relu6,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
    ];
}

impl Architecture {
    /// Checks every rule that the arithmetic relies on; the message names the field.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_sizes()?;
        self.validate_heads()
    }

    fn validate_sizes(&self) -> Result<(), String> {
        let sizes = [
            ("layers", self.layers, MAX_LAYERS),
            ("hidden", self.hidden, MAX_HIDDEN),
            ("ffn", self.ffn, MAX_DIM),
            ("heads", self.heads, MAX_DIM),
            ("kv_heads", self.kv_heads, MAX_DIM),
            ("head_dim", self.head_dim, MAX_DIM),
            ("vocab", self.vocab, MAX_DIM),
            ("context", self.context, MAX_DIM),
        ];
        match sizes.iter().find(|(_, n, max)| *n == 0 || n > max) {
            Some((name, n, max)) => Err(format!("architecture.{name} is {n}; it must lie in 1..={max}")),
            None => Ok(()),
        }
    }

    fn validate_heads(&self) -> Result<(), String> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!("architecture.heads {} is no multiple of kv_heads {}", self.heads, self.kv_heads));
        }
        if self.heads * self.head_dim > MAX_DIM {
            return Err(format!(
                "architecture.heads {} times head_dim {} is above {MAX_DIM}",
                self.heads, self.head_dim
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("architecture.head_dim {} is odd; rotary embedding needs pairs", self.head_dim));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0 && self.attention_scale.is_finite()) {
            return Err("architecture.norm_eps and attention_scale must be finite".into());
        }
        if !(self.rope["type"].is_string() && self.rope["theta"].is_number()) {
            return Err("architecture.rope is no object with a type and a number theta".into());
        }
        self.validate_biases()
    }

    fn validate_biases(&self) -> Result<(), String> {
        let known = self.layer_matrices();
        if let Some(m) = self.biases.iter().find(|m| !known.contains(m)) {
            return Err(format!("architecture.biases names {}, which no layer of this model has", m.name()));
        }
        match self.biases.is_sorted_by(|a, b| a < b) {
            true => Ok(()),
            false => Err("architecture.biases is not in file order (q, k, v, o, gate, up, down), each once".into()),
        }
    }

    /// Refuses by name what is named but not built.
    pub fn refuse_unbuilt(&self) -> Result<(), String> {
        let unbuilt = [
            ("moe", self.moe.is_some()),
            ("sliding_window", self.sliding_window.is_some()),
            ("qk_norm", self.qk_norm),
            ("soft_cap", self.soft_cap.is_some()),
            ("partial_rope", self.partial_rope != 1.0),
            ("parallel_blocks", self.parallel_blocks),
            ("alibi", self.alibi),
            ("rope_layout", self.rope_layout != "half"),
        ];
        match unbuilt.iter().find(|(_, set)| *set) {
            Some((name, _)) => Err(format!("architecture.{name} asks for something this version does not compute")),
            None => Ok(()),
        }
    }

    /// The matrices every layer has, in file order.
    pub fn layer_matrices(&self) -> Vec<Matrix> {
        let mut all = vec![Matrix::Q, Matrix::K, Matrix::V, Matrix::O];
        all.extend(self.ffn_matrices());
        all
    }

    /// The matrices of a neuron.
    pub fn ffn_matrices(&self) -> &'static [Matrix] {
        if self.gated { &[Matrix::Gate, Matrix::Up, Matrix::Down] } else { &[Matrix::Up, Matrix::Down] }
    }

    /// Those of them that are multiplied with the input: all but down.
    pub fn ahead_matrices(&self) -> &'static [Matrix] {
        let all = self.ffn_matrices();
        &all[..all.len() - 1]
    }

    /// Records of a matrix (each `hidden` long).
    pub fn records(&self, matrix: Matrix) -> usize {
        match matrix {
            Matrix::Q | Matrix::O => self.heads * self.head_dim,
            Matrix::K | Matrix::V => self.kv_heads * self.head_dim,
            Matrix::Gate | Matrix::Up | Matrix::Down => self.ffn,
            Matrix::Embed | Matrix::Head => self.vocab,
        }
    }

    /// The matrix that the head reads.
    pub fn head_matrix(&self) -> Matrix {
        if self.tied { Matrix::Embed } else { Matrix::Head }
    }
}

/// How a group of weights is coded (docs/design.md, 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One f16 per group: `lo = -absmax`, range `2 * absmax`.
    Symmetric,
    /// Two f16 per group: `lo` (rounded down) and range (rounded up).
    Affine,
}

impl Form {
    /// Bytes of scales per group.
    pub const fn scale_bytes(self) -> usize {
        match self {
            Form::Symmetric => 2,
            Form::Affine => 4,
        }
    }
}

/// How the weights of a matrix are coded: enough to decode a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coding {
    /// Form of a group.
    pub form: Form,
    /// Weights per group: 64 or 32.
    pub group: usize,
    /// Twice the cell offset at 4, 8 and 16 bits: 1 decodes to the middle of a cell, 0 to its lower edge.
    pub cells: [u8; 3],
}

impl Coding {
    /// Checks the rules the decoders rely on.
    pub fn validate(&self) -> Result<(), String> {
        if self.group != 64 && self.group != 32 {
            return Err(format!("coding.group is {}; 64 and 32 are known", self.group));
        }
        match self.cells.iter().all(|c| *c <= 1) {
            true => Ok(()),
            false => Err(format!("coding.cells is {:?}; each is 0 or 1", self.cells)),
        }
    }

    /// Bytes of scales that follow one record's base codes.
    pub fn scale_bytes(&self, width: usize) -> usize {
        width.div_ceil(BLOCK) * (BLOCK / self.group) * self.form.scale_bytes()
    }

    /// Bytes of one record of `width` weights in one plane, scales included where they lie (base).
    pub fn plane_bytes(&self, plane: Plane, width: usize) -> usize {
        let codes = width.div_ceil(BLOCK) * plane.block_bytes();
        if plane == Plane::Base { codes + self.scale_bytes(width) } else { codes }
    }
}

/// One matrix in one plane: what a section is a list of.
pub type Slice = (Matrix, Plane);

/// How a store is cut: what `convert` chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoding {
    /// How weights are coded, everywhere in the store.
    pub coding: Coding,
    /// Stored planes: 1 base, 2 base and mid, 3 all.
    pub planes: usize,
    /// The FFN's sections: a partition of its matrices and planes.
    pub ffn_sections: Vec<Vec<Slice>>,
}

impl Encoding {
    /// Checks that the sections partition the FFN's matrices and stored planes, and the coding's rules.
    pub fn validate(&self, arch: &Architecture) -> Result<(), String> {
        self.coding.validate()?;
        if !(1..=3).contains(&self.planes) {
            return Err(format!("encoding.planes is {}; 1, 2 or 3 planes can be stored", self.planes));
        }
        let mut want: Vec<Slice> =
            arch.ffn_matrices().iter().flat_map(|m| self.stored().iter().map(|p| (*m, *p))).collect();
        let mut have: Vec<Slice> = self.ffn_sections.concat();
        want.sort();
        have.sort();
        match want == have && self.ffn_sections.iter().all(|s| !s.is_empty()) {
            true => Ok(()),
            false => Err("encoding.ffn_sections is no partition of the FFN's matrices and stored planes".into()),
        }
    }

    /// The stored planes, coarsest first.
    pub fn stored(&self) -> &'static [Plane] {
        &Plane::ALL[..self.planes]
    }
}
