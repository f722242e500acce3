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
pub fn reach(arch: &Architecture, recipe: &Recipe, kind: Kind, part: Part) -> Reach {
    match (kind, part) {
        (Kind::Decode, Part::Attention(Matrix::Q | Matrix::O)) if recipe.query_heads.is_some() => Reach::Chosen,
        (_, Part::Attention(_)) => Reach::Swept,
        (Kind::Prompt, part) if part == Part::Ffn(recipe.prompt) => Reach::Swept,
        (Kind::Decode, Part::Ffn(level)) if recipe.ffn == Ffn::Dense(level) => Reach::Swept,
        (Kind::Decode, Part::Scan(level)) => scanned(arch, &recipe.ffn, level),
        (Kind::Decode, Part::Rest) => Reach::Chosen,
        (Kind::Prompt | Kind::Decode, _) => Reach::Unused,
    }
}

fn scanned(arch: &Architecture, ffn: &Ffn, level: Level) -> Reach {
    let all = match ffn {
        Ffn::Dense(_) => return Reach::Unused,
        // What the first levels prove is not looked at any closer.
        Ffn::Certified(fine) => proofs(arch, *fine).next() == Some(level),
        // The scan of a cascade goes to the neurons that its predictor let through.
        Ffn::Sparse(sparse) => sparse.selector.candidates(0).is_none(),
    };
    if all { Reach::Swept } else { Reach::Chosen }
}

fn at(matrices: &[Matrix], level: Level) -> Vec<(Matrix, Level)> {
    matrices.iter().map(|matrix| (*matrix, level)).collect()
}

/// The widest model of which 4 bits prove enough to be looked at before 8. Their interval is some 0.12 sqrt(d) standard
/// deviations of a dot to either side, so of neurons that are on in one case of ten a quarter is proven off at d = 256, a
/// twelfth at 512 and one of two hundred at 1024, for a pass over all of their gates. Bytes say the same: 8 bits need what 4
/// have read.
const NARROW: usize = 512;

/// The levels whose planes prove neurons off at a level, the coarsest first.
pub fn proofs(arch: &Architecture, level: Level) -> impl Iterator<Item = Level> + use<> {
    let least = if arch.hidden > NARROW && level == Level::L16 { Level::L8 } else { Level::L4 };
    LEVELS.into_iter().rev().filter(move |of| (least..level).contains(of))
}

/// What is activated, at every level that proves something; then all.
fn certified(arch: &Architecture, level: Level) -> Vec<(Part, Vec<(Matrix, Level)>)> {
    let scans = proofs(arch, level).map(|of| (Part::Scan(of), at(&arch.ahead_matrices()[..1], of)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::schedule::tests::{architecture, dense};

    #[test]
    fn wide_models_are_proven_off_from_8_bits_on_where_there_are_any_below() {
        let of = |hidden, level| {
            let arch = architecture(1, hidden, 300, 300, false);
            proofs(&arch, level).map(Level::bits).collect::<Vec<_>>()
        };
        assert_eq!([of(NARROW, Level::L16), of(NARROW + 1, Level::L16)], [vec![4, 8], vec![8]]);
        assert_eq!([of(NARROW, Level::L8), of(NARROW + 1, Level::L8)], [vec![4], vec![4]]);
    }

    #[test]
    fn the_first_proof_is_read_ahead_of_every_decoded_token() {
        for (hidden, level) in [(64, Level::L4), (1024, Level::L8)] {
            let (arch, recipe) =
                (architecture(1, hidden, 300, 300, false), Recipe { ffn: Ffn::Certified(Level::L16), ..dense(16) });
            let parts = of_layer(&arch, &recipe, 0).into_iter().map(|(part, _)| part);
            let swept = parts.filter(|part| {
                matches!(part, Part::Scan(_)) && reach(&arch, &recipe, Kind::Decode, *part) == Reach::Swept
            });
            assert_eq!(swept.collect::<Vec<_>>(), [Part::Scan(level)]);
        }
    }
}
