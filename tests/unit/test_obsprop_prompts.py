"""Observables, names, politicians and windows become prompts by rules that a few small files can try out."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bearings.stages.prompts import Encoder, Prompt, from_table, to_table
from bearings.studies.obsprop import common
from bearings.studies.obsprop.lists import read_lists, token_of, token_weights
from bearings.studies.obsprop.prompts import COLUMNS, prompts
from bearings.studies.obsprop.texts import cut, documents, windows

SETTINGS = {"window": 8, "code_windows": 5, "text_tokens": 20}
LISTS = {
    "observables": {
        "n_subj": {"pos": [" she"], "neg": [" he"], "pos_ids": [99999]},
        "n_obj": {"pos": [" her"], "neg": [" him"]},
        "n_bias": {"pos": [" nurse", " clerk"], "neg": [" doctor", " pilot"]},
        "control": {"pos": [" car"], "neg": [" angel"]},
        "suffix": {"pos": ["woman"], "neg": ["man"]},
        "party": {"pos": [" Red"], "neg": [" Blue"]},
        "code1": {"pos": ["){"], "neg": ["):"]},
    },
    "templates": {
        "subj": {
            "observable": "n_subj",
            "bos": True,
            "items": [
                {"text": "So, [NAME] is fun, isn't", "n_tokens": 77, "name_position": 55},
                {"text": "[NAME] is here, isn't"},
            ],
        },
        "obj": {"observable": "n_obj", "bos": True, "items": [{"text": "This is for [NAME]. I love"}]},
        "occ": {"observable": "n_bias", "bos": False, "items": [{"text": "My friend [NAME] is a"}]},
    },
    "linearisation_pairs": {
        "occ": {"bos": False, "prompt_a": "So, Ann is a", "prompt_b": "So, Bob is a", "source_position": 2},
        "subj": {"bos": True, "prompt_a": "Ann is", "prompt_b": "Bob is", "source_position": 1},
        "obj": {"bos": True, "prompt_a": "I love Ann", "prompt_b": "I love Bob", "source_position": 3},
        "party": {"bos": False, "prompt_a": "Ann Fox is a", "prompt_b": "Bob Lee is a", "source_position": 1},
        "code1": {"bos": False, "prompt_a": "int f(x", "prompt_b": "def f(x", "source_position": None},
    },
    "paths": {
        "n_subj.one": ["attn3.1@2", "mlp1@-1"],
        "n_bias": ["mlp2@-1"],
        "code1.others": [["attn1.0@3"], ["mlp1@-1", "attn0.0@0"]],
    },
}
NAMES = {"female": ["Ann", "Eve", "Mia"], "male": ["Bob", "Max", "Tim"]}
NAMES |= {"share_of_other_gender_above_0.05": {"Max": 0.1}, "held_out": ["Mia", "Tim"]}
POLITICIANS = {
    "template": "{} is a",
    "democrats": ["Ann Fox", "Ann Fo Xi", "Ann", "Eve Lee"],
    "republicans": ["Bob Lee", "Bob J. Lee", "Tim Fox"],
    "train_per_party": 2,
}
BLANK = (
    "she he her him nurse clerk doctor pilot car angel Red Blue Ann Eve Mia Bob Max Tim Fox Lee Xi love is a"
)
BARE = "woman man ){ ): Ann Eve Mia Bob Max Tim So , n't int def f(x"


def tokenizer(folder: Path, pieces: list[str], **config) -> Encoder:
    """Bytes, and some pieces of several: everything else splits."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = {
        **dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()), -10.0),
        **dict.fromkeys(pieces, -1.0),
    }
    core = Tokenizer(models.Unigram([("<s>", 0.0), *scores.items()], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"bos_token_id": 0, "n_positions": 60, **config}))
    return Encoder(folder)


WORDS = [*(f"Ġ{w}" for w in BLANK.split()), *BARE.split()]


@pytest.fixture
def encoder(tmp_path) -> Encoder:
    return tokenizer(tmp_path / "model", WORDS)


