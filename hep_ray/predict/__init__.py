"""A promoted model on many events: files in, scores with event ids out, by workers of Ray Data."""
