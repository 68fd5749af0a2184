# Bearings: four papers on linear directions, rebuilt claim by claim. A stage is a rule, a study a wildcard.
from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/directions.smk"
include: "workflow/rules/interventions.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"


localrules:
    all,


onstart:
    hold_folder()


onsuccess:
    write_report()
    say_summary()


onerror:
    write_report()


rule all:
    default_target: True
    input:
        # Named one by one, measures and all: a clone brings verdicts and figures along, but not what they rest on.
        [study_targets(study) for study in PLAN.studies],
        f"{ROOT}/verdict.txt",


for study in PLAN.studies:

    rule:
        name:
            study
        input:
            study_targets(study),
