"""Relations and their prompts: samples are split, shown and placed by rules that a small directory can try out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bearings.stages.prompts import Encoder, Prompt, from_table, to_table
from bearings.studies.lrc.prompts import COLUMNS, VARIANTS, Query, prompts, queries
from bearings.studies.lrc.relations import (
    Relation,
    Sample,
    at_most,
    demonstrations,
    one_to_one,
    read_relations,
    same_subject,
    split,
)

SEEDS = [42, 43, 44]
SETTINGS = {
    "split_seeds": SEEDS,
    "bos": {"published": True, "corrected": True},
    "max_samples": 0,
    "relations": "all",
}


def body(name, category, few_shot, zero_shot, samples):
    return {
        "name": name,
        "prompt_templates": few_shot,
        "prompt_templates_zs": zero_shot,
        "properties": {"relation_type": category, "symmetric": False},
        "samples": [{"subject": s, "object": o} for s, o in samples],
    }


FILES = {
    # The folder is not the category and the file's name is not the relation's.
    "factual/plants.json": body(
        "thing kind", "commonsense", ["{} is a"], ["{} is a kind of", "Is a {} a fish or a plant? It is a"],
        [("rose", "plant"), ("tomato", "fruit"), ("tomato", "plant"), ("rose", "plant"), ("trout", "fish"),
         ("pike", "fish"), ("fish", "fish"), ("oak", "plant"), ("fern", "plant"), ("pear", "fruit")],
    ),
    "factual/firms.json": body(
        "firm city", "factual", ["{} sits in", "The firm {} has its seat in"], ["Where is {}? It is in"],
        [("Dell Inc.", "New York"), ("Acme", "New York"), ("Café", "New York"), ("Vale", "Rio de Janeiro"),
         ("Oi", "Rio de Janeiro"), ("Petro Inc.", "Rio de Janeiro"), ("Light", "Rio de Janeiro")],
    ),
    "linguistic/degree.json": body(
        "superlative", "linguistic", ["The most {} is"], ["{} becomes"],
        [("small", "smallest"), ("tall", "tallest"), ("new", "newest"), ("young", "newest")],
    ),
    "other/capitals.json": body(
        "capital", "factual", ["The capital of {} is"], ["{} is ruled from"],
        [("Brazil", "Bras\\u00edlia"), ("Jimmy Carter ", "Bon Jovi "), ("Peru", "Lima")],
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "relations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False))
    (tmp_path / "relations/reference").mkdir()
    (tmp_path / "relations/reference/order.json").write_text(json.dumps(["thing kind", "capital"]))
    (tmp_path / "relations/reference/ranks.json").write_text(json.dumps({"rank": 8}))
    return tmp_path / "relations"


@pytest.fixture
def relations(folder) -> dict[str, Relation]:
    return {r.name: r for r in read_relations(folder)}


def tokenizer(folder: Path, pieces: dict[str, float], *, byte_level: bool = True, **config) -> Encoder:
    """Bytes, or the letters of the pieces, with some pieces of several: everything else splits."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else {c for piece in pieces for c in piece}
    scores = {**dict.fromkeys(sorted(alphabet), -10.0), **pieces}
    core = Tokenizer(models.Unigram([("<s>", 0.0), *scores.items()], unk_id=0))
    if byte_level:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
    core.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"bos_token_id": 0, "n_positions": 400, **config}))
    return Encoder(folder)


@pytest.fixture
def encoder(tmp_path) -> Encoder:
    words = ("fish", "plant", "New", "York", "Rio", "de", "Inc", "is", "Carter", "small", "smallest")
    return tokenizer(tmp_path / "model", {".?": -1.0, "small": -1.0, **{f"Ġ{w}": -1.0 for w in words}})


def table(name, folder, encoder, **settings) -> list[Prompt]:
    return from_table(prompts(name, {"relations": folder}, {**SETTINGS, **settings}, encoder))


def of(found: list[Prompt], variant: str, seed: int) -> list[Prompt]:
    """What one variant sees under one split seed."""
    return [p for p in found if p.extra["variant"] in (variant, "both") and seed in p.extra["seeds"]]


# --- files ---------------------------------------------------------------------------------------------------------


