"""How two sets of settings are told apart."""

from hf_biasensemble.errors import differences


def test_differences_name_each_setting_with_both_values():
    then = {"seed": 4, "threshold": 0.99}
    assert differences(then, dict(then)) == []
    assert differences(then, then | {"seed": 5}) == ["seed (then: 4, now: 5)"]
    assert differences(then, {"seed": 4}) == ["threshold (then: 0.99, now: None)"]
    assert differences(then, then | {"new": 1, "seed": 5}) == ["new (then: None, now: 1)", "seed (then: 4, now: 5)"]
    assert differences(then, {"seed": 5}, ignored={"seed", "threshold"}) == []
