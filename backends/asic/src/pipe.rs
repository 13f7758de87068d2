//! Pieces of a file, made by all threads and taken one after the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How often a thread gives way to others before it sleeps: waking takes as long as writing a piece of a megabyte.
const YIELDS: usize = 1000;

/// Where taking is.
struct State<T, E> {
    /// The piece to be taken after those that are taken or being taken.
    next: usize,
    /// Whether one is being taken.
    taking: bool,
    /// Pieces made before their turn.
    waiting: BTreeMap<usize, T>,
    /// The first error of taking.
    failed: Option<E>,
    /// Whether no more is to be done: an error, or a panic of a thread.
    ended: bool,
}

struct Shared<T, E> {
    state: Mutex<State<T, E>>,
    changed: Condvar,
}

impl<T, E> Shared<T, E> {
    fn lock(&self) -> MutexGuard<'_, State<T, E>> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the work of the other threads when one panics.
struct OnPanic<'a, T, E>(&'a Shared<T, E>);

impl<T, E> Drop for OnPanic<'_, T, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().ended = true;
            self.0.changed.notify_all();
        }
    }
}

/// Makes the pieces 0 to `count` on all threads of the pool, and takes them in their order. A piece whose turn has come is
/// taken by the thread that made it, while the others make the next ones; of those made before their turn at most `ahead`
/// wait. `make` is handed the piece that its thread took last, for its memory: memory that another core wrote is slow to
/// write. Neither may wait for other work of the pool, whose threads wait for turns here.
///
/// # Errors
/// The first of taking, which ends the work.
pub fn in_order<T: Send, E: Send>(
    count: usize,
    ahead: usize,
    make: impl Fn(usize, Option<T>) -> T + Sync,
    take: impl FnMut(&mut T) -> Result<(), E> + Send,
) -> Result<(), E> {
    let state = State { next: 0, taking: false, waiting: BTreeMap::new(), failed: None, ended: false };
    let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
    let (take, claimed) = (Mutex::new(take), AtomicUsize::new(0));
    let work = || {
        let _guard = OnPanic(&shared);
        let mut spare = None;
        loop {
            let i = claimed.fetch_add(1, Ordering::Relaxed);
            if i >= count || shared.lock().ended {
                return;
            }
            let mut ready = Some(make(i, spare.take()));
            let mut state = shared.lock();
            let mut yields = 0..YIELDS;
            while !state.ended {
                if i != state.next && i - state.next <= ahead {
                    state.waiting.extend(ready.take().map(|piece| (i, piece)));
                    break;
                }
                if i == state.next && !state.taking {
                    break;
                }
                state = if yields.next().is_some() {
                    drop(state);
                    std::thread::yield_now();
                    shared.lock()
                } else {
                    shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                };
            }
            while let Some(mut piece) = ready.take().filter(|_| !state.ended) {
                (state.next, state.taking) = (state.next + 1, true);
                drop(state);
                let done = take.lock().unwrap_or_else(PoisonError::into_inner)(&mut piece);
                spare = Some(piece);
                state = shared.lock();
                if let Err(e) = done {
                    (state.failed, state.ended) = (Some(e), true);
                }
                let next = state.next;
                ready = state.waiting.remove(&next);
                state.taking = ready.is_some();
                shared.changed.notify_all();
            }
        }
    };
    rayon::broadcast(|_| work());
    let failed = shared.lock().failed.take();
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes some time, more for some than for others.
    fn work(i: usize) -> usize {
        let rounds = if i.is_multiple_of(7) { 20_000 } else { 100 };
        for n in 0..rounds {
            std::hint::black_box(n);
        }
        i
    }

    #[test]
    fn pieces_are_taken_in_their_order() {
        for (count, ahead) in [(0, 4), (1, 0), (200, 0), (200, 1), (200, 9)] {
            let mut taken = Vec::new();
            let done = in_order(
                count,
                ahead,
                |i, _| work(i),
                |i| -> Result<(), ()> {
                    taken.push(*i);
                    Ok(())
                },
            );
            assert_eq!(done, Ok(()));
            assert_eq!(taken, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let (made, mut taken) = (AtomicUsize::new(0), 0);
        let make = |i, _| {
            made.fetch_add(1, Ordering::Relaxed);
            i
        };
        let take = |i: &mut usize| {
            taken += 1;
            if *i == 3 { Err(*i) } else { Ok(()) }
        };
        assert_eq!(in_order(10_000, 2, make, take), Err(3));
        assert_eq!(taken, 4);
        // Those taken, those that waited, and one in each hand.
        let made = made.into_inner();
        assert!(made <= 4 + 2 + rayon::current_num_threads(), "{made}");
    }

    #[test]
    fn a_panic_in_making_or_taking_ends_the_work() {
        for making in [true, false] {
            let make = |i: usize, _| {
                assert!(!making || i != 5);
                i
            };
            let take = |i: &mut usize| -> Result<(), ()> {
                assert!(making || *i != 5);
                Ok(())
            };
            let run = std::panic::AssertUnwindSafe(|| in_order(1000, 1, make, take));
            assert!(std::panic::catch_unwind(run).is_err());
        }
    }
}