C = ["int f(x){ }\n" * 3, "int é;\n", ""]
PYTHON = ["def f(x):\n", "def f(y): pass\n"]
TEXT = ["I love Ann. " * 2, "", "Bob is a pilot, isn't he", "This is for him. " * 9]


def write(folder: Path, lists=LISTS, names=NAMES, politicians=POLITICIANS) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "lists.yaml").write_text(yaml.safe_dump(lists, sort_keys=False))
    (folder / "names.json").write_text(json.dumps(names))
    (folder / "politicians.json").write_text(json.dumps(politicians))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXT))
    pq.write_table(pa.table({"text": C, "stars": [1, 2, 3]}), folder / "c.parquet")
    for i, text in enumerate(PYTHON):
        (folder / "python").mkdir(exist_ok=True)
        (folder / f"python/{i}.py").write_text(text)
    files = {"lists": "lists.yaml", "names": "names.json", "politicians": "politicians.json"}
    files |= {"text": "text.jsonl", "c": "c.parquet", "python": "python"}
    return {key: folder / name for key, name in files.items()}


@pytest.fixture
def data(tmp_path) -> dict[str, Path]:
    return write(tmp_path / "data")


def made(name, data, encoder, **settings) -> list[Prompt]:
    return from_table(prompts(name, data, {**SETTINGS, **settings}, encoder))


def changed(**paths):
    """The lists with values at dotted keys replaced."""
    out = copy.deepcopy(LISTS)
    for path, value in paths.items():
        at = out
        *above, last = path.split("__")
        for key in above:
            at = at[key]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return out


# --- names ---------------------------------------------------------------------------------------------------------


def test_names_go_by_task_template_and_gender(data, encoder):
    found = made("names", data, encoder)
    assert [p.id for p in found] == list(range(4 * 6))
    assert {p.why for p in found} == {""}
    wanted = [
        (task, t, label, name, t * 3 + i)
        for task, t in (("subj", 0), ("subj", 1), ("obj", 0), ("occ", 0))
        for label in (1, 0)
        for i, name in enumerate(NAMES["female" if label else "male"])
    ]
    assert [
        (p.extra["task"], p.extra["template"], p.label, p.extra["name"], p.extra["pair"]) for p in found
    ] == wanted
    for p in found:
        assert p.extra["gender"] == ("female" if p.label else "male")
        assert p.extra["observable"] == common.TASKS[p.extra["task"]]
        assert p.extra["mixed"] is (p.extra["name"] == "Max")
        assert p.extra["held_out"] is (p.extra["name"] in ("Mia", "Tim"))
        # The name's one token, wherever it stands; `bos` where there is one.
        assert encoder.text_of(p.ids[p.at("name")]).strip() == p.extra["name"]
        assert len(p.positions["name"]) == 1
        assert p.positions["end"] == (len(p.ids) - 1,)
        starts = p.extra["task"] != "occ"
        assert (p.ids[0] == encoder.bos) is starts
        assert p.positions.get("bos") == ((0,) if starts else None)
        words = LISTS["observables"][p.extra["observable"]]
        assert [encoder.text_of(t) for t in (*p.positive, *p.negative)] == words["pos"] + words["neg"]
    # At the very start of the text the name is another token, and still one.
    assert {p.at("name") for p in found if p.extra["template"] == 1} == {1}


def test_the_names_of_a_pair_are_all_that_differs(data, encoder):
    found = made("names", data, encoder)
    for p in found:
        if p.label:
            (q,) = [
                x for x in found if not x.label and all(x.extra[k] == p.extra[k] for k in ("task", "pair"))
            ]
            assert [i for i, (a, b) in enumerate(zip(p.ids, q.ids, strict=True)) if a != b] == [p.at("name")]
            assert q.positions == p.positions


