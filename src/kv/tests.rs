//! Random operation sequences against a naive model, and the rules one by one.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::KvRows;
use half::f16;
use proptest::prelude::*;
use std::collections::BTreeSet;

const LAYERS: usize = 2;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 4;

/// The naive model of a sequence: `[layers * kv_heads]` lists of the values appended, one a position.
type Naive = Vec<Vec<f32>>;

/// One operation. Sequences are chosen by an index into the ids ever given, so freed ones are asked for too.
#[derive(Clone, Debug)]
enum Op {
    Create,
    /// A forward of n positions over all layers, each layer in two head ranges, cut short after `steps` of them.
    Forward {
        sequence: usize,
        n: usize,
        steps: usize,
    },
    /// An append that starts `off` positions from where it should.
    Misplaced {
        sequence: usize,
        off: i32,
    },
    Truncate {
        sequence: usize,
        length: usize,
    },
    Fork {
        sequence: usize,
    },
    Free {
        sequence: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let sequence = || 0usize..6;
    prop_oneof![
        1 => Just(Op::Create),
        5 => (sequence(), 0usize..90, 0usize..9).prop_map(|(sequence, n, steps)| Op::Forward { sequence, n, steps }),
        1 => (sequence(), prop_oneof![-3i32..0, 1i32..4]).prop_map(|(sequence, off)| Op::Misplaced { sequence, off }),
        3 => (sequence(), 0usize..200).prop_map(|(sequence, length)| Op::Truncate { sequence, length }),
        2 => sequence().prop_map(|sequence| Op::Fork { sequence }),
        1 => sequence().prop_map(|sequence| Op::Free { sequence }),
    ]
}

fn rope() -> Rope {
    Rope { inv_freq: vec![1.0, 0.01], attention_factor: 1.0 }
}

fn shape(kind: KvKind) -> Shape {
    Shape::new(LAYERS, KV_HEADS, HEAD_DIM, kind).unwrap()
}

fn cache() -> KvCache {
    KvCache::new(shape(KvKind::F32), None).unwrap()
}

/// Rows as a cache of a kind gives them back.
fn stored(values: &[f32], kind: KvKind) -> Vec<f32> {
    let round = |x: &f32| if kind == KvKind::F16 { f16::from_f32(*x).to_f32() } else { *x };
    values.iter().map(round).collect()
}

fn exact(rows: KvRows<'_>) -> Vec<f32> {
    match rows {
        KvRows::F16(all) => all.iter().map(|x| x.to_f32()).collect(),
        KvRows::F32(all) => all.to_vec(),
    }
}

/// K rows of positions `values` for `heads` heads; V is the same negated.
fn rows(values: &[f32], heads: Range<usize>) -> (Vec<f32>, Vec<f32>) {
    let row = |value: f32| heads.clone().flat_map(move |head| (0..HEAD_DIM).map(move |i| element(value, head, i)));
    let k: Vec<f32> = values.iter().flat_map(|value| row(*value)).collect();
    let v = k.iter().map(|k| -k).collect();
    (k, v)
}

fn element(value: f32, head: usize, i: usize) -> f32 {
    value * 16.0 + (head * HEAD_DIM + i) as f32
}

/// The cache, its model, and the ids given so far.
struct Pair {
    cache: KvCache,
    /// Blocks at most, if there is a capacity.
    blocks: Option<usize>,
    naive: BTreeMap<SequenceId, Naive>,
    ids: Vec<SequenceId>,
    value: f32,
}

impl Pair {
    fn new(kind: KvKind, capacity: Option<usize>) -> Pair {
        let cache = KvCache::new(shape(kind), capacity).unwrap();
        let blocks = capacity.map(|n| n.div_ceil(BLOCK_POSITIONS) * LAYERS * KV_HEADS);
        Pair { cache, blocks, naive: BTreeMap::new(), ids: Vec::new(), value: 0.0 }
    }

