//! One call after the other, each with a batch: how log and store are asked.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use tokio::runtime::Runtime;

/// Times `call` with batches of each size, made while no clock runs.
pub fn bench<B>(
    (criterion, runtime): (&mut Criterion, &Runtime),
    name: &str,
    sizes: [usize; 3],
    mut make: impl FnMut(usize) -> B,
    call: impl AsyncFn(B),
) {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    for size in sizes {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(size.to_string(), |bencher| {
            bencher.iter_custom(|calls| {
                runtime.block_on(async {
                    let mut spent = Duration::ZERO;
                    for _ in 0..calls {
                        let batch = make(size);
                        let started = Instant::now();
                        call(batch).await;
                        spent += started.elapsed();
                    }
                    spent
                })
            });
        });
    }
    group.finish();
}

/// As criterion is set up for what waits for disks and servers.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
}