def test_what_is_not_one_token_is_not_usable(tmp_path, encoder):
    names = {"female": ["Ann", "Zoe", "Mia"], "male": NAMES["male"]}
    lists = changed(observables__n_obj__pos=[" hers"])
    found = made("names", write(tmp_path / "odd", lists, names), encoder)
    assert {p.why for p in found if p.extra["name"] == "Zoe"} == {
        "'Zoe' is not one token",
        "observable 'n_obj': 'hers' is not one token",
    }
    bad = [p for p in found if not p.usable]
    assert {(p.extra["task"], p.extra["name"]) for p in bad if p.extra["task"] != "obj"} == {
        ("subj", "Zoe"),
        ("occ", "Zoe"),
    }
    assert all(not p.usable for p in found if p.extra["task"] == "obj")


# --- pairs and observables -----------------------------------------------------------------------------------------


def test_linearisation_pairs(data, encoder):
    found = made("pairs", data, encoder)
    rows = [p for p in found if p.split == "pair"]
    assert [(p.extra["task"], p.extra["side"]) for p in rows] == [
        (task, side) for task in ("subj", "obj", "occ", "party", "code1") for side in "ab"
    ]
    assert {p.label for p in rows if p.extra["side"] == "a"} == {1}
    assert {p.label for p in rows if p.extra["side"] == "b"} == {0}
    for task in common.NEEDED_PAIRS:
        a, b = common.pair(found, task)
        assert (a.text, b.text) == tuple(LISTS["linearisation_pairs"][task][f"prompt_{s}"] for s in "ab")
        assert common.pair({"pairs": found, "names": []}, task) == (a, b)
        assert common.has_pair(found, task)
        assert a.positions.get("source") == b.positions.get("source")
        if task == "code1":
            assert set(a.positions) == {"end"}
        else:
            at = a.at("source")
            wanted = (" Fox", " Lee") if task == "party" else ("Ann", "Bob")
            assert tuple(encoder.text_of(p.ids[at]).strip() for p in (a, b)) == tuple(map(str.strip, wanted))
    assert not common.has_pair(found, "code2")
    with pytest.raises(ValueError, match="task 'code2' has no linearisation pair"):
        common.pair(found, "code2")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prompt_b": "Zoe is"}, "prompts a and b have 3 and 5 tokens"),
        ({"source_position": 3}, "source position 3 is not among 3 tokens"),
        ({"source_position": 0}, "prompts a and b do not differ up to source position 0"),
        ({"prompt_a": "Ann is " + 30 * "zz"}, "prompts a and b have"),
    ],
)
def test_pairs_that_do_not_match(tmp_path, encoder, change, why):
    lists = changed(linearisation_pairs__subj={**LISTS["linearisation_pairs"]["subj"], **change})
    found = made("pairs", write(tmp_path / "odd", lists), encoder)
    mine = [p for p in found if p.extra["task"] == "subj"]
    assert [p.usable for p in mine] == [False, False]
    assert any(why in p.why for p in mine)
    assert all("source" not in p.positions for p in mine)
    assert not common.has_pair(found, "subj")
    with pytest.raises(ValueError, match="task 'subj' cannot be linearised: "):
        common.pair(found, "subj")
    assert common.has_pair(found, "obj")


def test_observables_are_rows(data, encoder):
    found = made("pairs", data, encoder)
    known = common.observables(found)
    assert list(known) == list(LISTS["observables"])
    for name, (positive, negative) in known.items():
        words = LISTS["observables"][name]
        assert [encoder.text_of(t) for t in positive] == words["pos"]
        assert [encoder.text_of(t) for t in negative] == words["neg"]
    rows = [p for p in found if p.split == "observable"]
    assert {p.ids for p in rows} == {(encoder.bos,)}
    assert {p.label for p in rows} == {None}


def test_vector_reads_logit_differences(data, encoder):
    found = made("pairs", data, encoder)
    logits = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    for name, (positive, negative) in common.observables(found).items():
        n = common.vector({"pairs": found}, name, 400)
        assert n.dtype == np.float32
        assert n.sum() == len(positive) - len(negative)
        wanted = logits[list(positive)].sum() - logits[list(negative)].sum()
        assert n @ logits == pytest.approx(wanted, abs=1e-5)  # float32 sums in another order
    with pytest.raises(ValueError, match="no observable 'colour'"):
        common.vector(found, "colour", 400)


