"""Tokens to batches: shards, mixture, document boundaries."""
