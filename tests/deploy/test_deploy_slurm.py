"""deploy/slurm/sweep.sbatch, run on this machine with a `srun` and a `scontrol` that stand in for Slurm's."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
JOB = "4177"

# both nodes are this machine: a step runs in place, so that signals reach it as srun would forward them
SRUN = """#!/bin/bash
echo "srun $*" >>"$SLURM_CALLS"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then printf 'n1\\nn2\\n'; else echo "scontrol $*" >>"$SLURM_CALLS"; fi
"""
# stands in for Ray where only the script's own decisions are tested
RAY = """#!/bin/bash
if [[ $1 == health-check ]]; then exit 0; fi
trap 'echo "ray $2 ended" >>"$SLURM_CALLS"; exit 1' TERM
echo "ray $*" >>"$SLURM_CALLS"
while :; do sleep 0.05; done
"""
# fails once, as where a file comes while the folder is emptied
RM = """#!/bin/bash
if [[ -e $MARK.rm ]]; then exec /bin/rm "$@"; fi
touch "$MARK.rm"
echo "rm: Directory not empty" >&2
exit 1
"""
# the script's wait for as many nodes as its argument says
PYTHON = """#!/bin/bash
cat >/dev/null
until [[ $(grep --count '^ray start' "$SLURM_CALLS") == "$2" ]]; do sleep 0.02; done
"""
# stands in for the sweep: runs until it is interrupted, and not at all when it goes on
SWEEP = """
import os, pathlib, signal, sys, time
mark = pathlib.Path(os.environ["MARK"])
if os.environ.get("WITH_RAY"):
    import ray
    ray.init(log_to_driver=False, logging_level="ERROR")
    folder = os.stat(os.environ["RAYMDM_FOLDER"]).st_mode & 0o777
    print("nodes", sum(node["Alive"] for node in ray.nodes()), "folder", oct(folder), *sys.argv[1:], flush=True)
def interrupted(*_):
    mark.write_text("interrupted")
    os._exit(130)
# as in Python itself, where SIGINT interrupts unless it was ignored from the start
if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, interrupted)
signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
if mark.exists() or os.environ.get("SWEEP_STATUS"):
    sys.exit(int(os.environ.get("SWEEP_STATUS", 0)))
