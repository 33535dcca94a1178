"""Learned actuators: training on logs of a simulated joint whose actuator is known, and their run-time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from true_actuator import CONTROL_DT_S, DT_S, XML, drive_hip, targets, write_log

from robotrl.cli import main
from robotrl.compose import compose
from robotrl.core import checkpoint, config
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import ObsTerm
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.actuator_network import FORMAT, ActuatorNetwork
from robotrl.sim.actuators import Actuator, Kind, replace_actuators
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.latency import Delay
from robotrl.sim.network_actuators import NetworkActuators
from robotrl.tasks.realism import Realism
from robotrl.tasks.task import Task
from robotrl.training.actuator_log import COLUMNS, read_log
from robotrl.training.actuator_network import ActuatorFit, train_actuator_network


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ActuatorFit]:
    """The hip's network, from two logs of 16 s."""
    folder = tmp_path_factory.mktemp("hip")
    logs = [write_log(folder / f"{seed}.csv", drive_hip(targets(seed, 800))) for seed in (0, 1)]
    out = folder / "hip.safetensors"
    return out, train_actuator_network(logs, out, num_updates=1200)


def random_network(seed: int, lags_s: tuple[float, ...] = (0.0, 0.01, 0.02)) -> ActuatorNetwork:
    rng = torch.Generator().manual_seed(seed)
    width = 2 * len(lags_s)
    sizes = [width, 32, 32, 32, 1]
    layers = tuple(
        (torch.randn(a, b, generator=rng) / math.sqrt(a), torch.randn(b, generator=rng))
        for a, b in itertools.pairwise(sizes)
    )
    mean, std = torch.randn(width, generator=rng), 0.5 + torch.rand(width, generator=rng)
    return ActuatorNetwork(layers, mean, std, lags_s, 5.0, 4.0, 0.1)


def pd_law(kp: float, kd: float, limit_nm: float) -> ActuatorNetwork:
    """A network without hidden layers."""
    layers = ((torch.tensor([[kp], [-kd]]), torch.zeros(1)),)
    return ActuatorNetwork(layers, torch.zeros(2), torch.ones(2), (0.0,), 1.0, limit_nm, 0.1)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[ActuatorNetwork], Path]:
    def save(network: ActuatorNetwork) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        network.save(path)
        return path

    return save


@dataclass
class Joints(Task):
    """Two joints at random angles."""

    mjcf: Path = Path()
    control_dt_s: float = CONTROL_DT_S
    episode_length_s: float = 20.0
    spread_rad: float = 0.5
    control_steps = 0

    def after_step(self, sim, ctrl: Tensor) -> None:
        self.control_steps += 1

    def observation_terms(self, model):
        return {"policy": (ObsTerm("position", 2, "rad"), ObsTerm("torque", 2, "N m"))}

    def reset(self, sim, ids: Tensor, rng: torch.Generator) -> None:
        draws = torch.rand(len(ids), 2, dtype=torch.float64, generator=rng)
        sim.data("qpos")[ids, :2] = self.spread_rad * (2 * draws - 1)

    def observe(self, sim):
        return {"policy": {"position": sim.data("qpos")[:, :2], "torque": sim.data("actuator_force")}}

    def reward_terms(self, sim, action: Tensor):
        return {"position": sim.data("qpos")[:, 0]}


@pytest.fixture
def joints(tmp_path: Path) -> Callable[..., Joints]:
    def make(actuators: dict[str, Actuator], delays: dict[str, Delay] | None = None, **options) -> Joints:
        path = tmp_path / "joints.xml"
        path.write_text(XML)
        realism = Realism(actuators=actuators, actuator_delays=delays or {})
        return Joints(mjcf=path, realism=realism, **options)

    return make


def network_actuator(path: Path, names: str = ".*", **options) -> Actuator:
    return Actuator(Kind.NETWORK, names, network=path, **options)


def test_it_learns_what_a_pd_law_cannot_tell(trained: tuple[Path, ActuatorFit]) -> None:
    path, fit = trained
    assert fit.num_rows + fit.num_validation_rows == 2 * (8000 - 10)
    assert fit.num_validation_rows == 2 * 1598
    assert fit.rmse_nm < fit.pd_rmse_nm / 4 < fit.torque_std_nm / 4
    # on a log that had no part in the training the error is what it says
    network, fresh = ActuatorNetwork.load(path), drive_hip(targets(7, 400))
    assert network.validation_rmse_nm == fit.rmse_nm
    error, velocity = fresh[:, 1] - fresh[:, 2], fresh[:, 3]
    inputs = np.stack([x[10 - lag : len(x) - lag] for x in (error, velocity) for lag in (0, 5, 10)], 1)
    misses = network.torque(torch.from_numpy(inputs)).numpy() - fresh[10:, 4]
    assert np.sqrt(np.mean(misses**2)) == pytest.approx(fit.rmse_nm, rel=0.25)
    pd = fit.pd_kp * error - fit.pd_kd * velocity - fresh[:, 4]
    assert np.sqrt(np.mean(pd**2)) == pytest.approx(fit.pd_rmse_nm, rel=0.25)


