"""Section 3 of the paper: relations become train prompts with examples before the query, and bare test prompts.

Reads one directory of relations (`relations`); whether it is the published data or a made-up world's is the scale's
business. A prompt holds its answer, so that one pass tells whether the model knows it and where the answer begins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bearings.stages.prompts import Encoder, Prompt, to_table
from bearings.studies.lrc.common import VARIANTS
from bearings.studies.lrc.relations import Relation, Sample, at_most, demonstrations, read_relations, split

COLUMNS = {
    "variant": pa.string(),
    "seeds": pa.list_(pa.int32()),
    "relation": pa.string(),
    "category": pa.string(),
    "subject": pa.string(),
    "object": pa.string(),
    "template": pa.int32(),
    "answer_tokens": pa.int32(),
}
Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Query:
    """A prompt before it meets a tokenizer: `shown` examples and a sample, all in one template of their relation.

    `variant` is `published`, `corrected`, or `both` where one prompt serves both; `seeds` are the split seeds of
    which it is a prompt; `bos` says whether it begins with the model's start token.
    """

    relation: Relation
    sample: Sample
    template: int
    line: str
    shown: tuple[Sample, ...]
    bos: bool
    variant: str
    seeds: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """Examples with their answers and the query without, a line each (protocol 3.3)."""
        lines = [f"{self.line.format(s.subject).strip()} {s.object.strip()}" for s in self.shown]
        return "\n".join([*lines, self.line.format(self.sample.subject)])

    @property
    def text(self) -> str:
        """The prompt and its answer."""
        return f"{self.prompt.strip()} {self.sample.object.strip()}"

    @property
    def subject_end(self) -> int:
        """Characters of `text` up to the end of the query's subject, trailing blanks aside.

        Counted by the template, because the same words may stand elsewhere in the text.
        """
        subject, prompt = self.sample.subject, self.prompt
        query = len(prompt) - len(self.line.format(subject))
        before = len(prompt) - len(prompt.lstrip())
        return query - before + self.line.index("{}") + len(subject.rstrip())


def prompts(name: str, data: Mapping[str, Path], settings: Mapping[str, Any], encoder: Encoder) -> pa.Table:
    """The prompt table of one set: `train` or `test`.

    Raises:
        ValueError: malformed relations, or a setting that names none of them, in one line.
    """
    relations = chosen(read_relations(data["relations"]), settings)
    bos = {v: bool(settings["bos"][v]) and encoder.bos is not None for v in VARIANTS}
    found = [q for r in relations for q in queries(r, name, settings["split_seeds"], bos)]
    return to_table(list(_encoded(name, found, encoder)), COLUMNS)


def chosen(relations: Sequence[Relation], settings: Mapping[str, Any]) -> list[Relation]:
    """The relations that the settings name (`all`, one or a list), with at most `max_samples` samples each."""
    names = [r.name for r in relations]
    wanted = [settings["relations"]] if isinstance(settings["relations"], str) else settings["relations"]
    wanted = names if wanted == ["all"] else wanted
    unknown = [w for w in wanted if w not in names]
    if unknown:
        raise ValueError(f"key 'relations' holds {unknown[0]!r}; allowed: 'all' or {', '.join(names)}")
    return [at_most(r, settings["max_samples"]) for r in relations if r.name in wanted]


def queries(relation: Relation, name: str, seeds: Sequence[int], bos: Mapping[str, bool]) -> list[Query]:
    """Every distinct prompt of a set of one relation, in the order of the file: by sample, then by template.

    What a seed gets, and in which order, does not depend on the other seeds. A test prompt shows no examples, so
    that it is the same for all seeds that put its sample to the test.
    """
    templates = relation.few_shot if name == "train" else relation.zero_shot
    uses: dict[tuple[Any, ...], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    number = {s: i for i, s in enumerate(relation.samples)}
    for seed in seeds:
        train, test = split(relation, seed)
        for sample in train if name == "train" else test:
            for variant in VARIANTS:
                leak = variant == "published"
                shown = demonstrations(relation, train, sample, leak) if name == "train" else ()
                for t in range(len(templates)):
                    uses[number[sample], t, shown, bos[variant]][seed].add(variant)
    out = []
    for (i, t, shown, start), by_seed in sorted(uses.items(), key=lambda x: x[0][:2]):
        for variant, mine in _by_variant(by_seed):
            out.append(Query(relation, relation.samples[i], t, templates[t], shown, start, variant, mine))
    return out


def _by_variant(by_seed: Mapping[int, set[str]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Seeds of a prompt that serve both variants, and those that serve one of them."""
    for variant in ("both", *VARIANTS):
        asked = set(VARIANTS) if variant == "both" else {variant}
        mine = tuple(sorted(seed for seed, served in by_seed.items() if served == asked))
        if mine:
            yield variant, mine


def _encoded(name: str, found: Sequence[Query], encoder: Encoder) -> Iterator[Prompt]:
    """Prompts of queries, numbered as they come."""
    whole = encoder.encode_many([q.text for q in found])
    heads = encoder.encode_many([q.prompt.strip() for q in found])
    for number, (query, (ids, offsets), (head, _)) in enumerate(zip(found, whole, heads, strict=True)):
        start = 0 if query.bos or encoder.bos is None else 1
        ids, offsets, head = ids[start:], offsets[start:], head[start:]
        subject = holds(offsets, query.subject_end)
        n, k = len(head), len(ids) - len(head)
        why = ""
        if len(ids) > encoder.n_ctx:
            why = f"{len(ids)} tokens do not fit a context of {encoder.n_ctx}"
        elif k < 1 or ids[:n] != head:
            why = "the prompt's tokens change when the answer follows"
        elif subject is None:
            why = "the subject has no token"
        at = {} if why else {"subject": (subject,), "object": tuple(range(n - 1, n + k - 1))}
        extra = {
            "variant": query.variant,
            "seeds": list(query.seeds),
            "relation": query.relation.name,
            "category": query.relation.category,
            "subject": query.sample.subject,
            "object": query.sample.object.strip(),
            "template": query.template,
            "answer_tokens": k,
        }
        yield Prompt(
            number, name, query.text, tuple(ids), None, at, (), (), usable=not why, why=why, extra=extra
        )


def holds(offsets: Offsets, end: int) -> int | None:
    """Index of the last token that holds the character before `end`, or None if no token does."""
    return next((i for i, (a, b) in reversed(list(enumerate(offsets))) if a < end <= b), None)
