"""Compare models on images that contradict the shortcut, without bias labels:

hf-biasensemble judge --model MODEL [MODEL ...] --compare_with MODEL --members RUN --dataset_name DIR

MODEL is the folder or Hub id of any image classifier that transformers or timm opens, with the classes of the dataset.
The members of BiasEnsemble in RUN, which must not have been trained on the images of --split, tell which of these
contradict the shortcut.
"""

from hf_biasensemble.internal.errors import BiasEnsembleError


def main(argv: list[str]) -> int:
    """Prints a table with estimates and a verdict for each model; exit status 0 also where nothing can be told."""
    from hf_biasensemble.arguments import DataArguments, InferenceArguments, parse_arguments
    from hf_biasensemble.internal.processes import print_once
    from hf_biasensemble.runs.judging import JudgeArguments, judge_models

    if argv and not argv[0].startswith("-"):
        raise BiasEnsembleError(f"expected models after --model and --compare_with, found {argv[0]} before any option")
    types = [DataArguments, JudgeArguments, InferenceArguments]
    data_args, judge_args, inference = parse_arguments(types, argv, "judge", description=__doc__)
    print_once(judge_models(data_args, judge_args, inference)[0])
    return 0
