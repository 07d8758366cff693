"""Continuous batching shared by the in-process backends."""
