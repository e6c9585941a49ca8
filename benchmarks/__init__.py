"""What docs/performance.md shows: `python -m benchmarks.run`. The machinery is `throughtime.bench`."""
