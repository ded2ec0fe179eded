"""Drivers with one mistake each, and the rules of the migration uAPI that each of them breaks."""
