"""A search: a typed space, drawn by Optuna, stopped early by ASHA, run as warm Ray Tune trials."""
