"""Tokenizer: the closed vocabulary of a part of the world as an ordinary Hugging Face fast tokenizer.

Every word that the chosen families of documents can write is one token with its leading blank (GPT-2's convention);
anything else falls back to bytes, so no text is unknown and every text comes back exactly. A model's vocabulary
hangs on its own families alone, or is a list of words in a file: what one study adds to the world leaves another
study's model as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bearings.world import facts, grammar, lexicon
from bearings.world.settings import whole_directory

BOS = "<|endoftext|>"
SAMPLE, SEED = 20_000, 7  # constants of the world, not of a run: all seeds share a tokenizer
WORD_SCORE, BYTE_SCORE = -2.0, -12.0  # log probabilities: one word beats any spelling of it


def _texts(families: list[str]) -> list[str]:
    """Every string of the families' lexicons, as it stands inside a text, and a fixed sample of their documents."""
    texts = [d.text for d in islice(grammar.documents(dict.fromkeys(families, 1.0), SEED), SAMPLE)]
    files = {grammar.LEXICON_OF[family] for family in families}
    if "facts" in files:
        for fact in (fact for relation in facts.table().values() for fact in relation):
            texts += [fact.subject, f" {fact.subject}", f" {fact.object}"]
    if "people" in files:
        for names in lexicon.load("people")["names"].values():
            texts += names
    for name in sorted(files):
        for string in lexicon.strings(lexicon.load(name)):
            plain = re.sub(r"\[[a-z_]+\*?:([^\]]*)\]", r"\1", string)
            for part in re.split(r"\{\w+\}", plain):
                texts += [part, f" {part}"] if " " in part else [f" {part}"]
    return texts


def vocabulary(families: Iterable[str] | None = None) -> list[str]:
    """The words of the families (default: all), most frequent first, in the byte-level spelling (a blank is Ġ).

    Raises ValueError for a family that does not exist.
    """
    known = grammar.families()
    chosen = set(known if families is None else families)
    if chosen - set(known):
        raise ValueError(f"unknown family '{min(chosen - set(known))}'; known: {', '.join(known)}")
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    counts: Counter[str] = Counter()
    for text in _texts([name for name in known if name in chosen]):
        counts.update(word for word, _ in split.pre_tokenize_str(text))
    return sorted(counts, key=lambda word: (-counts[word], word))


def read_vocabulary(path: str | Path) -> list[str]:
    """A list of words, one a line, in the byte-level spelling. Raises ValueError for a line that is no word."""
    words = Path(path).read_text(encoding="utf-8").splitlines()
    for number, word in enumerate(words, start=1):
        if not word or any(letter not in pre_tokenizers.ByteLevel.alphabet() for letter in word):
            raise ValueError(f"{path}: line {number} is no word in the byte-level spelling")
    return words


def build(words: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of these words (default: of all families); the same bytes on every call."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [(BOS, 0.0), *((letter, BYTE_SCORE) for letter in alphabet)]
    known = {piece for piece, _ in pieces}
    pieces += [(word, WORD_SCORE) for word in (vocabulary() if words is None else words) if word not in known]
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


def write(path: str | Path, words: Iterable[str] | None = None) -> Path:
    """Build the tokenizer and save it as a directory (tokenizer.json, tokenizer_config.json)."""
    with whole_directory(path) as staged:
        build(words).save_pretrained(staged)
    return Path(path)


def load(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a local directory; never asks the network."""
    return PreTrainedTokenizerFast.from_pretrained(str(path), local_files_only=True)
