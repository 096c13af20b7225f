//! The thread pool of compiled nets, and how the tasks of a step are divided.
//!
//! This file is compiled into caffec and pasted into the Rust source that it emits:
//! it names nothing but `std` and is free of warnings in every edition.

use std::any::Any;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// What all threads of a pool run, each with its own number.
type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// Threads that run one function at a time together and meet when it is done.
///
/// A waiting thread spins for some microseconds, since the next step of a net usually
/// comes at once, and then sleeps. There are no more threads of the system than this
/// process may use cores: they would wait for each other at every step. For the same reason
/// a worker that finds itself on the core of another thread of the pool leaves it. Systems
/// do not see to that: in virtual machines, Linux wakes a thread on the core of the one that
/// wakes it, and a thread that spins there keeps it from running.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    threads: usize,
}

/// What the caller and the workers see. The numbers below are counted and flags set
/// with `SeqCst`: a thread that goes to sleep first raises its flag and then looks for
/// news once more, one that has news first publishes it and then looks at the flag.
struct Shared {
    news: Line<News>,
    /// How often workers have finished a job.
    finished: Line<AtomicUsize>,
    /// The core that each worker was last seen on.
    cores: Vec<AtomicUsize>,
    /// One flag for each worker: it sleeps, or is about to.
    asleep: Vec<AtomicBool>,
    caller_asleep: AtomicBool,
    caller: Mutex<Option<Thread>>,
    /// The first panic of the job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What the caller tells.
struct News {
    /// Number of jobs published so far; a change is the signal to start.
    jobs: AtomicUsize,
    /// Points to the caller's `Task`; null tells the workers to leave.
    task: AtomicPtr<()>,
    /// The caller's core.
    core: AtomicUsize,
}

/// Alone in its cache line, and in the one that is fetched with it: the line goes to
/// another core only when that core waits for what is in it.
#[repr(align(128))]
struct Line<T>(T);

const SPIN: Duration = Duration::from_micros(50);

/// When spinning threads begin to let others have their core.
const YIELD: Duration = Duration::from_micros(4);

impl Pool {
    /// A pool of `threads` threads, the caller of [`Pool::run`] being one of them. Where
    /// there are fewer cores, or the system refuses to start so many, some run in turns.
    pub fn new(threads: usize) -> Pool {
        let threads = threads.max(1);
        let cores = thread::available_parallelism().map_or(threads, |n| n.get());
        let extra = threads.min(cores) - 1;
        let shared = Arc::new(Shared {
            news: Line(News {
                jobs: AtomicUsize::new(0),
                task: AtomicPtr::new(ptr::null_mut()),
                core: AtomicUsize::new(cores::UNKNOWN),
            }),
            finished: Line(AtomicUsize::new(0)),
            cores: (0..extra)
                .map(|_| AtomicUsize::new(cores::UNKNOWN))
                .collect(),
            asleep: (0..extra).map(|_| AtomicBool::new(false)).collect(),
            caller_asleep: AtomicBool::new(false),
            caller: Mutex::new(None),
            panic: Mutex::new(None),
        });
        let start = |worker: usize| {
            let shared = shared.clone();
            thread::Builder::new()
                .name(format!("caffec-{}", worker + 1))
                .spawn(move || shared.work(worker))
                .ok()
        };
        let workers = (0..extra).map_while(start).collect();
        Pool {
            shared,
            workers,
            threads,
        }
    }

