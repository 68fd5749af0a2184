# Figures are drawn from files the run wrote, all models of a study side by side.
rule figures:
    input:
        measures=of_models("measures", suffix=".json"),
        directions=of_models("directions", "methods", ".safetensors"),
        outcomes=of_models("interventions", "experiments", ".parquet"),
    output:
        report(
            f"{ROOT}/figures/{{study}}/{{figure}}.png",
            caption="../report/figure.rst",
            category="{study}",
            labels={"figure": "{figure}"},
        ),
    log:
        f"logs/{ROOT}/figures/{{study}}/{{figure}}.log",
    benchmark:
        f"benchmarks/{ROOT}/figures/{{study}}/{{figure}}.tsv"
    conda:
        "../../envs/bearings.yaml"
    params:
        source=study_digest("draw"),
        run=RUN,
        settings=settings("figures"),
        models=models_of_study,
        question=figure_question,
        claims=figure_claims,
    script:
        "../scripts/figures.py"
