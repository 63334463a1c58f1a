"""Benchmarks and scores of exported models, and reports: lm-evaluation-harness with task files of our own."""
