"""Bearings: directions in language models, measured and checked."""
