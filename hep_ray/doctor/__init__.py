"""`hep-ray doctor`: what would stop a search on this cluster, and what to do about it."""
