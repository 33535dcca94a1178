"""An option of a policy that learning may change, and that is therefore saved with its weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class SavedOption(nn.Module):
    """Keeps the number `option` in `state_dict`: a stream writes its own there, which may have been swept.

    Weights that were saved without it leave the policy's own, that of its configuration.
    """

    option: ClassVar[str]

    def get_extra_state(self) -> Tensor:
        """Return the number, for `state_dict`."""
        return torch.tensor(getattr(self, self.option), dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number over from `state_dict`."""
        setattr(self, self.option, float(state))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *arguments)
