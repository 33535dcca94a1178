"""Bundles with further formats: proven at export, checked when read, on the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import CHECKS, KINDS, TASK, failed, make_policy
from generative_bundles import TASK as LOPSIDED
from generative_bundles import make

from robotrl.cli import main
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.c_policy import CPolicy, compile_policy
from robotrl.deploy.controller import BundleController
from robotrl.export import formats
from robotrl.export.bundle import export_policy
from robotrl.export.verify import verify_bundle
from robotrl.policies.policy import Policy

ALL = ["contract.json", "golden.npz", "policy.c", "policy.h", "policy.onnx", "policy.pt2"]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Path]:
    """A policy that decides from noise, two steps at a time, in every format."""
    policy = make("flow", 4)
    path = tmp_path_factory.mktemp("full") / "b"
    return policy, export_policy(
        policy, LOPSIDED, path, provenance={}, allow_simulation_only=True, formats=("c", "pt2")
    )


def test_every_format_decides_alike(full: tuple[Policy, Path], tmp_path: Path) -> None:
    policy, path = full
    assert sorted(file.name for file in path.iterdir()) == ALL
    bundle = Bundle.load(path)
    for name, sha in bundle.contract.files.items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == sha
    compiled = CPolicy(compile_policy(path, tmp_path / "p.so"), bundle.contract)
    program = torch.export.load(path / "policy.pt2").module()
    first, second = BundleController(bundle, seed=3), BundleController(compiled, seed=3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        observation = rng.normal(size=bundle.contract.input_size).astype(np.float32)
        np.testing.assert_allclose(first(observation), second(observation), atol=1e-5)
    flat = torch.randn(7, policy.obs_dim, generator=torch.Generator().manual_seed(0))
    noise = policy.draw_noise((7,), torch.Generator().manual_seed(1))
    np.testing.assert_allclose(program(flat, noise).numpy(), bundle(flat.numpy(), noise.numpy()), atol=1e-5)
    checks = verify_bundle(path)
    assert [check.name for check in checks if check.name not in CHECKS] == ["policy.c", "policy.pt2"]
    assert all(check.passed for check in checks)


def test_the_source_explains_itself(full: tuple[Policy, Path]) -> None:
    policy, path = full
    source, header = (path / "policy.c").read_text(), (path / "policy.h").read_text()
    assert "malloc" not in source and str(Path.home()) not in source
    for term in policy.specs.observation["policy"]:
        assert f"policy/{term.name}, {term.unit}" in header
    for i, term in enumerate(policy.specs.action):
        assert f"[{i}] {term.name}, {term.unit}, in [{term.low!r}, {term.high!r}]" in header
    assert b"/work/" not in (path / "policy.pt2").read_bytes()


@pytest.mark.parametrize("name", ["policy.c", "policy.h", "policy.pt2"])
def test_further_files_belong_to_their_bundle(name: str, full: tuple[Policy, Path], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(full[1], tmp_path / "b"))
    (bundle / name).write_bytes((bundle / name).read_bytes() + b"\n")
    with pytest.raises(RobotrlError, match=f"{name} was changed or belongs to another bundle"):
        Bundle.load(bundle)
    (bundle / name).unlink()  # a robot needs none of them
    Bundle.load(bundle)


def test_a_library_of_another_bundle_is_refused(full: tuple[Policy, Path], tmp_path: Path) -> None:
    library = compile_policy(full[1], tmp_path / "p.so", ("-O0",))
    bundle = Bundle.load(full[1])
    text = bundle.contract.to_json().replace('"created": "2', '"created": "1')
    with pytest.raises(RobotrlError, match=r"p\.so was compiled from another bundle"):
        CPolicy(library, type(bundle.contract).from_json(text, "x"))
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(RobotrlError, match=r"text\.so is no compiled policy"):
        CPolicy(tmp_path / "text.so", bundle.contract)


def test_compiling_says_what_is_missing(
    full: tuple[Policy, Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"has no policy\.c: export it with --format onnx,c"):
        compile_policy(bundle, tmp_path / "p.so")
    with pytest.raises(RobotrlError, match=r"policy\.c does not compile: .*-fnonsense"):
        compile_policy(full[1], tmp_path / "p.so", ("-fnonsense",))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UsageError, match="no C compiler 'no-such-compiler' here: install gcc or clang"):
        compile_policy(full[1], tmp_path / "p.so")
    checks = {check.name: check for check in verify_bundle(full[1])}
    assert not checks["policy.c"].passed and "no-such-compiler" in checks["policy.c"].detail
    with pytest.raises(UsageError, match="no-such-compiler"):
        export_policy(
            make_policy(KINDS["gaussian"], TASK), TASK, tmp_path / "b", provenance={}, formats=["c"]
        )
    assert not list(tmp_path.glob("*.so")) and not (tmp_path / "b").exists()


def test_wrong_c_never_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = formats.to_c

    def slightly_off(*args: object) -> tuple[str, str]:
        source, header = real(*args)
        return source.replace(
            "memcpy(action, decision", "decision[0] += 1e-3f; memcpy(action, decision"
        ), header

    monkeypatch.setattr(formats, "to_c", slightly_off)
    with pytest.raises(RobotrlError, match="fails its self-test on this machine: number 1"):
        export_policy(
            make_policy(KINDS["gaussian"], TASK), TASK, tmp_path / "b", provenance={}, formats=["c"]
        )
    assert list(tmp_path.iterdir()) == []


def test_on_the_command_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(trained), "--out", str(tmp_path / "b"), "--format", "c"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "b")
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == [n for n in ALL if n != "policy.pt2"]
    contract = json.loads((tmp_path / "b" / "contract.json").read_text())
    assert list(contract["files"]) == ["policy.c", "policy.h"]
    assert main(["export", str(trained), "--out", str(tmp_path / "x"), "--format", "onnx,tflite"]) == 2
    assert "unknown format 'tflite'; known: c, onnx, pt2" in capsys.readouterr().err
    assert failed([check for check in verify_bundle(tmp_path / "b") if check.name != "policy.c"]) == []
