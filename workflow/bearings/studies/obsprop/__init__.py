"""Dunefsky & Cohan 2023, "Observable Propagation: Uncovering Feature Vectors in Transformers" (arXiv 2312.16291)."""
