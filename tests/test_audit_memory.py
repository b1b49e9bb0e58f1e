"""What the votes of the members take in memory: nothing that grows with the images but a few numbers of each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cost import Operators

from benchmarks.trainers import Setting, random_split, trainer
from hf_biasensemble.trainers import bias_ensemble

ROOT = Path(__file__).parents[1]


def test_votes_of_more_images_need_no_larger_tensor(monkeypatch):
    """The logits of all images, members and classes are never there at once."""
    monkeypatch.setattr(bias_ensemble, "_LOGITS_AT_ONCE", 1)  # a batch at a time

    def largest(samples: int) -> int:
        with trainer("members", random_split(samples, 4), Setting(image_size=4), 1, num_members=3) as built:
            with Operators() as operators:
                votes = built.member_votes()
        assert votes["probabilities"].shape == (samples, 3)
        return operators.largest

    assert largest(6_400) == largest(640) > 0


GROWTH = """
    import torch
    from hf_biasensemble.data.pixels import ImageSplit
    from hf_biasensemble.data.transforms import ImageTransform
    from hf_biasensemble.evaluation import predict_logits
    from hf_biasensemble.models.pair import MemberEnsemble

    class Member(torch.nn.Linear):
        def forward(self, pixels):
            from types import SimpleNamespace

            return SimpleNamespace(logits=super().forward(pixels.flatten(1)))

    def peak():
        return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024

    transform = ImageTransform((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    members = MemberEnsemble([Member(3 * 28 * 28, 10) for _ in range(5)])

    def vote(batches):
        rows = torch.zeros(512 * batches, dtype=torch.int64)  # of one image
        split = ImageSplit(torch.zeros(1, 3, 28, 28, dtype=torch.uint8), rows[:1], ["0"], rows)
        predict_logits(members, split, transform, 512)
        return peak()

    before = vote(4)
    print(vote(100) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_process_does_not_grow_with_the_number_of_batches():
    """Small tensors that are kept between batches would split the memory that these give back: in large pages, a batch
    then grows the process by as much as it takes."""
    import textwrap

    environment = os.environ | {"PYTHONPATH": str(ROOT), "THP_MEM_ALLOC_ENABLE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(GROWTH)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40  # MB; logits and rows are 10 and 0.4