def test_a_word_named_twice_counts_twice(tmp_path, encoder):
    lists = changed(observables__control__pos=[" car", " car"])
    found = made("pairs", write(tmp_path / "odd", lists), encoder)
    assert sorted(common.vector(found, "control", 400)[common.vector(found, "control", 400) != 0]) == [-1, 2]


def test_an_observable_with_a_split_word(tmp_path, encoder):
    found = made("pairs", write(tmp_path / "odd", changed(observables__suffix__neg=["men"])), encoder)
    assert "suffix" not in common.observables(found)
    with pytest.raises(ValueError, match="observable 'suffix': 'men' is not one token"):
        common.vector(found, "suffix", 400)


def test_words_without_a_blank(tmp_path):
    """Behind a letter `woman` may be cut elsewhere; behind a bracket it stands alone."""
    greedy = tokenizer(tmp_path / "greedy", ["awo", "woman", "man"])
    greedy_pieces = json.loads((tmp_path / "greedy/tokenizer.json").read_text())
    greedy_pieces["model"]["vocab"] = [
        [piece, -0.1 if piece == "awo" else score] for piece, score in greedy_pieces["model"]["vocab"]
    ]
    (tmp_path / "greedy/tokenizer.json").write_text(json.dumps(greedy_pieces))
    greedy = Encoder(tmp_path / "greedy")
    assert greedy.word("woman") is None or greedy.text_of(greedy.word("woman")) == "woman"
    assert greedy.text_of(token_of(greedy, "woman")) == "woman"
    assert token_of(greedy, "nobody") is None
    assert token_of(greedy, " woman") is None


def test_paths_are_kept_by_name(data, encoder):
    found = made("pairs", data, encoder)
    assert common.published_paths(found) == {
        "n_subj.one": ("attn3.1@2", "mlp1@-1"),
        "n_bias": ("mlp2@-1",),
        "code1.others.0": ("attn1.0@3",),
        "code1.others.1": ("mlp1@-1", "attn0.0@0"),
    }


@pytest.mark.parametrize("paths", [{}, None])
def test_lists_without_paths(tmp_path, encoder, paths):
    lists = {**LISTS, "paths": paths}
    found = made("pairs", write(tmp_path / "bare", lists), encoder)
    assert common.published_paths(found) == {}


def test_a_model_without_a_start_token(data, tmp_path, encoder):
    bare = tokenizer(tmp_path / "bare", WORDS, bos_token_id=None)
    for name in ("names", "pairs"):
        for p, q in zip(made(name, data, bare), made(name, data, encoder), strict=True):
            shift = len(q.ids) - len(p.ids)
            assert p.usable
            assert p.ids == q.ids[shift:]
            there = {k: v for k, v in q.positions.items() if k != "bos"}
            assert p.positions == {k: tuple(i - shift for i in v) for k, v in there.items()}
    both = made("politicians", data, bare)
    assert {(p.extra["bos"], p.usable) for p in both} == {(False, True), (True, False)}
    assert {p.why for p in both if not p.usable} == {"the model has no start token"}


# --- politicians ---------------------------------------------------------------------------------------------------


def test_politicians_come_without_and_with_start_token(data, encoder):
    found = made("politicians", data, encoder)
    bare, whole = found[:7], found[7:]
    for half, bos in ((bare, False), (whole, True)):
        assert [p.extra["person"] for p in half] == POLITICIANS["democrats"] + POLITICIANS["republicans"]
        assert [p.label for p in half] == [1, 1, 1, 1, 0, 0, 0]
        assert [p.split for p in half] == ["train"] * 2 + ["test"] * 2 + ["train"] * 2 + ["test"]
        assert {p.extra["bos"] for p in half} == {bos}
    for p, q in zip(bare, whole, strict=True):
        assert q.ids == (encoder.bos, *p.ids)
        assert p.positions["tokens"] == tuple(range(len(p.ids)))
        # The start token is the same for all; the mean is one over the text's own tokens.
        assert q.positions["tokens"] == tuple(i + 1 for i in p.positions["tokens"])
        assert encoder.text_of(p.ids[p.at("name")]).strip() == p.extra["person"].split()[-1]
        assert q.at("name") == p.at("name") + 1
        assert p.at("minus4") == max(len(p.ids) - 4, 0)
        assert q.at("minus4") == max(len(q.ids) - 4, 0)
    # A name of one token: its text has three.
    ann = next(p for p in bare if p.extra["person"] == "Ann")
    assert (len(ann.ids), ann.at("minus4"), ann.at("name")) == (3, 0, 0)


