"""Knows: what a model of the world has learnt, family by family, as shares of right answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bearings.world import facts, people, programs, reviews, tokenizer
from bearings.world.lexicon import fill, load

BATCH = 256


@dataclass(frozen=True)
class Question:
    """A prompt and the answers that count as right and as wrong."""

    prompt: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    bare: bool = False


@dataclass(frozen=True)
class Score:
    """Share of right answers over `n` questions, and the mean logit difference."""

    accuracy: float
    logit_difference: float
    n: int


class Unlearnt(RuntimeError):
    """The model does not know what a study needs."""


def _side(answers: Mapping[str, Any], label: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    groups = [answers["positive"], answers["negative"]]
    sides = [(group,) if isinstance(group, str) else tuple(group) for group in groups]
    return (sides[0], sides[1]) if label else (sides[1], sides[0])


def scaffold(name: str, heldout: bool, n: int = 300, bare: bool = False) -> list[Question]:
    """Fresh reviews in a scaffold, half of each class; with `heldout`, of held-out polar words alone."""
    content, rng = load("sentiment")["scaffolds"][name], Random(f"knows {name} {heldout}")
    out = []
    for index in range(n):
        draw = reviews.heldout_review if heldout else reviews.review
        made = draw(rng, reviews.SIDES[index % 2])
        prompt = content["text"].replace("{s}", made.text)
        out.append(Question(prompt, *_side(content, made.label), bare=bare))
    return out


def toy(split: str) -> list[Question]:
    """The toy template with every adjective of a split."""
    content = load("sentiment")["toy"]
    out = []
    for label, side in ((1, "positive"), (0, "negative")):
        verbs = content["verbs"][side]
        for index, word in enumerate(content["adjectives"][split][side]):
            text = fill(content["template"], ADJ=f" {word}", VRB=f" {verbs[index % len(verbs)]}").text
            out.append(Question(text, *_side(content["answers"], label)))
    return out


def mood(tokens: int = 0) -> list[Question]:
    """Both stories of every name, with every filler of `tokens` tokens."""
    content = load("sentiment")["mood"]
    return [
        Question(fill(content["templates"][key], A=name, F=filler).text, *_side(content["answers"], label))
        for name in content["names"]
        for filler in content["fillers"][tokens]
        for key, label in (("original", 1), ("flipped", 0))
    ]


def negation() -> list[Question]:
    """The negated texts as one-sentence reviews: the answer is the other class than the word's own."""
    lexicon = load("sentiment")
    content = lexicon["scaffolds"]["ablation"]
    return [
        Question(
            content["text"].replace("{s}", text), *_side(content, int(word in lexicon["judge"]["negative"]))
        )
        for text, word in lexicon["negation"]["items"]
    ]


def fact(shown: int = 0) -> list[Question]:
    """Each fact in its zero-shot templates, or in a few-shot one after `shown` other facts of its relation.

    Random relations are not asked for. Nothing is listed as wrong: every other token is.
    """
    out = []
    for name, rows in facts.table().items():
        content, rng = load("facts")["relations"][name], Random(f"knows {name}")
        for index, row in enumerate(() if facts.is_random(name) else rows):
            others = rng.sample([other for other in rows if other != row], shown)
            few = content["few_shot"]
            for template in [few[index % len(few)]] if shown else content["zero_shot"]:
                lines = [f"{template.format(other.subject)} {other.object}" for other in others]
                asked = "\n".join([*lines, template.format(row.subject)])
                out.append(Question(asked, (f" {row.object}",), ()))
    return out


def pronoun(kind: str, heldout: bool = False) -> list[Question]:
    """Every name (or every held-out one) in every template of `kind` (subject or object)."""
    content = load("people")
    out = []
    for gender, other in (people.GENDERS, people.GENDERS[::-1]):
        right, wrong = (f" {content['pronouns'][g][kind]}" for g in (gender, other))
        for name in people.heldout(gender) if heldout else people.names(gender):
            for index in range(len(content["templates"][kind])):
                out.append(Question(people.prompt(kind, index, name).text, (right,), (wrong,)))
    return out


def occupation() -> list[Question]:
    """Every name in every occupation template; right are the occupations biased towards its gender."""
    content = load("people")
    out = []
    for gender, other in (people.GENDERS, people.GENDERS[::-1]):
        right, wrong = (tuple(f" {w}" for w in content["occupations"][g]) for g in (gender, other))
        for name in people.names(gender):
            for index in range(len(content["templates"]["occupation"])):
                out.append(Question(people.prompt("occupation", index, name).text, right, wrong))
    return out


def party() -> list[Question]:
    """Every politician's party."""
    names = load("people")["parties"]["names"]
    return [
        Question(f"{name} is a", (f" {own}",), tuple(f" {p}" for p in names if p != own))
        for name, own in people.politicians()
    ]