def test_in_the_loop_it_is_nearer_to_the_true_actuator(
    trained: tuple[Path, ActuatorFit], joints: Callable[..., Joints]
) -> None:
    path, fit = trained
    commands = targets(9, 200)
    truth = drive_hip(commands)[10::10, 2]  # after each control step

    def distance(actuator: Actuator) -> float:
        env = VecEnv(joints({"hip": actuator}, spread_rad=0.0), 1, num_threads=1)
        env.reset()
        shown = []
        for command in commands:
            action = torch.tensor([[command / (math.pi / 2), 0.0]])
            shown.append(float(env.step(action).obs["policy"][0, 0]))
        return float(np.sqrt(np.mean((np.array(shown[:-1]) - truth) ** 2)))

    learned = distance(network_actuator(path, "hip"))
    servo = distance(Actuator(Kind.POSITION, "hip", kp=fit.pd_kp, kd=fit.pd_kd))
    assert learned < servo / 3


def test_file_holds_everything(saved: Callable[[ActuatorNetwork], Path]) -> None:
    network = random_network(0)
    path = saved(network)
    loaded = ActuatorNetwork.load(path)
    for name in ("lags_s", "torque_scale_nm", "torque_limit_nm", "validation_rmse_nm"):
        assert getattr(loaded, name) == getattr(network, name)
    inputs = torch.randn(9, 6, dtype=torch.float64)
    assert torch.equal(loaded.torque(inputs), network.torque(inputs))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def reference_torque(network: ActuatorNetwork, errors: list[float], speeds: list[float]) -> float:
    """Torque from all errors and velocities since the reset, the present ones last."""
    ages = [round(lag / DT_S) for lag in network.lags_s]
    seen = [values[max(0, len(values) - 1 - age)] for values in (errors, speeds) for age in ages]
    x = (np.array(seen) - network.input_mean.numpy()) / network.input_std.numpy()
    for i, (weight, bias) in enumerate(network.layers):
        x = x @ weight.numpy() + bias.numpy()
        if i + 1 < len(network.layers):
            x = x / (1.0 + np.abs(x))
    return network.torque_scale_nm * float(x[0])


