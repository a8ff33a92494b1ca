"""What launch.evaluate does with `--benchmark`."""
