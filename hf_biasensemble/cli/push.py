"""Upload a finished output folder to the Hub: `hf-biasensemble push OUT REPO`."""

from pathlib import Path

from hf_biasensemble.cli.parser import CommandParser


def main(argv: list[str] | None = None) -> int:
    """Pushes in one commit and prints its address."""
    parser = CommandParser("push", __doc__)
    parser.add_argument("folder", type=Path, metavar="OUT", help="output folder of a finished run")
    parser.add_argument("repo_id", metavar="REPO", help="model repository, such as me/my-model; made if missing")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--with_selection", action="store_true", help="also the bias-amplified set")
    parser.add_argument("--commit_message", help="title of the commit")
    options = vars(parser.parse_args(argv))
    from hf_biasensemble.hub import push_model

    print(f"pushed: {push_model(**options)}")
    return 0
