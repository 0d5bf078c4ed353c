"""A pack through PyTorch's own DataLoader, for a Python that has torch: test_cli_packs.py runs this with the system's.

python torch_rows.py SITE PACK OUT    SITE: where the packages that torch does not bring are
"""

import sys

sys.path.append(sys.argv[1])  # behind this Python's own, as torch is made for its NumPy

import numpy as np
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler, random_split

from tinydream.packs.pack import open_pack


def main(pack: str, out: str) -> None:
    opened = open_pack(pack)
    dataset, kept = opened.to_torch(), {"version": np.array(torch.__version__)}
    for name, options in {
        "plain": {}, "shuffled": {"shuffle": True, "generator": torch.Generator().manual_seed(3)},
        "forked": {"num_workers": 2}, "spawned": {"num_workers": 1, "multiprocessing_context": "spawn"},
    }.items():  # fmt: skip
        batches = list(DataLoader(dataset, batch_size=8, **options))
        assert [len(x) for x, _ in batches] == [8, 8, 8, 1]
        kept[f"{name}_x"] = torch.cat([x for x, _ in batches]).numpy()
        kept[f"{name}_y"] = torch.cat([y for _, y in batches]).numpy()
    one, label = dataset[7]
    kept["one_x"], kept["one_y"] = one.numpy(), label.numpy()
    parts = random_split(dataset, [20, 5], generator=torch.Generator().manual_seed(1))
    kept["split_x"] = torch.cat([x for part in parts for x, _ in DataLoader(part, batch_size=6)]).numpy()

    condensed = opened.condensed
    x, weights = torch.as_tensor(condensed.values).float().flatten(1), torch.as_tensor(condensed.weights).float()
    x, y = x / x.abs().max(), torch.as_tensor(condensed.labels).long()
    kept["drawn"] = np.bincount(list(WeightedRandomSampler(weights, 2000)), minlength=len(x))
    model, losses = torch.nn.Linear(x.shape[1], 3), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(20):
        loss = (weights * torch.nn.functional.cross_entropy(model(x), y, reduction="none")).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    np.savez(out, losses=losses, **kept)


if __name__ == "__main__":
    main(*sys.argv[2:])
