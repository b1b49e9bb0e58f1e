"""Debiased image classifiers without bias labels: BiasEnsemble, LfF and DisEnt for the Hugging Face stack.

Importing this package registers its model with transformers, so that `AutoModelForImageClassification.from_pretrained`
opens published models without `trust_remote_code`.
"""

import importlib
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# `python -m` names itself "-m" until it has found the module.
_IS_COMMAND_LINE = PurePath(sys.argv[0]).stem == "hf-biasensemble" or (
    sys.argv[0] == "-m" and __name__ in sys.orig_argv
)

if TYPE_CHECKING:
    from hf_biasensemble.public import *  # noqa: F403
elif _IS_COMMAND_LINE:  # `hf-biasensemble --help` should not wait for torch: each command imports what it needs

    def __getattr__(name: str) -> Any:
        public = importlib.import_module("hf_biasensemble.public")
        if name == "__all__":  # for `from hf_biasensemble import *` in a file of the user
            return [name for name in vars(public) if not name.startswith("_")]
        return getattr(public, name)
else:
    from hf_biasensemble import public
    from hf_biasensemble.public import *  # noqa: F403

    __all__ = [name for name in vars(public) if not name.startswith("_")]
