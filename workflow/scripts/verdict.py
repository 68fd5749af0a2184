"""The end of a run: the summary, and a non-zero exit that names every claim of this run which did not hold."""

import json
from pathlib import Path

from _job import job

with job(snakemake) as log:
    from bearings.evidence.merge import failing
    from bearings.evidence.table import summary
    from bearings.store.atomic import write_text

    run = snakemake.params.run
    body = json.loads(Path(snakemake.input.claims).read_text())
    said = summary(body)
    log.info("%s", said)
    wrong = failing(body, run["scale"], run["seed"])
    if wrong:
        raise ValueError(
            f"claims that were expected to hold and do not (results/claims.md): {', '.join(wrong)}"
        )
    write_text(snakemake.output[0], said + "\n")
