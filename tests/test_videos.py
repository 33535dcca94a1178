"""Videos of what policies do, drawn for real: `make` installs the libraries, so nothing is skipped."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from robotrl.cli import main
from robotrl.core.config import evaluation_seed
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.control_suite.walker import Walker
from robotrl.tasks.gymnasium.hopper import Hopper
from robotrl.training.controller import Controller
from robotrl.training.video import Grid, record_video


@Controller
def still(obs: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.zeros(1, 6)


def test_video_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "walker.mp4"
    path.write_bytes(b"an older video")
    record_video(still, Walker(), path, seed=1, episode_s=0.5, width=160, height=120, fps=30)
    video = iio.imread(path)
    assert video.shape == (15, 120, 160, 3)
    assert video.mean() > 20
    assert np.abs(video[-1].astype(int) - video[0].astype(int)).mean() > 2  # the walker falls
    meta = iio.immeta(path)
    assert (meta["codec"], meta["fps"], meta["pix_fmt"].split("(")[0]) == ("h264", 30.0, "yuv420p")
    assert [file.name for file in tmp_path.iterdir()] == ["walker.mp4"]


@pytest.mark.parametrize(("fps", "pictures"), [(10, 3), (40, 10), (100, 25)])
def test_video_lasts_as_long_as_the_simulation_at_any_rate(tmp_path: Path, fps: int, pictures: int) -> None:
    path = tmp_path / "v.mp4"
    record_video(still, Walker(), path, seed=1, episode_s=0.25, width=32, height=32, fps=fps)
    assert len(iio.imread(path)) == pictures


def test_video_ends_with_the_episode(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    record_video(still, Walker(episode_length_s=0.2), path, seed=1, episode_s=5, width=32, height=32, fps=40)
    assert len(iio.imread(path)) == 8


@Controller
def tumble(obs: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.linspace(-1, 1, len(obs["policy"])).unsqueeze(1).expand(-1, 3)


def test_grid_shows_every_simulation_and_dims_the_ended_ones(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    record_video(tumble, Hopper(), path, seed=0, grid=Grid(2, 3), width=64, height=48, fps=125)
    video = iio.imread(path).astype(int)
    assert video.shape[1:] == (96, 192, 3)
    tiles = video.reshape(-1, 2, 48, 3, 64, 3).swapaxes(2, 3).reshape(len(video), 6, 48, 64, 3)
    assert (tiles[0].mean((1, 2, 3)) > 20).all()
    lasting = [episode_steps(i, 6) for i in range(6)]
    assert len(video) == max(lasting)
    assert len(set(lasting)) > 1
    for i, steps in enumerate(lasting):
        brightness = tiles[:, i].mean((1, 2, 3))
        assert brightness[:steps].min() > 1.5 * brightness[steps:].max(initial=0)


def episode_steps(i: int, n: int) -> int:
    """Steps of simulation i's first episode among n."""
    env = VecEnv(Hopper(), n, evaluation_seed(0))
    obs = env.reset()
    for steps in range(1, 1000):
        step = env.step(tumble.decide(obs))
        if step.done[i]:
            return steps
        obs = step.obs
    raise AssertionError("it never ends")


@pytest.mark.parametrize(("text", "size"), [("1x1", (640, 480)), ("2x3", (424, 318)), ("20x20", (64, 48))])
def test_grid_fits_the_frame(text: str, size: tuple[int, int]) -> None:
    grid = Grid.parse(text)
    assert grid.picture_size() == size
    assert grid.columns * size[0] <= 1280 and grid.rows * size[1] <= 960


@pytest.mark.parametrize("text", ["", "3", "3x", "0x2", "2x21", "2x2x2", "-1x2", "2 x 2"])
def test_impossible_grids_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="video grid"):
        Grid.parse(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate runs/x --video-grid 2x2", "--video-grid says what a video shows: give --video, too"),
        ("play runs/x --video-grid 2x2", "--video-grid says what a video shows: give --video, too"),
        ("play runs/x --video v.mp4 --video-grid 2", "a video grid is ROWSxCOLUMNS such as 3x4, got '2'"),
    ],
)
def test_command_line_explains_a_wrong_grid(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err


def test_policy_acts_without_exploring(tmp_path: Path) -> None:
    from robotrl.policies.gaussian import GaussianPolicy

    env = VecEnv(Walker(), 1)
    rng = torch.Generator().manual_seed(0)
    policy = GaussianPolicy(env.specs, GaussianPolicy.config_class(), rng)
    for name in ("a.mp4", "b.mp4"):
        record_video(policy, Walker(), tmp_path / name, seed=1, episode_s=0.2, width=32, height=32)
    np.testing.assert_array_equal(iio.imread(tmp_path / "a.mp4"), iio.imread(tmp_path / "b.mp4"))


def test_failure_leaves_no_file(tmp_path: Path) -> None:
    calls = 0

    @Controller
    def fails(obs: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros(1, 6) if calls < 5 else torch.full((1, 6), torch.nan)

    with pytest.raises(UsageError, match="finite"):
        record_video(fails, Walker(), tmp_path / "v.mp4", seed=0, width=32, height=32)
    assert not list(tmp_path.iterdir())


def test_a_policys_own_error_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="must match"):
        record_video(
            Controller(lambda obs: torch.zeros(2) + torch.zeros(3)), Walker(), tmp_path / "v.mp4", seed=0
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import robotrl.training.video as module

    write = module.imageio_ffmpeg.write_frames
    monkeypatch.setattr(
        module.imageio_ffmpeg,
        "write_frames",
        lambda part, *args, **kwargs: write("/dev/full", *args, **{**kwargs, "output_params": ["-f", "mp4"]}),
    )
    with pytest.raises(RobotrlError, match=r"cannot write the video .*v\.mp4"):
        record_video(still, Walker(), tmp_path / "v.mp4", seed=0, episode_s=1, width=32, height=32)
    assert not list(tmp_path.iterdir())


def test_impossible_videos_are_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"width": 33}, "even"),
        ({"fps": 0}, "fps"),
        ({"episode_s": float("nan")}, "episode_s"),
        ({"path": tmp_path / "v.avi"}, "mp4"),
        ({"path": tmp_path / "no" / "v.mp4"}, "folder"),
    ):
        with pytest.raises(UsageError, match=message):
            record_video(still, Walker(), **{"path": tmp_path / "v.mp4", "seed": 0, **options})
