"""From a configuration to a run folder: train, evaluate, export, verify."""

from __future__ import annotations

import dataclasses
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from robotrl.core import checkpoint
from robotrl.core.config import Backend, TrainConfig, learner_seed
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.envs.env import make_env
from robotrl.envs.foreign.task import ForeignTask
from robotrl.export.bundle import check_exportable, export_policy
from robotrl.export.verify import verify_bundle
from robotrl.sim.sim import MakeSim
from robotrl.training.clock import Clock, StopFlag, stop_on_ctrl_c
from robotrl.training.evaluation import Evaluation, evaluate, last_evaluation, save_evaluation
from robotrl.training.exporting import provenance
from robotrl.training.failures import FailureFiles
from robotrl.training.fine_tuning import go_on_from_origin, inherit
from robotrl.training.lock import training_lock
from robotrl.training.loop import Loop
from robotrl.training.metrics import MetricsLogger
from robotrl.training.off_policy import OffPolicyLoop, few_updates
from robotrl.training.on_policy import OnPolicyLoop
from robotrl.training.playback import own_task
from robotrl.training.pretrained import inherit_policy, start_from_origin
from robotrl.training.prior_data import check_same_data, load_prior_data, missing_prior, note_data
from robotrl.training.progress import Progress
from robotrl.training.report import write_report
from robotrl.training.restore import make_policy
from robotrl.training.run_folder import VERIFICATION_FILE, RunFolder, write_json
from robotrl.training.sb3 import Sb3Loop
from robotrl.training.streaming import StreamingLoop
from robotrl.training.video import record_video

# of the video in a run's report
_VIDEO_S = 10.0

LOOPS: dict[str, type[Loop]] = {
    "on_policy": OnPolicyLoop,
    "off_policy": OffPolicyLoop,
    "streaming": StreamingLoop,
    "sb3": Sb3Loop,
}


class InterruptedRunError(RobotrlError):
    """Ctrl-C: the run stopped cleanly with a checkpoint."""

    exit_code = 130


def train(config: TrainConfig, *, show_progress: bool = True) -> Path:
    """Train, evaluate, export and verify; return the run folder.

    Raises:
        UsageError: algorithm, policy and task do not fit each other, or the policy could not be exported.
        InterruptedRunError: Ctrl-C; the run has a checkpoint.
        RobotrlError: learning diverged, or something failed after it.
    """
    if config.video:
        own_task(config.task)
    config = inherited(config)
    loop = make_loop(config)
    if config.export:
        check_exportable(loop.algorithm.policy, config.task, config.allow_simulation_only)
    run = RunFolder.create(config)
    with training_lock(run.path):
        note_data(run, loop)
        return _run(run, config, loop, None, show_progress)


def inherited(config: TrainConfig) -> TrainConfig:
    """Return the configuration with what it takes over from the run that it starts from, if there is one.

    Raises:
        UsageError: there is no such run, or it does not fit.
    """
    return inherit_policy(inherit(config))


def resume(path: Path, *, show_progress: bool = True) -> Path:
    """Continue a run from its newest checkpoint, bit for bit as if it had not stopped.

    Raises:
        UsageError: `path` is not a run folder, or its run is complete, is being trained by another
            process, learned from other data, or is of a kind that cannot be resumed.
        RobotrlError: it has no checkpoint, or a damaged one.
    """
    run = RunFolder(path)
    with training_lock(run.path):
        return _resume(run, show_progress)


def _resume(run: RunFolder, show_progress: bool) -> Path:
    run.remove_stale_files()
    config = run.config()
    try:
        state = checkpoint.load(run.latest_checkpoint())
    except RobotrlError as error:
        older = run.checkpoints()[:-1]
        hint = f"; move it away to go on from {older[-1].name}" if older else ""
        raise RobotrlError(f"{error}{hint}") from error
    loop = make_loop(config, resumed=True)
    check_same_data(run, config, loop)
    try:
        loop.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise RobotrlError(f"{run.latest_checkpoint()} does not fit {run.config_file}: {message}") from error
    evaluated = last_evaluation(run)[0] == loop.log_step and run.report.is_file()
    if loop.log_step >= config.total_steps and evaluated and (run.is_verified or not config.export):
        raise UsageError(
            f"run {run.path} is complete ({loop.env_steps} of {config.total_steps} steps): see its report, "
            f"score it again with `robotrl evaluate {run.path}` or train a new run with more total_steps"
        )
    return _run(run, config, loop, state, show_progress)