def test_torques_are_those_of_the_formula_at_every_physics_step(
    saved: Callable[[ActuatorNetwork], Path],
) -> None:
    networks = [random_network(0), random_network(1, (0.0, 0.006))]
    actuators = {
        "a": network_actuator(saved(networks[0]), "hip", torque_limit_nm=2.5),
        "b": network_actuator(saved(networks[1]), "knee"),
    }
    spec = mujoco.MjSpec.from_string(XML)
    replace_actuators(spec, actuators)
    num_envs, rng = 4, np.random.default_rng(0)
    sim = BatchSim(spec.compile(), num_envs, num_threads=1)
    driven = NetworkActuators(sim, actuators)
    limits = [2.5, networks[1].torque_limit_nm]
    # the past of each simulation and joint since its reset
    errors = [[[] for _ in range(2)] for _ in range(num_envs)]
    speeds = [[[] for _ in range(2)] for _ in range(num_envs)]

    def start(ids: list[int]) -> None:
        sim.reset(torch.tensor(ids))
        sim.data("qpos")[ids, :2] = torch.from_numpy(rng.uniform(-1, 1, (len(ids), 2)))
        driven.reset(torch.tensor(ids))
        sim.forward(torch.tensor(ids))
        assert (sim.data("actuator_force")[ids] == 0.0).all()
        for i in ids:
            errors[i], speeds[i] = [[], []], [[], []]

    saturated = 0
    for step in range(60):
        if step in (0, 31):
            start([0, 1, 2, 3] if step == 0 else [1, 3])
        ctrl = rng.uniform(-2.0, 2.0, (num_envs, 2))  # beyond the range of +-pi/2, too
        expected = np.empty((num_envs, 2))
        for i in range(num_envs):
            for j in range(2):
                command = np.clip(ctrl[i, j], -math.pi / 2, math.pi / 2)
                errors[i][j].append(command - float(sim.data("qpos")[i, j]))
                speeds[i][j].append(float(sim.data("qvel")[i, j]))
                expected[i, j] = reference_torque(networks[j], errors[i][j], speeds[i][j])
        driven.apply(torch.from_numpy(ctrl))
        sim.step(torch.from_numpy(ctrl), 1)
        saturated += int((np.abs(expected) > limits).sum())
        expected = np.clip(expected, np.negative(limits), limits)
        np.testing.assert_allclose(sim.data("actuator_force"), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(sim.data("qfrc_actuator")[:, :2], expected, rtol=1e-4, atol=1e-4)
    assert 0 < saturated < 2 * num_envs * 60


def test_a_linear_network_is_a_position_servo(
    saved: Callable[[ActuatorNetwork], Path], joints: Callable[..., Joints]
) -> None:
    path = saved(pd_law(20.0, 0.5, limit_nm=100.0))
    gains = {"torque_limit_nm": 3.0, "armature_kg_m2": 0.02}
    envs = [
        VecEnv(joints({"all": actuator}, episode_length_s=0.3), 8, seed=1, num_threads=1)
        for actuator in (network_actuator(path, **gains), Actuator(Kind.POSITION, kp=20.0, kd=0.5, **gains))
    ]
    for learned, servo in zip(envs[0].specs.action, envs[1].specs.action, strict=True):
        assert learned == servo and learned.high == pytest.approx(math.pi / 2)
    assert torch.equal(envs[0].reset()["policy"][:, :2], envs[1].reset()["policy"][:, :2])
    rng = torch.Generator().manual_seed(0)
    for _ in range(40):  # through two resets
        action = 2 * torch.rand(8, 2, generator=rng) - 1
        learned, servo = (env.step(action).final_obs["policy"] for env in envs)
        torch.testing.assert_close(learned, servo, rtol=1e-4, atol=1e-3)


def test_a_task_takes_note_of_control_steps_not_of_physics_steps(
    joints: Callable[..., Joints], saved: Callable[[ActuatorNetwork], Path]
) -> None:
    env = VecEnv(joints({"all": network_actuator(saved(random_network(0)))}), 2, num_threads=1)
    env.reset()
    for _ in range(3):
        env.step(torch.zeros(2, 2))
    assert env.substeps > 1 and env.task.control_steps == 3  # type: ignore[attr-defined]


def test_it_continues_bit_for_bit(
    saved: Callable[[ActuatorNetwork], Path], joints: Callable[..., Joints]
) -> None:
    actuators = {
        "a": network_actuator(saved(random_network(0)), "hip"),
        "b": network_actuator(saved(random_network(1, (0.0, 0.004))), "knee"),
    }
    task = joints(actuators, episode_length_s=0.2)

    def run(env: VecEnv, steps: int, rng: torch.Generator) -> list[Tensor]:
        actions = [2 * torch.rand(5, 2, generator=rng) - 1 for _ in range(steps)]
        return [env.step(action).obs["policy"] for action in actions]

    env, rng = VecEnv(task, 5, seed=3, num_threads=2, stagger=True), torch.Generator().manual_seed(0)
    env.reset()
    run(env, 3, rng)
    while (env.age == 0).any() or not (env.age == 9).any():
        run(env, 1, rng)
    before = run(env, 1, rng)[0]
    new = env.age == 0  # some episodes have just begun, and no torque has acted in them
    assert (before[new, 2:] == 0.0).all() and (before[~new, 2:] != 0.0).all()
    state, rng_state = env.state_dict(), rng.get_state()
    expected = run(env, 15, rng)
    other = VecEnv(task, 5, seed=99, num_threads=1)
    other.reset()
    run(other, 2, rng)
    other.load_state_dict(state)
    rng.set_state(rng_state)
    assert all(map(torch.equal, expected, run(other, 15, rng)))


def test_configuration_and_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = drive_hip(targets(0, 60))
    write_log(Path("a.csv"), rows)
    # columns in another order, one more than needed
    order = [4, 0, 3, 2, 1, 1]
    write_log(Path("b.csv"), rows[:, order], ",".join([*(COLUMNS[i] for i in order[:-1]), "temperature"]))
    for log, again in zip(
        vars(read_log(Path("a.csv"))).values(), vars(read_log(Path("b.csv"))).values(), strict=True
    ):
        assert isinstance(log, Path) or np.array_equal(log, again)
    words = ["actuator-net", "a.csv", "b.csv", "--out", "hip.safetensors", "--updates", "30"]
    assert main(words) == 0
    out, bar = capsys.readouterr()
    assert "100%" in bar
    assert "error of the network" in out and "error of the best PD law" in out and "944 for training" in out
    before = Path("hip.safetensors").read_bytes()
    assert main(words) == 2
    assert "hip.safetensors exists: give another name, or --force" in capsys.readouterr().err
    assert main([*words, "--seed", "1", "--lags-s", "0,0.004"]) == 2
    assert Path("hip.safetensors").read_bytes() == before
    assert main([*words, "--force", "--seed", "1", "--lags-s", "0,0.004"]) == 0
    assert ActuatorNetwork.load(Path("hip.safetensors")).lags_s == (0.0, 0.004)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "b.csv", "hip.safetensors"]

    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["actuator-net", "--help"])
    assert "examples:\n  robotrl actuator-net " in capsys.readouterr().out
    assert main(["--help"]) == 0 and "\n  actuator-net " in capsys.readouterr().out

    entry = "task.realism.actuators.legs={kind: network, network: hip.safetensors, command_range: [-1, 1]}"
    resolved = compose(["task=walker_walk", "algorithm=ppo", entry])
    assert resolved.task.realism.actuators["legs"] == network_actuator(
        Path("hip.safetensors"), command_range=[-1.0, 1.0]
    )
    Path("config.yaml").write_text(config.to_yaml(resolved))
    actuator = config.from_yaml(Path("config.yaml")).task.realism.actuators["legs"]
    # found from any folder
    assert actuator == network_actuator(tmp_path / "hip.safetensors", command_range=[-1.0, 1.0])
    with pytest.raises(
        UsageError, match=r"lag 0\.004 s is no whole multiple of the physics step of 0\.0025 s"
    ):
        VecEnv(resolved.task, 1)


