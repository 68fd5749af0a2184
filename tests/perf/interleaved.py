"""Timing two ways of one piece of work against each other, and the table of results/bench.json and bench.md."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

COLUMNS = ("work", "ours_s", "peer", "peer_s", "ratio", "spread", "max_abs_diff", "note")


def compare(
    work: str,
    ours: Callable[[], Tensor],
    peer: Callable[[], Tensor],
    *,
    name: str,
    repeats: int,
    tolerance: float,
    note: str = "",
) -> dict:
    """One row: median seconds of both, the median of the paired ratios peer / ours and its range.

    The two run in turns (A B A B), after one turn that is not counted, so that a load from elsewhere falls on
    both. Raises ValueError when what they return differs by more than `tolerance`.
    """
    gap = (ours() - peer()).abs().max().item()
    if not gap <= tolerance:
        raise ValueError(
            f"{work}: the outputs differ by {gap:.1e}, allowed {tolerance:.0e}: no ratio to speak of"
        )
    times: list[tuple[float, float]] = []
    for _ in range(repeats):
        turn = []
        for run in (ours, peer):
            start = time.perf_counter()
            run()
            turn.append(time.perf_counter() - start)
        times.append((turn[0], turn[1]))
    ratios = [b / a for a, b in times]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    row = (
        work, round(mine, 4), name, round(theirs, 4), round(statistics.median(ratios), 3),
        [round(min(ratios), 3), round(max(ratios), 3)], gap, note,
    )  # fmt: skip
    return dict(zip(COLUMNS, row, strict=True))


def write(rows: list[dict], folder: Path) -> None:
    """Put rows into bench.json and bench.md; rows of other works that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    old = json.loads(path.read_text()) if path.exists() else []
    new = {row["work"] for row in rows}
    rows = [row for row in old if row["work"] not in new] + rows
    path.write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        "| Work | Ours, s | Peer | Peer, s | Peer / ours (range) | Largest difference | Note |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = row["spread"]
        lines.append(
            f"| {row['work']} | {row['ours_s']} | {row['peer']} | {row['peer_s']} | "
            f"{row['ratio']:.2f} ({low:.2f} to {high:.2f}) | {row['max_abs_diff']:.1e} | {row['note']} |"
        )
    head = "One CPU thread, the two run in turns; medians of seconds, paired ratios with their range.\n\n"
    (folder / "bench.md").write_text("# Bench\n\n" + head + "\n".join(lines) + "\n")