# --- windows -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 12))
def test_windows_cover_once_and_in_order(ids, size):
    found = list(windows(ids, size))
    assert [i for _, part in found for i in part] == ids
    assert [start for start, _ in found] == list(range(0, len(ids), size))
    assert all(len(part) == size for _, part in found[:-1])
    assert all(0 < len(part) <= size for _, part in found)


def test_code_windows(data, encoder):
    found = made("code", data, encoder)
    for language, label in (("c", 1), ("python", 0)):
        mine = [p for p in found if p.extra["language"] == language]
        assert [p.extra["window"] for p in mine] == list(range(len(mine)))
        assert {p.label for p in mine} == {label}
        assert len(mine) <= SETTINGS["code_windows"]
        source = C if language == "c" else PYTHON
        for d in sorted({p.extra["document"] for p in mine}):
            here = [p for p in mine if p.extra["document"] == d]
            ids, _ = encoder.encode(source[d], bos=False)
            joined = [i for p in here for i in p.ids]
            assert joined == ids[: len(joined)]
            assert all(len(p.ids) == SETTINGS["window"] for p in here[:-1])
            assert d == mine[-1].extra["document"] or len(joined) == len(ids)
    for p in found:
        assert p.positions == {"tokens": tuple(range(len(p.ids))), "end": (len(p.ids) - 1,)}
        assert encoder.bos not in p.ids
        assert [encoder.text_of(t) for t in (*p.positive, *p.negative)] == ["){", "):"]
    every = made("code", data, encoder, code_windows=1000)
    # A letter of two bytes is two tokens; the text is what the tokens cover.
    assert "".join(p.text for p in every if p.extra["language"] == "c") == "".join(C)
    assert {p.extra["document"] for p in every if p.extra["language"] == "c"} == {0, 1}
    assert [p for p in every if p.extra["language"] == "c"][: SETTINGS["code_windows"]] == [
        p for p in found if p.extra["language"] == "c"
    ]


def test_code_may_have_windows_of_its_own(data, encoder):
    found = made("code", data, encoder, code_window=3)
    assert max(len(p.ids) for p in found) == 3
    assert max(len(p.ids) for p in made("text", data, encoder, code_window=3)) == SETTINGS["window"]


@pytest.mark.parametrize("limit", [1, 7, 8, 9, 20, 47])
def test_text_ends_with_the_window_that_passes_the_limit(data, encoder, limit):
    found = made("text", data, encoder, text_tokens=limit)
    sizes = [len(p.ids) for p in found]
    assert sum(sizes) > limit >= sum(sizes[:-1])
    assert [p.extra["window"] for p in found] == list(range(len(found)))
    assert {p.label for p in found} == {None}
    assert {p.split for p in found} == {"text"}


def test_text_may_end_before_the_limit(data, encoder):
    found = made("text", data, encoder, text_tokens=10_000)
    assert [i for p in found for i in p.ids] == [i for t in TEXT for i in encoder.encode(t, bos=False)[0]]
    assert sorted({p.extra["document"] for p in found}) == [0, 2, 3]
    assert "".join(p.text for p in found) == "".join(TEXT)


@pytest.mark.parametrize(
    ("name", "setting"), [("text", {"window": 61}), ("code", {"window": 61}), ("code", {"code_window": 61})]
)
def test_windows_must_fit_the_model(data, encoder, name, setting):
    with pytest.raises(ValueError, match="window' is 61; the model reads 60 tokens at a time"):
        made(name, data, encoder, **setting)


