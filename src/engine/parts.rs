//! What a recipe has of every layer: its walks, and which of them are taken in any case.

use super::walk::Part;
use crate::config::{Architecture, Ffn, Recipe, Sparse};
use crate::types::{Kind, LEVELS, Level, Matrix};

/// The parts of a layer in the order of their steps, and what each reads.
pub fn of_layer(arch: &Architecture, recipe: &Recipe, layer: usize) -> Vec<(Part, Vec<(Matrix, Level)>)> {
    let attention = [Matrix::Q, Matrix::K, Matrix::V, Matrix::O];
    let mut parts: Vec<_> = attention.map(|matrix| (Part::Attention(matrix), vec![(matrix, recipe.attn)])).into();
    let whole = |level| (Part::Ffn(level), at(arch.ffn_matrices(), level));
    parts.push(whole(recipe.prompt));
    match &recipe.ffn {
        Ffn::Dense(level) if *level == recipe.prompt => {}
        Ffn::Dense(level) => parts.push(whole(*level)),
        Ffn::Certified(level) => parts.extend(certified(arch, *level)),
        Ffn::Sparse(sparse) => parts.extend(ranked(arch, sparse, layer)),
    }
    parts
}

/// The parts that every token of a kind takes of a layer: what can be read ahead of it.
pub fn taken(recipe: &Recipe, kind: Kind) -> Vec<Part> {
    let attention = [Matrix::Q, Matrix::K, Matrix::V, Matrix::O].map(Part::Attention);
    let mut parts: Vec<_> =
        attention.into_iter().filter(|part| !(kind == Kind::Decode && is_chosen(recipe, *part))).collect();
    parts.extend(match (kind, &recipe.ffn) {
        (Kind::Prompt, _) => Some(Part::Ffn(recipe.prompt)),
        (Kind::Decode, Ffn::Dense(level)) => Some(Part::Ffn(*level)),
        (Kind::Decode, Ffn::Certified(_)) => Some(Part::Scan(Level::L4)),
        // The scan of a cascade goes to the chunks that its predictor chose.
        (Kind::Decode, Ffn::Sparse(sparse)) => {
            sparse.selector.scans().filter(|_| sparse.selector.candidates(0).is_none()).map(Part::Scan)
        }
    });
    parts
}

/// Whether decode tokens take some records of a part only, and prompt tokens all.
pub fn is_chosen(recipe: &Recipe, part: Part) -> bool {
    recipe.query_heads.is_some() && matches!(part, Part::Attention(Matrix::Q | Matrix::O))
}

fn at(matrices: &[Matrix], level: Level) -> Vec<(Matrix, Level)> {
    matrices.iter().map(|matrix| (*matrix, level)).collect()
}

/// What is activated, at every level below; then all.
fn certified(arch: &Architecture, level: Level) -> Vec<(Part, Vec<(Matrix, Level)>)> {
    let below = LEVELS.into_iter().rev().filter(|of| *of < level);
    let scans = below.map(|of| (Part::Scan(of), at(&arch.ahead_matrices()[..1], of)));
    scans.chain([(Part::Rest, at(arch.ffn_matrices(), level))]).collect()
}

/// What gives the scores; then what the bands of the layer need. Those at the level of the scan take over its values.
fn ranked(arch: &Architecture, sparse: &Sparse, layer: usize) -> Vec<(Part, Vec<(Matrix, Level)>)> {
    let scanned = sparse.selector.scans();
    let used: Vec<Level> = LEVELS.into_iter().filter(|of| sparse.cut(layer).is_some_and(|cut| cut.uses(*of))).collect();
    let again = used.iter().find(|of| Some(**of) != scanned);
    let mut rest = again.map_or(vec![], |level| at(arch.ahead_matrices(), *level));
    rest.extend(used.first().map(|level| (Matrix::Down, *level)));
    let scan = scanned.map(|level| (Part::Scan(level), at(arch.ahead_matrices(), level)));
    scan.into_iter().chain([(Part::Rest, rest)]).collect()
}
