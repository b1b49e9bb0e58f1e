"""Upload a finished output folder to the Hub: `hf-biasensemble push OUT REPO`.

The model of a run of training or, with --audit, the suspected images of an audit as a dataset.
"""

from pathlib import Path

from hf_biasensemble.arguments.parser import StrictParser


def main(argv: list[str] | None = None) -> int:
    """Pushes in one commit and prints its address."""
    parser = StrictParser(command="push", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT", help="Output folder of a finished run or audit.")
    parser.add_argument("repo_id", metavar="REPO", help="Repository, such as me/my-model; made if missing.")
    parser.add_argument("--private", action="store_true", help="Make the repository private.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--with_selection", action="store_true", help="Also the bias-amplified set, and the members that made it."
    )
    what.add_argument(
        "--audit", action="store_true", help="The suspected images of an audit, as a dataset (not the model)."
    )
    parser.add_argument("--commit_message", help="Title of the commit.")
    options = vars(parser.parse_args(argv))
    from hf_biasensemble.folders.hub import push_model, push_suspected_images

    if options.pop("audit"):
        del options["with_selection"]
        print(f"pushed: {push_suspected_images(**options)}")
    else:
        print(f"pushed: {push_model(**options)}")
    return 0
