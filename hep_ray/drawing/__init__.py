"""How pages and pictures look, whatever they show."""