    fn id(&self, index: usize) -> SequenceId {
        self.ids.get(self.ids.len().saturating_sub(1 + index)).copied().unwrap_or(SequenceId(77))
    }

    fn admit(&mut self, id: SequenceId, naive: Naive) {
        assert!(!self.ids.contains(&id), "an id was given twice");
        self.ids.push(id);
        self.naive.insert(id, naive);
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Create => {
                let id = self.cache.create(rope()).unwrap();
                self.admit(id, vec![Vec::new(); LAYERS * KV_HEADS]);
            }
            Op::Forward { sequence, n, steps } => self.forward(self.id(sequence), n, steps),
            Op::Misplaced { sequence, off } => self.misplaced(self.id(sequence), off),
            Op::Truncate { sequence, length } => self.truncate(self.id(sequence), length),
            Op::Fork { sequence } => self.fork(self.id(sequence)),
            Op::Free { sequence } => {
                let id = self.id(sequence);
                assert_eq!(self.cache.free(id).is_ok(), self.naive.remove(&id).is_some());
            }
        }
    }

    /// Appends as a forward does; refused at the first head range whose heads do not agree.
    fn forward(&mut self, id: SequenceId, n: usize, steps: usize) {
        let values: Vec<f32> = (0..n).map(|i| self.value + i as f32).collect();
        self.value = (self.value + n as f32) % 500_000.0;
        let position = self.cache.length(id, self.cache.layers()).unwrap_or(0);
        let halves = (0..LAYERS).flat_map(|layer| [(layer, 0..1), (layer, 1..KV_HEADS)]);
        for (layer, heads) in halves.take(steps) {
            let (k, v) = rows(&values, heads.clone());
            let done = self.cache.append(LayerId(layer as u32), id, heads.clone(), position, &k, &v);
            if matches!(done, Err(Error::KvFull { .. })) {
                return self.full(id, n);
            }
            let fits =
                self.naive.get_mut(&id).is_some_and(|naive| append_naive(naive, layer, heads, position, &values));
            assert_eq!(done.is_ok(), fits);
        }
    }

    /// An append was refused for want of room: truncation repairs the sequence, and there really was no room.
    fn full(&mut self, id: SequenceId, n: usize) {
        self.check();
        let length = self.cache.length(id, self.cache.layers()).unwrap();
        let held: BTreeSet<_> =
            self.cache.sequences.values().flat_map(|s| &s.heads).flat_map(Head::blocks).copied().collect();
        // A head takes a block for every 64 positions, one for the rest, and may copy a shared one.
        let most = (n.div_ceil(BLOCK_POSITIONS) + 1) * KV_HEADS;
        assert!(self.blocks.is_some_and(|all| held.len() + most > all), "{} blocks are held", held.len());
        self.truncate(id, length);
    }

    fn misplaced(&mut self, id: SequenceId, off: i32) {
        let held = self.naive.get(&id).map_or(0, |naive| naive[0].len());
        let position = held.checked_add_signed(off as isize).unwrap_or(held + 1);
        let (k, v) = rows(&[0.0], 0..1);
        assert!(self.cache.append(LayerId(0), id, 0..1, position, &k, &v).is_err());
    }

    fn truncate(&mut self, id: SequenceId, length: usize) {
        let naive = self.naive.get_mut(&id).filter(|naive| naive.iter().all(|head| head.len() >= length));
        assert_eq!(self.cache.truncate(id, length, self.cache.layers()).is_ok(), naive.is_some());
        naive.into_iter().flatten().for_each(|head| head.truncate(length));
    }

    fn fork(&mut self, id: SequenceId) {
        let before = self.cache.bytes();
        match (self.cache.fork(id), self.naive.get(&id).cloned()) {
            (Ok(new), Some(naive)) => self.admit(new, naive),
            (done, naive) => assert!(done.is_err() && naive.is_none()),
        }
        assert_eq!(self.cache.bytes(), before, "a fork takes no blocks");
    }

