"""Parser of the commands that take positional arguments, or options for other commands."""

import argparse
from typing import NoReturn

from hf_biasensemble.arguments.help import OptionHelp, mistake
from hf_biasensemble.internal.errors import BiasEnsembleError


class CommandParser(argparse.ArgumentParser):
    """Options as on any command line; a mistake is a [`BiasEnsembleError`] of one line."""

    def __init__(self, command: str, description: str | None):
        prog = f"hf-biasensemble {command}"
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=OptionHelp)

    def error(self, message: str) -> NoReturn:
        raise BiasEnsembleError(mistake(message, self))
