"""Measuring A1: the same questions, through every way of answering them, side by side in one run."""
