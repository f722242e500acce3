//! Who computes: the threads, what keeps them awake between their shares, and how chunks are shared among them.

use crate::error::{Error, Result};
use crate::kernels::Cpu;
use crate::prefetch::{Stop, TICK};
use crate::types::DECODE_BATCH;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread waits awake for more of a part: many times what lies between two shares of resident weights, less
/// than most reads take.
const PATIENCE: Duration = Duration::from_micros(200);

/// More threads than any machine has cores: a mistake.
const MAX_THREADS: usize = 1024;

/// So many threads, or one per core.
///
/// # Errors
/// `Error::Usage` for none or too many, and where the system denies them.
pub fn pool(threads: Option<usize>) -> Result<ThreadPool> {
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    check(threads)?;
    let built = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("m2cache-{i}")).build();
    built.map_err(|e| {
        Error::usage(format!(
            "could not start {threads} threads ({e}): ask for fewer (threads), or raise the limit of \
                processes (ulimit -u)"
        ))
    })
}

/// Refuses a number of threads that makes no sense.
///
/// # Errors
/// `Error::Usage` for none or too many.
pub fn check(threads: usize) -> Result<()> {
    match (1..=MAX_THREADS).contains(&threads) {
        true => Ok(()),
        false => Err(Error::usage(format!("threads is {threads}; it must lie in 1..={MAX_THREADS}"))),
    }
}

/// Runs a part for so many rows. Few rows run on a thread of the pool: entering the pool costs some 20 us, which they pay
/// once a part instead of once or thrice a chunk (3.5 times the time of a 256-wide model's arithmetic). More stay on the
/// caller's thread: their buffers would come from, and stay in, the allocator's arenas of whichever threads run them.
/// The caller's thread asks meanwhile whether to stop, which may be no other thread's to ask.
///
/// # Errors
/// `part`'s.
pub fn pooled<T: Send>(cpu: &Cpu, stop: &Stop, rows: usize, part: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if rows > DECODE_BATCH {
        return part();
    }
    let found = cpu.run_beside(TICK, || _ = stop.is_wanted(), || awake(part));
    found.unwrap_or(Err(Error::Internal("a part of a layer that gave nothing")))
}

/// Runs `part` on this thread of a pool while the others wait for their share of it awake: one that sleeps is there
/// 30 us after it is called, and a layer calls some ten times. They sleep once nothing came for a while (reads are
/// waited for), then till the part ends, and when it does.
fn awake<T: Send>(part: impl FnOnce() -> T + Send) -> T {
    let (me, over) = (rayon::current_thread_index(), AtomicBool::new(false));
    rayon::scope(|scope| {
        scope.spawn_broadcast(|_, context| {
            if Some(context.index()) != me {
                wait_awake(&over);
            }
        });
        let _over = Over(&over);
        part()
    })
}

