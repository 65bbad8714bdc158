#!/usr/bin/env bash
# Five thousand starts of the tracker under saturating load (or as many as the argument says), and not one write lost.
# Needs root and BPF. Takes about half a second to a second for each start.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export MOBILITY_STARTS=${1:-5000} MOBILITY_REQUIRE_ROOT=1
exec cargo test --release --package mobility-tests --test root_tracker -- --nocapture \
    --exact storm::root_nothing_is_lost_over_many_starts_under_load
