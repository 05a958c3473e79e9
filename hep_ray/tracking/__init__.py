"""What a search writes down: a local journal first, then MLflow, by one writer on the driver."""
