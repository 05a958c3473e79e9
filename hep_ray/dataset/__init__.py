"""Datasets: schema, columns, splits, manifest and shards, and what can be seen and checked of one."""
