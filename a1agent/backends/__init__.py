"""Backends: what runs the models."""
