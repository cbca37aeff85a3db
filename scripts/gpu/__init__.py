"""What `scripts/gpu_check.py` is made of: models, ways of running them, measuring and the report."""
