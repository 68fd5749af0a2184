"""Acceptance checks on the authors' own lists, sentences and vectors (protocol section 9, items 1 to 5)."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sentiment_models import authors_lists, gpt2_encoder

from bearings.stages.prompts import Prompt, from_table, make_prompt, strip_marks
from bearings.studies.sentiment import metrics
from bearings.studies.sentiment.common import corrupted, enough, toy, unit
from bearings.studies.sentiment.patching import equal_length_pairs
from bearings.studies.sentiment.prompts import prompts

SIDES = ("positive", "negative")


@pytest.fixture(scope="module")
def gpt2(shared):
    return gpt2_encoder(shared)


@pytest.fixture(scope="module")
def lists(shared):
    return authors_lists(shared)


@pytest.fixture(scope="module")
def files(lists, shared, tmp_path_factory):
    path = tmp_path_factory.mktemp("lists") / "lists.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in lists.items() if k not in ("raw", "mood")}))
    return {"lists": path, "reviews": shared / "data/sst/sst_sentences.tsv"}


@pytest.fixture(scope="module")
def words(files, gpt2):
    return from_table(prompts("toy", files, {}, gpt2))


@pytest.fixture(scope="module")
def sentences(shared):
    path = shared / "data/sst/sst_sentences.tsv"
    with path.open(newline="", encoding="utf-8") as lines:
        return path, list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


# --- item 1: lists -------------------------------------------------------------------------------------------------


def test_lists_have_their_published_lengths(lists):
    raw = lists["raw"]
    t = raw["toy_movie_review"]
    lengths = [len(t[f"{c}_adjectives_{s}"]) for s in ("train", "test", "core") for c in SIDES]
    lengths += [len(t[f"{c}_verbs"]) for c in SIDES] + [len(t[f"{c}_answers"]) for c in SIDES]
    assert lengths == [31, 24, 16, 14, 20, 15, 5, 3, 5, 5]
    assert len(raw["negation"]["items"]) == 27
    assert len(raw["toy_mood_story"]["names"]) == 15


def test_every_slot_word_is_one_gpt2_token(lists, gpt2):
    t = lists["raw"]["toy_movie_review"]
    slots = [
        w
        for key, value in t.items()
        if key.endswith(("verbs", "answers")) or "adjectives" in key
        for w in value
    ]
    assert len(slots) > 140
    assert [w for w in slots if gpt2.word(f" {w}") is None] == []
    assert [gpt2.word(f" {w}") for w in t["positive_answers"]] == t["gpt2"]["positive_answer_ids"]
    assert [gpt2.word(f" {w}") for w in t["negative_answers"]] == t["gpt2"]["negative_answer_ids"]


def test_the_example_prompt(lists, words, gpt2):
    t = lists["raw"]["toy_movie_review"]["gpt2"]
    first = next(p for p in words if p.extra["word"] == "perfect" and p.split == "train")
    assert first.text == "I thought this movie was perfect, I enjoyed it. \nConclusion: This movie is"
    assert list(first.ids) == [gpt2.bos, *t["example_token_ids"]]
    there = t["positions"]
    ours = {"adj": "ADJ", "comma": "comma", "verb": "VRB", "period": "period", "sum": "SUM", "end": "END"}
    assert first.positions == {name: (there[theirs],) for name, theirs in ours.items()}
    assert (first.at("adj"), first.at("sum"), first.at("end")) == (6, 17, 18)
    assert len(first.ids) == t["length_with_bos"] == 19


def test_every_toy_prompt_is_usable_and_shares_the_positions(words):
    assert [p.why for p in words if not p.usable] == []
    assert {tuple(sorted(p.positions.items())) for p in words} == {tuple(sorted(words[0].positions.items()))}
    assert len(words) == 31 + 24 + 16 + 14


def test_mood_stories_have_36_tokens_and_their_positions(lists, gpt2):
    mood = lists["mood"]
    names = mood["names"]
    person = "[a:{A}][verb_a: %s][parties_a: parties][comma_a:,] and[join_a: %s] them whenever possible[period_a:.]"
    second = person.replace("_a:", "_b:").replace("[a:{A}]", "[b: {B}]")
    day = " One day[comma_day:,] they were invited to a grand gala[period_gala:.][q: {Q}] feels[end: very]"
    lh, hl = ("loves", "joins"), ("hates", "avoids")
    for one, two, key in ((lh, hl, "original"), (hl, lh, "flipped")):
        template = person % one + second % two + day
        for i, name in enumerate(names):
            other = names[(i + 1) % len(names)]
            for q in (name, other):
                text, spans = strip_marks(template.format(A=name, B=other, Q=q))
                assert text == mood[key].format(A=name, B=other, Q=q)
                p = make_prompt(gpt2, 0, "test", text, spans, answers=([" excited"], [" nervous"]))
                assert p.usable, p.why
                assert len(p.ids) == mood["length_with_bos"] == 36
                assert {n: v[0] for n, v in p.positions.items()} == {
                    n.lower(): v for n, v in mood["positions"].items()
                }
                assert (p.positive, p.negative) == ((6568,), (10927,))


def test_negated_words_are_where_the_authors_found_them(files, lists, gpt2):
    found = from_table(prompts("negation", files, {}, gpt2))
    assert [p.why for p in found if not p.usable] == []
    assert [p.at("target") for p in found] == lists["raw"]["negation"]["gpt2_target_index"]


# --- item 2: sentences ---------------------------------------------------------------------------------------------


def test_the_table_of_sentences(sentences):
    path, rows = sentences
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == "06bfbbd4f333c895f08d45cd9e4941acc1f385999cfd009bbae89f39af25c48b"
    assert len(rows) == 11_855
    splits = ("train", "dev", "test")
    assert [sum(r["split"] == s for r in rows) for s in splits] == [8544, 1101, 2210]
    assert [sum(r["split"] == s and r["label"] != "" for r in rows) for s in splits] == [6920, 872, 1821]
    classes = Counter((r["split"], int(r["root_class"])) for r in rows)
    assert [[classes[s, k] for k in range(5)] for s in splits] == [
        [1092, 2218, 1624, 2322, 1288],
        [139, 289, 229, 279, 165],
        [279, 633, 389, 510, 399],
    ]
    assert {(r["root_class"], r["label"]) for r in rows} == {
        ("0", "0"), ("1", "0"), ("2", ""), ("3", "1"), ("4", "1"),
    }  # fmt: skip
    assert len({r["sentence"] for r in rows}) == 11_841


@pytest.fixture(scope="module")
def bare(sentences, gpt2):
    """Every sentence on its own with BOS, labelled where it has a class."""
    return [
        make_prompt(gpt2, i, r["split"], r["sentence"], label=int(r["label"]) if r["label"] else None)
        for i, r in enumerate(sentences[1])
    ]


def test_commas_of_the_sentences(bare, gpt2):
    comma = gpt2.word(",")
    assert comma == 11
    assert sum(comma in p.ids for p in bare) == 6290
    assert sum(comma in p.ids and p.label is not None for p in bare) == 5141


def test_equal_length_pairs_of_the_bare_sentences(bare):
    found = []
    for split in ("train", "dev", "test"):
        mine = [p for p in bare if p.split == split and p.label is not None]
        pairs = equal_length_pairs(mine, "swap")
        assert all(len(a.ids) == len(b.ids) and a.label != b.label for a, b in pairs)
        assert [a.label for a, _ in pairs] == [1, 0] * (len(pairs) // 2)
        lengths = [len(a.ids) for a, _ in pairs]
        assert lengths == sorted(lengths)
        found.append(len(pairs) // 2)
    assert found == [3195, 373, 757]


@pytest.fixture(scope="module")
def reviews(files, gpt2):
    settings = {"reviews": {"dev": 1101}, "ablation_bos": False}
    return from_table(prompts("reviews", files, settings, gpt2))


def test_reviews_in_their_scaffolds(reviews, bare, gpt2):
    labelled = [p for p in bare if p.split == "dev" and p.label is not None]
    by_scaffold = {name: [p for p in reviews if p.extra["scaffold"] == name] for name in
                   ("classification", "continuation", "ablation")}  # fmt: skip
    for name, mine in by_scaffold.items():
        assert len(mine) == len(labelled) == 872, name
        assert [p.label for p in mine] == [p.label for p in labelled]
        assert all(p.usable for p in mine), name
        # The ablation runs without the start token (protocol 3.3), the patching with it.
        assert {p.ids[0] == gpt2.bos for p in mine} == {name != "ablation"}
    answers = {name: (mine[0].positive, mine[0].negative) for name, mine in by_scaffold.items()}
    assert answers["classification"] == answers["ablation"] == ((33733,), (36183,))
    assert answers["continuation"] == ((922,), (2089,))
    texts = {name: mine[5].text for name, mine in by_scaffold.items()}
    sentence = labelled[5].text
    assert texts["classification"] == f"Review Text: {sentence} Review Sentiment:"
    assert texts["continuation"] == f"{sentence} Overall the movie was just very"
    assert texts["ablation"] == f"{sentence} Review Sentiment:"


def test_a_comma_is_the_bare_token_inside_the_sentence(reviews, bare, gpt2):
    comma, period = gpt2.word(","), gpt2.word(".")
    alone = {p.id: p for p in bare}
    for p in reviews:
        assert {p.ids[i] for i in p.positions.get("comma", ())} <= {comma}
        assert {p.ids[i] for i in p.positions.get("period", ())} <= {period}
        inside = p.positions["sentence"]
        assert list(inside) == list(range(inside[0], inside[-1] + 1))
        assert set(p.positions.get("comma", ())) <= set(inside)
    first = [p for p in reviews if p.extra["scaffold"] == "ablation"]
    # Behind the sentence the ablation scaffold adds a blank, so its tokens are those of the bare sentence.
    assert sum("comma" in p.positions for p in first) == sum(
        comma in alone[p.extra["sentence"] - 1].ids for p in first
    )
    whole = [alone[p.extra["sentence"] - 1] for p in first]
    assert [tuple(p.ids[i] for i in p.positions["sentence"]) for p in first] == [w.ids[1:] for w in whole]


# --- item 3: the published vectors ---------------------------------------------------------------------------------


def test_published_vectors(shared):
    from safetensors.numpy import load_file

    path = shared / "data/sentiment_gpt2_small_directions/das_gpt2_small.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == "c72db51792832fb0765ad1bc43ee704c5b787c51d97e99b4d1c3117a82daa8b8"
    stored = load_file(path)
    vectors = {f"published/{layer}": stored[f"layer{layer}"] for layer in range(13)}
    assert len(stored) == 13
    assert max(abs(np.linalg.norm(v.astype(np.float64)) - 1) for v in vectors.values()) < 4e-5
    units = [unit(vectors, "published", layer) for layer in range(13)]
    cosines = [float(a @ b) for a, b in zip(units, units[1:], strict=False)]
    published = [.3705, .9097, .8730, .9136, .7351, .8137, .8753, .8402, .9263, -.8953, -.8484, -.0444]  # fmt: skip
    # Printed with four digits: half a unit of the last one, and norms that are off by up to 4e-5.
    assert cosines == pytest.approx(published, abs=1e-4)
    first = [[round(float(x), 4) for x in vectors[f"published/{layer}"][:3]] for layer in (0, 1)]
    assert first == [[0.0327, 0.0292, 0.0314], [0.0969, -0.0007, 0.0181]]
    assert round(float(vectors["published/12"][0]), 3) == 0.564


# --- item 4: pairing -----------------------------------------------------------------------------------------------


def test_training_prompts_as_published_and_corrected(words):
    published, whole = toy(words, "train", "published"), toy(words, "train", "corrected")
    assert len(published) == 30
    assert len(whole) == 48
    assert published == whole[:30]
    assert [p.label for p in published] == [1, 0] * 15
    assert [p.text.split("was ")[1].split(" it")[0] for p in published[:2]] == [
        "perfect, I enjoyed",
        "dreadful, I hated",
    ]
    # Adjective i stands with verb i mod n: five positive and three negative verbs.
    assert published[10].text.endswith("was remarkable, I enjoyed it. \nConclusion: This movie is")
    assert [p.text.split(", I ")[1].split()[0] for p in published[1::2]][:4] == [
        "hated", "disliked", "despised", "hated",
    ]  # fmt: skip


def test_test_prompts(words):
    test = toy(words, "test")
    assert len(test) == 28
    assert [p.extra["word"] for p in test[:4]] == ["stunning", "foul", "impressive", "vile"]
    assert toy(words, "test", "published") == test


def test_corrupted_is_the_list_rotated_by_one(words):
    clean = toy(words, "train", "published")
    other = corrupted(clean)
    assert all(other[i] is clean[(i + 1) % len(clean)] for i in range(len(clean)))
    assert all(a.label != b.label for a, b in zip(clean, other, strict=True))
    assert (clean[0].extra["word"], other[0].extra["word"]) == ("perfect", "dreadful")
    assert (clean[1].extra["word"], other[1].extra["word"]) == ("dreadful", "fantastic")
    assert other[-1] is clean[0]


def test_repeated_and_unusable_words_keep_the_order(files, lists, gpt2, tmp_path):
    own = {k: v for k, v in lists.items() if k not in ("raw", "mood")}
    own["toy"] = {**own["toy"], "adjectives": {
        "train": {"positive": ["good", "discombobulating", "good", "nice"], "negative": ["bad", "dull", "ugly"]},
        "test": {"positive": ["warm"], "negative": ["foul"]},
    }}  # fmt: skip
    path = tmp_path / "lists.yaml"
    path.write_text(yaml.safe_dump(own))
    found = from_table(prompts("toy", {**files, "lists": path}, {}, gpt2))
    train = [(p.extra["word"], p.extra["rank"], p.usable) for p in found if p.split == "train" and p.label]
    assert train == [("good", 0, True), ("nice", 1, True), ("discombobulating", -1, False)]
    assert [p.extra["word"] for p in toy(found, "train")] == ["good", "bad", "nice", "dull"]
    assert not enough(toy(found, "train"))
    assert len({p.id for p in found}) == len(found)


@pytest.mark.parametrize("pairing", ["swap", "rotate"])
def test_pairing_of_unequal_lengths(pairing):
    def p(number, label, n):
        return Prompt(number, "dev", "", tuple(range(n)), label, {}, (), ())

    rows = [p(0, 1, 5), p(1, 1, 4), p(2, 0, 5), p(3, 0, 4), p(4, 0, 4), p(5, 1, 5), p(6, 0, 5), p(7, 1, 9)]
    found = [(a.id, b.id) for a, b in equal_length_pairs(rows, pairing)]
    # Shortest first, file order within a length; 4 and 7 have no partner.
    both = {
        "swap": [(1, 3), (3, 1), (0, 2), (2, 0), (5, 6), (6, 5)],
        "rotate": [(1, 3), (3, 0), (0, 2), (2, 5), (5, 6), (6, 1)],
    }
    assert found == both[pairing]


def test_unknown_pairing_is_one_line():
    with pytest.raises(ValueError, match=r"pairing is 'twist'; allowed: swap, rotate"):
        equal_length_pairs([], "twist")


def test_fewer_pairs_are_taken_evenly_over_lengths():
    rows = [Prompt(i, "test", "", tuple(range(5 + i // 4)), i % 2, {}, (), ()) for i in range(80)]
    few = equal_length_pairs(rows, "swap", 10)
    assert len(few) == 10
    lengths = [len(a.ids) for a, _ in few]
    assert lengths[0] == 5
    assert lengths[-1] >= 20  # of 5 to 24
    assert sum(a.label for a, _ in few) == 5
    assert equal_length_pairs(rows, "swap", 1000) == equal_length_pairs(rows, "swap")


# --- item 5: formulas ----------------------------------------------------------------------------------------------


def accuracy(share: float, n: int = 100) -> np.ndarray:
    """LDs of which exactly a share is above 0."""
    return np.where(np.arange(n) < round(share * n), 1.0, -1.0)


def test_above_chance():
    assert metrics.above_lost(accuracy(0.62)) == pytest.approx(76)
    assert metrics.above_lost(accuracy(0.82)) == pytest.approx(36)
    # Against a clean accuracy of 0.9: (0.9 - 0.6) / 0.4.
    assert metrics.above_lost(accuracy(0.6), accuracy(0.9)) == pytest.approx(75)
    assert metrics.above_lost(accuracy(0.5), accuracy(0.9)) == pytest.approx(100)


def test_recovered_at_both_ends_and_beyond():
    rng = np.random.default_rng(0)
    clean, other = rng.normal(2, 1, 30), rng.normal(-2, 1, 30)
    assert metrics.recovered(clean, other, other) == 0
    assert metrics.recovered(clean, other, clean) == 100
    assert metrics.recovered(clean, other, clean + (clean - other)) == pytest.approx(200)


def test_dropped_and_changed():
    clean = np.array([1.0, 3.0])
    assert metrics.dropped(clean * 0.25, clean) == 75
    assert metrics.changed(-clean, clean) == -200
    assert metrics.changed(clean, clean) == 0


def balanced_rows():
    return st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=20)


@given(balanced_rows(), st.floats(-5, 5))
def test_centring_takes_out_a_bias_and_keeps_the_balanced_mean(rows, bias):
    ld = np.array([x for row in rows for x in row])
    sign = np.tile([1.0, -1.0], len(rows))
    # Multiples of 1/8 are exact in float64 as are their sums, so a comparison with 0 has no rounding to fear.
    ld, bias = np.round(ld * 8) / 8, round(bias * 8) / 8
    centre = (sign * ld).mean()
    assert (ld - sign * centre).mean() == pytest.approx(ld.mean(), abs=1e-9)
    # A constant in favour of one class: +bias for the rows of the positive class, -bias for the others.
    if len(rows) in (1, 2, 4, 8, 16):
        assert metrics.centred_accuracy(ld + sign * bias, sign) == metrics.centred_accuracy(ld, sign)


def test_centred_flips_see_through_a_bias_that_literal_flips_do_not():
    sign = np.tile([1.0, -1.0], 10)
    # The model says "positive" whatever it reads, by 10; the clean class still moves the answer by 1.
    clean, other = np.ones(20) + 10 * sign, -np.ones(20) + 10 * sign
    assert metrics.flipped(clean, other, clean, sign) == 100
    assert metrics.flipped(clean, other, other, sign) == 0
    half = np.where(np.arange(20) % 4 < 2, clean, other)
    assert metrics.flipped(clean, other, half, sign) == 50
    # Uncentred, clean and corrupted accuracies agree: there is nothing to flip.
    with np.errstate(invalid="ignore"):
        assert np.isnan(metrics.flipped_raw(clean, other, half))


def test_which_class_comes_first_does_not_matter():
    rng = np.random.default_rng(1)
    clean, other, patched = rng.normal(1, 2, 12), rng.normal(-1, 2, 12), rng.normal(0, 2, 12)
    sign = np.tile([1.0, -1.0], 6)
    assert metrics.flipped(clean, other, patched, sign) == metrics.flipped(clean, other, patched, -sign)


def test_draws_are_reduced_one_by_one():
    """Columns of draws [draws, n] give what each draw gives alone."""
    rng = np.random.default_rng(2)
    clean, other, draws = rng.normal(2, 1, 16), rng.normal(-2, 1, 16), rng.normal(0, 2, (5, 16))
    sign = np.tile([1.0, -1.0], 8)
    for metric, rest in (
        (metrics.recovered, ()),
        (metrics.flipped_raw, ()),
        (metrics.flipped, (sign,)),
    ):
        both = metric(clean, other, draws, *rest)
        assert both == pytest.approx([metric(clean, other, d, *rest) for d in draws])
    assert metrics.dropped(draws, clean) == pytest.approx([metrics.dropped(d, clean) for d in draws])
    assert metrics.above_lost(draws, clean) == pytest.approx([metrics.above_lost(d, clean) for d in draws])
    # The bootstrap hands over [resamples, n] beside [resamples, draws, n].
    many = metrics.recovered(np.stack([clean, clean]), np.stack([other, other]), np.stack([draws, draws]))
    assert many.shape == (2, 5)
    assert many[1] == pytest.approx(metrics.recovered(clean, other, draws))