print("sweeping", flush=True)
time.sleep(100)
"""


@dataclass
class Slurm:
    """A made-up Slurm job."""

    folder: Path
    script: Path
    env: dict[str, str]

    @property
    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []

    @contextmanager
    def started(self, **env: str) -> Iterator[subprocess.Popen[str]]:
        """The batch shell; nothing that it started is left afterwards."""
        # a file, because Ray's own processes hold a pipe open
        with (self.folder / "output").open("w") as output:
            process = subprocess.Popen(
                # signals as a job gets them: what starts the tests in the background may have them ignore Ctrl-C
                ["env", "--default-signal=INT", "bash", self.script, "recipe.yaml", "a=b"],
                stdout=output, stderr=subprocess.STDOUT, env=self.env | env, text=True, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def said(self) -> str:
        return (self.folder / "output").read_text()

    def run(self, **env: str) -> int:
        with self.started(**env) as process:
            return process.wait(300)

    def signalled(self, number: signal.Signals, **env: str) -> int:
        """Run until the sweep is under way, send the batch shell a signal, and wait for its end."""
        with self.started(**env) as process:
            deadline = time.monotonic() + 300
            while "sweeping" not in self.said():
                assert process.poll() is None and time.monotonic() < deadline, self.said()
                time.sleep(0.05)
            process.send_signal(number)
            return process.wait(200)


def _program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, repo_root: Path) -> Slurm:
    programs, local = tmp_path / "bin", tmp_path / "tmp"
    programs.mkdir()
    local.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "ray": RAY, "python": PYTHON}.items():
        _program(programs, name, text)
    (tmp_path / "sweep.py").write_text(SWEEP)
    env = {
        "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "TMPDIR": str(local),
        "SLURM_JOB_ID": JOB, "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "1",
        "SLURM_SUBMIT_DIR": str(repo_root), "SLURM_CALLS": str(tmp_path / "calls"),
        "RAYMDM_COMMAND": f"{sys.executable} {tmp_path / 'sweep.py'}", "MARK": str(tmp_path / "mark"),
    }  # fmt: skip
    return Slurm(tmp_path, repo_root / "deploy" / "slurm" / "sweep.sbatch", env)


def test_shellcheck_finds_nothing(repo_root: Path) -> None:
    script = repo_root / "deploy" / "slurm" / "sweep.sbatch"
    done = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_one_head_on_the_first_node_and_workers_on_the_others(slurm: Slurm) -> None:
    slurm.run(SWEEP_STATUS="0")
    steps = [call for call in slurm.calls if call.startswith("srun") and "ray" in call.split()]
    assert len(steps) == 2
    steps.sort(key=lambda call: "--head" not in call)  # they start at the same time
    assert "--nodelist=n1" in steps[0] and "--head" in steps[0]
    assert "--nodes=1" in steps[1] and "--exclude=n1" in steps[1] and "--address=" in steps[1]


def test_a_job_of_one_node_has_no_workers(slurm: Slurm) -> None:
    slurm.run(SWEEP_STATUS="0", SLURM_JOB_NUM_NODES="1")
    assert [call.split()[3] for call in slurm.calls if call.startswith("ray start")] == ["--head"]


@pytest.mark.parametrize("status", [0, 1])
def test_ends_as_the_sweep_did_and_leaves_nothing(slurm: Slurm, status: int) -> None:
    assert slurm.run(SWEEP_STATUS=str(status)) == status
    assert [call for call in slurm.calls if call.endswith("ended")] == ["ray --block ended"] * 2
    assert list((slurm.folder / "tmp").iterdir()) == []
    assert not [call for call in slurm.calls if "requeue" in call]


def test_a_folder_that_something_still_writes_to_is_removed_again(slurm: Slurm) -> None:
    _program(slurm.folder / "bin", "rm", RM)
    assert slurm.run(SWEEP_STATUS="0") == 0
    assert list((slurm.folder / "tmp").iterdir()) == []


def test_a_job_whose_time_is_up_queues_again(slurm: Slurm) -> None:
    assert slurm.signalled(signal.SIGUSR1) == 130
    assert (slurm.folder / "mark").read_text() == "interrupted"
    assert slurm.calls[-1] == f"scontrol requeue {JOB}"


def test_a_cancelled_job_does_not(slurm: Slurm) -> None:
    assert slurm.signalled(signal.SIGTERM) == 130
    assert (slurm.folder / "mark").read_text() == "interrupted"
    assert not [call for call in slurm.calls if "requeue" in call]


def test_the_token_is_no_argument_of_any_program(slurm: Slurm) -> None:
    slurm.run(SWEEP_STATUS="0")
    assert not [word for call in slurm.calls for word in call.split() if len(word) == 64]


@pytest.mark.ray
@pytest.mark.timeout(900)  # Ray takes minutes to start where others compute too
def test_two_nodes_of_a_real_ray_and_going_on_when_the_job_runs_again(slurm: Slurm) -> None:
    for name in ("ray", "python"):
        (slurm.folder / "bin" / name).unlink()
    path = f"{slurm.folder / 'bin'}:{BIN}:{os.environ['PATH']}"
    # Ray's sockets need a short path
    real = {"PATH": path, "TMPDIR": tempfile.gettempdir(), "WITH_RAY": "1", "SLURM_JOB_ID": str(os.getpid())}
    assert slurm.signalled(signal.SIGUSR1, **real) == 130
    assert "nodes 2 folder 0o700 recipe.yaml a=b" in slurm.said()
    assert slurm.calls[-1] == f"scontrol requeue {os.getpid()}"
    assert slurm.run(**real, SLURM_RESTART_COUNT="1", SLURM_JOB_NUM_NODES="1") == 0
    assert not list(Path(tempfile.gettempdir()).glob(f"raymdm-{os.getpid()}-*"))
