"""One page a person can read, made from what the stages left on disk; no torch, no model."""
