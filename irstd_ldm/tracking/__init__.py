"""Tracks of targets through the frames of a sequence; arrays in, no models, no files."""
