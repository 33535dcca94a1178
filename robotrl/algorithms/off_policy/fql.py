r"""Flow Q-learning (Park et al. 2025, arXiv:2502.02538); QC-FQL with chunks (arXiv:2507.07969).

A flow policy imitates the data; a one-step policy mu(s, z) is distilled from it and climbs the critic, so
that no gradient goes through the flow's integration:

    L_BC      = E[||v(s, x_t, t) - (a - z)||^2]
    L_distill = E[||mu(s, z) - flow_K(s, z)||^2],                 z ~ N(0, I)
    L_mu      = alpha L_distill - w E[mean_i Q_i(s, clip(mu(s, z), -1, 1))]
    y         = r + gamma (1 - terminated) mean_i Q'_i(s', clip(mu(s', z'), -1, 1))

w is 1 / mean |Q| (the paper's `normalize_q_loss`), so that alpha does not depend on the size of the rewards.
With `policy.horizon` h > 1, actions are chunks and the target is the h-step return: QC-FQL.

Differences: `normalize_q` is on by default; windows in which an episode ends are padded and kept (see `qc.py`).
Distances are means over the action's components, as in the paper's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig
from robotrl.algorithms.off_policy.critic import Critic, make_critics
from robotrl.algorithms.off_policy.imitation import Imitation
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm
from robotrl.core import checks
from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.data.replay import Transitions
from robotrl.networks.activation import Activation, Norm
from robotrl.networks.critic import Aggregate
from robotrl.networks.flat_adam import FlatAdam
from robotrl.policies.flow import FlowPolicy
from robotrl.policies.one_step import OneStepPolicy
from robotrl.policies.policy import Policy
