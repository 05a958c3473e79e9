"""From a confirmed finalist to a model that others can load: the gate, the portable folder and the registry."""
