"""All weight-only numbers of the paper's model in minutes, and in the memory of a laptop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SECONDS, GIGABYTES = 120, 8
# The shape of GPT-Neo-1.3B, whose 5.3 GB in float32 are the floor of what a run can hold.
CREATE = """
import sys
import torch
from transformers import AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

torch.manual_seed(0)
config = GPTNeoConfig(
    num_layers=24, num_heads=16, hidden_size=2048, max_position_embeddings=2048, vocab_size=50257,
    attention_types=[[["global", "local"], 12]],
)
with torch.device("meta"):
    network = GPTNeoForCausalLM(config)
network.to_empty(device="cpu")
network.tie_weights()
with torch.no_grad():
    for name, parameter in network.named_parameters():
        torch.nn.init.ones_(parameter) if "ln_" in name and "weight" in name else parameter.normal_(0, 0.02)
network.save_pretrained(sys.argv[1])
"""
MEASURE = """
import json, resource, sys, time
start = time.perf_counter()
import torch
from bearings.lm import weights
from bearings.lm.load import load_model
from bearings.lm.propagate import through_heads

model = load_model(sys.argv[1])
loaded = time.perf_counter() - start
generator = torch.Generator().manual_seed(0)
pairs = torch.randint(0, model.info.d_vocab, (103, 2), generator=generator)
vectors, _ = weights.unembedding(model, pairs)
n = vectors[:, 0] - vectors[:, 1]
norms, cosines, couplings = [], [], []
for layer in range(model.n_layers):
    y = through_heads(model, layer, n)
    norms.append(y.norm(dim=-1))
    products = (y * y[:1]).sum(-1)
    couplings.append(products / norms[-1][:1] ** 2)
    cosines.append(products / norms[-1] / norms[-1][:1])
numbers = torch.stack([torch.stack(part) for part in (norms, cosines, couplings)])
print(json.dumps({
    "load": loaded,
    "seconds": time.perf_counter() - start,
    "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    "shape": list(numbers.shape),
    "finite": bool(torch.isfinite(numbers).all()),
    "own cosine": (numbers[1, :, 0] - 1).abs().max().item(),
    "other cosines": numbers[1, :, 1:].std().item(),
}))
"""


def run(code: str, folder: Path) -> str:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root / "workflow"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_weight_only_numbers_of_1_3_billion_parameters(tmp_path, record_property):
    from lm_models import directory

    free = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024 / 1e9
    if free < GIGABYTES + 2:
        pytest.skip(f"{free:.0f} GB of memory are free, {GIGABYTES + 2} are needed")
    run(CREATE, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((directory("gpt_neo") / name).read_bytes())
    found = json.loads(run(MEASURE, tmp_path).splitlines()[-1])
    for name, value in found.items():
        record_property(name, value)
    print(found)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    assert found["shape"] == [3, 24, 103, 16]
    assert found["finite"]
    # Random observables meet in d_head = 128 dimensions: a spread of 1 / sqrt(128) = 0.088 (protocol section 8).
    assert found["own cosine"] < 1e-5
    assert 0.07 < found["other cosines"] < 0.11
    assert found["seconds"] < SECONDS, found
    assert found["gigabytes"] < GIGABYTES, found
