"""How a dataset becomes batches: from memory, a device or a stream; scalers and augmentation."""