/// Sets its flag when it goes, whatever happened.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Works for the pool until the part is over, or nothing was to be done for [`PATIENCE`].
fn wait_awake(over: &AtomicBool) {
    let mut since = Instant::now();
    while !over.load(Ordering::Acquire) && since.elapsed() < PATIENCE {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => since = Instant::now(),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Chunks that are computed together at most: enough for a single column to make the threads' meetings small, fewer for
/// many, whose results take room.
pub fn together(columns: usize) -> usize {
    const MOST: usize = 64;
    (MOST / columns).max(1)
}

/// Results of so many bytes are taken before all are there. Memory of less that a thread frees for another comes back from
/// that one's cache: a token of a model 256 wide took 9 % longer.
const LARGE: usize = 4 << 10;

/// Who computes a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// For its dots: a thread that has it for itself, or all of them, who take of its tasks what they have time for.
    pub cpu: &'a Cpu,
    /// How many threads are to share its sums.
    pub sums: usize,
}

/// Computes chunks together, results in their order. Threads take one after the other, and who has one reads its records
/// from end to end. Shared are the dots of the last that every thread takes, since they are not done at the same time, and
/// those that are left over when all threads have as many, sums included.
///
/// # Errors
/// One of `one`'s.
pub fn each<T: Send, U: Send>(
    cpu: &Cpu,
    chunks: Vec<T>,
    one: impl Fn(T, Share) -> Result<U> + Sync + Send,
) -> Result<Vec<U>> {
    let mut found = Vec::with_capacity(chunks.len());
    each_then(cpu, chunks, 0, one, |one| found.push(one))?;
    Ok(found)
}

/// [`each`], whose results, of so many bytes each, are given to `then` in their order, one at a time. Large ones are while
/// others are being computed: by the thread that has made one, which finds it in its cache.
///
/// # Errors
/// One of `one`'s; `then` may have been given some of what was in front of it.
pub fn each_then<T: Send, U: Send>(
    cpu: &Cpu,
    mut chunks: Vec<T>,
    bytes: usize,
    one: impl Fn(T, Share) -> Result<U> + Sync + Send,
    mut then: impl FnMut(U) + Send,
) -> Result<()> {
    let (count, threads) = (chunks.len(), cpu.threads());
    // A single one stays on the caller's thread: its buffers may be large.
    if let Some(only) = chunks.pop_if(|_| count == 1) {
        then(one(only, Share { cpu, sums: threads })?);
        return Ok(());
    }
    let (alone, line) = (cpu.alone(), Line::new(count, then));
    let computed = |(i, chunk)| {
        let cpu = if is_last(i, count, threads) { cpu } else { &alone };
        line.pass(i, one(chunk, Share { cpu, sums: sharing(i, count, threads) })?);
        if bytes >= LARGE {
            line.advance();
        }
        Ok(())
    };
    let computed: Result<()> = cpu.run(|| chunks.into_iter().enumerate().par_bridge().try_for_each(computed));
    line.advance();
    computed
}

/// Results that wait for those in front of them.
struct Line<U, Then> {
    ready: Vec<Mutex<Option<U>>>,
    /// Whose turn it is, and what takes it.
    next: Mutex<(usize, Then)>,
}

impl<U, Then: FnMut(U)> Line<U, Then> {
    fn new(count: usize, then: Then) -> Line<U, Then> {
        Line { ready: (0..count).map(|_| Mutex::new(None)).collect(), next: Mutex::new((0, then)) }
    }

    /// Keeps a result till its turn comes.
    fn pass(&self, index: usize, one: U) {
        *held(&self.ready[index]) = Some(one);
    }

    /// Gives on those whose turn it is, unless a thread is at it: who comes then leaves what it has to the next, or the last.
    fn advance(&self) {
        let Ok(mut next) = self.next.try_lock() else { return };
        let (index, then) = &mut *next;
        while let Some(one) = self.ready.get(*index).and_then(|one| held(one).take()) {
            *index += 1;
            then(one);
        }
    }
}

/// What a mutex guards, also behind a thread that panicked: the panic goes on where the threads meet.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads that share the sums of chunk `index` of `count`.
fn sharing(index: usize, count: usize, threads: usize) -> usize {
    let left = count % threads;
    if index + left < count { 1 } else { threads.div_ceil(left) }
}

/// Whether no thread takes one more behind chunk `index` of `count`, but what is left over.
fn is_last(index: usize, count: usize, threads: usize) -> bool {
    index + threads + count % threads >= count
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernels::{Arithmetic, Isa, testing};
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;

    fn cpu(threads: usize) -> Cpu {
        testing::on(threads, Isa::PORTABLE, Arithmetic::Integer)
    }

    proptest! {
        #[test]
        fn every_chunk_is_computed_once_and_results_keep_their_order(count in 0usize..40, threads in 1usize..6) {
            let visits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let found = each(&cpu(threads), (0..count).collect(), |i, share| {
                visits[i].fetch_add(1, Ordering::Relaxed);
                Ok((i, share.sums))
            });
            let found = found.unwrap();
            prop_assert!(visits.iter().all(|visits| visits.load(Ordering::Relaxed) == 1));
            prop_assert_eq!(found.iter().map(|(i, _)| *i).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            prop_assert!(found.iter().all(|(i, shared)| *shared == sharing(*i, count, threads)));
        }

        #[test]
        fn no_thread_is_without_a_share_in_what_is_left_over(count in 1usize..100, threads in 1usize..70) {
            let shares: Vec<usize> = (0..count).map(|i| sharing(i, count, threads)).collect();
            let whole = count / threads * threads;
            prop_assert!(shares[..whole].iter().all(|threads| *threads == 1));
            prop_assert!(shares[whole..].is_empty() || shares[whole..].iter().sum::<usize>() >= threads);
            prop_assert!(shares.iter().all(|share| *share <= threads));
        }

        #[test]
        fn an_error_comes_through(count in 1usize..20, wrong in any::<prop::sample::Index>(), threads in 1usize..4) {
            let wrong = wrong.index(count);
            let found = each(&cpu(threads), (0..count).collect(), |i, _| match i == wrong {
                true => Err(Error::usage(format!("chunk {i}"))),
                false => Ok(i),
            });
            prop_assert_eq!(found.unwrap_err().to_string(), Error::usage(format!("chunk {wrong}")).to_string());
        }
    }

    #[test]
    fn results_are_given_on_in_order_whatever_their_size_and_the_first_error_ends_them() {
        for (threads, bytes) in [(1, 0), (1, LARGE), (2, 0), (2, LARGE), (5, LARGE)] {
            for wrong in [None, Some(0), Some(17), Some(39)] {
                let mut given = vec![];
                let one = |i: usize, _: Share| if Some(i) == wrong { Err(Error::usage("wrong")) } else { Ok(i) };
                let ended = each_then(&cpu(threads), (0..40).collect(), bytes, one, |i| given.push(i));
                assert_eq!(ended.is_err(), wrong.is_some());
                assert!(given.len() <= wrong.unwrap_or(40), "{given:?}");
                assert_eq!(given, (0..given.len()).collect::<Vec<_>>());
                assert!(wrong.is_some() || given.len() == 40);
            }
        }
    }

    #[test]
    fn a_single_chunk_stays_on_the_callers_thread_and_is_everyones() {
        let me = std::thread::current().id();
        let found = each(&cpu(3), vec![()], |(), share| Ok((std::thread::current().id(), share.sums))).unwrap();
        assert_eq!(found, [(me, 3)]);
    }

    #[test]
    fn few_rows_run_on_the_pool_and_many_on_the_callers_thread() {
        let (cpu, me) = (cpu(2), std::thread::current().id());
        let on = |rows| pooled(&cpu, &Stop::never(), rows, || Ok(std::thread::current().id())).unwrap();
        assert_ne!(on(DECODE_BATCH), me);
        assert_eq!(on(DECODE_BATCH + 1), me);
    }

    #[test]
    fn a_part_ends_when_it_is_over_also_where_it_panics() {
        let (cpu, stop) = (cpu(3), Stop::never());
        let sum = || Ok(cpu.run(|| (0..100).into_par_iter().sum::<usize>()));
        assert_eq!(pooled(&cpu, &stop, 1, sum).unwrap(), 4950);
        let panics = || pooled(&cpu, &stop, 1, || -> Result<()> { panic!("on purpose") });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!(pooled(&cpu, &stop, 1, sum).unwrap(), 4950);
    }

    #[test]
    fn numbers_of_threads_that_make_no_sense_are_refused() {
        for threads in [0, MAX_THREADS + 1] {
            assert!(pool(Some(threads)).unwrap_err().to_string().contains("must lie in 1..=1024"));
        }
    }

    #[test]
    fn chunks_computed_together_take_the_room_of_64_columns_at_most() {
        assert!((1..=300).all(|columns| together(columns) * columns <= columns.max(64)));
        assert_eq!([1, 2, 32, 64, 65, 256].map(together), [64, 32, 2, 1, 1, 1]);
    }
}
