"""What the user reads when Ray's object store is full; Ray's part is a stand-in here."""

from collections.abc import Callable

import pandas as pd
import pytest
import ray
from ray.exceptions import ActorDiedError, ObjectStoreFullError, OutOfDiskError, RayTaskError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from raymdm import cli
from raymdm.errors import UserError
from raymdm.orchestrate.pool import no_room, run_blocks
from raymdm.storage import StorageError

FULL = "Failed to put object 00ff in object store because it is full. Object size is 7 bytes."
TOLD = f"Ray's object store has no room left: {FULL} Give it more memory or disk"


# Ray Data's own settings warn of each other
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data")


def _task(cause: Exception) -> RayTaskError:
    """What a task's caller gets when the task raised `cause`."""
    return RayTaskError("block", "Traceback ...", cause).as_instanceof_cause()


def _constructor(cause: Exception) -> ActorDiedError:
    """What an actor's caller gets when its constructor raised `cause`."""
    return ActorDiedError(RayTaskError("__init__", "Traceback ...", cause))


def _from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def _while_handling(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


WRAPS: dict[str, Callable[[Exception], Exception]] = {
    "as it is": lambda error: error,
    "a task's": _task,
    "a task's within a task": lambda error: _task(_task(error)),
    "Ray Data's, of a block": lambda error: _task(_from(ray.exceptions.UserCodeException("a block failed"), error)),
    "an actor's constructor": _constructor,
    "a worker's of Ray Train": lambda error: WorkerGroupError("rank 1", {0: ValueError("other"), 1: _task(error)}),
    "Ray Train's controller": ControllerError,
    "another while it is handled": lambda error: _while_handling(RuntimeError("no result"), error),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("kind", [ObjectStoreFullError, OutOfDiskError])
def test_full_object_store_is_told_however_it_is_wrapped(
    kind: type[Exception], wrap: Callable[[Exception], Exception]
) -> None:
    told = str(no_room(wrap(kind(FULL))))
    assert told.startswith(TOLD)
    assert "Traceback" not in told
    assert "--resume" in told


def test_full_object_store_without_words_is_told() -> None:
    assert "no room left: The local object store is full" in str(no_room(ObjectStoreFullError()))


@pytest.mark.parametrize("error", [ValueError(FULL), _task(KeyError("x")), _from(ValueError("a"), OSError(5, "b"))])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert no_room(error) is None


def test_errors_in_a_circle_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert no_room(first) is None


def _raiser(error: Exception) -> Callable[[object], None]:
    def fail(_: object) -> None:
        raise error

    return fail


def _run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(ray.data, "from_blocks", _raiser(error))
    run_blocks([pd.DataFrame({"row": [0]})], lambda: None, {}, size=1, cpus=1, gpus=0)


def test_blocks_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="no room left") as raised:
        _run(monkeypatch, _task(ObjectStoreFullError(FULL)))
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("wrap", [_task, _constructor], ids=["task", "constructor"])
def test_what_a_block_tells_the_user_comes_first(
    monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Exception], Exception]
) -> None:
    with pytest.raises(UserError, match=r"^row 3 is empty$") as raised:
        _run(monkeypatch, wrap(UserError("row 3 is empty")))
    assert type(raised.value) is UserError


def test_other_errors_of_blocks_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    error = _task(KeyError("x"))
    with pytest.raises(KeyError) as raised:
        _run(monkeypatch, error)
    assert raised.value is error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_task(ObjectStoreFullError(FULL)), TOLD),
        (
            _from(RuntimeError("writing failed"), OSError(28, "No space left on device", "x.bin")),
            "x.bin: No space left",
        ),
    ],
    ids=["object store", "disk"],
)
def test_command_tells_what_no_stage_told(
    error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", _raiser(error))
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {expected}")
    assert "Traceback" not in told


def test_command_hides_no_fault_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", _raiser(KeyError("x")))
    with pytest.raises(KeyError):
        cli.main([])
