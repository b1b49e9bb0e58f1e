"""Parser of the commands that take positional arguments."""

import argparse
from typing import NoReturn

from hf_biasensemble.errors import BiasEnsembleError


class CommandParser(argparse.ArgumentParser):
    """Options as on any command line; a mistake is a [`BiasEnsembleError`] of one line."""

    def __init__(self, command: str, description: str | None):
        super().__init__(prog=f"hf-biasensemble {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise BiasEnsembleError(f"{message}; see {self.prog} --help")
