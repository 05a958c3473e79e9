"""How files become a dataset: readers, schema files, labels, assembling and sorting."""
