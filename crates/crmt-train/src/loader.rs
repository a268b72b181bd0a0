//! Items made on threads of their own and taken in order. Does not know what they are.
use std::ops::Range;
use std::sync::mpsc::sync_channel;

/// Items that wait for each thread: one to take while the next is made.
const WAITING: usize = 1;

/// `take(make(i))` for each `i` in order; `make` runs on `threads` other threads (0: on this one),
/// a little ahead. What is taken does not depend on their number. Stops at the first error.
pub(crate) fn in_order<T: Send, E>(
    range: Range<u64>,
    threads: usize,
    make: impl Fn(u64) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    if threads == 0 {
        return range.into_iter().try_for_each(|i| take(make(i)));
    }
    let (make, threads) = (&make, threads.min((range.end - range.start) as usize));
    std::thread::scope(|scope| {
        let made: Vec<_> = (0..threads)
            .map(|thread| {
                let (send, made) = sync_channel(WAITING);
                let own = range.clone().skip(thread).step_by(threads);
                scope.spawn(move || {
                    for i in own {
                        // Nobody takes any more: an error stopped the others.
                        if send.send(make(i)).is_err() {
                            return;
                        }
                    }
                });
                made
            })
            .collect();
        let mut turns = made.iter().cycle();
        for _ in range {
            // A thread ends early only if it panicked, which the scope passes on.
            let Some(item) = turns.next().and_then(|made| made.recv().ok()) else {
                break;
            };
            take(item)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn items_come_in_order_whatever_the_threads() {
        for threads in [0, 1, 2, 3, 16] {
            let mut taken = vec![];
            in_order(
                3..20,
                threads,
                |i| i * i,
                |item| {
                    taken.push(item);
                    Ok::<_, ()>(())
                },
            )
            .unwrap();
            assert_eq!(
                taken,
                (3..20).map(|i| i * i).collect::<Vec<_>>(),
                "{threads} threads"
            );
        }
    }

    #[test]
    fn an_error_stops_every_thread() {
        let made = AtomicU64::new(0);
        let result = in_order(
            0..1_000_000,
            4,
            |i| (made.fetch_add(1, Ordering::Relaxed), i).1,
            |i| {
                if i == 7 { Err(i) } else { Ok(()) }
            },
        );
        assert_eq!(result, Err(7));
        // Eight were taken; each thread may have made those that wait, the one it can't send and
        // one more.
        assert!(made.load(Ordering::Relaxed) <= 8 + 4 * (WAITING as u64 + 2));
    }
}