    /// Number of threads, with the caller.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `f(t)` for each `t` below [`Pool::threads`], `f(0)` on this thread, as many at
    /// once as there are cores; returns when all have returned. A panic of any of them is
    /// passed on, after all have ended.
    pub fn run(&mut self, f: Task) {
        let (threads, team) = (self.threads, self.workers.len() + 1);
        let part = |who: usize| {
            for t in who * threads / team..(who + 1) * threads / team {
                f(t);
            }
        };
        if self.workers.is_empty() {
            return part(0);
        }
        let task: Task = &part;
        let jobs = self.publish(&task as *const Task as *mut ());
        self.shared.guard(|| part(0));
        self.shared
            .await_finished(jobs.wrapping_mul(self.workers.len()));
        let panic = lock(&self.shared.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Starts the workers on a job; returns how many there have been.
    fn publish(&self, task: *mut ()) -> usize {
        let news = &self.shared.news.0;
        news.task.store(task, Ordering::Relaxed);
        news.core.store(cores::current(), Ordering::Relaxed);
        let before = news.jobs.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&self.shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        before.wrapping_add(1)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.publish(ptr::null_mut());
        for worker in self.workers.drain(..) {
            // A worker catches the panics of jobs and has no other.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The life of a worker.
    fn work(&self, worker: usize) {
        let news = &self.news.0;
        let mut done = 0;
        loop {
            wait(SPIN, &self.asleep[worker], || {
                news.jobs.load(Ordering::SeqCst) != done
            });
            done = done.wrapping_add(1);
            self.keep_apart(worker);
            let task = news.task.load(Ordering::Relaxed) as *const Task;
            if task.is_null() {
                return;
            }
            // SAFETY: `Pool::run` keeps the task alive, and publishes no other, until all
            // workers have finished it, this one too.
            let f = unsafe { *task };
            self.guard(|| f(worker + 1));
            self.finish();
        }
    }

    /// Leaves the core of the caller, or of a worker before this one.
    fn keep_apart(&self, worker: usize) {
        let others = || {
            let cores = iter::once(&self.news.0.core).chain(&self.cores[..worker]);
            cores.map(|core| core.load(Ordering::Relaxed))
        };
        let mut here = cores::current();
        if here != cores::UNKNOWN && others().any(|core| core == here) {
            cores::leave(others());
            here = cores::current();
        }
        if self.cores[worker].load(Ordering::Relaxed) != here {
            self.cores[worker].store(here, Ordering::Relaxed);
        }
    }

    /// Runs `f` and keeps its panic for the caller.
    fn guard<F: FnOnce()>(&self, f: F) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(f)) {
            lock(&self.panic).get_or_insert(panic);
        }
    }

    fn finish(&self) {
        self.finished.0.fetch_add(1, Ordering::SeqCst);
        if self.caller_asleep.load(Ordering::SeqCst) {
            lock(&self.caller).iter().for_each(Thread::unpark);
        }
    }

    fn await_finished(&self, times: usize) {
        let done = || self.finished.0.load(Ordering::SeqCst) == times;
        if !spin_until(SPIN, done) {
            *lock(&self.caller) = Some(thread::current());
            wait(Duration::ZERO, &self.caller_asleep, done);
        }
    }
}

/// Returns as soon as `ready`: spins for a while, then sleeps with the flag raised.
fn wait<F: Fn() -> bool>(spin: Duration, asleep: &AtomicBool, ready: F) {
    if spin_until(spin, &ready) {
        return;
    }
    asleep.store(true, Ordering::SeqCst);
    while !ready() {
        thread::park();
    }
    asleep.store(false, Ordering::SeqCst);
}

/// Whether `ready` came true within `limit`.
fn spin_until<F: Fn() -> bool>(limit: Duration, ready: F) -> bool {
    const LOOKS: usize = 64;
    let start = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let spun = start.elapsed();
        if spun >= limit {
            return false;
        }
        if spun >= YIELD {
            thread::yield_now();
        }
    }
}

/// Where threads run.
mod cores {
    pub const UNKNOWN: usize = !0;

    #[cfg(target_os = "linux")]
    type Set = [u64; 16];

    #[cfg(target_os = "linux")]
    unsafe extern "C" {
        fn sched_getcpu() -> i32;
        fn sched_getaffinity(thread: i32, bytes: usize, set: *mut Set) -> i32;
        fn sched_setaffinity(thread: i32, bytes: usize, set: *const Set) -> i32;
    }

    /// The number of this thread's core, as of now.
    pub fn current() -> usize {
        // SAFETY: no arguments, no memory. Failing, it is -1.
        #[cfg(target_os = "linux")]
        return unsafe { sched_getcpu() } as usize;
        #[cfg(not(target_os = "linux"))]
        UNKNOWN
    }

