"""Playing runs and bundles: a real server on a free loopback port, real pictures."""

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from robotrl.core import checkpoint
from robotrl.core.config import TrainConfig, evaluation_seed, to_yaml
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.bundle import Bundle
from robotrl.envs.vec_env import VecEnv
from robotrl.export.bundle import export_policy
from robotrl.policies.gaussian import GaussianPolicy
from robotrl.tasks.control_suite.walker import Walker
from robotrl.training.controller import Controller
from robotrl.training.play import bundle_controller, load_controller, play
from robotrl.training.playback import Playback
from robotrl.training.web_viewer import WebViewer


def policy_of(task: Walker) -> GaussianPolicy:
    specs = VecEnv(task, 1).specs
    return GaussianPolicy(specs, GaussianPolicy.config_class(), torch.Generator().manual_seed(0)).eval()


@Controller
def still(obs: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.zeros(1, 6)


# --- playback


def test_playback_adds_up_the_rewards_and_begins_again() -> None:
    playback = Playback(still, Walker(episode_length_s=0.25), "walker", seed=2)
    env = VecEnv(Walker(episode_length_s=0.25), 1, seed=evaluation_seed(2))
    env.reset()
    total = 0.0
    for i in range(9):
        total += float(env.step(torch.zeros(1, 6)).reward)
        assert not playback.advance()
        assert playback.episode_return == pytest.approx(total)
        assert playback.time_s == pytest.approx(0.025 * (i + 1))
    last = float(env.step(torch.zeros(1, 6)).reward)
    assert playback.advance()
    assert playback.last_return == pytest.approx(total + last)
    assert (playback.episode, playback.episode_return, playback.time_s) == (2, 0.0, 0.0)


def test_reward_terms_sum_to_the_reward_of_the_step() -> None:
    playback = Playback(still, Walker(), "walker")
    playback.advance()
    before = playback.episode_return
    playback.advance()
    assert set(playback.reward_terms) == {"stand", "move"}
    assert sum(playback.reward_terms.values()) == pytest.approx(playback.episode_return - before, abs=1e-6)


# --- web viewer


@pytest.fixture
def viewer() -> Iterator[WebViewer]:
    started = WebViewer(Playback(still, Walker(), "walker_<b>"), port=0, width=96, height=64)
    thread = threading.Thread(target=started.run)
    thread.start()
    yield started
    started.close()
    thread.join(timeout=10)
    assert not thread.is_alive()


def ask(
    viewer: WebViewer, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    port = int(viewer.address.rstrip("/").rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def frame(viewer: WebViewer, after: int = 0) -> tuple[int, dict[str, object], np.ndarray]:
    """Ask until there is a picture newer than `after`."""
    for _ in range(20):
        status, headers, content = ask(viewer, "GET", f"/frame?after={after}")
        if status == 200:
            return int(headers["X-Number"]), json.loads(headers["X-State"]), iio.imread(io.BytesIO(content))
        assert status == 204
    raise AssertionError("no picture")


def wait_for(viewer: WebViewer, number: int, **expected: object) -> tuple[int, dict[str, object], np.ndarray]:
    for _ in range(100):
        number, state, picture = frame(viewer, number)
        if all(state[name] == value for name, value in expected.items()):
            return number, state, picture
    raise AssertionError(f"never {expected}, last {state}")


def command(viewer: WebViewer, **what: object) -> int:
    return ask(viewer, "POST", "/command", json.dumps(what), Content_Type="application/json")[0]


def test_pictures_and_numbers_advance_together(viewer: WebViewer) -> None:
    number, state, picture = frame(viewer)
    assert picture.shape == (64, 96, 3) and picture.mean() > 20
    assert state["task"] == "walker_<b>"
    later, after, moved = frame(viewer, number)
    while after["time_s"] < 0.3:
        later, after, moved = frame(viewer, later)
    assert later > number
    assert after["return"] > 0 and set(after["terms"]) == {"stand", "move"}
    assert np.abs(moved.astype(int) - picture.astype(int)).mean() > 1


def test_it_plays_only_while_somebody_watches() -> None:
    playback = Playback(still, Walker(), "walker")
    with WebViewer(playback, port=0, width=32, height=32) as viewer:
        threading.Timer(0.5, viewer.stop).start()
        viewer.run()
    assert playback.time_s == 0.0


def test_pause_reset_and_speed(viewer: WebViewer) -> None:
    number, _, _ = frame(viewer)
    assert command(viewer, paused=True) == 204
    number, state, _ = wait_for(viewer, number, paused=True)
    assert ask(viewer, "GET", f"/frame?after={number}")[0] == 204  # nothing moves, nothing is sent
    assert command(viewer, speed=0.5) == 204
    number, slowed, _ = wait_for(viewer, number, speed=0.5)
    assert slowed["time_s"] == state["time_s"]
    assert command(viewer, reset=True) == 204
    number, reset, _ = wait_for(viewer, number, episode=2)
    assert reset["time_s"] == 0.0
    assert command(viewer, paused=False) == 204
    _, playing, _ = wait_for(viewer, number, paused=False)
    assert playing["speed"] == 0.5


def test_speed_is_in_units_of_real_time(viewer: WebViewer) -> None:
    frame(viewer)
    assert command(viewer, speed=0.2) == 204
    number, state, _ = wait_for(viewer, 0, speed=0.2)
    start, start_s = time.monotonic(), state["time_s"]
    while time.monotonic() - start < 1.5:
        number, state, _ = frame(viewer, number)
    passed = time.monotonic() - start
    assert 0.1 * passed < state["time_s"] - start_s < 0.3 * passed


def test_camera_turns_and_zooms_while_paused(viewer: WebViewer) -> None:
    frame(viewer)
    command(viewer, paused=True)
    number, _, before = wait_for(viewer, 0, paused=True)
    assert command(viewer, turn=[60.0, -20.0, 1.0]) == 204
    number, _, turned = frame(viewer, number)
    assert np.abs(turned.astype(int) - before.astype(int)).mean() > 5
    assert command(viewer, turn=[0, 0, 0.25]) == 204
    _, _, far = frame(viewer, number)
    orange = [((p[..., 0].astype(int) - p[..., 2]) > 60).sum() for p in (turned, far)]
    assert orange[1] < orange[0] / 3  # the robot is smaller


WRONG_COMMANDS = [
    "",
    "[]",
    "{}",
    "{nonsense",
    '{"quit": true}',
    '{"paused": 1}',
    '{"speed": 0}',
    '{"speed": NaN}',
    '{"turn": [0, 0, 0]}',
    '{"turn": [1e999, 0, 1]}',
    f'{{"speed": 1{"0" * 400}}}',
    '{"turn": [0, 0]}',
    '{"paused": true, "reset": true}',
    "[" * 1000,
]


def test_wrong_commands_are_refused_and_change_nothing(viewer: WebViewer) -> None:
    for body in WRONG_COMMANDS:
        assert ask(viewer, "POST", "/command", body, Content_Type="application/json")[0] == 400, body
    _, state, _ = frame(viewer)
    assert (state["speed"], state["paused"], state["episode"]) == (1.0, False, 1)


def test_strangers_are_refused(viewer: WebViewer) -> None:
    port = viewer.address.rstrip("/").rsplit(":", 1)[1]
    as_json = {"Content_Type": "application/json"}
    body = '{"paused": true}'
    for path in ("/", "/frame?after=0"):
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[bad", ""):
            assert ask(viewer, "GET", path, Host=host)[0] == 403, host
        assert ask(viewer, "GET", path, Host=f"localhost:{port}")[0] in (200, 204)
        assert ask(viewer, "GET", path, Origin="http://evil.example")[0] == 403
    assert ask(viewer, "POST", "/command", body, Host="evil.example", **as_json)[0] == 403
    assert ask(viewer, "POST", "/command", body, Origin="http://evil.example", **as_json)[0] == 403
    assert ask(viewer, "POST", "/command", body, Origin="null", **as_json)[0] == 403
    assert ask(viewer, "POST", "/command", body, Content_Type="text/plain")[0] == 403
    assert ask(viewer, "POST", "/command", " " * 2000, **as_json)[0] == 413
    assert ask(viewer, "GET", "/etc/passwd")[0] == 404
    assert ask(viewer, "GET", "/../../etc/passwd")[0] == 404
    assert ask(viewer, "POST", "/frame", body, **as_json)[0] == 404
    assert ask(viewer, "GET", "/frame?after=-1")[0] == 400
    assert ask(viewer, "DELETE", "/")[0] == 501
    assert frame(viewer)[1]["paused"] is False


def test_page_is_self_contained_and_may_not_be_framed(viewer: WebViewer) -> None:
    status, headers, page = ask(viewer, "GET", "/")
    assert status == 200 and b"<title>robotrl play</title>" in page
    assert b"://" not in page
    assert headers["X-Frame-Options"] == "DENY"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_only_loopback_is_served_and_the_port_is_freed() -> None:
    viewer = WebViewer(Playback(still, Walker(), "walker"), port=0)
    port = int(viewer.address.rstrip("/").rsplit(":", 1)[1])
    assert viewer._server.socket.getsockname()[0] == "127.0.0.1"
    with pytest.raises(UsageError, match=rf"port {port}: Address already in use; choose another"):
        WebViewer(viewer.playback, port)
    viewer.close()
    WebViewer(viewer.playback, port).close()
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0
    with pytest.raises(UsageError, match="port 70000"):
        WebViewer(viewer.playback, 70000)


def test_ctrl_c_ends_play_and_frees_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    run = make_run(tmp_path)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    said: list[str] = []

    def interrupt(self: Playback) -> bool:
        raise KeyboardInterrupt

    def watch(text: str) -> None:
        said.append(text)
        if "http" in text:
            threading.Thread(target=_look, args=(port,), daemon=True).start()

    monkeypatch.setattr(Playback, "advance", interrupt)
    play(run, port=port, announce=watch)
    assert said == [f"open http://127.0.0.1:{port}/ in a browser; Ctrl-C ends", "stopped"]
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0


def _look(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/frame?after=0")
    connection.getresponse().read()


# --- runs and bundles


def make_run(folder: Path) -> Path:
    """Write a run with a checkpoint of a fresh policy."""
    from robotrl.algorithms.on_policy.ppo import PPO

    task = Walker(episode_length_s=0.5)
    config = TrainConfig(
        task=task,
        task_name="walker_walk",
        num_envs=4,
        total_steps=1_000,
        algorithm_class=PPO,
        algorithm=PPO.config_class(),
        policy_class=GaussianPolicy,
        policy=GaussianPolicy.config_class(),
    )
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(config))
    state = {"env_steps": 8, "algorithm": {"policy": policy_of(task).state_dict()}}
    checkpoint.save(run / "checkpoints" / "step_000000000008.safetensors", state)
    return run


def test_video_of_a_run_and_never_over_another_file(tmp_path: Path) -> None:
    run, video = make_run(tmp_path), tmp_path / "v.mp4"
    said: list[str] = []
    play(run, video=video, seed=3, announce=said.append)
    assert said == [f"wrote {video}"]
    assert iio.imread(video).shape == (15, 480, 640, 3)
    before = video.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        play(run, video=video)
    assert video.read_bytes() == before


def test_bundle_acts_like_the_policy_it_came_from(tmp_path: Path) -> None:
    task = Walker(episode_length_s=1.0)
    policy = policy_of(task)
    export_policy(policy, task, tmp_path / "bundle", provenance={"task_name": "walker_walk"})
    controller, rebuilt, name = load_controller(tmp_path / "bundle")
    assert rebuilt == task and name == "walker_walk"
    obs = VecEnv(task, 1, seed=5).reset()
    expected = policy.act(obs, deterministic=True)
    torch.testing.assert_close(controller.decide(obs).float(), expected, atol=1e-5, rtol=0)
    bundle = Bundle.load(tmp_path / "bundle")
    with pytest.raises(RobotrlError, match="other terms"):
        bundle_controller(bundle, _Fewer())


class _Fewer(Walker):
    def observation_terms(self, model):
        return {"policy": super().observation_terms(model)["policy"][:2]}


def test_run_acts_with_its_newest_checkpoint(tmp_path: Path) -> None:
    controller, task, name = load_controller(make_run(tmp_path))
    assert name == "walker_walk"
    obs = VecEnv(task, 1, seed=5).reset()
    torch.testing.assert_close(controller.decide(obs), policy_of(task).act(obs, deterministic=True))


def test_what_is_neither_run_nor_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist: give the folder of a run or of a bundle"):
        play(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"has neither config\.yaml nor contract\.json"):
        play(tmp_path)
    with pytest.raises(UsageError, match="mp4"):
        play(tmp_path, video=tmp_path / "v.gif")


def test_a_recording_has_no_grid(tmp_path: Path) -> None:
    recording = tmp_path / "step_000000000001_sim_00000.safetensors"
    recording.write_bytes(b"")
    with pytest.raises(UsageError, match="one simulation"):
        play(recording, video=tmp_path / "v.mp4", video_grid="2x2")
