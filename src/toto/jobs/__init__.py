"""One verb a file: each job is a config with `run(out)`, and writes a run folder."""
