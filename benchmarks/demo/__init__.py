"""What `make demo` runs: the hub on real purchases, with the promises checked from the streams."""