    /// Moves this thread to another core than these, if it may use one. It is free to go
    /// anywhere afterwards.
    #[cfg(target_os = "linux")]
    pub fn leave<I: Iterator<Item = usize>>(cores: I) {
        let mut allowed: Set = [0; 16];
        let bytes = std::mem::size_of::<Set>();
        // SAFETY: the set has so many bytes; 0 is this thread.
        if unsafe { sched_getaffinity(0, bytes, &mut allowed) } < 0 {
            return;
        }
        let mut elsewhere = allowed;
        for core in cores {
            if let Some(word) = elsewhere.get_mut(core / 64) {
                *word &= !(1 << (core % 64));
            }
        }
        if elsewhere != [0; 16] {
            // SAFETY: as above. Failing, it changes nothing.
            unsafe {
                sched_setaffinity(0, bytes, &elsewhere);
                sched_setaffinity(0, bytes, &allowed);
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn leave<I: Iterator<Item = usize>>(_: I) {}
}

/// Locks, also after a panic: no state here is left half done by one.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Below this cost, in nanoseconds, starting the other threads costs more than it saves.
const SMALL: u128 = 4_000;

/// The tasks of a step that a thread runs: ranges of their numbers, counted through all
/// regions, in order and not empty.
pub type Ranges = Vec<(u64, u64)>;

/// Divides the tasks of a step among threads, so that each has about the same cost. A
/// region is `(tasks, cost of each)`. A small step goes to thread 0 alone.
///
/// Each thread gets its part of each region: first tasks of regions are of the same part
/// of a map, and what a thread has made is near when it reads it. Where few large tasks
/// make such parts unequal, threads get tasks in the order of their numbers.
pub fn divide(regions: &[(u64, u64)], threads: usize) -> Vec<Ranges> {
    let threads = threads.max(1);
    let total: u128 = regions.iter().map(weight).sum();
    let parts = if total < SMALL { 1 } else { threads as u128 };
    let part = |of: u128, p: u128| of / parts * p + of % parts * p / parts;
    let (each, most) = cut(regions, threads, |so_far, p| part(so_far, p.min(parts)));
    let (in_order, least) = cut(regions, threads, |so_far, p| {
        part(total, p.min(parts)).min(so_far)
    });
    match most <= least + least / 32 {
        true => each,
        false => in_order,
    }
}

/// Cuts the regions so that threads below number `p` come nearest to the cost
/// `want(cost of the regions so far, p)` at the end of each region; the largest cost of a
/// thread, too.
fn cut<F>(regions: &[(u64, u64)], threads: usize, want: F) -> (Vec<Ranges>, u128)
where
    F: Fn(u128, u128) -> u128,
{
    let mut ranges = vec![Ranges::new(); threads];
    // What threads below each number have got.
    let mut given = vec![0u128; threads + 1];
    let (mut before, mut so_far) = (0, 0);
    for region in regions {
        so_far += weight(region);
        let cost = u128::from(region.1);
        let mut start = 0;
        for (thread, ranges) in ranges.iter_mut().enumerate() {
            let (p, tasks) = (thread + 1, u128::from(region.0));
            let missing = want(so_far, p as u128).saturating_sub(given[p]);
            let nearest = (missing + cost / 2).checked_div(cost).unwrap_or(tasks);
            let end = if p == threads {
                tasks
            } else {
                nearest.clamp(start, tasks)
            };
            given[p] += end * cost;
            add(ranges, (before + start as u64, before + end as u64));
            start = end;
        }
        before += region.0;
    }
    let largest = given.windows(2).map(|w| w[1] - w[0]).max();
    (ranges, largest.unwrap_or(0))
}

/// Adds a range that may be empty, or go on where the last one ends.
fn add(ranges: &mut Ranges, (start, end): (u64, u64)) {
    match ranges.last_mut() {
        _ if start == end => {}
        Some(last) if last.1 == start => last.1 = end,
        _ => ranges.push((start, end)),
    }
}

fn weight(region: &(u64, u64)) -> u128 {
    u128::from(region.0) * u128::from(region.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `rounds` jobs and counts the calls of each thread.
    fn count(pool: &mut Pool, rounds: usize) -> Vec<usize> {
        let calls: Vec<_> = (0..pool.threads()).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..rounds {
            pool.run(&|t| {
                calls[t].fetch_add(1, Ordering::Relaxed);
            });
        }
        calls.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_thread_runs_every_job_once() {
        for threads in [0, 1, 2, 3, 7] {
            let mut pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            assert_eq!(count(&mut pool, 300), vec![300; pool.threads()]);
        }
    }

    #[test]
    fn sleeping_workers_and_callers_wake() {
        let mut pool = Pool::new(3);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(1));
            let slow = AtomicUsize::new(0);
            pool.run(&|t| {
                if t != 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                slow.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(slow.into_inner(), 3);
        }
    }

    #[test]
    fn pools_do_not_meet() {
        let run = || count(&mut Pool::new(3), 200);
        thread::scope(|s| {
            let threads: Vec<_> = (0..4).map(|_| s.spawn(run)).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), vec![200; 3]);
            }
        });
    }

    #[test]
    fn a_thread_that_leaves_a_core_may_use_it_later() {
        let may_use = || thread::available_parallelism().unwrap();
        let before = may_use();
        cores::leave(iter::once(cores::current()));
        assert_eq!(may_use(), before);
        // There is nowhere to go: it stays.
        cores::leave(0..1 << 10);
        assert_eq!(may_use(), before);
    }

    #[test]
    fn a_pool_may_be_dropped_unused_and_often() {
        for _ in 0..50 {
            drop(Pool::new(4));
        }
    }

    #[test]
    fn panics_are_passed_on_and_the_pool_goes_on() {
        let mut pool = Pool::new(3);
        for who in 0..3 {
            let job = |t| {
                if t == who {
                    resume_unwind(Box::new(who));
                }
            };
            let panic = catch_unwind(AssertUnwindSafe(|| pool.run(&job))).unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&who));
            assert_eq!(count(&mut pool, 10), vec![10; 3]);
        }
    }