    fn check(&self) {
        self.cache.validate().unwrap();
        let most =
            self.blocks.map_or(usize::MAX, |n| n * 2 * BLOCK_POSITIONS * HEAD_DIM * self.cache.shape.kind.bytes());
        assert!(self.cache.bytes() <= most);
        for id in &self.ids {
            match self.naive.get(id) {
                Some(naive) => self.check_sequence(*id, naive),
                None => assert!(self.cache.length(*id, self.cache.layers()).is_err() && self.cache.rope(*id).is_err()),
            }
        }
    }

    fn check_sequence(&self, id: SequenceId, naive: &Naive) {
        assert_eq!(self.cache.length(id, self.cache.layers()).unwrap(), naive.iter().map(Vec::len).min().unwrap());
        for layer in 0..LAYERS {
            for head in 0..KV_HEADS {
                let view = self.cache.read(LayerId(layer as u32), id, head).unwrap();
                check_head(&view, &naive[layer * KV_HEADS + head], head, self.cache.shape.kind);
            }
        }
    }
}

fn append_naive(naive: &mut Naive, layer: usize, heads: Range<usize>, position: usize, values: &[f32]) -> bool {
    let heads = &mut naive[layer * KV_HEADS + heads.start..layer * KV_HEADS + heads.end];
    let fits = heads.iter().all(|head| head.len() == position);
    if fits {
        heads.iter_mut().for_each(|head| head.extend(values));
    }
    fits
}

fn check_head(view: &HeadView<'_>, values: &[f32], head: usize, kind: KvKind) {
    let (want_k, want_v) = {
        let k: Vec<f32> = values.iter().flat_map(|v| (0..HEAD_DIM).map(move |i| element(*v, head, i))).collect();
        let v: Vec<f32> = k.iter().map(|k| -k).collect();
        (stored(&k, kind), stored(&v, kind))
    };
    assert_eq!(view.length(), values.len());
    assert_eq!(view.blocks().flat_map(|(k, _)| exact(k)).collect::<Vec<_>>(), want_k);
    assert_eq!(view.blocks().flat_map(|(_, v)| exact(v)).collect::<Vec<_>>(), want_v);
    assert!(only_last_is_short(view));
}

/// Whether every block but the last is full, and none is empty.
fn only_last_is_short(view: &HeadView<'_>) -> bool {
    let sizes: Vec<usize> = view.blocks().map(|(k, _)| k.elements() / HEAD_DIM).collect();
    sizes.split_last().is_none_or(|(last, full)| *last > 0 && full.iter().all(|n| *n == BLOCK_POSITIONS))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_operations_agree_with_the_naive_model(
        ops in proptest::collection::vec(op(), 1..40),
        kind in prop_oneof![Just(KvKind::F16), Just(KvKind::F32)],
        capacity in proptest::option::of(1usize..600),
    ) {
        let mut pair = Pair::new(kind, capacity);
        pair.run(Op::Create);
        for op in ops {
            pair.run(op);
            pair.check();
        }
        let alive: Vec<SequenceId> = pair.naive.keys().copied().collect();
        alive.into_iter().for_each(|id| pair.cache.free(id).unwrap());
        prop_assert_eq!(pair.cache.bytes(), 0);
    }
}

fn fill(cache: &mut KvCache, id: SequenceId, values: &[f32]) {
    let (k, v) = rows(values, 0..KV_HEADS);
    for layer in 0..LAYERS {
        let position = cache.length(id, layer..layer + 1).unwrap();
        cache.append(LayerId(layer as u32), id, 0..KV_HEADS, position, &k, &v).unwrap();
    }
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Err(Error::Usage(message)) => message,
        _ => panic!("not refused as a wrong argument"),
    }
}

