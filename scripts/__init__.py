"""What a checkout can run beside the product: training, benchmarks, checks."""