# --- files of texts ------------------------------------------------------------------------------------------------


def test_folders_of_documents(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b/z.c", "a.c", "LICENSE", ".git/x.c", "c.h"):
        (tmp_path / name).write_text(name)
    assert list(documents(tmp_path, (".c", ".h"))) == ["a.c", "b/z.c", "c.h"]
    # Where there are tables, the rest of the folder is about them.
    (tmp_path / "b/1.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    pq.write_table(pa.table({"text": ["zero"]}), tmp_path / "b/0.parquet")
    assert list(documents(tmp_path, (".c",))) == ["zero", "one", "two"]


BROKEN = {
    "x.jsonl": [
        (b'{"text": "a"}\n{"text"', "x.jsonl: line 2 is not valid JSON"),
        (b'{"body": "a"}\n', "x.jsonl: line 1 has no 'text'"),
        (b'["text"]\n', "x.jsonl: line 1 has no 'text'"),
        (b'{"text": 3}\n', "x.jsonl: line 1 has no 'text'"),
        (b"", "x.jsonl: holds no text"),
        (b'{"text": ""}\n', "x.jsonl: holds no text"),
    ],
    "x.parquet": [(b"PAR?", "x.parquet: not valid Parquet")],
    "x.txt": [(b"a", "x.txt: must be a .jsonl or .parquet file, or a folder")],
    "x/y.txt": [(b"\xff\xfe", "y.txt: is not UTF-8 text")],
    "x/y.md": [(b"a", "x: holds no file that ends in .jsonl, .parquet, .txt")],
}


@pytest.mark.parametrize(("name", "content", "said"), [(n, *case) for n, v in BROKEN.items() for case in v])
def test_broken_texts_are_one_line(tmp_path, encoder, name, content, said):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        list(cut(encoder, tmp_path / name.split("/")[0], 8))
    assert "\n" not in str(caught.value)


def test_other_broken_texts(tmp_path, encoder):
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        list(cut(encoder, tmp_path / "nowhere", 8))
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="x.parquet: no column 'text'"):
        list(documents(tmp_path / "x.parquet"))
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="x.parquet: row 1 has no 'text'"):
        list(documents(tmp_path / "x.parquet"))


# --- malformed lists -----------------------------------------------------------------------------------------------

