"""The embedded world: a lexicon, a grammar, a corpus and the small language models trained on it.

The truth is known here by construction (which words carry sentiment, which facts hold, who is "she").
"""