def make_loop(config: TrainConfig, resumed: bool = False) -> Loop:
    """Build environments, policy, algorithm and the loop that feeds it.

    Args:
        config: of the run.
        resumed: leave out what a run goes on from: all of that is in its checkpoint.

    Raises:
        UsageError: algorithm, policy, task and data do not fit each other, or nothing would be learned.
        RobotrlError: a model, a dataset or another library does not work here.
    """
    loop_class = LOOPS[config.algorithm_class.loop]
    cpus = len(os.sched_getaffinity(0))
    torch_threads = config.torch_threads or loop_class.default_torch_threads or cpus
    overlapped = loop_class is OffPolicyLoop
    sim_threads = config.sim_threads or (max(1, cpus - torch_threads) if overlapped else cpus)
    env = make_env(
        config.task,
        config.num_envs,
        config.seed,
        sim_threads,
        stagger=loop_class.stagger,
        make_sim=_make_sim(config),
    )
    rng = torch.Generator().manual_seed(learner_seed(config.seed))
    policy = make_policy(config, env.specs, rng)
    algorithm = config.algorithm_class(env.specs, policy, config.algorithm, rng)
    if not resumed:
        go_on_from_origin(config, algorithm)
    if loop_class is OffPolicyLoop:
        if not resumed:
            start_from_origin(config, algorithm)
        data = None if config.data is None else load_prior_data(config, config.data, algorithm, resumed)
        return OffPolicyLoop(env, algorithm, config.total_steps, torch_threads, data)
    if config.data is not None:
        raise UsageError(
            f"data={', '.join(config.data)}: {config.algorithm_class.__name__} learns from its own "
            "experience only; leave data= out or choose a method that takes data, such as algorithm=rlpd"
        )
    return loop_class(env, algorithm, config.total_steps, torch_threads)


def _make_sim(config: TrainConfig) -> MakeSim | None:
    """Return what makes the simulator, None for the CPU's."""
    if config.backend is Backend.CPU:
        return None
    from robotrl.sim.warp_sim import WarpSim  # an extra, and seconds to import

    return WarpSim


def _run(
    run: RunFolder, config: TrainConfig, loop: Loop, state: dict[str, Any] | None, show_progress: bool
) -> Path:
    resumed_at = None if state is None else loop.log_step
    clock = Clock(0.0 if state is None else state["wall_s"])
    with (
        closing(MetricsLogger(run.metrics_file, run.tensorboard, resumed_at)) as logger,
        Progress(config, show_progress, loop) as progress,
    ):
        if state is not None and isinstance(config.task, ForeignTask):
            progress.warn(f"{config.task.name} cannot be saved: learning goes on, its episodes start anew")
        if state is None:
            for warning in filter(None, (missing_prior(config), few_updates(config))):
                progress.warn(warning)
        with stop_on_ctrl_c() as stop:
            _train_loop(run, config, loop, logger, clock, progress, stop)
        if stop.requested:
            raise InterruptedRunError(f"stopped at {loop.env_steps} steps; {_next_step(run, config, loop)}")
        progress.stage("evaluating")
        clock.pause()
        loop.finish(run, config)
        result = evaluate(
            loop.algorithm.policy, config.task, config.eval_episodes, config.eval_seed, config.sim_threads
        )
        summary = save_evaluation(run.evaluation, result, config.eval_seed, loop.env_steps)
        logger.log(loop.env_steps, clock.seconds, _evaluation_metrics(result))
        if config.export:
            progress.stage("exporting")
            _export(run, config, loop, summary["mean"])
        if config.video:
            progress.stage("recording")
            _record(run, config, loop, progress)
    write_report(run.path)
    return run.path


