//! What is computed of a layer's neurons.

use crate::types::{CHUNK, DECODE_BATCH, LEVELS, Level, Plane};

/// Neurons of a chunk that some token uses at one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// The level.
    pub level: Level,
    /// Places in the chunk, rising.
    pub ids: Vec<u32>,
    /// For each of `ids` a bit for every token that uses it at this level; never 0.
    pub used: Vec<u32>,
}

/// The active set of up to [`DECODE_BATCH`] tokens: a neuron may be in several bands of its chunk, for different tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveSet {
    /// Tokens.
    pub columns: usize,
    /// Bands of every chunk, by [`LEVELS`].
    pub chunks: Vec<[Band; 3]>,
}

impl ActiveSet {
    /// No neuron of `neurons`.
    ///
    /// # Panics
    /// For more than [`DECODE_BATCH`] tokens.
    pub fn empty(columns: usize, neurons: usize) -> ActiveSet {
        let mut set = ActiveSet { columns: 0, chunks: vec![] };
        set.clear(columns, neurons);
        set
    }

    /// All of `neurons` for every token, at one level.
    ///
    /// # Panics
    /// As [`ActiveSet::empty`].
    pub fn all(columns: usize, neurons: usize, level: Level) -> ActiveSet {
        let mut set = ActiveSet::empty(columns, neurons);
        let used = u32::MAX.checked_shr((DECODE_BATCH - columns) as u32).unwrap_or(0);
        for chunk in 0..set.chunks.len() {
            set.put(chunk, level, &vec![used; CHUNK.min(neurons - chunk * CHUNK)]);
        }
        set
    }

    /// Becomes [`ActiveSet::empty`], in the memory it has.
    ///
    /// # Panics
    /// For more than [`DECODE_BATCH`] tokens.
    pub fn clear(&mut self, columns: usize, neurons: usize) {
        assert!(columns <= DECODE_BATCH, "an active set of {columns} tokens; {DECODE_BATCH} are the most");
        self.columns = columns;
        self.chunks.resize_with(neurons.div_ceil(CHUNK), || LEVELS.map(Band::empty));
        self.chunks.iter_mut().flatten().for_each(Band::clear);
    }

    /// Replaces a chunk's neurons at a level: `used` has a bit of every token for each, 0 where none uses it.
    ///
    /// # Panics
    /// If there is no such chunk, or `used` is of more neurons than a chunk has.
    fn put(&mut self, chunk: usize, level: Level, used: &[u32]) {
        let mut all = [0; CHUNK];
        all[..used.len()].copy_from_slice(used);
        self.chunks[chunk][LEVELS.len() - level.plane_count()].fill(&all);
    }

    /// Neurons of a chunk of which some token reads `plane`, those of the level `known` left out, which are not computed
    /// again: places, rising.
    ///
    /// # Panics
    /// If there is no such chunk.
    pub fn reading(&self, chunk: usize, plane: Plane, known: Option<Level>) -> Vec<u32> {
        let mut read = [false; CHUNK];
        let bands = self.chunks[chunk].iter().filter(|band| band.level.planes().contains(&plane));
        let bands = bands.filter(|band| Some(band.level) != known);
        bands.flat_map(|band| &band.ids).for_each(|id| read[*id as usize] = true);
        (0..CHUNK as u32).filter(|id| read[*id as usize]).collect()
    }

    /// Whether no token uses a neuron of a chunk.
    ///
    /// # Panics
    /// If there is no such chunk.
    pub fn is_idle(&self, chunk: usize) -> bool {
        self.chunks[chunk].iter().all(|band| band.ids.is_empty())
    }
}

impl Band {
    fn empty(level: Level) -> Band {
        Band { level, ids: vec![], used: vec![] }
    }

    fn clear(&mut self) {
        self.ids.clear();
        self.used.clear();
    }

    /// Leaves out the tokens whose bits `off` has for each of its neurons, and the neurons that nobody is left for.
    pub fn leave_out(&mut self, off: &[u32]) {
        let Band { ids, used, .. } = self;
        used.iter_mut().zip(off).for_each(|(used, off)| *used &= !off);
        let mut left = used.iter().map(|used| *used != 0);
        ids.retain(|_| left.next().unwrap_or(false));
        used.retain(|used| *used != 0);
    }

    /// Becomes the neurons of which `used` has a bit. All are written and those without written over: no branch to
    /// foretell.
    pub(super) fn fill(&mut self, used: &[u32; CHUNK]) {
        self.clear();
        let (mut ids, mut bits, mut have) = ([0; CHUNK], [0; CHUNK], 0);
        for (id, used) in used.iter().enumerate() {
            (ids[have % CHUNK], bits[have % CHUNK]) = (id as u32, *used);
            have += usize::from(*used != 0);
        }
        self.ids.extend_from_slice(&ids[..have]);
        self.used.extend_from_slice(&bits[..have]);
    }
}
