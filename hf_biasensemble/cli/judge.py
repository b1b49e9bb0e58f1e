"""Compare models on images that contradict the shortcut, without bias labels:

hf-biasensemble judge --model MODEL [MODEL ...] --compare_with MODEL --members RUN --dataset_name DIR

MODEL is the folder or Hub id of any image classifier that transformers or timm can load, with the classes of the
dataset. The members of BiasEnsemble in RUN identify the images of --split that contradict the shortcut; they must not
have been trained on that split.
"""

from hf_biasensemble.internal.errors import BiasEnsembleError


def main(argv: list[str]) -> int:
    """Prints estimates and a verdict for each model; exit status 0 even if it cannot tell."""
    from hf_biasensemble.arguments import DataArguments, InferenceArguments, parse_arguments
    from hf_biasensemble.internal.processes import print_once
    from hf_biasensemble.runs.judging import JudgeArguments, judge_models

    if argv and not argv[0].startswith("-"):
        raise BiasEnsembleError(f"expected models after --model and --compare_with, found {argv[0]} before any option")
    types = [DataArguments, JudgeArguments, InferenceArguments]
    data_args, judge_args, inference = parse_arguments(types, argv, "judge", description=__doc__)
    print_once(judge_models(data_args, judge_args, inference)[0])
    return 0