def _train_loop(
    run: RunFolder,
    config: TrainConfig,
    loop: Loop,
    logger: MetricsLogger,
    clock: Clock,
    progress: Progress,
    stop: StopFlag,
) -> None:
    next_checkpoint_s = clock.seconds + config.checkpoint_every_s
    next_evaluation = _next_multiple(loop.log_step, config.eval_every)
    before = (loop.log_step, clock.seconds)

    failures = FailureFiles(run, config, loop)

    # a run that is resumed after its last step has its last checkpoint
    saved = loop.log_step

    def save() -> None:
        nonlocal saved
        saved = loop.log_step
        tree = loop.state_dict() | {"wall_s": clock.seconds}
        run.save_checkpoint(loop.env_steps, tree, config.keep_checkpoints)

    while loop.log_step < config.total_steps and not stop.requested:
        offline = loop.offline_left > 0
        try:
            metrics = _iterate(run, loop)
        finally:
            failures.save()
        steps, seconds = loop.log_step, clock.seconds
        rate = "time/offline_updates_per_s" if offline else "time/env_steps_per_s"
        metrics[rate] = (steps - before[0]) / max(seconds - before[1], 1e-9)
        before = (steps, seconds)
        metrics |= {f"time/{name}_s": value for name, value in loop.phase_s.items()}
        metrics["time/other_s"] = max(0.0, seconds - sum(loop.phase_s.values()))
        if loop.env.num_diverged:
            metrics["sim/diverged"] = float(loop.env.num_diverged)
            metrics["sim/diverged_per_million_steps"] = 1e6 * loop.env.num_diverged / loop.env_steps
        if config.eval_every and steps >= next_evaluation and steps < config.total_steps:
            clock.pause()
            result = evaluate(
                loop.algorithm.policy, config.task, config.eval_episodes, config.eval_seed, config.sim_threads
            )
            metrics |= _evaluation_metrics(result)
            progress.evaluated(result.mean)
            next_evaluation = _next_multiple(steps, config.eval_every)
            clock.go()
        logger.log(steps, seconds, metrics)
        progress.update(steps, metrics)
        if clock.seconds >= next_checkpoint_s:
            save()
            next_checkpoint_s = clock.seconds + config.checkpoint_every_s
    if saved != loop.log_step or not run.checkpoints():
        save()


def _iterate(run: RunFolder, loop: Loop) -> dict[str, float]:
    """Iterate once; what is no longer finite ends the run before it reaches a checkpoint."""
    metrics = loop.env.set_progress(loop.progress)
    refused: UsageError | None = None
    try:
        metrics |= loop.iterate()
    except UsageError as error:
        # the environment refuses an action that is not finite
        refused = error
    what = loop.not_finite(metrics)
    if what is not None:
        last = run.checkpoints()[-1:]
        raise RobotrlError(
            f"learning diverged at {loop.env_steps} steps: {what}; "
            + (f"last checkpoint {last[0]}" if last else "there is no checkpoint yet")
        ) from refused
    if refused is not None:
        raise refused
    return metrics


def _next_step(run: RunFolder, config: TrainConfig, loop: Loop) -> str:
    """Say what can be done with a run that was stopped."""
    if loop.resumable:
        return f"go on with: robotrl train --resume {run.path}"
    return (
        f"{config.algorithm_class.__name__} cannot be resumed; score what it has learned with: "
        f"robotrl evaluate {run.path}"
    )


def _export(run: RunFolder, config: TrainConfig, loop: Loop, return_mean: float | None) -> None:
    export_policy(
        loop.algorithm.policy,
        config.task,
        run.bundle,
        provenance=provenance(config, loop.env_steps, return_mean),
        allow_simulation_only=config.allow_simulation_only,
    )
    checks = verify_bundle(run.bundle, loop.algorithm.policy)
    write_json(run.bundle / VERIFICATION_FILE, [dataclasses.asdict(check) for check in checks])
    failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    if failed:
        raise RobotrlError(f"the exported bundle {run.bundle} failed its verification: {'; '.join(failed)}")


def _record(run: RunFolder, config: TrainConfig, loop: Loop, progress: Progress) -> None:
    try:
        record_video(
            loop.algorithm.policy,
            config.task,
            run.path / "video.mp4",
            seed=config.eval_seed,
            episode_s=min(_VIDEO_S, config.task.episode_length_s),
            task_name=config.task_name,
        )
    except RobotrlError as error:
        # a machine that cannot draw has still trained: say so and keep the run
        progress.warn(f"no video: {error}")


def _evaluation_metrics(result: Evaluation) -> dict[str, float]:
    if not result.valid.any():
        return {}
    low, high = result.interval()
    scores = {f"eval/{name}": result.summary(values)["mean"] for name, values in result.scores.items()}
    return {"eval/return": result.mean, "eval/return_low": low, "eval/return_high": high, **scores}


def _next_multiple(steps: int, every: int) -> int:
    return (steps // every + 1) * every if every else 0
