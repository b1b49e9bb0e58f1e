"""Moving averages of each training sample's loss, scaled by the maximum of its class.

Rescanning the training set for these maxima would cost more than a training step. They are kept in one tree per class
instead, which each update climbs: a few small gathers, no host synchronisation, and exact even when a maximum falls.
"""

import torch


class SampleLosses:
    """Exponential moving average of each training sample's loss, for one or more networks.

    Computes `average[i] = decay * average[i] + (1 - decay * seen[i]) * loss_i`, so the first average is the loss
    itself (https://huggingface.co/papers/2007.02561; `EMA` in the authors' code).

    Args:
        labels (`torch.Tensor` of shape (N,), int64): Class of each training sample, by `index`.
        num_classes (`int`): Number of classes K.
        num_networks (`int`, *optional*, defaults to 2): Number of networks G.
        decay (`float`, *optional*, defaults to 0.7): Weight of the old average, in [0, 1).
        device (`torch.device`, *optional*): Device of the averages; by default that of the labels.
    """

    def __init__(
        self,
        labels: torch.Tensor,
        num_classes: int,
        num_networks: int = 2,
        decay: float = 0.7,
        device: torch.device | None = None,
    ):
        self.labels = labels.to(device or labels.device)
        self.decay = decay
        # Position of each sample in its latest batch; -1 before its first one.
        self._last_place = torch.full((len(labels),), -1, dtype=torch.int32, device=self.labels.device)
        self._maximum = _ClassMaximum(labels, num_classes, num_networks, self.labels.device)

    def update(self, index: torch.Tensor, losses: torch.Tensor) -> None:
        """Updates the averages with the losses of a batch. Of a sample that occurs twice, the last loss counts.

        Args:
            index (`torch.Tensor` of shape (B,), int64): Indices of the samples, in [0, N).
            losses (`torch.Tensor` of shape (B, G)): Their losses, one column per network.
        """
        seen = self._last_place.index_select(0, index) >= 0
        place = torch.arange(len(index), dtype=torch.int32, device=index.device)
        self._last_place.scatter_reduce_(0, index, place, "amax", include_self=False)
        losses = losses.detach().float()[self._last_place.index_select(0, index)].T
        decay = self.decay * seen
        self._maximum.set(index, self.decay * self._maximum.get(index) + (1 - decay) * losses)

    @property
    def seen(self) -> torch.Tensor:
        """Whether each sample (N,) has been in a batch."""
        return self._last_place >= 0

    def averages(self) -> torch.Tensor:
        """Averages (N, G) of all samples; 0 for those not seen yet."""
        return self._maximum.get(torch.arange(len(self.labels), device=self.labels.device)).T.contiguous()

    def scaled(self, index: torch.Tensor) -> torch.Tensor:
        """Averages (B, G) of these samples, divided by the maximum of their class: in [0, 1]."""
        largest = self._maximum.of_classes(self.labels.index_select(0, index))
        return (self._maximum.get(index) / (largest + 1e-8)).T  # 0 / 0 is 0

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns `averages` (N, G) and `seen` (N,), on the CPU."""
        return {"averages": self.averages().cpu(), "seen": self.seen.cpu()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a [`~SampleLosses.state_dict`]; raises `ValueError` if its shape does not fit."""
        expected, found = tuple(self.averages().shape), tuple(state["averages"].shape)
        if found != expected:
            raise ValueError(
                f"expected averages of shape {expected}, found {found}: the state belongs to another training set"
            )
        self._last_place.copy_(state["seen"].int() - 1)
        self._maximum.set_all(state["averages"].to(self.labels.device).T)


class _ClassMaximum:
    """Values (G, N) of G networks and the maximum of each class.

    The samples of a class are leaves in blocks of `width`. The level above stores the maximum of each block, again in
    blocks, and so on up to one value per class. Padding leaves are 0; losses are never negative.
    """

    width = 128  # two levels up to 16,384 samples a class, three up to two million

    def __init__(self, labels: torch.Tensor, num_classes: int, num_rows: int, keep_on: torch.device):
        device = labels.device  # the tree is laid out here: reading sizes from `keep_on` would synchronise
        counts = torch.bincount(labels, minlength=num_classes)
        first_of_class = counts.cumsum(0) - counts
        by_class = torch.argsort(labels, stable=True)
        rank = torch.empty_like(labels)
        rank[by_class] = torch.arange(len(labels), device=device) - first_of_class[labels[by_class]]

        self.levels: list[torch.Tensor] = []  # (G, blocks, width) each, leaves first; the last is (G, K, 1)
        self.parents: list[torch.Tensor] = []  # (blocks,): position of each block's maximum in the level above
        blocks, first_block, self.leaf = self._layout(counts.clamp(min=1), labels, rank)
        while True:
            self.levels.append(torch.zeros(num_rows, int(blocks.sum()), self.width, device=keep_on))
            class_of_block = torch.repeat_interleave(torch.arange(num_classes, device=device), blocks)
            rank_of_block = torch.arange(len(class_of_block), device=device) - first_block[class_of_block]
            if int(blocks.max()) == 1:
                self.parents.append(class_of_block)
                break
            blocks, first_block, parents = self._layout(blocks, class_of_block, rank_of_block)
            self.parents.append(parents)
        self.levels.append(torch.zeros(num_rows, num_classes, 1, device=keep_on))
        self.parents = [parent.to(keep_on) for parent in self.parents]
        self.leaf = self.leaf.to(keep_on)

    def _layout(
        self, nodes: torch.Tensor, classes: torch.Tensor, rank: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Blocks of each class, its first block, and the positions of the nodes with these classes and ranks."""
        blocks = (nodes + self.width - 1) // self.width
        first_block = blocks.cumsum(0) - blocks
        return blocks, first_block, first_block[classes] * self.width + rank

    def _flat(self, level: int) -> torch.Tensor:
        return self.levels[level].flatten(1)

    def get(self, index: torch.Tensor) -> torch.Tensor:
        """Values (G, B) of the samples (B,)."""
        return self._flat(0).index_select(1, self.leaf.index_select(0, index))

    def of_classes(self, classes: torch.Tensor) -> torch.Tensor:
        """Maxima (G, B) of the classes (B,)."""
        return self._flat(-1).index_select(1, classes)

    def set(self, index: torch.Tensor, values: torch.Tensor) -> None:
        """Sets the values (G, B) of the samples (B,) and updates the maxima above them."""
        place = self.leaf.index_select(0, index)
        self._flat(0).index_copy_(1, place, values)
        for number, parent in enumerate(self.parents):
            block = place // self.width
            place = parent.index_select(0, block)
            largest = self.levels[number].index_select(1, block).amax(dim=2)
            self._flat(number + 1).index_copy_(1, place, largest)

    def set_all(self, values: torch.Tensor) -> None:
        """Sets the values (G, N) of all samples."""
        self._flat(0)[:, self.leaf] = values
        for number, parent in enumerate(self.parents):
            self._flat(number + 1)[:, parent] = self.levels[number].amax(dim=2)
