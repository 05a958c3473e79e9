"""Confirmation: finalists and baseline trained anew with paired seeds, and the test split opened once."""