    #[test]
    fn each_region_is_divided() {
        let halves = divide(&[(10, 1000), (4, 500)], 2);
        assert_eq!(halves, [[(0, 5), (10, 12)], [(5, 10), (12, 14)]]);
        // What one region gives too much, the next one takes back.
        let odd = divide(&[(3, 1000), (3, 1000)], 2);
        assert_eq!(odd, [[(0, 2), (3, 4)], [(2, 3), (4, 6)]]);
        assert_eq!(divide(&[(1, 5000), (1, 5000)], 2), [[(0, 1)], [(1, 2)]]);
        let large_and_small = divide(&[(2, 9000), (6, 1000)], 2);
        assert_eq!(large_and_small, [[(0, 1), (2, 5)], [(1, 2), (5, 8)]]);
    }

    #[test]
    fn few_tasks_are_divided_in_order() {
        assert_eq!(divide(&[(10, 1000)], 2), [[(0, 5)], [(5, 10)]]);
        assert_eq!(divide(&[(3, 1000), (1, 3000)], 2), [[(0, 3)], [(3, 4)]]);
        assert_eq!(divide(&[(1, 1 << 40)], 2), [vec![(0, 1)], vec![]]);
        let each_its_own = divide(&[(1, 5000), (1, 5000)], 3);
        assert_eq!(each_its_own.concat().len(), 2);
        assert!(each_its_own.iter().all(|ranges| ranges.len() < 2));
    }

    #[test]
    fn small_steps_are_not_divided() {
        assert_eq!(divide(&[(4, 10)], 3), [vec![(0, 4)], vec![], vec![]]);
        assert_eq!(divide(&[(7, 1000)], 0), [[(0, 7)]]);
        assert_eq!(divide(&[], 2), [[], []] as [[(u64, u64); 0]; 2]);
        assert_eq!(divide(&[(9, 0)], 2).concat(), [(0, 9)]);
    }

    #[test]
    fn divided_ranges_cover_all_tasks_once() {
        for threads in 1..9 {
            for tasks in 0..40 {
                let regions = [(tasks, 777), (3, u64::MAX), (tasks / 2, 5000), (1, 0)];
                let ranges = divide(&regions, threads);
                assert_eq!(ranges.len(), threads);
                for ranges in &ranges {
                    assert!(ranges.iter().all(|r| r.0 < r.1), "{ranges:?}");
                    assert!(ranges.windows(2).all(|w| w[0].1 < w[1].0), "{ranges:?}");
                }
                let mut all = ranges.concat();
                all.sort_unstable();
                let end = all.iter().fold(0, |end, range| {
                    assert_eq!(range.0, end);
                    range.1
                });
                assert_eq!(end, tasks + tasks / 2 + 4);
            }
        }
    }
}
