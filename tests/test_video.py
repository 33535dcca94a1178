"""Videos under circumstances that real runs meet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg

# one mapping larger than the machine's memory, made of many that Linux merges, as the arenas of many
# simulations are
RESERVING = """
import mmap, os, sys
from pathlib import Path
import numpy as np
from robotrl.training.video import write_mp4

memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
reserved = [mmap.mmap(-1, 2**30, flags=flags) for _ in range(2 * memory // 2**30)]
try:
    os.waitpid(pid, 0) if (pid := os.fork()) else os._exit(0)
    print("fork worked")
except OSError:
    print("fork refused")
pictures = (np.full((32, 32, 3), value, np.uint8) for value in range(5))
write_mp4(Path(sys.argv[1]), pictures, 32, 32, 10.0)
"""


def test_a_process_that_reserved_more_memory_than_there_is_still_writes_videos(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    done = subprocess.run([sys.executable, "-c", RESERVING, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 5
