#!/bin/sh
# Install what pip cannot: the OpenGL libraries for off-screen rendering, and venv where Debian split it off.
# As root it installs them; otherwise it names the one command and goes on (only videos need OpenGL).
set -eu
python=${1:-python3}

packages=""
for library in libEGL.so.1:libegl1 libGL.so.1:libgl1 libGLESv2.so.2:libgles2; do
    ldconfig -p 2>/dev/null | grep -q "${library%%:*}" || packages="$packages ${library#*:}"
done
"$python" -c "import ensurepip, venv" 2>/dev/null || packages="$packages python3-venv"
[ -n "$packages" ] || exit 0

install="apt-get install --yes --no-install-recommends$packages"
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    if apt-get update && $install; then exit 0; fi
fi
echo "Missing system packages (without OpenGL there are no videos). Please run:  sudo $install" >&2
