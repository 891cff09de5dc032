"""The HTTP edge: Flask blueprints, parameters at the door, one renderer per format."""
