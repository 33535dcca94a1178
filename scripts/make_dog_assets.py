"""Write assets/control_suite/dog.xml and dog_assets/ from dm_control's dog, without its invisible bones.

python scripts/make_dog_assets.py

144 of the dog's 162 meshes are bones that collide with nothing and lie under the skin in a geom group that
is not drawn; they matter through their mass only. They take 14.7 MB, so each body that has some gets their
inertia written into the MJCF instead. Skin, claws, eyes and textures stay: 3.1 MB.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import mujoco
from dm_control import suite

SOURCE = Path(suite.__file__).parent
TARGET = Path(__file__).resolve().parent.parent / "assets" / "control_suite"
HIDDEN_GROUP = 5

NOTE = """\
  <!-- changed from dm_control by scripts/make_dog_assets.py: bodies whose bones (meshes that collide with
       nothing and are not drawn) were taken out have their inertia written as a number -->
"""


def without_hidden_bones(text: str, model: mujoco.MjModel) -> str:
    """Return the MJCF `text`, compiled to `model`, with inertias in the place of hidden meshes."""
    hidden, bodies = set(), set()
    for geom in range(model.ngeom):
        is_mesh = int(model.geom_type[geom]) == int(mujoco.mjtGeom.mjGEOM_MESH)
        if is_mesh and int(model.geom_group[geom]) == HIDDEN_GROUP:
            assert not model.geom_contype[geom] and not model.geom_conaffinity[geom]
            hidden.add(model.mesh(int(model.geom_dataid[geom])).name)
            bodies.add(int(model.geom_bodyid[geom]))
    inertials = {model.body(body).name: inertial(model, body) for body in bodies}
    lines = []
    for line in text.splitlines(keepends=True):
        mesh = re.search(r'<mesh name="([^"]+)"', line) or re.search(r'<geom .*mesh="([^"]+)"', line)
        if mesh and mesh[1] in hidden:
            continue
        if "<inertial " in line:
            continue  # each belongs to a body with a hidden bone, and is written again
        lines.append(line)
        body = re.search(r'^( *)<body name="([^"]+)"', line)
        if body and body[2] in inertials:
            lines.append(f"{body[1]}  {inertials.pop(body[2])}\n")
    assert not inertials
    lines.insert(1, NOTE)
    return "".join(lines)


def inertial(model: mujoco.MjModel, body: int) -> str:
    """Return the body's inertia as an MJCF element, to the last digit."""

    def digits(values: list[float]) -> str:
        return " ".join(repr(value) for value in values)

    return (
        f'<inertial pos="{digits(model.body_ipos[body].tolist())}" '
        f'quat="{digits(model.body_iquat[body].tolist())}" mass="{float(model.body_mass[body])!r}" '
        f'diaginertia="{digits(model.body_inertia[body].tolist())}"/>'
    )


def main() -> None:
    """Write the files and say how large they are."""
    source = SOURCE / "dog.xml"
    text = without_hidden_bones(source.read_text(), mujoco.MjModel.from_xml_path(str(source)))
    (TARGET / "dog.xml").write_text(text)
    folder = TARGET / "dog_assets"
    folder.mkdir(exist_ok=True)
    for name in re.findall(r' file="([^"/]+)"', text):
        shutil.copyfile(SOURCE / "dog_assets" / name, folder / name)
    size = sum(file.stat().st_size for file in [TARGET / "dog.xml", *folder.iterdir()])
    print(f"{len(list(folder.iterdir()))} files and dog.xml, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
