"""Pipelines: one task, one file, one class."""