def test_relations_are_read_by_what_they_say_of_themselves(relations):
    assert list(relations) == ["capital", "firm city", "superlative", "thing kind"]
    kind = relations["thing kind"]
    assert kind.category == "commonsense"
    assert (kind.few_shot, len(kind.zero_shot)) == (("{} is a",), 2)
    assert (kind.raw, len(kind.samples)) == (10, 9)
    assert kind.samples[:2] == (Sample("rose", "plant"), Sample("tomato", "fruit"))
    # Blanks are kept, because the shuffles are seeded with the texts as they are.
    assert relations["capital"].samples[1] == Sample("Jimmy Carter ", "Bon Jovi ")


def test_a_doubled_escape_is_one_letter(folder, relations):
    assert r'"Bras\\u00edlia"' in (folder / "other/capitals.json").read_text()
    assert relations["capital"].samples[0].object == "Brasília"


def test_one_to_one(relations):
    assert [r.name for r in relations.values() if one_to_one(r)] == ["capital"]
    twice = Relation("r", "c", ("{}",), ("{}",), (Sample("a", "x"), Sample("a", "y")), 2)
    assert one_to_one(twice)


def without(key):
    return lambda raw: raw.pop(key)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("name"), "no 'name'"),
        (without("properties"), "no 'properties'"),
        (without("samples"), "no 'samples'"),
        (without("prompt_templates"), "no 'prompt_templates'"),
        (without("prompt_templates_zs"), "no 'prompt_templates_zs'"),
        (lambda raw: raw["properties"].pop("relation_type"), r"no 'properties\.relation_type'"),
        (lambda raw: raw.update(name=7), "'name' is '7'; must be a text"),
        (lambda raw: raw.update(name="firm city"), "'name' is 'firm city', as in .*firms.json"),
        (lambda raw: raw.update(samples=[]), "'samples' is empty"),
        (lambda raw: raw.update(samples={"a": "b"}), "'samples' is .*; must be a list"),
        (lambda raw: raw.update(prompt_templates=[]), "'prompt_templates' is empty"),
        (lambda raw: raw["prompt_templates"].append("no slot"), r"'prompt_templates\[1\]' is 'no slot'"),
        (lambda raw: raw["prompt_templates_zs"].append("{} {}"), r"'prompt_templates_zs\[2\]' .* one \{\}"),
        (lambda raw: raw["prompt_templates_zs"].append("}{"), r"'prompt_templates_zs\[2\]' .* one \{\}"),
        (lambda raw: raw["prompt_templates_zs"].append("{} {x}"), r"'prompt_templates_zs\[2\]' .* one \{\}"),
        (lambda raw: raw["samples"].append(["a", "b"]), r"'samples\[10\]' is .*must be a mapping"),
        (lambda raw: raw["samples"][3].pop("object"), r"no 'samples\[3\]\.object'"),
        (
            lambda raw: raw["samples"][3].update(subject=" "),
            r"'samples\[3\]\.subject' is ' '; must be a text",
        ),
    ],
)
def test_a_malformed_file_is_one_line(folder, spoil, said):
    path = folder / "factual/plants.json"
    raw = json.loads(path.read_text())
    spoil(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=f"plants.json: {said}") as caught:
        read_relations(folder)
    assert "\n" not in str(caught.value)


def test_broken_and_missing_files(folder, tmp_path):
    (folder / "factual/plants.json").write_text('{"name":\n')
    with pytest.raises(ValueError, match=r"plants\.json: not valid JSON") as caught:
        read_relations(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="holds no relation"):
        read_relations(tmp_path / "nowhere")


# --- splits --------------------------------------------------------------------------------------------------------


