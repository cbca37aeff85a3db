"""Training of the small models that are in the repository."""
