# What a run starts from: the embedded world's sentences and corpus, its trained models, and the untrained twins.
rule reviews:
    output:
        f"{ROOT}/world/reviews.tsv",
    log:
        f"logs/{ROOT}/reviews.log",
    benchmark:
        f"benchmarks/{ROOT}/reviews.tsv"
    conda:
        "../../envs/bearings.yaml"
    params:
        source=digest("reviews"),
        run=RUN,
        sizes=review_sizes(),
    script:
        "../scripts/reviews.py"


rule corpus:
    input:
        reviews=f"{ROOT}/world/reviews.tsv",
    output:
        tokenizer=directory(f"{ROOT}/world/{{model}}/tokenizer"),
        rows=f"{ROOT}/world/{{model}}/corpus.parquet",
    log:
        f"logs/{ROOT}/corpus/{{model}}.log",
    benchmark:
        f"benchmarks/{ROOT}/corpus/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(WORLDS),
    conda:
        "../../envs/bearings.yaml"
    params:
        source=digest("corpus"),
        run=RUN,
        world=world_settings,
    script:
        "../scripts/corpus.py"


rule train:
    input:
        tokenizer=f"{ROOT}/world/{{model}}/tokenizer",
        rows=f"{ROOT}/world/{{model}}/corpus.parquet",
    output:
        model=directory(f"{ROOT}/models/{{model}}"),
    log:
        f"logs/{ROOT}/train/{{model}}.log",
    benchmark:
        f"benchmarks/{ROOT}/train/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(WORLDS),
    conda:
        "../../envs/bearings.yaml"
    threads: 2
    resources:
        mem_mb=3000,
    params:
        source=digest("train"),
        run=RUN,
        world=world_settings,
        threads=world_threads,
        talk=True,
    script:
        "../scripts/train.py"


rule knows:
    input:
        model=f"{ROOT}/models/{{model}}",
    output:
        f"{ROOT}/knows/{{model}}.json",
    log:
        f"logs/{ROOT}/knows/{{model}}.log",
    benchmark:
        f"benchmarks/{ROOT}/knows/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(WORLDS),
    conda:
        "../../envs/bearings.yaml"
    resources:
        mem_mb=1200,
    params:
        source=digest("knows"),
        run=RUN,
        world=world_settings,
        threads=PLAN.threads,
    script:
        "../scripts/knows.py"


rule twin:
    input:
        twin_of,
    output:
        directory(f"{ROOT}/models/{{model}}"),
    log:
        f"logs/{ROOT}/twin/{{model}}.log",
    benchmark:
        f"benchmarks/{ROOT}/twin/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(TWINS),
    conda:
        "../../envs/bearings.yaml"
    resources:
        mem_mb=1200,
    params:
        source=digest("twin"),
        run=RUN,
    script:
        "../scripts/twin.py"
