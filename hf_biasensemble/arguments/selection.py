"""Options shared by all selectors, and those of BiasEnsemble."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from hf_biasensemble.arguments.options import (
    Allowed,
    Fraction,
    Options,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    one_of,
    option,
)
from hf_biasensemble.internal.errors import require

UNEVEN_CLASSES = 4
"""Class size ratio above which members are balanced by default. BAR, which has a published recipe, has 3.2."""


@dataclass
class SelectorArguments(Options):
    """Options of every selector."""

    _argument_group_name: ClassVar[str] = "selection"
    sways_no_vote: ClassVar[frozenset[str]] = frozenset({"selection_dir", "audit"})

    selection_dir: str | None = option(
        None,
        "Folder for sharing selections between runs: a selection with the same data and settings is reused; "
        "otherwise the new one is saved there.",
    )
    audit: bool = option(False, "Also write an audit page of the flagged images.")


@dataclass
class SelectionArguments(SelectorArguments):
    """BiasEnsemble: the biased members and their votes."""

    _argument_group_name: ClassVar[str] = "selection: BiasEnsemble"
    sways_no_vote: ClassVar[frozenset[str]] = SelectorArguments.sways_no_vote | {"members_at_once"}

    num_members: PositiveInt = option(5, "Number of biased members, M.")
    member_steps: PositiveInt = option(1000, "Training steps of each member.")
    member_threshold: Fraction = option(
        0.99, "A member votes for an image if it gives the image's class a probability above this."
    )
    member_agreement: int = option(3, "Votes that an image needs to enter the bias-amplified set.")
    member_keep: Annotated[float | None, Allowed("in (0, 1)", lambda value: 0 < value < 1)] = option(
        None,
        "Instead of counting votes, put this fraction of each class into the bias-amplified set: the images with the "
        "highest mean member probability of their class. In (0, 1).",
    )
    generalized_cross_entropy_q: PositiveFraction = option(
        0.7, "Exponent q of the members' generalized cross entropy."
    )
    keep_member: Annotated[str, one_of("last", "best")] = option(
        "last", "Weights each member votes with: last, or best (by validation accuracy)."
    )
    member_eval_steps: PositiveInt = option(
        500, "With keep_member best: steps between evaluations; the first is after one step."
    )
    share_batches: bool = option(
        False, "Give all members the same batches: saves decoding, but makes members less diverse."
    )
    member_batch_size: PositiveInt | None = option(
        None, "Batch size of the members per process; by default per_device_train_batch_size."
    )
    member_learning_rate: PositiveFloat | None = option(
        None, "Learning rate of the members; by default learning_rate."
    )
    member_image_scale: PositiveFloat | None = option(None, "image_scale for the members; by default image_scale.")
    members_at_once: PositiveInt | None = option(
        None, "Members whose activations are held in memory at once, for large backbones; by default all."
    )
    cross_fit: bool | None = option(
        None,
        "Train two networks per member, each on half of the images, and let each vote on the other half; by "
        "default on for pretrained backbones.",
    )
    balance_members: bool | None = option(
        None,
        "Show members all classes equally often; by default on if the largest class has more than "
        f"{UNEVEN_CLASSES} times the images of the smallest.",
    )
    member_features: Annotated[str | None, one_of("early", "final")] = option(
        None,
        "Features of a pretrained backbone that members see: early, from its first layers, which stay frozen and show "
        "a shortcut more clearly than the class; or final, as the classifier. By default early with freeze_backbone.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = 1 <= self.member_agreement <= self.num_members
        require(valid, "--member_agreement", f"in 1..{self.num_members} (num_members)", self.member_agreement)
        for name in ("cross_fit", "balance_members"):
            shared = getattr(self, name) and self.share_batches
            require(not shared, "--share_batches", f"false with --{name}", self.share_batches)

    def check_evaluations(self) -> None:
        """Refuses `keep_member="best"` if members are evaluated only once, after a single update."""
        expected = f"more than member_eval_steps ({self.member_eval_steps}), or --keep_member best would keep "
        expected += "members after a single update"
        found = f"{self.member_steps}; raise it, lower --member_eval_steps, or use --keep_member last"
        evaluated_twice = self.member_steps > self.member_eval_steps
        require(self.keep_member == "last" or evaluated_twice, "--member_steps", expected, found)
