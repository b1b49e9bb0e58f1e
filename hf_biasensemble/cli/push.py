"""Upload a finished run to the Hub: `hf-biasensemble push OUT REPO`."""

from pathlib import Path

from hf_biasensemble.arguments.parser import StrictParser


def main(argv: list[str]) -> int:
    """Pushes in one commit and prints its URL."""
    parser = StrictParser(command="push", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT", help="Output folder of a finished run.")
    parser.add_argument("repo_id", metavar="REPO", help="Repository, such as me/my-model; created if missing.")
    parser.add_argument("--private", action="store_true", help="Make the repository private.")
    parser.add_argument(
        "--with_selection", action="store_true", help="Also push the bias-amplified set and the members that chose it."
    )
    parser.add_argument("--commit_message", help="Title of the commit.")
    options = vars(parser.parse_args(argv))
    from hf_biasensemble.folders.hub import push_model

    print(f"pushed: {push_model(**options)}")
    return 0
