"""How policies compare."""