#[test]
fn bytes_grow_by_slabs_and_forks_copy_only_what_they_write() {
    let mut cache = cache();
    let slab = LAYERS * KV_HEADS * 2 * BLOCK_POSITIONS * HEAD_DIM * 4;
    let a = cache.create(rope()).unwrap();
    assert_eq!(cache.bytes(), 0);
    fill(&mut cache, a, &[1.0; 65]);
    assert_eq!(cache.bytes(), 2 * slab);
    let b = cache.fork(a).unwrap();
    fill(&mut cache, b, &[2.0]);
    assert_eq!(cache.bytes(), 3 * slab);
    let values = [[1.0; 65].as_slice(), &[2.0]].concat();
    check_head(&cache.read(LayerId(1), b, 2).unwrap(), &values, 2, KvKind::F32);
    // What only the first held is used again before there is a fourth slab.
    cache.free(a).unwrap();
    fill(&mut cache, b, &[3.0; 63]);
    assert_eq!(cache.bytes(), 3 * slab);
    fill(&mut cache, b, &[3.0; 63]);
    assert_eq!(cache.bytes(), 3 * slab);
    fill(&mut cache, b, &[3.0]);
    assert_eq!(cache.bytes(), 4 * slab);
    cache.truncate(b, 0, cache.layers()).unwrap();
    assert_eq!(cache.bytes(), 0);
}

#[test]
fn bytes_are_known_before() {
    let llama2 = |kind| Shape::new(32, 32, 128, kind).unwrap();
    assert_eq!(llama2(KvKind::F16).bytes_for(4096).unwrap(), 2 << 30);
    assert_eq!(llama2(KvKind::F32).bytes_for(4097).unwrap(), (4 << 30) + 64 * (1 << 20));
    assert_eq!(llama2(KvKind::F16).bytes_for(0).unwrap(), 0);
    assert!(message(llama2(KvKind::F16).bytes_for(usize::MAX)).contains("cannot be counted"));
    for kind in [KvKind::F16, KvKind::F32] {
        let mut cache = KvCache::new(shape(kind), Some(130)).unwrap();
        let id = cache.create(rope()).unwrap();
        fill(&mut cache, id, &[1.0; 130]);
        assert_eq!(cache.bytes() as u64, shape(kind).bytes_for(130).unwrap());
    }
}

#[test]
fn a_full_cache_says_so_and_can_be_repaired() {
    let mut cache = KvCache::new(shape(KvKind::F16), Some(64)).unwrap();
    let (a, b) = (cache.create(rope()).unwrap(), cache.create(rope()).unwrap());
    fill(&mut cache, a, &[1.0; 60]);
    let (k, v) = rows(&[2.0; 5], 0..KV_HEADS);
    let full = cache.append(LayerId(0), a, 0..KV_HEADS, 60, &k, &v).unwrap_err().to_string();
    assert_eq!(
        full,
        "keys and values of positions 60 to 64 of sequence 0 do not fit: room was set aside for 64 over all sequences \
         (in blocks of 64); ask for more with --ctx (ctx=)"
    );
    assert!(cache.append(LayerId(1), b, 0..1, 0, &k[..HEAD_DIM], &v[..HEAD_DIM]).is_err());
    cache.append(LayerId(0), a, 0..KV_HEADS, 60, &k[..4 * KV_HEADS * HEAD_DIM], &v[..4 * KV_HEADS * HEAD_DIM]).unwrap();
    cache.truncate(a, 60, cache.layers()).unwrap();
    cache.free(a).unwrap();
    fill(&mut cache, b, &[3.0; 64]);
    cache.validate().unwrap();
}

