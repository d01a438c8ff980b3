"""A real Kannel for tests: bearerbox and smsbox on free ports, in a directory of their own.

Taken from PATH, else unpacked from Debian packages into a cache directory without installing them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

MISSING = "Debian package kannel is missing: apt-get install kannel"
_PACKAGES = ("kannel", "libmariadb3", "libpcre3", "libhiredis0.14", "libct4")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tact-tests" / "kannel"
_START_S = 20.0
_STOP_S = 10.0

_CONFIG = """
group = core
admin-port = {admin}
admin-password = admin
admin-interface = 127.0.0.1
smsbox-port = {boxes}
smsbox-interface = 127.0.0.1
box-allow-ip = "127.0.0.1"
box-deny-ip = "*.*.*.*"
dlr-storage = internal
log-level = 1
log-file = "{folder}/bearerbox.log"

group = smsc
smsc = smpp
smsc-id = peer
host = 127.0.0.1
port = {smsc}
transceiver-mode = true
smsc-username = tact
smsc-password = secret
system-type = ""
interface-version = 34
reconnect-delay = 1
source-addr-autodetect = true
dest-addr-ton = 1
dest-addr-npi = 1

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = {http}
sendsms-interface = 127.0.0.1
log-level = 1
log-file = "{folder}/smsbox.log"
http-request-retry = 5
http-queue-delay = 1
mo-recode = true

group = sendsms-user
username = tact
password = s3cret-password
max-messages = 10
concatenation = true

group = sms-service
keyword = default
get-url = "{inbound}"
max-messages = 0
"""


@dataclass(frozen=True)
class Boxes:
    """Where the programs are, and what they need to run."""

    bearerbox: str
    smsbox: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Kannel:
    """A running one."""

    url: str
    folder: Path


def boxes() -> Boxes | None:
    """Kannel's programs, None where they cannot be had."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    found = [shutil.which(name, path=path) for name in ("bearerbox", "smsbox")]
    if found[0] and found[1]:
        return Boxes(found[0], found[1], os.environ)
    root = _unpacked()
    if root is None:
        return None
    libraries = sorted({str(each.parent) for each in root.glob("usr/lib/*/*.so*")})
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    found = [str(root / "usr/sbin" / name) for name in ("bearerbox", "smsbox")]
    return Boxes(found[0], found[1], environment)


def _unpacked() -> Path | None:
    root = _CACHE / "root"
    if root.exists():
        return root
    if not (sys.platform == "linux" and shutil.which("apt-get") and shutil.which("dpkg")):
        return None
    _CACHE.mkdir(parents=True, exist_ok=True)
    partial = _CACHE / f"partial-{os.getpid()}"
    partial.mkdir(exist_ok=True)
    get = ["apt-get", "download", "-q", *_PACKAGES]
    try:
        subprocess.run(get, cwd=partial, check=True, capture_output=True, timeout=60)
        for package in sorted(partial.glob("*.deb")):
            unpack = ["dpkg", "-x", str(package), str(partial / "root")]
            subprocess.run(unpack, check=True, capture_output=True, timeout=60)
        (partial / "root").rename(root)
    except (subprocess.SubprocessError, OSError):
        return root if root.exists() else None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


@asynccontextmanager
async def kannel(folder: Path, smsc_port: int, inbound_url: str = "") -> AsyncIterator[Kannel]:
    """Both boxes, bound to an SMSC of this machine, until the block ends."""
    found = boxes()
    assert found is not None
    admin, boxes_port, http = _free_ports(3)
    config = folder / "kannel.conf"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            admin=admin,
            boxes=boxes_port,
            http=http,
            smsc=smsc_port,
            inbound=inbound_url or f"http://127.0.0.1:{http}/none",
        )
    )
    processes: list[asyncio.subprocess.Process] = []
    try:
        for program, port in ((found.bearerbox, boxes_port), (found.smsbox, http)):
            processes.append(
                await asyncio.create_subprocess_exec(
                    program,
                    str(config),
                    cwd=folder,
                    env=found.environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
            )
            await _listens(port, processes[-1])
        yield Kannel(f"http://127.0.0.1:{http}", folder)
    finally:
        for process in reversed(processes):
            await _stop(process)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def _listens(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            assert process.returncode is None, "Kannel ended: see its log"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)  # asked again until it listens
                continue
            writer.close()
            await writer.wait_closed()
            return


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
