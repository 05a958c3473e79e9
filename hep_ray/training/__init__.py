"""Training of one trial: configuration, one pure step, the epoch loop, checkpoints. No Ray, no MLflow."""
