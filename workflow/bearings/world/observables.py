"""Observables: the people's part of the world in the formats of the observable-propagation study's own data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml
from tokenizers import pre_tokenizers

from bearings.world import grammar, people, programs
from bearings.world.lexicon import load
from bearings.world.settings import whole_directory

TEXT_MIXTURE = {"people": 0.5, "sentences": 0.2, "party": 0.1, "code": 0.1, "narrative": 0.1}
TEXT_TOKENS = 25_000
FILES = 150  # of each language
TRAIN_PER_PARTY = 30
CONTROL = (" lamp", " farm")
TASKS = {"subj": ("n_subj", "subject"), "obj": ("n_obj", "object"), "occ": ("n_bias", "occupation")}
PAIRED = {"subj": ("Mary", "James"), "obj": ("Jane", "John"), "occ": ("Mary", "James")}


def _count(text: str) -> int:
    """Tokens of a text without the start token; the vocabulary is closed, so that each word is one."""
    return len(pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text))


def observables() -> dict[str, dict[str, list[str]]]:
    """The words that each observable adds (pos) and takes away (neg)."""
    lexicon = load("people")
    she, he = (lexicon["pronouns"][gender] for gender in people.GENDERS)
    hers, his = ([f" {word}" for word in lexicon["occupations"][gender]] for gender in people.GENDERS)
    parties = [f" {name}" for name in lexicon["parties"]["names"]]
    pairs = {
        "n_subj": ([f" {she['subject']}"], [f" {he['subject']}"]),
        "n_obj": ([f" {she['object']}"], [f" {he['object']}"]),
        "n_bias": (hers, his),
        "occupation2": (hers[:1], his[-1:]),
        "control": ([CONTROL[0]], [CONTROL[1]]),
        "party": (parties[:1], parties[1:]),
        "code1": (["){"], ["):"]),
        "code2": ([" #"], [" //"]),
    }
    return {name: {"pos": list(pos), "neg": list(neg)} for name, (pos, neg) in pairs.items()}


def _templates() -> dict[str, Any]:
    out = {}
    for task, (observable, kind) in TASKS.items():
        items = []
        for index in range(len(load("people")["templates"][kind])):
            made = people.prompt(kind, index, "[NAME]")
            start = next(first for name, first, _ in made.marks if name == "name")
            # The blank before a name belongs to its token; the start token counts as position 0.
            shown = {"text": made.text, "n_tokens": _count(made.text.replace("[NAME]", "Mary")) + 1}
            items.append(shown | {"name_position": _count(made.text[: start - 1]) + 1})
        out[task] = {"observable": observable, "bos": True, "items": items}
    return out


def _pairs() -> dict[str, Any]:
    """The two prompts of each task that the feature is linearised at; both have the same number of tokens."""
    chosen = {
        task: [people.prompt(TASKS[task][1], 0, name).text for name in names]
        for task, names in PAIRED.items()
    }
    known = load("people")["parties"]["names"]
    plain = [next(n for n, own in people.politicians() if own == p and len(n.split()) == 2) for p in known]
    chosen["party"] = [f"{name} is a" for name in plain]
    chosen["code1"] = ["int scale(int x, float y", "def scale(x, n, y"]
    chosen["code2"] = ["int scale(int x){\n    int z = x + 1", "def scale(x, y):\n    z = x + 1"]
    items, out = _templates(), {}
    for task, (first, second) in chosen.items():
        named = items.get(task, {}).get("items")
        out[task] = {
            "observable": TASKS[task][0] if task in TASKS else task,
            "bos": task in TASKS,
            "prompt_a": first,
            "prompt_b": second,
            "n_tokens": _count(first) + (task in TASKS),
            "source_position": named[0]["name_position"] if named else 1 if task == "party" else None,
        }
    return out


def lists() -> dict[str, Any]:
    """Observables, templates and linearisation pairs."""
    return {"observables": observables(), "templates": _templates(), "linearisation_pairs": _pairs()}


def names() -> dict[str, Any]:
    """Names by gender, the most frequent first; those that both genders bear; those kept out of the templates."""
    by_gender = {gender: people.names(gender) for gender in people.GENDERS}
    shared = {name: share for gender in people.GENDERS for name, share in people.mixed(gender).items()}
    kept = [name for gender in people.GENDERS for name in people.heldout(gender)]
    return {**by_gender, "share_of_other_gender_above_0.05": shared, "held_out": kept}


def politicians() -> dict[str, Any]:
    """Politicians by party, in the world's order; the first ones of each list are there to learn from."""
    words = observables()["party"]
    lists_ = {
        f"{party.lower()}s": [name for name, own in people.politicians() if own == party]
        for party in load("people")["parties"]["names"]
    }
    (least,) = {len(members) for members in lists_.values()}
    return {
        "template": "{} is a",
        "bos": False,
        "positive_observable": words["pos"][0],
        "negative_observable": words["neg"][0],
        "train_per_party": TRAIN_PER_PARTY,
        "test_per_party": least - TRAIN_PER_PARTY,
        "split_rule": "list order: the first of each list = train, the others = test",
        **lists_,
    }


def _texts(seed: int) -> Iterable[str]:
    left = TEXT_TOKENS
    for doc in grammar.documents(TEXT_MIXTURE, Random(f"people text {seed}").getrandbits(64)):
        yield doc.text
        left -= _count(doc.text)
        if left <= 0:
            return


def _write_lines(path: Path, texts: Iterable[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def write_people(folder: str | Path, seed: int) -> Path:
    """A directory of what the study reads: prompts.yaml, names.json, politicians.json and three .jsonl of texts.

    Lists, names and politicians are constants of the world. Running text (some 25,000 tokens, short documents) and
    programs (`FILES` files of each language) are drawn from `seed`, apart from the corpus.
    """

    def write_json(path: Path, content: Mapping[str, Any]) -> None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    with whole_directory(folder) as staged:
        shown = yaml.safe_dump(lists(), sort_keys=False, allow_unicode=True)
        (staged / "prompts.yaml").write_text(shown, encoding="utf-8")
        write_json(staged / "names.json", names())
        write_json(staged / "politicians.json", politicians())
        _write_lines(staged / "text.jsonl", _texts(seed))
        for language in programs.LANGUAGES:
            rng = Random(f"people {language} {seed}")
            files = [programs.file(rng, language) for _ in range(FILES)]
            _write_lines(staged / f"{language}.jsonl", files)
    return Path(folder)
