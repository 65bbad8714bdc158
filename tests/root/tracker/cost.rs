//! What an event costs, by the kernel's own statistics.

use mobility_capture::ebpf::enable_statistics;
use mobility_tests::scratch::MIB;

use super::{load::Load, support::Bench};

/// Generous on purpose: this guards against a loop or a lock in the programs, on whatever machine it runs; what the programs
/// are meant to cost is measured by the benchmarks.
const LIMIT_NS: f64 = 5_000.0;

#[test]
fn root_the_kernel_says_what_a_run_costs() {
    let Some(bench) = Bench::new(64 * MIB) else { return };
    let tracker = bench.start();
    assert_eq!(tracker.counters().unwrap().cost.nanoseconds_per_run(), None, "statistics are off");
    let statistics = enable_statistics().unwrap();
    let load = Load::on(&bench.device, 64 * MIB, 2);
    load.wait_for(20_000);
    drop(load);
    let cost = tracker.counters().unwrap().cost;
    drop(statistics);
    let each = cost.nanoseconds_per_run().unwrap();
    println!("{} runs, {each:.0} ns each, of which there are two for each event", cost.runs);
    assert!(each < LIMIT_NS, "{each} ns");
    assert!(cost.runs >= 4 * 20_000);
}
