"""What the package overrides or uses of transformers and accelerate that is not public there.

Such names may change in any version. So they stand here, in one list, with their parameters: an upgrade that renames
one or gives it other parameters fails here and says which, and code that uses a further one has to enter it.
"""

import ast
import inspect
import textwrap
from pathlib import Path

from accelerate import Accelerator
from transformers import (
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

PACKAGE = Path(__file__).parents[1] / "hf_biasensemble"
LIBRARIES = ("transformers", "accelerate")
CLASSES = (
    *(Accelerator, HfArgumentParser, PreTrainedConfig, PreTrainedModel),
    *(Trainer, TrainerCallback, TrainerState, TrainingArguments),
)

# "Class.name" -> parameters of a method, or None for what an instance holds.
EXPECTED = {
    "Trainer._clip_grad_norm": "self, model",
    "HfArgumentParser._add_dataclass_arguments": "self, dtype",
    "HfArgumentParser._parse_dataclass_field": "parser, field",
    "Trainer._created_lr_scheduler": None,
    "Trainer._finalize_training": "self, trial, num_train_samples, start_time",
    "Trainer._get_dataloader": "self, dataset, description, batch_size, sampler_fn, is_training, dataloader_key",
    "Trainer._get_grad_norm": "self, model, grad_norm",
    "Trainer._get_learning_rate": "self",
    "Trainer._get_output_dir": "self, trial",
    "Trainer._get_train_sampler": "self, train_dataset",
    "Trainer._load_optimizer_and_scheduler": "self, checkpoint",
    "PreTrainedModel._init_weights": "self, module",
    "Trainer._prepare_inputs": "self, inputs",
    "Trainer._save": "self, output_dir, state_dict",
    "Trainer._save_checkpoint": "self, model, trial",
    "Trainer._save_optimizer_and_scheduler": "self, output_dir",
    "Trainer._total_loss_scalar": None,
    "Trainer._tr_loss": None,
    "Trainer._train_batch_size": None,
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


def nodes_of_package() -> list[ast.AST]:
    return [node for file in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]


def names_in_package() -> set[str]:
    """Private names that the package defines in a class or reads of any object."""
    names = set()
    for node in nodes_of_package():
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            names |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            names |= {name.id for part in node.body for name in ast.walk(part) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            names |= {word.value for word in node.args if isinstance(word, ast.Constant) and type(word.value) is str}
    return {name for name in names if is_private(name)}


def private_parts(kind: type) -> dict[str, str | None]:
    """Private methods of a class with their parameters, and private attributes that its methods set."""
    parts: dict[str, str | None] = {}
    for base in kind.__mro__:
        if base.__module__.split(".")[0] not in LIBRARIES:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        stored = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        parts |= {node.attr: None for node in stored if isinstance(node.ctx, ast.Store) and node.attr not in parts}
        for name, value in vars(base).items():
            value = getattr(value, "__func__", value)  # of a static or class method
            if parts.get(name) is None:
                parts[name] = ", ".join(inspect.signature(value).parameters) if inspect.isfunction(value) else None
    return {name: parameters for name, parameters in parts.items() if is_private(name)}


def test_private_names_are_those_of_the_list():
    ours = names_in_package()
    found = {
        f"{kind.__name__}.{name}": parameters
        for kind in CLASSES
        for name, parameters in private_parts(kind).items()
        if name in ours
    }
    changed = {name for name in found.keys() | EXPECTED.keys() if name not in found or name not in EXPECTED}
    assert changed == set(), "gone from the libraries or from our code, or missing in the list"
    assert found == EXPECTED


def test_nothing_private_is_imported():
    modules: set[str] = set()
    for node in nodes_of_package():
        if isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    of_libraries = {name for name in modules if name.split(".")[0] in LIBRARIES}
    assert len(of_libraries) > 10
    assert [name for name in of_libraries if any(is_private(part) for part in name.split("."))] == []
