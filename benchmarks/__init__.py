"""The measurements of docs/performance.md: `python -m benchmarks.run`. Timing and verification are `throughtime.bench`'s."""
