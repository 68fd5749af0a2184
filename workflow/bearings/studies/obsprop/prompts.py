"""Protocol section 3: names in templates, linearisation pairs, politicians, windows of code and of running text.

All tokens that later stages need are in the prompts; nothing below reads the data again. The set `pairs` also has
a row for every observable (see `common`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from bearings.stages.prompts import Encoder, Prompt, Span, make_prompt, to_table
from bearings.studies.obsprop.common import GENDERS, NAME_TASKS, TASKS
from bearings.studies.obsprop.lists import SLOT, Linearisation, Lists, Tokens, read_lists, token_weights
from bearings.studies.obsprop.people import Names, Politicians, read_names, read_politicians
from bearings.studies.obsprop.texts import cut

ASKED = {"task": pa.string(), "observable": pa.string()}
COLUMNS = {
    "names": {
        **ASKED,
        "template": pa.int32(),
        "name": pa.string(),
        "gender": pa.string(),
        "pair": pa.int32(),
        "mixed": pa.bool_(),
        "held_out": pa.bool_(),
    },
    "pairs": {**ASKED, "side": pa.string(), "paths": pa.string()},
    "politicians": {**ASKED, "person": pa.string(), "bos": pa.bool_()},
    "code": {**ASKED, "language": pa.string(), "document": pa.int32(), "window": pa.int32()},
    "text": {"document": pa.int32(), "window": pa.int32()},
}
ENDINGS = {"c": (".c", ".h", ".txt"), "python": (".py", ".txt")}


def prompts(name: str, data: Mapping[str, Path], settings: Mapping[str, Any], encoder: Encoder) -> pa.Table:
    """The prompt table of one set: `names`, `pairs`, `politicians`, `code` or `text`.

    Raises:
        ValueError: malformed data, or windows longer than the model's context, in one line.
    """
    lists = read_lists(data["lists"])
    weights = token_weights(lists, encoder)
    made = {
        "names": lambda: _names(encoder, lists, weights, read_names(data["names"])),
        "pairs": lambda: _pairs(encoder, lists, weights),
        "politicians": lambda: _politicians(encoder, weights["party"], read_politicians(data["politicians"])),
        "code": lambda: _code(encoder, weights["code1"], data, settings),
        "text": lambda: _text(encoder, data["text"], settings),
    }[name]()
    return to_table([replace(p, id=i) for i, p in enumerate(made)], COLUMNS[name])


def _prompt(
    encoder: Encoder,
    split: str,
    text: str,
    spans: list[Span],
    *,
    label: int,
    bos: bool,
    asked: Tokens,
    extra: Mapping[str, Any],
) -> Prompt:
    made = make_prompt(encoder, 0, split, text, spans, label=label, bos=bos)
    answers = {"positive": asked.positive, "negative": asked.negative}
    return _bar(replace(made, **answers, extra=extra), asked.why)


def _bar(prompt: Prompt, why: str) -> Prompt:
    """The prompt, unusable if there is a reason; the first reason stays."""
    return replace(prompt, usable=False, why=why) if why and prompt.usable else prompt


def _names(encoder: Encoder, lists: Lists, weights: Mapping[str, Tokens], names: Names) -> Iterator[Prompt]:
    """Each task's templates with every name; the i-th female and male name of a template are a pair."""
    for task in NAME_TASKS:
        for t, template in enumerate(lists.templates[task]):
            start = template.text.index(SLOT)
            for label in (1, 0):
                listed = names.female if label else names.male
                for i, name in enumerate(listed):
                    prompt = _prompt(
                        encoder,
                        "names",
                        template.text.replace(SLOT, name),
                        [("name*", start, start + len(name))],
                        label=label,
                        bos=template.bos,
                        asked=weights[TASKS[task]],
                        extra={
                            "task": task,
                            "observable": TASKS[task],
                            "template": t,
                            "name": name,
                            "gender": GENDERS[label],
                            "pair": t * len(listed) + i,
                            "mixed": name in names.mixed,
                            "held_out": name in names.held_out,
                        },
                    )
                    split = prompt.usable and len(prompt.positions["name"]) != 1
                    prompt = _bar(prompt, f"'{name}' is not one token" if split else "")
                    if template.bos and encoder.bos is not None:
                        prompt = replace(prompt, positions={**prompt.positions, "bos": (0,)})
                    yield prompt


