# From outcomes to named measures, from measures to verdicts, and all verdicts into one table.
rule measures:
    input:
        prompts=of_study("prompts", "sets", ".parquet"),
        activations=of_study("activations", "dumps", ".parquet"),
        directions=of_study("directions", "methods", ".safetensors"),
        outcomes=of_study("interventions", "experiments", ".parquet"),
    output:
        f"{ROOT}/measures/{{model}}/{{study}}.json",
    log:
        f"logs/{ROOT}/measures/{{model}}/{{study}}.log",
    benchmark:
        f"benchmarks/{ROOT}/measures/{{model}}/{{study}}.tsv"
    conda:
        "../../envs/bearings.yaml"
    params:
        source=study_digest("measure"),
        run=RUN,
        settings=settings("measures"),
        threads=PLAN.threads,
    script:
        "../scripts/measures.py"


rule judge:
    input:
        claims=claims_file,
        measures=f"{ROOT}/measures/{{model}}/{{study}}.json",
        twin=twin_measures,
    output:
        f"{ROOT}/claims/{{model}}/{{study}}.json",
    log:
        f"logs/{ROOT}/judge/{{model}}/{{study}}.log",
    benchmark:
        f"benchmarks/{ROOT}/judge/{{model}}/{{study}}.tsv"
    conda:
        "../../envs/bearings.yaml"
    params:
        source=digest("judge"),
        run=RUN,
        published=published_name,
    script:
        "../scripts/judge.py"


rule claims:
    input:
        # Relative, so that results keep their provenance when the folder moves.
        claims=[f"workflow/bearings/studies/{s}/claims.yaml" for s in known_studies()],
        records=claim_records(),
    output:
        json=report("results/claims.json", caption="../report/claims.rst", category="claims"),
        table=report("results/claims.md", caption="../report/claims.rst", category="claims"),
        page=report("results/claims.html", caption="../report/claims.rst", category="claims"),
    log:
        f"logs/{ROOT}/claims.log",
    benchmark:
        f"benchmarks/{ROOT}/claims.tsv"
    conda:
        "../../envs/bearings.yaml"
    params:
        source=digest("claims"),
        run=RUN,
    script:
        "../scripts/claims.py"


rule verdict:
    input:
        claims="results/claims.json",
        # Last of all: a claim that fails must not keep figures from being drawn.
        everything=[study_targets(study) for study in PLAN.studies],
    output:
        f"{ROOT}/verdict.txt",
    log:
        f"logs/{ROOT}/verdict.log",
    benchmark:
        f"benchmarks/{ROOT}/verdict.tsv"
    conda:
        "../../envs/bearings.yaml"
    params:
        source=digest("verdict"),
        run=RUN,
    script:
        "../scripts/verdict.py"