#[test]
fn half_precision_rounds_to_nearest_even_and_overflows() {
    let mut cache = KvCache::new(Shape::new(1, 1, 4, KvKind::F16).unwrap(), None).unwrap();
    let id = cache.create(rope()).unwrap();
    let k = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65519.0, 65520.0];
    cache.append(LayerId(0), id, 0..1, 0, &k, &k.map(|x| -x)).unwrap();
    let (k, v) = cache.read(LayerId(0), id, 0).unwrap().blocks().next().unwrap();
    assert_eq!(exact(k), [1.0, 1.0 + 2.0 / 1024.0, 65504.0, f32::INFINITY]);
    assert_eq!(exact(v), exact(k).iter().map(|x| -x).collect::<Vec<_>>());
}

#[test]
fn truncation_repairs_a_forward_that_failed_half_way() {
    let mut cache = cache();
    let id = cache.create(rope()).unwrap();
    fill(&mut cache, id, &[1.0, 2.0]);
    let (k, v) = rows(&[3.0], 0..KV_HEADS);
    cache.append(LayerId(0), id, 0..KV_HEADS, 2, &k, &v).unwrap();
    assert_eq!((cache.length(id, cache.layers()).unwrap(), cache.length(id, 0..1).unwrap()), (2, 3));
    let refused = message(cache.truncate(id, 3, cache.layers()));
    assert_eq!(refused, "sequence 0 cannot be truncated to 3 positions: a head of it holds 2");
    cache.truncate(id, 2, cache.layers()).unwrap();
    fill(&mut cache, id, &[4.0]);
    check_head(&cache.read(LayerId(0), id, 1).unwrap(), &[1.0, 2.0, 4.0], 1, KvKind::F32);
}

#[test]
fn wrong_arguments_are_named() {
    let mut cache = cache();
    let id = cache.create(rope()).unwrap();
    let row = [0.0; HEAD_DIM];
    let gap = message(cache.append(LayerId(1), id, 0..1, 5, &row, &row));
    assert_eq!(gap, "sequence 0: layer 1, KV head 0 holds 0 positions; positions to append start at 5");
    let odd = message(cache.append(LayerId(0), id, 0..2, 0, &row, &row));
    assert_eq!(odd, "sequence 0: K of 4 and V of 4 elements are no rows of KV heads 0..2, 4 elements each");
    let layer = message(cache.read(LayerId(2), id, 0));
    assert_eq!(layer, "sequence 0: layer 2, KV head 0 asked for, but the cache has 2 layers x 3 KV heads");
    assert!(message(cache.append(LayerId(0), id, 3..4, 0, &row, &row)).contains("KV head 3 asked for"));
    cache.free(id).unwrap();
    let gone = "sequence 0 is not in this KV cache: it was freed or never created";
    assert_eq!(message(cache.free(id)), gone);
    assert_eq!(cache.create(rope()).unwrap(), SequenceId(1));
    assert_eq!(message(cache.append(LayerId(0), id, 0..1, 0, &row, &row)), gone);
}

#[test]
fn shapes_and_ropes_are_checked() {
    assert!(message(Shape::new(0, 1, 4, KvKind::F16)).contains("0 layers x 1 KV heads"));
    assert!(message(Shape::new(usize::MAX, 2, 4, KvKind::F16)).contains("layers"));
    assert!(message(Shape::new(1, 1, 3, KvKind::F16)).contains("head dimension of 3"));
    assert!(message(KvCache::new(shape(KvKind::F16), Some(0))).contains("capacity of 0"));
    assert_eq!(message(KvKind::parse("q8")), "kv \"q8\"; f16 and f32 are known");
    let short = Rope { inv_freq: vec![1.0], attention_factor: 1.0 };
    assert_eq!(message(cache().create(short)), "rope with 1 inverse frequencies: a head dimension of 4 takes 2");
    let bad = Rope { inv_freq: vec![1.0, f32::NAN], attention_factor: 1.0 };
    assert!(message(cache().create(bad)).contains("not finite"));
}

#[test]
fn ids_run_out_instead_of_wrapping() {
    let mut cache = cache();
    cache.next = u32::MAX;
    assert!(message(cache.create(rope())).contains("2^32"));
    cache.validate().unwrap();
}