def _pairs(encoder: Encoder, lists: Lists, weights: Mapping[str, Tokens]) -> Iterator[Prompt]:
    """Both prompts of every linearisation pair, then a row for every observable, which is no text to be read."""
    for task, found in lists.pairs.items():
        name = TASKS[task]
        sides = [
            _prompt(
                encoder,
                "pair",
                text,
                [],
                label=int(side == "a"),
                bos=found.bos,
                asked=weights[name],
                extra={"task": task, "observable": name, "side": side, "paths": None},
            )
            for side, text in (("a", found.a), ("b", found.b))
        ]
        yield from _aligned(encoder, found, *sides)
    start, _ = encoder.encode("")
    for name, (positive, negative, why) in weights.items():
        mine = {k: v for k, v in lists.paths.items() if k.split(".")[0] == name}
        extra = {"task": None, "observable": name, "side": None, "paths": json.dumps(mine) if mine else None}
        yield Prompt(0, "observable", name, tuple(start), None, {}, positive, negative, not why, why, extra)


def _aligned(encoder: Encoder, found: Linearisation, a: Prompt, b: Prompt) -> Iterator[Prompt]:
    """Two prompts that differ token by token, with their source position; unusable if they do not."""
    source = found.source
    if source is not None and found.bos and encoder.bos is None:
        source -= 1
    why = ""
    if len(a.ids) != len(b.ids):
        why = f"prompts a and b have {len(a.ids)} and {len(b.ids)} tokens"
    elif source is not None and not 0 <= source < len(a.ids):
        why = f"source position {source} is not among {len(a.ids)} tokens"
    elif source is not None and a.ids[: source + 1] == b.ids[: source + 1]:
        why = f"prompts a and b do not differ up to source position {source}"
    for prompt in (a, b):
        at = {} if why or source is None else {"source": (source,)}
        yield _bar(replace(prompt, positions={**prompt.positions, **at}), why)


def _politicians(encoder: Encoder, asked: Tokens, found: Politicians) -> Iterator[Prompt]:
    """Every person without a start token, as published, then every person with one (section 5, T5).

    `tokens` are the text's own: a start token is the same for all, and its share in a mean would tell lengths apart.
    """
    start = found.template.index("{}")
    for bos in (False, True):
        for label in (1, 0):
            for i, person in enumerate(found.democrats if label else found.republicans):
                prompt = _prompt(
                    encoder,
                    "train" if i < found.train else "test",
                    found.template.replace("{}", person),
                    [("name", start, start + len(person))],
                    label=label,
                    bos=bos,
                    asked=asked,
                    extra={"task": "party", "observable": TASKS["party"], "person": person, "bos": bos},
                )
                n, first = len(prompt.ids), int(bos and encoder.bos is not None)
                at = {"minus4": (max(n - 4, 0),), "tokens": tuple(range(first, n))}
                none = "the model has no start token" if bos and encoder.bos is None else ""
                yield _bar(replace(prompt, positions={**prompt.positions, **at}), none)


def _code(
    encoder: Encoder, asked: Tokens, data: Mapping[str, Path], settings: Mapping[str, Any]
) -> Iterator[Prompt]:
    """The first `code_windows` windows of each language, as published: consecutive, of the first files (T7).

    `window` counts within the language.
    """
    size = _size(encoder, settings, "code_window" if "code_window" in settings else "window")
    extra = {"task": "code1", "observable": TASKS["code1"]}
    for language, label in (("c", 1), ("python", 0)):
        found = cut(encoder, data[language], size, ENDINGS[language])
        for i, (document, ids, text) in enumerate(islice(found, settings["code_windows"])):
            own = {**extra, "language": language, "document": document, "window": i}
            answers = asked.positive, asked.negative
            yield _bar(Prompt(0, "code", text, ids, label, _all(ids), *answers, extra=own), asked.why)


def _text(encoder: Encoder, path: Path, settings: Mapping[str, Any]) -> Iterator[Prompt]:
    """Windows of running text up to the one that brings them to more than `text_tokens` tokens."""
    total = 0
    for i, (document, ids, text) in enumerate(cut(encoder, path, _size(encoder, settings, "window"))):
        yield Prompt(0, "text", text, ids, None, _all(ids), (), (), extra={"document": document, "window": i})
        total += len(ids)
        if total > settings["text_tokens"]:
            return


def _all(ids: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"tokens": tuple(range(len(ids))), "end": (len(ids) - 1,)}


def _size(encoder: Encoder, settings: Mapping[str, Any], key: str) -> int:
    if settings[key] > encoder.n_ctx:
        raise ValueError(f"key '{key}' is {settings[key]}; the model reads {encoder.n_ctx} tokens at a time")
    return settings[key]
