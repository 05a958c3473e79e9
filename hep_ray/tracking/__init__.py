"""Records of a search: a local journal first, then MLflow, by one writer on the driver."""
