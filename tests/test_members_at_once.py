"""Members that run one after another are those that run together, and fewer keep activations at a time."""

import pytest
from runs import error_line, selection_inputs, train
from synthetic import coloured_digits

from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.runs.selecting import make_selection

MEMBERS = {"num_members": 3, "member_agreement": 1, "member_threshold": 0.3, "member_steps": 10}
WAYS = {
    "batches of their own": {},
    "shared batches": {"share_batches": True},
    "halves": {"cross_fit": True},
    "accumulated batches": {"gradient_accumulation_steps": 2},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return coloured_digits(tmp_path_factory.mktemp("data"), num_train=64, num_validation=16)


def trained_members(digits, folder, **changes):
    """Weights of all members."""
    make_selection(*selection_inputs(digits, folder, **MEMBERS, **changes), must_serve=False)
    return (folder / "selection" / "members.safetensors").read_bytes()


@pytest.mark.parametrize("way", WAYS)
def test_members_one_after_another_are_bitwise_those_that_run_together(way, digits, tmp_path):
    together = trained_members(digits, tmp_path / "all", **WAYS[way])
    for at_once in (1, 2):
        assert trained_members(digits, tmp_path / str(at_once), members_at_once=at_once, **WAYS[way]) == together


def test_no_more_members_than_asked_keep_activations(digits, tmp_path, monkeypatch):
    kept = {"now": 0, "most": 0}
    forward = DebiasedImageClassifier.forward

    def counted(model, *args, **kwargs):
        output = forward(model, *args, **kwargs)
        if output.logits.requires_grad:
            kept["now"] += 1
            kept["most"] = max(kept["most"], kept["now"])
            output.logits.register_hook(lambda gradient: kept.update(now=kept["now"] - 1))
        return output

    monkeypatch.setattr(DebiasedImageClassifier, "forward", counted)
    for at_once, most in ((None, 3), (2, 2), (1, 1)):
        kept["most"] = 0
        trained_members(digits, tmp_path / str(at_once), **({"members_at_once": at_once} if at_once else {}))
        assert kept == {"now": 0, "most": most}


def test_no_member_at_once_is_refused(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", "lff_be", members_at_once=0) == 2
    assert "--members_at_once: expected at least 1, found 0" in error_line(capsys)
