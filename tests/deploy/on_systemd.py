"""Try the unit of deploy/systemd under the systemd that is PID 1 here, as root; needs nothing but Python's own modules.

`make systemd-test` runs it in a container of its own. It writes to /etc, so elsewhere take a machine that can be thrown away.
The gateway has to be where the unit says, in /opt/modelarts-gateway, and the unit in /etc/systemd/system.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

UNIT = "modelarts-gateway.service"
PROGRAM = "/opt/modelarts-gateway/bin/modelarts-gateway"
CONFIG = Path("/etc/modelarts-gateway/gateway.yaml")
SECRETS = CONFIG.parent / "secrets"
DROP_INS = Path(f"/etc/systemd/system/{UNIT}.d")
# Run in the place of the gateway, under every restriction of the unit: what may it do?
PROBE = r"""
import ctypes, json, mmap, os, pathlib, socket, tempfile
def tried(action):
    try: action()
    except OSError as error: return error.strerror
    return "done"
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    if function(*arguments) == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def mapped():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print("PROBE " + json.dumps({
    **{f"write {path}": tried(lambda: open(f"{path}/written", "w")) for path in
       ("", "/etc", "/usr", "/var/lib", "/opt/modelarts-gateway", "/etc/modelarts-gateway", "/run")},
    "write /tmp": tried(tempfile.TemporaryFile),
    "read root's secret": tried(lambda: open("/etc/modelarts-gateway/secrets/password").read()),
    "list /root": tried(lambda: os.listdir("/root")),
    "others' processes seen": str([pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()]),
    "raw packet socket": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "new namespace": tried(lambda: call(libc.unshare, 0x10000000)),
    "mount": tried(lambda: call(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None)),
    "set the clock": tried(lambda: __import__("time").clock_settime(0, 0)),
    "memory that is written and run": tried(mapped),
    "a listening socket": tried(lambda: socket.create_server(("127.0.0.1", 0))),
    "root": str(os.getuid() == 0), "capabilities": status["CapEff"].strip(), "bounding": status["CapBnd"].strip(),
    "no new privileges": status["NoNewPrivs"].strip(), "system call filter": status["Seccomp"].strip(),
    "disks in /dev": str([name for name in os.listdir("/dev") if name.startswith(("sd", "vd", "nvme", "mem", "kmsg"))]),
}))
"""
READ_ONLY, DENIED, NOT_PERMITTED = "Read-only file system", "Permission denied", "Operation not permitted"
ALLOWED = {
    **dict.fromkeys(
        ("write ", "write /etc", "write /usr", "write /var/lib", "write /opt/modelarts-gateway"), READ_ONLY
    ),
    **dict.fromkeys(("write /etc/modelarts-gateway", "write /run"), DENIED),
    "write /tmp": "done",
    "read root's secret": DENIED,
    "list /root": DENIED,
    "others' processes seen": "[]",
    "raw packet socket": "Address family not supported by protocol",
    "new namespace": NOT_PERMITTED,
    "mount": NOT_PERMITTED,
    "set the clock": NOT_PERMITTED,
    "memory that is written and run": NOT_PERMITTED,
    "a listening socket": "done",
    "root": "False",
    "capabilities": "0000000000000000",
    "bounding": "0000000000000000",
    "no new privileges": "1",
    "system call filter": "2",
    "disks in /dev": "[]",
}


def main() -> int:
    """0 when systemd and the gateway understand each other as the unit says."""
    set_up()
    systemctl("start", UNIT)
    rows: list[tuple[str, object, object]] = [
        # Not waited for: `start` returns when the gateway has said that it is ready.
        ("answers as soon as `start` returns", status("http://127.0.0.1:8081/healthz"), 200),
        ("what systemd was told", show("StatusText").startswith("serving") or show("StatusText"), True),
    ]
    until("readiness", lambda: status("http://127.0.0.1:8081/readyz") == 200)
    rows.append(("a request, by a secret of LoadCredential", status("http://127.0.0.1:8080/token/x"), 200))
    rows += reloads()
    rows += restarts()
    rows += stops()
    rows += refuses()
    rows += confined()
    for what, found, right in rows:
        print(f"  {what:44} {found}" + ("" if found == right else f"   NOT {right}"))
    wrong = [what for what, found, right in rows if found != right]
    print(f"NOT as it should be: {', '.join(wrong)}" if wrong else "all as it should be")
    return 1 if wrong else 0


def set_up() -> None:
    """The simulator as a unit of its own, its configuration, and the secrets handed over as the unit's comment says."""
    made = Path("/srv/simulated")
    run("systemd-run", "--quiet", "--unit=simulator", PROGRAM, "simulate", "--listen", "127.0.0.1:9000",
        "--write-config", str(made))  # fmt: skip
    until("the simulator", lambda: (made / CONFIG.name).exists() and status("http://127.0.0.1:9000/v1/models") != 0)
    SECRETS.mkdir(parents=True, mode=0o700)
    DROP_INS.mkdir()
    lines = ["[Service]"]
    text = (made / CONFIG.name).read_text()
    for secret in made.iterdir():
        if secret.name != CONFIG.name:
            shutil.copy(secret, SECRETS)
            lines.append(f"LoadCredential={secret.name}:{SECRETS}/{secret.name}")
            text = text.replace(str(secret), f"/run/credentials/{UNIT}/{secret.name}")
    (DROP_INS / "secrets.conf").write_text("\n".join(lines) + "\n")
    CONFIG.write_text(text)
    systemctl("daemon-reload")


