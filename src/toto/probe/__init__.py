"""What the middle layers know: features, pooling, probes, label propagation."""
