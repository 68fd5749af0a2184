"""Models that do know their relations: a random one asked what it says anyway, and one with a planted map."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_models import D_MODEL, N_LAYERS, _root, model, reference, save
from lrc_models import SETTINGS, fit_all, prompt, run_dump

from bearings.lm.forward import forward, pad
from bearings.lm.load import load_model
from bearings.stages.inputs import Inputs
from bearings.studies.lrc.common import tasks
from bearings.studies.lrc.intervene import intervene

FAMILY = "gpt_neox"


@cache
def honest() -> Inputs:
    """Prompts whose answers are the model's own first choice, so that the dump needs no help.

    Objects are tokens, and for some tokens also the two-token answer that begins with it.
    """
    rng = np.random.default_rng(5)
    heads = [[1, *rng.integers(3, 61, 3).tolist(), 3] for _ in range(90)]
    with torch.no_grad():
        first = [int(reference(FAMILY)(torch.tensor([h])).logits[0, -1].argmax()) for h in heads]
        pairs = [(h, t) for h, t in zip(heads, first, strict=True)]
        then = [int(reference(FAMILY)(torch.tensor([[*h, t]])).logits[0, -1].argmax()) for h, t in pairs]
    prompts: dict[str, list] = {"train": [], "test": []}
    for i, ((head, one), two) in enumerate(zip(pairs, then, strict=True)):
        answer = [one, two] if (i // 2) % 2 else [one]
        name = ("train", "test")[i % 2]
        extra = {"object": "-".join(map(str, answer))}
        prompts[name].append(prompt(len(prompts[name]), name, head, 3, answer, **extra))
    dumps = {name: run_dump(FAMILY, mine) for name, mine in prompts.items()}
    # As many objects as a random model has would be slow to sweep.
    settings = {
        **SETTINGS,
        "ranks": [],
        "object_layers": [],
        "subject_layers": [],
        "sample_counts": [],
        "samples": 1,
    }
    return Inputs(prompts, dumps, fit_all(prompts, dumps, settings, FAMILY), settings, 0, model(FAMILY))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_edit_of_no_strength_never_succeeds_where_the_answer_is_one_token():
    rows = intervene("edit", honest()).to_pandas()
    none = rows[(rows["beta"] == 0) & (rows["method"] != "substitute")]
    single = none[none["source_tokens"] == 1]
    assert len(single) > 50
    assert not single["success"].any()
    # Answers that begin with the source's own token are among the targets, and may tie with it.
    (t, *_) = tasks(honest().prompts, honest().dumps, honest().settings)
    begins = [
        t.objects[b].startswith(f"{t.objects[a]}-")
        for a, b in zip(single["source"], single["target"], strict=True)
    ]
    assert any(begins)
    # With a strength some do.
    assert rows[(rows["beta"] > 0) & (rows["source_tokens"] == 1)]["success"].any()


def test_faithfulness_unembeds_the_map_of_the_subject():
    given, network = honest(), reference(FAMILY)
    rows = intervene("faithful", given).to_pandas()
    for t in tasks(given.prompts, given.dumps, given.settings):
        w, b = (given.directions["lre"][f"{t.key}/map/2-{N_LAYERS}/first/1/{x}"] for x in "Wb")
        for name, prompts in (("train", t.train), ("test", t.test)):
            mine = rows[(rows["variant"] == t.variant) & (rows["set"] == name)]
            assert mine["prompt"].tolist() == [p.id for p in prompts]
            for p, right in zip(prompts, mine["right"], strict=True):
                s = forward(model(FAMILY), pad([list(p.ids)], 0), keep=[2]).resid[2][0, p.at("subject")]
                o = torch.from_numpy(w) @ s + torch.from_numpy(b)
                with torch.no_grad():
                    top = network.get_output_embeddings()(network.gpt_neox.final_layer_norm(o)).argmax()
                assert right == (top.item() == int(p.extra["object"].split("-")[0]))
    # A map of one prompt is exact on that prompt, if on no other.
    assert 0 < rows["right"].mean() < 1


@cache
def linear_model(objects: int = 4, subjects: int = 6):
    """A model whose blocks write nothing: a subject's embedding lies along its object's row of the unembedding.

    Returns the model and (subject token, object number) of every subject; object i is token 5 + i.
    """
    from transformers import AutoModelForCausalLM

    folder = save("llama", Path(_root.name) / "linear")
    network = AutoModelForCausalLM.from_pretrained(folder)
    rng = np.random.default_rng(8)
    own = np.linalg.qr(rng.standard_normal((D_MODEL, D_MODEL)))[0][:objects]
    known = [(20 + i, i % objects) for i in range(objects * subjects)]
    with torch.no_grad():
        for block in network.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        network.model.norm.weight.fill_(1.0)
        network.lm_head.weight.zero_()
        network.lm_head.weight[5 : 5 + objects] = torch.from_numpy(5 * own).float()
        for token, i in known:
            h = own[i] + 0.1 * rng.standard_normal(D_MODEL)
            network.model.embed_tokens.weight[token] = torch.from_numpy(h).float()
    network.save_pretrained(folder)
    return load_model(folder), known


def test_a_planted_model_is_read_and_steered_without_a_mistake():
    linear, known = linear_model()
    prompts: dict[str, list] = {"train": [], "test": []}
    for number, (token, i) in enumerate(known):
        name = ("train", "test")[number // 4 % 2]
        # The subject predicts the object: the map from one to the other is the identity.
        head = [1, 3, 4, token] if name == "train" else [1, token]
        prompts[name].append(prompt(len(prompts[name]), name, head, len(head) - 1, [5 + i]))
    dumps = {name: run_dump(linear, mine) for name, mine in prompts.items()}
    # All singular values are one: any rank below the full one would leave out directions by rounding alone.
    settings = {**SETTINGS, "rank": D_MODEL, "sweep_rank": D_MODEL, "single_objects": 0, "betas": [0.02, 0.3]}
    given = Inputs(prompts, dumps, fit_all(prompts, dumps, settings, linear), settings, 0, linear)
    for t in tasks(prompts, dumps, settings):
        assert (len(t.train), len(t.test)) == (12, 12)
        for key, value in given.directions["lre"].items():
            assert np.abs(value - (np.eye(D_MODEL) if key.endswith("W") else 0)).max() < 1e-5
    guesses = intervene("classify", given).to_pandas()
    assert guesses[guesses["method"].isin(["lrc", "first_final", "average", "svm"])]["right"].all()
    assert intervene("faithful", given).to_pandas()["right"].all()
    rows = intervene("edit", given).to_pandas()
    rows = rows[(rows["variant"] == "corrected") & (rows["stage"] == "test")]
    share = rows[rows["method"] == "lrc"].groupby("beta")["success"].mean()
    # Over four blocks the shift is 4 x .3 lengths of the residual; at .02 it is less than a tenth of one.
    assert share[0.3] == 1.0
    assert share[0.0] == share[0.02] == 0.0
    assert not rows[rows["method"] == "reversed"]["success"].any()
    assert rows[rows["method"] == "substitute"]["success"].all()
    # Nothing is behind a subject that ends its prompt.
    assert "after" not in set(rows["method"])