PAIR = {"bos": True, "prompt_a": "Ann is", "prompt_b": "Bob is"}
FAULTS = [
    ({"observables": None}, "no 'observables'"),
    ({"observables__control": None}, "no 'observables.control'"),
    ({"observables__n_subj__neg": None}, "no 'observables.n_subj.neg'"),
    ({"observables__n_subj__neg": []}, r"'observables.n_subj.neg' is '\[\]'; must be a list"),
    ({"observables__n_subj__neg": [" he", 3]}, r"'observables.n_subj.neg' holds \[3\]; must be texts"),
    ({"observables__n_subj__neg": [" he", " she"]}, "'observables.n_subj' has ' she' on both sides"),
    ({"observables__n_subj": "x"}, "'observables.n_subj' is 'x'; must be a mapping"),
    ({"templates__occ": None}, "no 'templates.occ'"),
    ({"templates__occ__observable": "n_obj"}, "'templates.occ.observable' is 'n_obj'; must be 'n_bias'"),
    ({"templates__occ__bos": "yes"}, "'templates.occ.bos' is 'yes'; must be true or false"),
    ({"templates__occ__items": None}, "no 'templates.occ.items'"),
    ({"templates__occ__items": [{"text": "no slot"}]}, r"'templates.occ.items\[0\]' is 'no slot'; needs one"),
    ({"templates__occ__items": [{"txt": "[NAME]"}]}, r"'templates.occ.items\[0\]' is 'None'; needs one"),
    ({"linearisation_pairs": None}, "no 'linearisation_pairs'"),
    ({"linearisation_pairs__party": None}, "no 'linearisation_pairs.party'"),
    ({"linearisation_pairs__subj__prompt_b": None}, "no 'linearisation_pairs.subj.prompt_b'"),
    (
        {"linearisation_pairs__subj__source_position": "x"},
        "'linearisation_pairs.subj.source_position' is 'x'; must be a whole number",
    ),
    (
        {"linearisation_pairs__subj__source_position": -1},
        "'linearisation_pairs.subj.source_position' is -1; must be at least 0",
    ),
    ({"linearisation_pairs__code2": PAIR}, "no 'observables.code2', which 'linearisation_pairs.code2' needs"),
    ({"paths__other.a": ["mlp1@-1"]}, "'paths.other.a' belongs to no observable"),
    ({"paths__party": "mlp1"}, "'paths.party' is 'mlp1'; must be a list of components"),
    ({"paths__party": [["mlp1"], []]}, r"'paths.party' is '\[\]'; must be a list of components"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS)
@pytest.mark.parametrize("name", ["names", "text"])
def test_malformed_lists_are_one_line(tmp_path, encoder, change, said, name):
    files = write(tmp_path / "odd", changed(**change))
    with pytest.raises(ValueError, match=f"lists.yaml: {said}") as caught:
        made(name, files, encoder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("lists", "a: [", "lists.yaml: not valid YAML"),
        ("lists", "- a", "lists.yaml: must be a mapping"),
        ("names", "{", "names.json: not valid JSON"),
        ("names", "[]", "names.json: must be a mapping"),
        ("names", {"female": ["Ann"]}, "names.json: no 'male'"),
        ("names", {"female": ["Ann"], "male": ["Bob", "Max"]}, "'female' has 1 names, 'male' 2"),
        ("names", {"female": ["Ann"], "male": ["Ann"]}, "'female' and 'male' name 'Ann' twice"),
        ("names", {"female": ["Ann"], "male": [7]}, r"'male' holds \[7\]; must be texts"),
        (
            "names",
            {"female": ["Ann"], "male": ["Bob"], "held_out": ["Z"]},
            "'held_out' is .*names of the lists",
        ),
        ("politicians", {"template": "x"}, "'template' is 'x'; must be a text with one {}"),
        ("politicians", {"template": "{} is"}, "no 'democrats'"),
        ("politicians", {**POLITICIANS, "train_per_party": 3}, "'train_per_party' is 3; must leave some"),
        (
            "politicians",
            {**POLITICIANS, "train_per_party": True},
            "'train_per_party' is 'True'; must be a whole",
        ),
    ],
)
def test_malformed_files_are_one_line(data, encoder, key, content, said):
    data[key].write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=said) as caught:
        made("pairs" if key == "lists" else key, data, encoder)
    assert "\n" not in str(caught.value)
    assert str(data[key]) in str(caught.value)


def test_a_missing_file_is_one_line(data, encoder):
    data["lists"].unlink()
    with pytest.raises(ValueError, match="lists.yaml: cannot be read as text"):
        made("pairs", data, encoder)


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(COLUMNS))
def test_table_round_trip(data, encoder, name):
    table = prompts(name, data, SETTINGS, encoder)
    assert to_table(from_table(table), COLUMNS[name]).equals(table)
    assert table["id"].to_pylist() == list(range(table.num_rows))
    assert table["usable"].to_pylist().count(False) == 0


def test_ids_and_lengths_that_a_file_names_are_not_used(tmp_path, data, encoder):
    lists = changed(observables__n_subj={"pos": [" she"], "neg": [" he"], "pos_ids": [1], "neg_ids": [2]})
    other = write(tmp_path / "other", lists)
    for name in ("names", "pairs"):
        assert prompts(name, other, SETTINGS, encoder).equals(prompts(name, data, SETTINGS, encoder))


def test_weights_of_a_file(data, encoder):
    lists = read_lists(data["lists"])
    weights = token_weights(lists, encoder)
    assert {name: tuple(w[:2]) for name, w in weights.items()} == common.observables(
        made("pairs", data, encoder)
    )
