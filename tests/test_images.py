"""Image observations: groups, shapes, rows, the depth camera's range."""

import mujoco
import numpy as np
import pytest
import torch

from robotrl.compose import compose_task
from robotrl.core.errors import UsageError
from robotrl.envs.images import Images
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.cameras import ImageKind, ImageTerm
from robotrl.sim.rendering import Renderer

SCENE = """
<mujoco>
  <visual><map znear="0.1" zfar="4"/></visual>
  <statistic extent="2" center="0 0 0"/>
  <worldbody>
    <light pos="0 0 5"/>
    <geom type="plane" size="2 2 .1" rgba="0 0 1 1"/>
    <body name="ball" pos="0 0 1"><joint type="slide" axis="0 0 1"/><geom size=".2" rgba="1 0 0 1"/></body>
    <camera name="above" pos="0 0 3"/>
    <camera name="left" pos="0 3 1" xyaxes="-1 0 0 0 0 1"/>
  </worldbody>
</mujoco>
"""
DEPTH = ImageKind.DEPTH


@pytest.fixture
def sim() -> BatchSim:
    sim = BatchSim(mujoco.MjModel.from_xml_string(SCENE), 4)
    sim.data("qpos")[:, 0] = torch.linspace(0.0, 0.6, 4)
    return sim


def test_groups_have_the_shape_of_their_terms(sim: BatchSim) -> None:
    terms = {"pixels": ImageTerm("above", 40, 30), "depth": ImageTerm("left", 20, 25, DEPTH)}
    images = Images(sim, terms)
    obs = images.observe()
    assert list(obs) == ["pixels", "depth"]
    for group, term in terms.items():
        assert obs[group].shape == (4, *term.shape) and obs[group].dtype == term.dtype
    assert obs["pixels"].shape[1:] == (30, 40, 3) and obs["depth"].shape[1:] == (25, 20, 1)
    with Renderer(sim, 40, 30, "above") as renderer:
        np.testing.assert_array_equal(obs["pixels"].numpy(), renderer.render(range(4)))
    # balls of radius 0.2 m at 1.0, 1.2, 1.4, 1.6 m, seen from 3 m; the middle is between two pixels
    above = Images(sim, {"depth": ImageTerm("above", 401, 401, DEPTH)}).observe()["depth"]
    torch.testing.assert_close(above[:, 200, 200, 0], torch.tensor([1.8, 1.6, 1.4, 1.2]), rtol=1e-4, atol=0)


def test_chosen_rows_are_those_of_all(sim: BatchSim) -> None:
    images = Images(sim, {"pixels": ImageTerm("left", 32, 32), "depth": ImageTerm("left", 16, 16, DEPTH)}, 2)
    before = images.observe()
    sim.data("qpos")[1, 0] = -0.5
    ids = torch.tensor([1, 3])
    chosen = images.observe(ids)
    after = images.observe()
    for group, rows in chosen.items():
        assert torch.equal(rows, after[group][ids])
        assert torch.equal(after[group] != before[group], (after[group] != before[group]) & changed(1, 4))
        assert (after[group][1] != before[group][1]).any()
    assert images.observe(torch.empty(0, dtype=torch.int64))["pixels"].shape == (0, 32, 32, 3)


def changed(row: int, n: int) -> torch.Tensor:
    """(n, 1, 1, 1) bool: only this row."""
    return (torch.arange(n) == row).view(n, 1, 1, 1)


def test_observations_stay_as_they_were(sim: BatchSim) -> None:
    images = Images(sim, {"pixels": ImageTerm("left", 16, 16)})
    first = images.observe()["pixels"]
    kept = first.clone()
    sim.data("qpos")[:, 0] += 0.3
    assert (images.observe()["pixels"] != first).any()
    assert torch.equal(first, kept)


def test_depth_camera_measures_within_its_range(sim: BatchSim) -> None:
    terms = {
        "all": ImageTerm("above", 31, 31, DEPTH),
        "short": ImageTerm("above", 31, 31, DEPTH, near_m=1.7, far_m=2.5),
    }
    obs = Images(sim, terms).observe()
    assert obs["all"].max() == 3.0 and obs["all"].min() < 1.3
    assert torch.equal(obs["short"], obs["all"].clamp(1.7, 2.5))
    assert 0 < (obs["short"] == 1.7).sum() < (obs["short"] == 2.5).sum()


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (ImageTerm("abov"), r"unknown camera 'abov' \(did you mean 'above'\?\)"),
        (ImageTerm("above", kind=DEPTH, near_m=0.1), "'front': near_m = 0.1 .* within 0.2 to 8 m"),
        (ImageTerm("above", kind=DEPTH, far_m=9), "far_m = 9 .* within 0.2 to 8 m"),
        (ImageTerm("above", kind=DEPTH, near_m=3, far_m=2), "near_m < far_m, got 3 m and 2 m"),
        (ImageTerm("above", kind=DEPTH, far_m=float("nan")), "near_m < far_m"),
    ],
)
def test_what_the_model_does_not_have_is_refused(sim: BatchSim, term: ImageTerm, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Images(sim, {"front": term})


def test_impossible_terms_are_refused() -> None:
    with pytest.raises(UsageError, match="0 x 84"):
        ImageTerm("above", width=0)
    with pytest.raises(UsageError, match="kind=depth"):
        ImageTerm("above", far_m=2.0)


def test_terms_can_be_configured() -> None:
    from omegaconf import OmegaConf

    words = OmegaConf.from_dotlist(["camera=above", "kind=DEPTH", "far_m=3"])
    term = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ImageTerm), words))
    assert term == ImageTerm("above", kind=DEPTH, far_m=3.0)


def test_pictures_are_observation_groups_of_a_task() -> None:
    """They belong to the same instant as the vectors: the true last one, and the first of a new episode."""
    images = {"front": {"camera": "fixed", "width": 32, "height": 24}}
    images["far"] = {"camera": "fixed", "kind": "depth"}
    task = compose_task("cartpole_swingup", {"images": images})
    env = VecEnv(task, 3, seed=0, num_threads=1)
    env.max_steps = 2
    first = env.reset()
    assert first["front"].shape == (3, 24, 32, 3) and first["far"].dtype == torch.float32
    drawn = Images(env.sim, task.images)
    assert torch.equal(first["front"], drawn.observe()["front"])
    env.age[1] = 1
    step = env.step(torch.ones(3, 1))
    assert step.truncated.tolist() == [False, True, False]
    now = drawn.observe()["front"]
    assert torch.equal(step.obs["front"], now)
    changed = (step.final_obs["front"] != step.obs["front"]).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]
    env.sim.data("qpos")[2] = float("nan")
    step = env.step(torch.zeros(3, 1))
    assert (step.final_obs["front"][2] == 0).all() and (step.obs["front"][2] > 0).any()


def test_a_picture_cannot_take_the_name_of_another_group() -> None:
    task = compose_task("cartpole_swingup", {"images": {"policy": {"camera": "fixed"}}})
    with pytest.raises(UsageError, match=r"images\.policy: the task has an observation group"):
        VecEnv(task, 1)
