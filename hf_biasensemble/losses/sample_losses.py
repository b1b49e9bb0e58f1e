"""Memory of every training sample's loss: moving averages, scaled by the largest of the same class.

LfF compares how hard a sample is for two networks. Single losses are noisy and classes differ in difficulty, so it
compares moving averages, each divided by the largest of its class over the whole training set. Rescanning the
training set at each step would cost more than the step, so the largest values are kept in a tree per class that an
update climbs: a few small gathers, no host synchronisation, and exact also when the largest value falls.
"""

import torch


class SampleLosses:
    """Exponential moving average of the loss of each training sample, for one or more networks.

    `average[i] = decay * average[i] + (1 - decay * seen[i]) * loss_i`, so the first value is the loss itself
    (https://huggingface.co/papers/2007.02561; `EMA` in the authors' code).

    Args:
        labels (`torch.Tensor` of shape (N,), int64): Class of each training sample, in the order of its `index`.
        num_classes (`int`): Number of classes K.
        num_networks (`int`, *optional*, defaults to 2): Networks whose losses are kept, G.
        decay (`float`, *optional*, defaults to 0.7): Share of the old average, in [0, 1).
        device (`torch.device`, *optional*): Where the averages are kept; by default where the labels are.
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
        # Where in its last batch each sample stood; -1 if it has not been in one.
        self._last_place = torch.full((len(labels),), -1, dtype=torch.int32, device=self.labels.device)
        self._maximum = _ClassMaximum(labels, num_classes, num_networks, self.labels.device)

    def update(self, index: torch.Tensor, losses: torch.Tensor) -> None:
        """Takes in the losses of one batch.

        A sample that stands in the batch more than once (padding of the last batch over several processes, sampling
        with replacement) counts once, with the last of its losses.

        Args:
            index (`torch.Tensor` of shape (B,), int64): Which training samples these are, in [0, N).
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
        """The averages of all samples (N, G); 0 for those not seen yet."""
        return self._maximum.get(torch.arange(len(self.labels), device=self.labels.device)).T.contiguous()

    def scaled(self, index: torch.Tensor) -> torch.Tensor:
        """The averages of these samples (B, G), each divided by the largest of its class: in [0, 1]."""
        largest = self._maximum.of_classes(self.labels.index_select(0, index))
        return (self._maximum.get(index) / (largest + 1e-8)).T  # 0 / 0 is 0

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold: `averages` (N, G) and `seen` (N,)."""
        return {"averages": self.averages().cpu(), "seen": self.seen.cpu()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~SampleLosses.state_dict`] gave."""
        if state["averages"].shape != self.averages().shape:
            raise ValueError(
                f"expected averages of shape {tuple(self.averages().shape)}, found {tuple(state['averages'].shape)}: "
                "the state belongs to another training set"
            )
        self._last_place.copy_(state["seen"].int() - 1)
        self._maximum.set_all(state["averages"].to(self.labels.device).T)


class _ClassMaximum:
    """Values (G, N) of G networks, with the largest of each class at hand.

    The samples of a class stand together in blocks of `width` leaves; the level above holds the maximum of each block,
    again in blocks, up to a last level with one value per class. Padding leaves are 0, which no loss is below.
    """

    width = 128  # two levels up to 16,384 samples a class, three up to two million

    def __init__(self, labels: torch.Tensor, num_classes: int, num_rows: int, keep_on: torch.device):
        device = labels.device  # where sizes are worked out; another device would be asked for each of them
        counts = torch.bincount(labels, minlength=num_classes)
        first_of_class = counts.cumsum(0) - counts
        by_class = torch.argsort(labels, stable=True)
        rank = torch.empty_like(labels)
        rank[by_class] = torch.arange(len(labels), device=device) - first_of_class[labels[by_class]]

        self.levels: list[torch.Tensor] = []  # (G, blocks, width) each, leaves first; at last (G, K, 1)
        self.parents: list[torch.Tensor] = []  # (blocks,): where the maximum of each block stands in the level above
        nodes = counts.clamp(min=1)
        blocks, first_block, self.leaf = self._layout(nodes, labels, rank)
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
        """Blocks per class, first block of each class, and place of the nodes given by class and rank in it."""
        blocks = (nodes + self.width - 1) // self.width
        first_block = blocks.cumsum(0) - blocks
        return blocks, first_block, first_block[classes] * self.width + rank

    def _flat(self, level: int) -> torch.Tensor:
        return self.levels[level].flatten(1)

    def get(self, index: torch.Tensor) -> torch.Tensor:
        """Values (G, B) of the samples (B,)."""
        return self._flat(0).index_select(1, self.leaf.index_select(0, index))

    def of_classes(self, classes: torch.Tensor) -> torch.Tensor:
        """Largest values (G, B) of the classes (B,)."""
        return self._flat(-1).index_select(1, classes)

    def set(self, index: torch.Tensor, values: torch.Tensor) -> None:
        """Sets the values (G, B) of the samples (B,), and what follows from them on the way up."""
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
