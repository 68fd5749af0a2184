"""Filters, tasks and edits of the LRC study: what is counted, in which order, and that nothing else decides it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_models import D_VOCAB, reference
from lrc_models import RELATIONS, SETTINGS, hand_dump, prompt, relations, run_dump

from bearings.studies.lrc import common
from bearings.studies.lrc.common import answers, edits, known, tasks
from bearings.studies.lrc.lre import sample_order

SEEDS = (42, 43)


def find(seeds=SEEDS, unknown=((), ()), names=tuple(RELATIONS), settings=SETTINGS):
    """Tasks of hand-made relations; `unknown` ids of train and of test prompts."""
    prompts = relations(seeds, names)
    dumps = {n: hand_dump(prompts[n], unknown=u) for n, u in zip(("train", "test"), unknown, strict=True)}
    return prompts, tasks(prompts, dumps, settings)


def greedy(family: str, head: list[int], k: int) -> list[int]:
    """k tokens decoded one by one by the plain model, the whole prompt anew each time."""
    ids = list(head)
    with torch.no_grad():
        for _ in range(k):
            ids.append(int(reference(family)(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(head) :]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_known_is_what_greedy_decoding_says(family):
    rng = np.random.default_rng(0)
    made, expected = [], set()
    for i in range(18):
        head = [1, *rng.integers(3, D_VOCAB, int(rng.integers(2, 14))).tolist()]
        answer = greedy(family, head, 1 + i % 3)
        if i % 2:  # every second one is wrong at one place: the first, the middle or the last
            place = int(rng.integers(len(answer)))
            answer[place] = (answer[place] + 1) % D_VOCAB
        else:
            expected.add(i)
        made.append(prompt(i, "test", head, 1, answer))
    # Batches of one, and all in one rectangle with much padding.
    for max_tokens in (1, 10_000):
        assert known(made, run_dump(family, made, max_tokens)) == expected


def test_an_answer_with_one_wrong_token_is_not_known():
    one = prompt(0, "test", [1, 20, 3], 1, [5, 6, 7])
    dump = hand_dump([one])
    assert known([one], dump) == {0}
    for row in dump.rows[0, "object"]:
        wrong = dump.predicted.copy()
        wrong[row] += 1
        assert known([one], replace(dump, predicted=wrong)) == set()
    # What is predicted at the subject does not matter, nor that a token comes at another place.
    other = dump.predicted.copy()
    other[dump.rows[0, "subject"]] = 60
    assert known([one], replace(dump, predicted=other)) == {0}
    other[dump.rows[0, "object"]] = [6, 5, 7]
    assert known([one], replace(dump, predicted=other)) == set()


def test_prompts_that_are_unusable_or_not_dumped_are_not_known():
    first, second = (prompt(i, "test", [1, 20, 3], 1, [5]) for i in range(2))
    assert known([replace(first, usable=False), second], hand_dump([first])) == set()


def test_tasks_hold_the_known_prompts_of_their_variant_and_split():
    prompts, found = find(unknown=((0, 3), (1,)))
    assert len({t.key for t in found}) == len(found) == 2 * 2 * len(RELATIONS)
    for t in found:
        for name, mine, unknown in (("train", t.train, {0, 3}), ("test", t.test, {1})):
            expected = [
                p.id
                for p in prompts[name]
                if p.id not in unknown
                and p.extra["relation"] == t.relation
                and t.seed in p.extra["seeds"]
                and p.extra["variant"] in (t.variant, "both")
            ]
            assert [p.id for p in mine] == expected
        assert t.category == RELATIONS[t.relation][0]
        assert t.labels(t.train).max() == len(t.objects) - 1
        assert [t.objects[i] for i in t.labels(t.test)] == [p.extra["object"] for p in t.test]


def test_test_prompts_are_counted_before_objects_without_a_concept_are_dropped():
    prompts = relations((42,), ["tool"])
    lost = {p.id for p in prompts["train"] if p.extra["object"] == "tool object 0"}
    total = sum(1 for p in prompts["test"])
    # Of nine known test prompts three have no concept: six are left, but nine are counted.
    assert total == 9
    for least, there in ((total, True), (total + 1, False)):
        _, found = find((42,), (lost, ()), ["tool"], {**SETTINGS, "min_test": least})
        assert [len(t.test) for t in found] == [6, 6] * there
    assert all(t.objects == ("tool object 1", "tool object 2") for t in found)


def test_a_relation_with_one_object_or_no_test_prompt_left_is_dropped():
    prompts = relations((42,), ["kin"])
    lost = {p.id for p in prompts["train"] if p.extra["object"] == "kin object 1"}
    assert find((42,), (lost, ()), ["kin"])[1] == []
    prompts = relations((42,), ["tool"])
    lost = {p.id for p in prompts["train"] if p.extra["object"] == "tool object 0"}
    tested = {p.id for p in prompts["test"] if p.extra["object"] != "tool object 0"}
    assert find((42,), (lost, tested), ["tool"], {**SETTINGS, "min_test": 1})[1] == []
    everything = ({p.id for p in prompts["train"]}, {p.id for p in prompts["test"]})
    assert find((42,), everything, ["tool"])[1] == []


def test_tasks_do_not_depend_on_the_order_of_the_relations():
    _, a = find()
    _, b = find(names=tuple(reversed(RELATIONS)))
    assert [t.key for t in a] == [t.key for t in b] == sorted(t.key for t in a)
    assert [t.objects for t in a] == [t.objects for t in b]


def content(t, pairs) -> list[tuple[str, int, int]]:
    return [(p.prompt.extra["subject"], p.source, p.target) for p in pairs]


def test_edits_are_distinct_when_corrected_and_may_repeat_as_published():
    repeats = Counter()
    for t in find(SEEDS)[1]:
        for prompts in (t.train, t.test):
            pairs = edits(t, prompts)
            assert content(t, pairs) == content(t, edits(t, prompts))
            repeats[t.variant] += len(pairs) - len(set(content(t, pairs)))
            there = {p.extra["object"] for p in prompts}
            per_source = Counter(p.source for p in pairs)
            assert set(per_source) == {t.index[o] for o in there}
            for pair in pairs:
                assert pair.source != pair.target
                assert pair.prompt in prompts
                assert t.index[pair.prompt.extra["object"]] == pair.source
                assert t.objects[pair.target] in there
            others = len(there) - 1
            for source, n in per_source.items():
                mine = min(5, sum(p.extra["object"] == t.objects[source] for p in prompts))
                assert n == min(5, mine * others) if t.variant == "corrected" else n == 5
    assert repeats["corrected"] == 0 < repeats["published"]


def test_no_edit_goes_to_an_object_without_a_prompt_among_those_given():
    (t,) = (t for t in find((42,), names=["river"])[1] if t.variant == "corrected")
    some = [p for p in t.test if t.index[p.extra["object"]] in (0, 2)]
    assert {(p.source, p.target) for p in edits(t, some)} == {(0, 2), (2, 0)}
    assert edits(t, [p for p in some if t.index[p.extra["object"]] == 0]) == []


def test_every_object_is_answered_by_its_own_tokens():
    for t in find()[1]:
        expected = RELATIONS[t.relation][1]
        assert answers(t) == {t.index[f"{t.relation} object {i}"]: a for i, a in enumerate(expected)}


def test_samples_take_objects_in_turn_and_a_longer_list_begins_like_a_shorter():
    for t in find()[1]:
        n, whole = len(t.objects), sample_order(t, 10_000)
        assert sorted(p.id for p in whole) == sorted(p.id for p in t.train)
        for r in range(len(whole) // n):
            assert len({p.extra["object"] for p in whole[n * r : n * (r + 1)]}) == n
        for k in (1, 2, 5):
            assert sample_order(t, k) == whole[:k]


def test_samples_without_turns_left_are_skipped():
    # Of the first object one prompt is known, of the others three.
    prompts = relations((42,), ["tool"])
    mine = [p.id for p in prompts["train"] if p.extra["object"] == "tool object 0"]
    (t,) = (t for t in find((42,), (mine[2:], ()), ["tool"])[1] if t.variant == "corrected")
    order = [p.extra["object"] for p in sample_order(t, 100)]
    assert Counter(order) == {"tool object 0": 1, "tool object 1": 3, "tool object 2": 3}
    assert set(order[:3]) == set(t.objects)
    assert "tool object 0" not in order[3:]


def decisions() -> str:
    """All that is drawn or ordered before a model is asked."""
    lines = []
    for t in find()[1]:
        pairs = [content(t, edits(t, x)) for x in (t.train, t.test)]
        drawn = [p.id for p in sample_order(t, 9)], int(t.rng("x", 1).integers(1 << 30))
        lines.append(f"{t.key} {t.objects} {pairs} {drawn}")
    return "\n".join(lines)


def test_the_hash_seed_of_python_decides_nothing():
    folders = [str(Path(__file__).parent), str(Path(common.__file__).parents[3])]
    code = f"import sys; sys.path[:0] = {folders}; import test_lrc_common as t; print(t.decisions())"
    # Another seed than ours, which is random unless it is set.
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == decisions() != ""
