"""What every script does first: find the package, fix threads and seeds, log to the job's file.

Nothing here knows what a job computes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WORKFLOW = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(WORKFLOW))


@contextmanager
def job(snakemake) -> Iterator[logging.Logger]:
    """Log to the rule's `log:`, write tracebacks there, and say the last line of an error on the terminal.

    Thread counts are set before torch is imported: they change the last bits of a sum, so they come from the
    plan and never from the number of cores the machine happens to have.
    """
    _die_with_run()
    threads = str(snakemake.params.get("threads", 1))
    os.environ |= {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_MININTERVAL": "10",
    }
    handlers: list[logging.Handler] = [logging.FileHandler(snakemake.log[0], mode="w")]
    if snakemake.params.get("talk"):
        handlers.append(logging.StreamHandler())
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers
    )
    for noisy in ("httpx", "filelock", "matplotlib", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    log = logging.getLogger(snakemake.rule)
    try:
        yield log
    except Exception as error:
        log.exception("failed")
        said = " ".join(str(error).split()) or type(error).__name__
        sys.exit(f"{snakemake.rule}: {said}")


def _die_with_run() -> None:
    """Have the kernel end this job when its run is killed, so that no orphan writes beside the next run (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
