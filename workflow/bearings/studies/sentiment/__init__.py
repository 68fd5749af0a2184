"""Tigges et al. 2023, "Linear Representations of Sentiment in Large Language Models" (arXiv 2310.15154)."""
