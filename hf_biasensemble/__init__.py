"""Debias image classifiers without bias labels: BiasEnsemble, LfF and DisEnt for the Hugging Face stack.

Importing the package registers its model with transformers, so `AutoModelForImageClassification.from_pretrained` opens
published models without `trust_remote_code`.
"""

import importlib
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# With `python -m`, argv[0] is "-m" until the module is found.
_IS_COMMAND_LINE = PurePath(sys.argv[0]).stem == "hf-biasensemble" or (
    sys.argv[0] == "-m" and __name__ in sys.orig_argv
)

if TYPE_CHECKING:
    from hf_biasensemble.public import *  # noqa: F403
elif _IS_COMMAND_LINE:  # import lazily, so `hf-biasensemble --help` doesn't wait for torch

    def __getattr__(name: str) -> Any:
        public = importlib.import_module("hf_biasensemble.public")
        if name == "__all__":  # for `from hf_biasensemble import *` in a user's file
            return [name for name in vars(public) if not name.startswith("_")]
        return getattr(public, name)
else:
    from hf_biasensemble import public
    from hf_biasensemble.public import *  # noqa: F403

    __all__ = [name for name in vars(public) if not name.startswith("_")]