def reloads() -> list[tuple[str, object, object]]:
    """A good file is taken; a bad one is refused and the old one serves on; the process stays the same."""
    before, text = show("MainPID"), CONFIG.read_text()
    CONFIG.write_text(text.replace("path: /token", "path: /renamed"))
    systemctl("reload", UNIT)
    until("the renamed route", lambda: status("http://127.0.0.1:8080/renamed/x") == 200)
    CONFIG.write_text("listen: nowhere\n")
    systemctl("reload", UNIT)
    until("the refusal in the journal", lambda: "nowhere" in run("journalctl", "-u", UNIT, "-o", "cat"))
    rows: list[tuple[str, object, object]] = [
        ("a bad file changes nothing", status("http://127.0.0.1:8080/renamed/x"), 200),
        ("state after reloads", show("ActiveState"), "active"),
        ("the same process", show("MainPID") == before, True),
    ]
    CONFIG.write_text(text)
    systemctl("reload", UNIT)
    until("the old route", lambda: status("http://127.0.0.1:8080/token/x") == 200)
    return rows


def restarts() -> list[tuple[str, object, object]]:
    """After kill -9 there is another process."""
    before = show("MainPID")
    os.kill(int(before), signal.SIGKILL)
    until("another process", lambda: show("MainPID") not in {before, "0"} and show("ActiveState") == "active")
    until("its answer", lambda: status("http://127.0.0.1:8080/token/x") == 200)
    return [("restarts after kill -9", show("NRestarts"), "1")]


def stops() -> list[tuple[str, object, object]]:
    """A request that runs when the unit is stopped ends as it should, and so does the process."""
    slow = subprocess.Popen([sys.executable, __file__, "slow"], stdout=subprocess.PIPE, text=True)
    until("the slow request", lambda: b'gateway_requests_in_flight{route="token"} 1' in metrics())
    began = time.monotonic()
    systemctl("stop", UNIT)
    seconds = time.monotonic() - began
    answered, _ = slow.communicate(timeout=30)
    return [
        ("a running request when it stops", answered.strip(), "200"),
        ("stops before TimeoutStopSec", seconds < 60, True),
        ("result", show("Result"), "success"),
        ("exit status", show("ExecMainStatus"), "0"),
    ]


def refuses() -> list[tuple[str, object, object]]:
    """A configuration that is wrong ends the attempt at once: status 2, and no second attempt."""
    text = CONFIG.read_text()
    CONFIG.write_text("listen: nowhere\n")
    done = subprocess.run(["systemctl", "start", UNIT], capture_output=True, text=True, check=False, timeout=60)
    time.sleep(2)  # RestartSec is 1 s
    rows: list[tuple[str, object, object]] = [
        ("`start` with a wrong file fails", done.returncode != 0, True),
        ("exit status with a wrong file", show("ExecMainStatus"), "2"),
        ("state with a wrong file", show("ActiveState"), "failed"),
    ]
    CONFIG.write_text(text)
    systemctl("reset-failed", UNIT)
    return rows


def confined() -> list[tuple[str, object, object]]:
    """What a program in the gateway's place may do."""
    Path("/opt/modelarts-gateway/probe.py").write_text(PROBE)
    (DROP_INS / "probe.conf").write_text(
        "[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart=/opt/modelarts-gateway/bin/python /opt/modelarts-gateway/probe.py\n"
    )
    systemctl("daemon-reload")
    systemctl("start", UNIT)
    journal = run("journalctl", "--sync", "-u", UNIT, "-o", "cat") + run("journalctl", "-u", UNIT, "-o", "cat")
    found = json.loads(next(line for line in journal.splitlines() if line.startswith("PROBE "))[6:])
    (DROP_INS / "probe.conf").unlink()
    systemctl("daemon-reload")
    return [
        (what.replace("write ", "write /", 1) if what == "write " else what, found[what], ALLOWED[what])
        for what in ALLOWED
    ]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        journal = subprocess.run(
            ["journalctl", "-u", UNIT, "-o", "cat", "-n", "20"], capture_output=True, text=True, check=False
        )
        sys.exit(f"{' '.join(command)}: {done.stderr}\n{journal.stdout}")
    return done.stdout


def systemctl(*arguments: str) -> None:
    run("systemctl", *arguments)


def show(name: str) -> str:
    return run("systemctl", "show", UNIT, f"--property={name}", "--value").strip()


def status(url: str, wait_seconds: str = "") -> int:
    """The status of an answer, 0 without one."""
    fields = {"X-Simulate": f"slow={wait_seconds}"} if wait_seconds else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=fields), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def metrics() -> bytes:
    with urllib.request.urlopen("http://127.0.0.1:8081/metrics", timeout=10) as answer:
        return bytes(answer.read())


def until(what: str, holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"not within {seconds:.0f} s: {what}\n" + run("journalctl", "-u", UNIT, "-o", "cat", "-n", "20"))
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1:] == ["slow"]:
        print(status("http://127.0.0.1:8080/token/x", "3s"))
        sys.exit(0)
    sys.exit(main())
