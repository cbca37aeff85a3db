"""Benchmarks, run by `headrace bench`: contenders side by side in one run, ratios with their spread."""
