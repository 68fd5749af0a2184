"""Tokenizer: the closed vocabulary of the world as an ordinary Hugging Face fast tokenizer.

Every word the grammar can write is one token with its leading blank (GPT-2's convention); anything else falls
back to bytes, so no text is unknown and every text comes back exactly.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bearings.world import facts, grammar, lexicon
from bearings.world.settings import whole_directory

BOS = "<|endoftext|>"
SAMPLE, SEED = 20_000, 7  # constants of the world, not of a run: one tokenizer for every model
WORD_SCORE, BYTE_SCORE = -2.0, -12.0  # log probabilities: one word beats any spelling of it


def _texts() -> list[str]:
    """Every string of the lexicons, as it stands inside a text, and a fixed sample of all families."""
    families = grammar.families()
    texts = [d.text for d in islice(grammar.documents(dict.fromkeys(families, 1.0), SEED), SAMPLE)]
    for fact in (fact for relation in facts.table().values() for fact in relation):
        texts += [fact.subject, f" {fact.subject}", f" {fact.object}"]
    texts += [f" {word}" for words in facts.aux_words().values() for word in words]
    for names in lexicon.load("people")["names"].values():
        texts += names
    for name in lexicon.FILES:
        for string in lexicon.strings(lexicon.load(name)):
            plain = re.sub(r"\[[a-z_]+\*?:([^\]]*)\]", r"\1", string)
            for part in re.split(r"\{\w+\}", plain):
                texts += [part, f" {part}"] if " " in part else [f" {part}"]
    return texts


def vocabulary() -> list[str]:
    """The words of the world, most frequent first, in the byte-level spelling (a blank is written Ġ)."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    counts: Counter[str] = Counter()
    for text in _texts():
        counts.update(word for word, _ in split.pre_tokenize_str(text))
    return sorted(counts, key=lambda word: (-counts[word], word))


def build() -> PreTrainedTokenizerFast:
    """The tokenizer of the world; the same bytes on every call."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [(BOS, 0.0), *((letter, BYTE_SCORE) for letter in alphabet)]
    known = {piece for piece, _ in pieces}
    pieces += [(word, WORD_SCORE) for word in vocabulary() if word not in known]
    core = Tokenizer(models.Unigram(pieces, unk_id=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        clean_up_tokenization_spaces=False,
    )


def write(path: str | Path) -> Path:
    """Build the tokenizer and save it as a directory (tokenizer.json, tokenizer_config.json)."""
    with whole_directory(path) as staged:
        build().save_pretrained(staged)
    return Path(path)


def load(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a local directory; never asks the network."""
    return PreTrainedTokenizerFast.from_pretrained(str(path), local_files_only=True)
