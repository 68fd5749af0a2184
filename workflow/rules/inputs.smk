# What a run starts from: the embedded world's data and corpora, its trained models, and the untrained twins.
rule world:
    output:
        reviews=f"{ROOT}/world/reviews.tsv",
        relations=directory(f"{ROOT}/world/relations"),
        people=[
            f"{ROOT}/world/people/{file}"
            for file in (
                "prompts.yaml",
                "names.json",
                "politicians.json",
                "text.jsonl",
                "c.jsonl",
                "python.jsonl",
            )
        ],
        texts=f"{ROOT}/world/texts.jsonl",
    log:
        f"logs/{ROOT}/world.log",
    benchmark:
        f"benchmarks/{ROOT}/world.tsv"
    conda:
        "../../envs/bearings.yaml"
    params:
        source=digest("world"),
        run=RUN,
        sizes=review_sizes(),
        texts=text_settings(),
    script:
        "../scripts/world.py"


rule corpus:
    input:
        reviews=f"{ROOT}/world/reviews.tsv",
        vocabulary=vocabulary,
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
    # Other jobs wait for a model; a stream of small ones must not keep its training waiting.
    priority: 10
    conda:
        "../../envs/bearings.yaml"
    threads: train_cores
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
