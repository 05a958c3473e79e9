"""Datasets of particle-physics events: schema, shards, splits, readers and batches."""
