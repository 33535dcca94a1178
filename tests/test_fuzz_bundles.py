"""Two hundred bundles, damaged as scripts/fuzz_bundles.py does ten thousand: refused, or within limits."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "scripts"))

from bundle_mutations import run


def test_damaged_bundles_are_refused_or_keep_their_limits(
    exported: Callable[[str], tuple[Any, Path]], tmp_path: Path
) -> None:
    sources = [exported(kind)[1] for kind in ("gaussian", "beta")]
    found = collections.Counter(run(sources, tmp_path, seed) for seed in range(200))
    damage = {name for name, _ in found}
    outcomes = {outcome for _, outcome in found}
    assert len(damage) == 10 and outcomes <= {"refused", "refused a decision", "decided"}
    for name in ("truncate", "flip", "nest"):  # nothing of this kind may pass
        assert not any(
            count for (damaged, outcome), count in found.items() if (damaged, outcome) == (name, "decided")
        )