def test_split_takes_each_object_in_turns(relations):
    for relation in relations.values():
        sizes = Counter(s.object for s in relation.samples)
        for seed in SEEDS:
            train, test = split(relation, seed)
            assert Counter(train) + Counter(test) == Counter(relation.samples)
            # 1 -> 1/0, 2 -> 1/1, 3 -> 2/1, 4 -> 2/2
            assert Counter(s.object for s in train) == {o: (n + 1) // 2 for o, n in sizes.items()}
            assert list(dict.fromkeys(s.object for s in train)) == list(sizes)
    assert split(relations["capital"], 42)[1] == ()
    assert len({split(relations["thing kind"], seed) for seed in range(20)}) > 5


def test_shuffles_are_seeded_with_the_relation_as_the_authors_print_it(relations):
    """Protocol 3.2: every field as Python shows it, so that an apostrophe changes the quotes."""
    samples = tuple(Sample(s, "y'all") for s in "abcdefgh")
    relation = Relation("a name", "kind", ("{}'s", "{}"), ("{} is",), samples, 8)
    printed = (
        """Relation(name='a name', templates=("{}'s", '{}'), zs_templates=('{} is',), category='kind')"""
    )
    mine = list(samples)
    Random(f"{printed}-y'all-42").shuffle(mine)
    assert split(relation, 42) == (tuple(mine[0::2]), tuple(mine[1::2]))


def test_split_of_an_object_hangs_on_that_object_alone(relations):
    """Samples of other objects do not move it; another template does, because it is part of the seed."""
    kind = relations["thing kind"]
    fewer = Relation(kind.name, kind.category, kind.few_shot, kind.zero_shot, kind.samples[1:3], 2)
    assert set(split(fewer, 42)[0]) == {Sample("tomato", "fruit"), Sample("tomato", "plant")}
    only = tuple(s for s in kind.samples if s.object == "plant")
    plants = Relation(kind.name, kind.category, kind.few_shot, kind.zero_shot, only, 4)
    other = Relation(kind.name, kind.category, ("{} is the",), kind.zero_shot, only, 4)
    found = {seed: [s for s in split(kind, seed)[0] if s.object == "plant"] for seed in range(20)}
    assert all(list(split(plants, seed)[0]) == mine for seed, mine in found.items())
    assert any(list(split(other, seed)[0]) != mine for seed, mine in found.items())


def test_at_most_chooses_by_the_pair(relations):
    kind = relations["thing kind"]
    assert at_most(kind, 0) is kind
    assert at_most(kind, 99) is kind
    kept = at_most(kind, 4).samples
    assert [s for s in kind.samples if s in kept] == list(kept)
    assert len(kept) == 4
    assert set(kept) < set(at_most(kind, 5).samples)
    turned = Relation("other name", "c", ("{}",), ("{}",), kind.samples[::-1], 9)
    assert at_most(turned, 4).samples == kept[::-1]
    assert kept != kind.samples[:4]


# --- examples ------------------------------------------------------------------------------------------------------

# Few subjects and objects, so that subjects come back with other objects; 21 samples is where `sample` changes ways.
POPULATIONS = st.lists(
    st.builds(Sample, st.sampled_from("abcdefghijkl"), st.sampled_from(["x", "y", "z"])),
    min_size=1,
    max_size=30,
    unique=True,
)


@given(POPULATIONS, st.data())
def test_demonstrations_without_leak(train, data):
    relation = Relation("r", "c", ("{}",), ("{}",), tuple(train), len(train))
    query = data.draw(st.sampled_from(train))
    published, corrected = (demonstrations(relation, train, query, leak) for leak in (True, False))
    others = [s for s in train if s.subject != query.subject]
    assert len(published) == min(4, len(train))
    # One place fewer only if the relation has no further subject to show.
    assert len(corrected) == min(len(published), len(others))
    for shown in (published, corrected):
        assert len(set(shown)) == len(shown)
        assert set(shown) <= set(train)
    kept = [s for s in published if s.subject != query.subject]
    assert list(corrected[: len(kept)]) == kept
    assert all(s.subject != query.subject for s in corrected)
    if len(kept) == len(published):
        assert corrected == published


def test_blanks_do_not_hide_a_leak():
    train = [Sample("Jimmy Carter ", "1924"), Sample("Jimmy Carter", "1977"), Sample("Bush", "1946")]
    relation = Relation("r", "c", ("{}",), ("{}",), tuple(train), 3)
    assert same_subject(*train[:2])
    assert demonstrations(relation, train, train[0], leak=False) == (train[2],)
    assert set(demonstrations(relation, train, train[0], leak=True)) == set(train)


# --- queries -------------------------------------------------------------------------------------------------------

SAME = {"published": True, "corrected": True}


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("bos", [SAME, {"published": False, "corrected": True}])
def test_every_seed_and_variant_gets_every_sample_in_every_template(relations, name, bos):
    for relation in relations.values():
        found = queries(relation, name, SEEDS, bos)
        number = {s: i for i, s in enumerate(relation.samples)}
        templates = range(len(relation.few_shot if name == "train" else relation.zero_shot))
        for seed in SEEDS:
            train, test = split(relation, seed)
            wanted = [
                (s, t)
                for s in sorted(train if name == "train" else test, key=number.__getitem__)
                for t in templates
            ]
            for variant in VARIANTS:
                mine = [q for q in found if q.variant in (variant, "both") and seed in q.seeds]
                assert [(q.sample, q.template) for q in mine] == wanted
                assert {q.bos for q in mine} <= {bos[variant]}
                for q in mine if name == "train" else ():
                    assert q.shown == demonstrations(relation, train, q.sample, variant == "published")
        assert name == "train" or all(q.shown == () for q in found)
        order = [(number[q.sample], q.template) for q in found]
        assert order == sorted(order)
        # One row for a prompt: nothing about it is there twice but what it serves.
        again = [(q.text, q.sample, q.template, q.bos, q.variant) for q in found]
        assert len(set(again)) == len(again)


def test_other_seeds_do_not_change_what_a_seed_gets(relations):
    for relation in relations.values():
        both, alone = (queries(relation, "train", seeds, SAME) for seeds in (SEEDS, [43]))
        seen = [(q.text, v) for q in both for v in VARIANTS if 43 in q.seeds and q.variant in (v, "both")]
        assert seen == [(q.text, v) for q in alone for v in VARIANTS if q.variant in (v, "both")]


def test_a_test_prompt_is_one_row_for_all_its_seeds(relations):
    found = queries(relations["thing kind"], "test", [*SEEDS, 42], SAME)
    assert {q.variant for q in found} == {"both"}
    assert len({q.text for q in found}) == len(found)
    assert max(len(q.seeds) for q in found) > 1
    apart = queries(relations["thing kind"], "test", SEEDS, {"published": False, "corrected": True})
    assert Counter(q.text for q in apart) == {q.text: 2 for q in found}
    assert {q.variant for q in apart} == set(VARIANTS)


def test_a_prompt_that_leaks_is_published_only(relations):
    found = [q for r in relations.values() for q in queries(r, "train", SEEDS, SAME)]
    kinds = Counter(q.variant for q in found)
    assert min(kinds[v] for v in (*VARIANTS, "both")) > 0
    for q in found:
        leaks = any(same_subject(s, q.sample) for s in q.shown)
        assert not leaks or q.variant == "published"


def test_text_of_a_prompt(relations):
    relation = relations["capital"]
    shown = (Sample("Jimmy Carter ", "Bon Jovi "), Sample("Brazil", "Brasília"))
    q = Query(relation, Sample("Peru", " Lima "), 0, "The capital of {} is", shown, True, "both", (42,))
    assert q.text == (
        "The capital of Jimmy Carter  is Bon Jovi\nThe capital of Brazil is Brasília\nThe capital of Peru is Lima"
    )
    assert q.text[: q.subject_end].endswith("\nThe capital of Peru")


@pytest.mark.parametrize(
    ("line", "subject", "before"),
    [
        ("{} is a", "fish", "fish"),
        ("{} is a", " fish ", "fish"),
        ("Is a {} a fish?", "fish", "Is a fish"),
        ("  The {} is", "oak", "The oak"),
        ("We chose {}", "oak ", "We chose oak"),
    ],
)
@pytest.mark.parametrize("examples", [0, 2])
def test_the_subject_is_the_querys_by_the_template(relations, line, subject, before, examples):
    shown = (Sample("fish", "fish"), Sample("oak", "oak"))[:examples]
    q = Query(relations["thing kind"], Sample(subject, "fish oak"), 0, line, shown, True, "both", (42,))
    start = q.text.rindex("\n") + 1 if examples else 0
    assert q.text[start : q.subject_end].strip() == before


# --- tables --------------------------------------------------------------------------------------------------------


def spelled(encoder, ids):
    return encoder._tokenizer.decode(list(ids), skip_special_tokens=False)


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("bos", [True, False])
def test_positions_predict_the_answer(folder, relations, encoder, name, bos):
    found = table(name, folder, encoder, bos={"published": bos, "corrected": bos})
    assert [p.why for p in found if not p.usable] == []
    assert [p.id for p in found] == list(range(len(found)))
    assert {p.extra["answer_tokens"] for p in found} >= {1, 2}
    for p in found:
        assert (p.ids[0] == encoder.bos) is bos
        assert p.split == name
        assert p.label is None
        assert spelled(encoder, p.ids[bos:]) == p.text
        at = p.positions["object"]
        assert set(p.positions) == {"subject", "object"}
        assert at == tuple(range(at[0], len(p.ids) - 1))
        assert spelled(encoder, [p.ids[i + 1] for i in at]) == f" {p.extra['object']}"
        assert len(at) == p.extra["answer_tokens"]
        relation = relations[p.extra["relation"]]
        line = (relation.few_shot if name == "train" else relation.zero_shot)[p.extra["template"]]
        end = p.text.rfind("\n") + 1 + line.index("{}") + len(p.extra["subject"].strip())
        before, seen = (spelled(encoder, p.ids[bos : p.at("subject") + more]) for more in (0, 1))
        assert p.text.startswith(seen)
        # A letter of two bytes is here two tokens; the last of them holds it whole.
        assert len(before.rstrip("\ufffd")) < end <= len(seen)


def one(found, **wanted) -> Prompt:
    return next(p for p in found if all(p.extra[k] == v for k, v in wanted.items()))


def test_subject_index(folder, encoder):
    test = [
        p
        for seed in range(40, 60)
        for p in table("test", folder, encoder, split_seeds=[seed], bos=dict.fromkeys(VARIANTS, False))
    ]
    firm = one(test, subject="Dell Inc.")
    # The subject's last character and the question mark are one token.
    assert encoder.text_of(firm.ids[firm.at("subject")]) == ".?"
    fish = one(test, subject="fish", template=1)
    assert fish.text == "Is a fish a fish or a plant? It is a fish"
    assert [i for i, t in enumerate(fish.ids) if encoder.text_of(t) == " fish"][0] == fish.at("subject")
    assert len([t for t in fish.ids if encoder.text_of(t) == " fish"]) == 3
    # At the very start, and the answer begins with the same letters.
    young = one(test, subject="new")
    assert young.text == "new becomes newest"
    assert young.at("subject") == len("new") - 1


def test_subject_index_in_a_train_prompt(folder, encoder):
    train = table("train", folder, encoder, split_seeds=[42])
    carter = one(train, subject="Jimmy Carter ")
    assert encoder.text_of(carter.ids[carter.at("subject")]) == " Carter"
    assert carter.extra["object"] == "Bon Jovi"
    assert carter.text.endswith(" Bon Jovi")
    # Published, the query stands among its own examples; the index is that of the last line.
    leaks = [p for p in train if p.extra["variant"] == "published" and p.extra["relation"] == "capital"]
    assert leaks
    for p in leaks:
        assert p.text.count(p.extra["subject"]) > 1
        newlines = [i for i, t in enumerate(p.ids) if encoder.text_of(t) == "\n"]
        assert p.at("subject") > newlines[-1]


def test_bos_shifts_positions_and_parts_variants(folder, encoder):
    alike = table("train", folder, encoder)
    apart = table("train", folder, encoder, bos={"published": False, "corrected": True})
    assert {p.extra["variant"] for p in alike} == {*VARIANTS, "both"}
    assert {p.extra["variant"] for p in apart} == set(VARIANTS)
    for seed in SEEDS:
        for variant in VARIANTS:
            one, other = of(alike, variant, seed), of(apart, variant, seed)
            assert [p.text for p in one] == [p.text for p in other]
            shift = 1 if variant == "published" else 0
            for p, q in zip(one, other, strict=True):
                assert p.ids[shift:] == q.ids
                assert {k: tuple(i - shift for i in v) for k, v in p.positions.items()} == q.positions


def test_a_model_without_bos_has_one_prompt_for_both(folder, tmp_path):
    bare = tokenizer(tmp_path / "bare", {"Ġis": -1.0}, bos_token_id=None)
    found = table("test", folder, bare, bos={"published": False, "corrected": True})
    assert {p.extra["variant"] for p in found} == {"both"}
    assert all(spelled(bare, p.ids) == p.text for p in found)


def test_an_answer_that_changes_the_prompts_tokens(folder, tmp_path):
    """This tokenizer has tokens that begin in the prompt and end in the answer, which is then no answer to it."""
    used = sorted({c for f in FILES.values() for c in json.dumps(f, ensure_ascii=False)} | set("\n"))
    letters = dict.fromkeys(used, -10.0)
    joined = tokenizer(tmp_path / "joined", {**letters, "a fish": -1.0, "a fr": -1.0}, byte_level=False)
    found = table("test", folder, joined, relations=["thing kind"])
    bad = [p for p in found if not p.usable]
    assert {p.why for p in bad} == {"the prompt's tokens change when the answer follows"}
    assert {p.extra["object"] for p in bad} == {"fish", "fruit"}
    assert {p.extra["template"] for p in bad} == {1}
    assert all(p.positions == {} for p in bad)
    assert len(bad) < len(found)


def test_a_subject_without_a_token(folder, tmp_path):
    """What a tokenizer's normaliser drops leaves nothing to read."""
    from tokenizers import normalizers

    encoder = tokenizer(tmp_path / "deaf", {})
    core = Tokenizer.from_file(str(tmp_path / "deaf/tokenizer.json"))
    core.normalizer = normalizers.Replace("Brazil", "")
    core.save(str(tmp_path / "deaf/tokenizer.json"))
    found = table("train", folder, Encoder(tmp_path / "deaf"), relations=["capital"])
    assert {(p.extra["subject"], p.why) for p in found if not p.usable} == {
        ("Brazil", "the subject has no token")
    }
    assert all(p.usable for p in table("train", folder, encoder, relations=["capital"]))


def test_the_context_is_a_limit(folder, tmp_path, encoder):
    longest = max(len(p.ids) for p in table("train", folder, encoder))
    short = Encoder(tmp_path / "model")
    short.n_ctx = longest
    assert all(p.usable for p in table("train", folder, short))
    short.n_ctx = longest - 1
    bad = [p for p in table("train", folder, short) if not p.usable]
    assert bad
    assert {p.why for p in bad} == {f"{longest} tokens do not fit a context of {longest - 1}"}


def test_settings_choose_relations_and_samples(folder, encoder):
    found = table("train", folder, encoder, relations=["thing kind", "capital"], max_samples=4)
    assert [*dict.fromkeys(p.extra["relation"] for p in found)] == ["capital", "thing kind"]
    few = {(p.extra["subject"], p.extra["object"]) for p in found if p.extra["relation"] == "thing kind"}
    kind = next(r for r in read_relations(folder) if r.name == "thing kind")
    assert few <= {(s.subject, s.object) for s in at_most(kind, 4).samples}
    single = table("test", folder, encoder, relations="thing kind")
    assert {p.extra["relation"] for p in single} == {"thing kind"}
    with pytest.raises(ValueError, match=r"'relations' holds 'kind'; allowed: 'all' or capital, firm city"):
        table("train", folder, encoder, relations=["kind"])


def test_table_round_trip(folder, encoder):
    made = prompts("train", {"relations": folder}, SETTINGS, encoder)
    assert to_table(from_table(made), COLUMNS).equals(made)


def test_prompts_do_not_hang_on_hash_seeds(folder):
    code = (
        "import sys; from bearings.studies.lrc.prompts import queries; "
        "from bearings.studies.lrc.relations import read_relations; "
        "[print(q.text, q.variant, q.seeds) for r in read_relations(sys.argv[1]) for n in ('train', 'test') "
        "for q in queries(r, n, [42, 43], {'published': False, 'corrected': False})]"
    )
    root = Path(__file__).resolve().parents[2] / "workflow"
    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(said) == 1
    assert said.pop()
