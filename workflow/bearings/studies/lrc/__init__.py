"""Chanin et al. 2023, "Identifying Linear Relational Concepts in Large Language Models" (arXiv 2311.08968)."""
