"""A recipe, from its file to its results."""