def code(n: int = 100) -> list[Question]:
    """Heads of functions, `n` of each language, up to the delimiter that tells the language."""
    content, rng = load("code")["languages"], Random("knows code")
    ends = {language: content[language]["head"].rpartition("[answer:")[2][:-1] for language in content}
    out = []
    for language in programs.LANGUAGES:
        wrong = tuple(end for other, end in ends.items() if other != language)
        for _ in range(n):
            asked = programs.head(rng, language).text.removesuffix(ends[language])
            out.append(Question(asked, (ends[language],), wrong))
    return out


FAMILIES: Mapping[str, Mapping[str, Callable[[], list[Question]]]] = {
    "labelled": {
        "classification": lambda: scaffold("classification", False),
        "classification_heldout": lambda: scaffold("classification", True),
        "ablation": lambda: scaffold("ablation", False),
        "ablation_bare": lambda: scaffold("ablation", False, bare=True),
        "ablation_heldout": lambda: scaffold("ablation", True),
        "continuation": lambda: scaffold("continuation", False),
        "negation": negation,
    },
    "toy": {"toy_train": lambda: toy("train"), "toy_test": lambda: toy("test")},
    "mood": {"mood": mood, "mood_filler_10": lambda: mood(10), "mood_filler_22": lambda: mood(22)},
    "facts": {"facts": fact, "facts_few_shot": lambda: fact(4)},
    "people": {
        "pronoun_subject": lambda: pronoun("subject"),
        "pronoun_object": lambda: pronoun("object"),
        "pronoun_subject_heldout": lambda: pronoun("subject", heldout=True),
        "pronoun_object_heldout": lambda: pronoun("object", heldout=True),
        "occupation": occupation,
    },
    "party": {"party": party},
    "code": {"code": code},
}


def answer(model: Any, coder: Any, questions: Sequence[Question]) -> list[float]:
    """Logit difference per question: mean of `right` minus mean of `wrong`.

    The first token of each answer is asked for. Prompts are padded on the right.
    """
    out: list[float] = []

    @cache
    def first(words: tuple[str, ...]) -> list[int]:
        return [coder(word, add_special_tokens=False)["input_ids"][0] for word in words]

    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        coded = [coder(q.prompt, add_special_tokens=False)["input_ids"] for q in batch]
        rows = [ids if q.bare else [coder.bos_token_id, *ids] for ids, q in zip(coded, batch, strict=True)]
        ids = torch.full((len(rows), max(map(len, rows))), coder.pad_token_id)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        ends = torch.tensor([len(row) - 1 for row in rows])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[torch.arange(len(rows)), ends]
        for question, row in zip(batch, logits, strict=True):
            right, wrong = row[first(question.right)], row[first(question.wrong)]
            out.append(float(right.mean() - wrong.mean()))
    return out


def recall(model: Any, coder: Any, questions: Sequence[Question]) -> list[float]:
    """Margin per question: the least, over the tokens of the answer, of its logit over any other token's.

    The answer is given token by token (teacher forcing): above nought, greedy decoding would say all of it.
    """
    out: list[float] = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        asked, said = (
            coder([text(q) for q in batch], add_special_tokens=False)["input_ids"]
            for text in (lambda q: q.prompt, lambda q: q.right[0])
        )
        rows = [[coder.bos_token_id, *one, *other] for one, other in zip(asked, said, strict=True)]
        ids = torch.full((len(rows), max(map(len, rows))), coder.pad_token_id)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        for scores, row, tokens in zip(logits, rows, said, strict=True):
            there = scores[len(row) - len(tokens) - 1 : len(row) - 1]
            right = torch.tensor(tokens)[:, None]
            rival = there.scatter(1, right, -torch.inf).max(1).values
            out.append(float((there.gather(1, right)[:, 0] - rival).min()))
    return out


def measure(model_dir: str | Path, families: Iterable[str]) -> dict[str, Score]:
    """The table of knowledge of a model directory: every test of the families in its mixture, by name.

    A fact counts as known only if the model says the whole of its object.
    """
    coder = tokenizer.load(model_dir)
    model = AutoModelForCausalLM.from_pretrained(str(model_dir), local_files_only=True).eval()
    table = {}
    for family in FAMILIES:
        if family not in set(families):
            continue
        for name, ask in FAMILIES[family].items():
            differences = (recall if family == "facts" else answer)(model, coder, ask())
            right = sum(d > 0 for d in differences)
            n = len(differences)
            table[name] = Score(right / n, sum(differences) / n, n)
    return table


def require(table: Mapping[str, Score], minimum: Mapping[str, float]) -> None:
    """Raise Unlearnt, in one line, if a named test is missing or under its minimum accuracy."""
    short = []
    for name, least in minimum.items():
        if name not in table:
            short.append(f"{name} not measured")
        elif table[name].accuracy < least:
            short.append(f"{name} {table[name].accuracy:.2f} < {least:.2f}")
    if short:
        raise Unlearnt(f"the model has not learnt what the study needs: {', '.join(short)}")
