//! What a recipe has of every layer: its walks, and how tokens come to the records of each.

use super::walk::Part;
use crate::config::{Architecture, Ffn, Recipe, Sparse};
use crate::types::{Kind, LEVELS, Level, Matrix};

/// How tokens of a kind come to the records of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every token takes all of them: they are read ahead.
    Swept,
    /// Which of them is known only while a token is computed.
    Chosen,
    /// They take none.
    Unused,
}

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

/// How tokens of a kind come to the records of a part.
pub fn reach(recipe: &Recipe, kind: Kind, part: Part) -> Reach {
    match (kind, part) {
        (Kind::Decode, Part::Attention(Matrix::Q | Matrix::O)) if recipe.query_heads.is_some() => Reach::Chosen,
        (_, Part::Attention(_)) => Reach::Swept,
        (Kind::Prompt, part) if part == Part::Ffn(recipe.prompt) => Reach::Swept,
        (Kind::Decode, Part::Ffn(level)) if recipe.ffn == Ffn::Dense(level) => Reach::Swept,
        (Kind::Decode, Part::Scan(level)) => scanned(&recipe.ffn, level),
        (Kind::Decode, Part::Rest) => Reach::Chosen,
        (Kind::Prompt | Kind::Decode, _) => Reach::Unused,
    }
}

fn scanned(ffn: &Ffn, level: Level) -> Reach {
    let all = match ffn {
        Ffn::Dense(_) => return Reach::Unused,
        // What 4 bits prove is not looked at any closer.
        Ffn::Certified(_) => level == Level::L4,
        // The scan of a cascade goes to the neurons that its predictor let through.
        Ffn::Sparse(sparse) => sparse.selector.candidates(0).is_none(),
    };
    if all { Reach::Swept } else { Reach::Chosen }
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
