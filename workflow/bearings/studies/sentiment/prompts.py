"""Section 3 of the paper: the toy movie reviews, real or grammar-made reviews, mood stories, negations.

Reads two files: the word lists (`lists`) and a table of reviews (`reviews`, the treebank's columns). Which ones is
the scale's business; nothing here knows where the words come from.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from bearings.stages.prompts import Encoder, Prompt, Span, make_prompt, strip_marks, to_table

CLASSES = ("positive", "negative")
WORDS = pa.list_(pa.string())
COLUMNS = {
    "toy": {"word": pa.string(), "rank": pa.int32()},
    "reviews": {"scaffold": pa.string(), "sentence": pa.int32(), "held_out": pa.bool_()},
    "mood": {"story": pa.int32(), "filler": pa.int32()},
    "negation": {"target": pa.string()},
    "steering": {"name": pa.string(), "judge_positive": WORDS, "judge_negative": WORDS},
}


def prompts(name: str, data: Mapping[str, Path], settings: Mapping[str, Any], encoder: Encoder) -> pa.Table:
    """The prompt table of one set: `toy`, `reviews`, `mood`, `negation` or `steering`."""
    lists = yaml.safe_load(Path(data["lists"]).read_text())
    made = {
        "toy": lambda: _toy(encoder, lists["toy"]),
        "reviews": lambda: _reviews(encoder, lists["scaffolds"], Path(data["reviews"]), settings),
        "mood": lambda: _mood(encoder, lists["mood"], settings),
        "negation": lambda: _negation(encoder, lists["negation"]),
        "steering": lambda: _steering(encoder, lists["steering"], lists["judge"]),
    }[name]()
    return to_table(list(made), COLUMNS[name])


def _toy(encoder: Encoder, toy: Mapping[str, Any]) -> Iterator[Prompt]:
    """ToyMovieReview, protocol 3.1: words of one token, i-th adjective with the (i mod n)-th verb, classes in turn.

    `rank` is the word's place among the usable words of its class: the authors' training set is rank < 15.
    """
    answers = tuple(toy["answers"][c] for c in CLASSES)
    number = 0
    for split in ("train", "test"):
        by_class = []
        for label, c in zip((1, 0), CLASSES, strict=True):
            words = list(dict.fromkeys(toy["adjectives"][split][c]))
            verbs = toy["verbs"][c]
            good = [w for w in words if encoder.word(f" {w.strip()}") is not None]
            bad = [w for w in words if w not in good]
            ranked = [*enumerate(good), *((-1, w) for w in bad)]
            by_class.append([(label, rank, w, verbs[max(rank, 0) % len(verbs)]) for rank, w in ranked])
        for label, rank, word, verb in filter(None, chain.from_iterable(zip_longest(*by_class))):
            adj, vrb = f" {word.strip()}", f" {verb.strip()}"
            text, spans = strip_marks(toy["template"].replace("{ADJ}", adj).replace("{VRB}", vrb))
            yield make_prompt(
                encoder,
                number,
                split,
                text,
                spans,
                label=label,
                answers=answers,
                single=(adj, vrb),
                word=word.strip(),
                rank=rank,
            )
            number += 1


def _reviews(
    encoder: Encoder, scaffolds: Mapping[str, Any], path: Path, settings: Mapping[str, Any]
) -> Iterator[Prompt]:
    """Reviews in each scaffold, protocol 3.3; neutral rows (no label) are left out.

    A comma is a token that is exactly the bare comma. What else a sentence names (`polar`, `aspect`, `name`)
    comes from the table's marks, where it has any.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        rows = [
            r
            for r in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            if r["label"] in ("0", "1")
        ]
    taken: dict[str, int] = {}
    number = 0
    for row in rows:
        limit = settings["reviews"].get(row["split"], 0)
        if taken.get(row["split"], 0) >= limit:
            continue
        taken[row["split"]] = taken.get(row["split"], 0) + 1
        for scaffold, parts in scaffolds.items():
            before, after = parts["text"].split("{s}")
            text = before + row["sentence"] + after
            shift = len(before)
            prompt = make_prompt(
                encoder,
                number,
                row["split"],
                text,
                [(n, a + shift, b + shift) for n, a, b in _polar(json.loads(row.get("marks") or "[]"))],
                label=int(row["label"]),
                answers=([parts["positive"]], [parts["negative"]]),
                bos=settings["ablation_bos"] if scaffold == "ablation" else True,
                scaffold=scaffold,
                sentence=int(row["sentence_id"]),
                held_out=row.get("held_out") == "1",
            )
            yield _with_punctuation(encoder, prompt, shift, shift + len(row["sentence"]))
            number += 1


def _polar(marks: list[list[Any]]) -> list[Span]:
    """Adjectives and verbs that carry the sentiment are one kind of position here; punctuation is read off tokens."""
    names = {"adj": "polar", "verb": "polar", "polar": "polar", "aspect": "aspect", "name": "name"}
    return [(names[n], a, b) for n, a, b in marks if n in names]


def _with_punctuation(encoder: Encoder, prompt: Prompt, start: int, end: int) -> Prompt:
    """Add the bare commas and periods of the sentence, characters start to end of the text."""
    head = 1 if encoder.bos is not None and prompt.ids[0] == encoder.bos else 0
    _, offsets = encoder.encode(prompt.text, bos=bool(head))
    found: dict[str, list[int]] = {"comma": [], "period": []}
    for i, (a, b) in enumerate(offsets):
        if start <= a and b <= end and b > a:
            piece = encoder.text_of(prompt.ids[i])
            if piece in (",", "."):
                found["comma" if piece == "," else "period"].append(i)
    body = [i for i, (a, b) in enumerate(offsets) if start <= b and a < end and b > a]
    extra = {**{k: tuple(v) for k, v in found.items() if v}, "sentence": tuple(body)}
    return Prompt(**{**prompt.__dict__, "positions": {**prompt.positions, **extra}})


def _mood(encoder: Encoder, mood: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Prompt]:
    """Mood stories, protocol 3.2: each story and its flipped twin (same `story`), with irrelevant text between."""
    answers = tuple(mood["answers"][c] for c in CLASSES)
    number = story = 0
    for length, texts in sorted(mood["fillers"].items()):
        for i, name in enumerate(mood["names"][: settings["mood_names"]]):
            filler = texts[i % len(texts)]
            for label, c in zip((1, 0), ("original", "flipped"), strict=True):
                filled = mood["templates"][c].replace("{A}", name).replace("{F}", filler)
                text, spans = strip_marks(filled)
                yield make_prompt(
                    encoder,
                    number,
                    "test",
                    text,
                    spans,
                    label=label,
                    answers=answers,
                    story=story,
                    filler=int(length),
                )
                number += 1
            story += 1


def _negation(encoder: Encoder, negation: Mapping[str, Any]) -> Iterator[Prompt]:
    """Negated texts, protocol 3.4; the position `target` is the negated word."""
    for number, (text, target) in enumerate(negation["items"]):
        start = text.index(target)
        yield make_prompt(
            encoder, number, "test", text, [("target", start, start + len(target))], target=target
        )


def _steering(encoder: Encoder, steering: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Prompt]:
    """The prompts to be continued, protocol 4.10, with the words by which continuations are judged."""
    given = steering["prompt"]
    texts = given if isinstance(given, dict) else {"positive": given}
    words = {f"judge_{c}": sorted(map(str, judge[c])) for c in CLASSES}
    for number, (name, text) in enumerate(texts.items()):
        yield make_prompt(encoder, number, "test", text, label=int(name == "positive"), name=name, **words)
