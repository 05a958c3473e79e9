"""Metrics of classifiers in high-energy physics, in numpy."""

from hep_ray.metrics.classification import classification_metrics
from hep_ray.metrics.roc import RocCurve, roc_curve

__all__ = ["RocCurve", "classification_metrics", "roc_curve"]