def test_bad_files_get_one_clear_line(saved: Callable[[ActuatorNetwork], Path], tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(RobotrlError, match=message):
            ActuatorNetwork.load(path)
        with pytest.raises(UsageError, match=rf"actuators\.legs: .*{message}") as error:
            replace_actuators(mujoco.MjSpec.from_string(XML), {"legs": network_actuator(path, "hip")})
        assert "\n" not in str(error.value)

    refused(tmp_path / "none.safetensors", "does not exist: `robotrl actuator-net` trains one")
    path = saved(random_network(0))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "is damaged")
    checkpoint.save(path, {"a": torch.zeros(1)})
    refused(path, "is not an actuator network: format is 'robotrl.checkpoint/1'")
    save_file({"weight_0": torch.zeros(1)}, path, metadata={"format": FORMAT})
    refused(path, "is damaged: 'network'")
    network = random_network(0)
    network.layers[1][0][3, 3] = torch.nan
    network.save(path)
    refused(path, "is damaged: weight_1 does not hold finite float32")
    network = random_network(0, (0.0, 0.01))
    object.__setattr__(network, "lags_s", (0.0,))
    network.save(path)
    refused(path, "is damaged: 1 lags do not fit")


def test_what_does_not_fit_is_refused(
    saved: Callable[[ActuatorNetwork], Path], joints: Callable[..., Joints]
) -> None:
    with pytest.raises(ValueError, match="network actuator needs network"):
        Actuator(Kind.NETWORK)
    with pytest.raises(ValueError, match="torque actuator takes no network"):
        Actuator(Kind.TORQUE, network=Path("x"))
    with pytest.raises(ValueError, match="network actuator takes no kp"):
        network_actuator(Path("x"), kp=1.0)
    path = saved(random_network(0))
    with pytest.raises(
        UsageError, match=r"a network actuator takes no delay.*leave 'hip' out of actuator_delays"
    ):
        VecEnv(joints({"legs": network_actuator(path)}, {"late": Delay((0.0, 0.01))}), 1)
    with pytest.raises(UsageError, match=r"lag 0\.003 s is no whole multiple of the physics step"):
        VecEnv(joints({"legs": network_actuator(saved(random_network(0, (0.0, 0.003))))}), 1)
    spec = mujoco.MjSpec.from_string(XML.replace('joint="knee" ctrl', 'joint="ball" ctrl'))
    with pytest.raises(UsageError, match="joint 'ball' is neither a hinge nor a slide"):
        replace_actuators(spec, {"b": network_actuator(path, "knee", command_range=(-1.0, 1.0))})
