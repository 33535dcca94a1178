"""Several datasets as one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.data.dataset import Dataset


def join(datasets: Sequence[Dataset], groups: Collection[str], any_bounds: bool = False) -> Dataset:
    """Put the episodes of datasets one after another, in the order given.

    Args:
        datasets: at least one. What those with names say of their terms is compared; of the others only
            widths and bounds can be.
        groups: observation groups to keep.
        any_bounds: see `Dataset.check_fits`.

    Raises:
        UsageError: there are none, or their observations, actions or control rates differ.
    """
    if not datasets:
        raise UsageError("there are no datasets to join")
    reference = next((dataset for dataset in datasets if dataset.named), datasets[0])
    for dataset in (reference, *datasets):  # itself first: it may lack a group
        dataset.check_fits(reference.specs, groups, any_bounds)
    successes = [dataset.success for dataset in datasets if dataset.success is not None]
    specs = reference.specs
    return Dataset(
        ", ".join(dataset.origin for dataset in datasets),
        Specs({group: specs.observation[group] for group in groups}, specs.action, specs.control_dt_s),
        {group: torch.cat([dataset.obs[group] for dataset in datasets]) for group in groups},
        torch.cat([dataset.action for dataset in datasets]),
        torch.cat([dataset.reward for dataset in datasets]),
        torch.cat([dataset.terminated for dataset in datasets]),
        torch.cat([dataset.lengths for dataset in datasets]),
        torch.cat(successes) if len(successes) == len(datasets) else None,
        all(dataset.named for dataset in datasets),
        {"datasets": [{"origin": dataset.origin, **dataset.provenance} for dataset in datasets]},
    )
