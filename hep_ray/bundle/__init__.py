"""Hand a model on to those who have no hep_ray: ONNX, events with scores, a check, the card and its evidence."""
