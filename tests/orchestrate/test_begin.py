"""Which folder a sweep runs in: a new one, one that goes on, one that grows; and what is refused."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from threading import Barrier

import pytest

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate import begin
from raymdm.orchestrate.begin import create, latest, opened, set_aside, taken
from raymdm.orchestrate.folder import SweepFolder, write_json
from raymdm.orchestrate.ownership import owned
from raymdm.orchestrate.rounds import ended

MakeRecipe = Callable[..., Recipe]


def test_resume_finds_the_unfinished_sweep(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    folder = create(recipe)
    folder.update(status="interrupted")
    assert latest(recipe) == folder


def test_a_finished_sweep_is_not_resumed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    create(recipe).update(status="finished")
    with pytest.raises(UserError, match="no unfinished sweep 'tiny-test'"):
        latest(recipe)


def test_only_a_sweep_that_is_done_may_get_more_seeds(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path), sweep__seeds=[1, 2])
    with pytest.raises(UserError, match=r"sweep 'tiny-test': there is none in .*\. Leave out --resume to start one$"):
        latest(recipe)
    create(recipe).update(status="finished")
    with pytest.raises(UserError, match=r"sweep 'tiny-test': .* is done\. Add seeds or methods to it, or"):
        latest(recipe)


def test_a_single_run_gets_none(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path), seed=7, sweep__seeds=[7], sweep__methods=["standard"])
    with pytest.raises(UserError, match=r"no unfinished run standard-s7 of 'tiny-test': there is none"):
        latest(recipe)
    create(recipe).update(status="finished")
    with pytest.raises(UserError, match=r"is done\. Leave out --resume to start one$"):
        latest(recipe)


def test_a_changed_recipe_is_not_resumed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    create(make_recipe(output=str(tmp_path)))
    with pytest.raises(UserError, match=r"train.lr: 0.003 -> 0.1"):
        latest(make_recipe(output=str(tmp_path), train__lr=0.1))


def test_a_sweep_of_another_version_is_not_resumed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    create(recipe).update(config_hash="000000000000", raymdm_version="0.0.7")
    with pytest.raises(UserError, match=r"another version of raymdm \(0\.0\.7; this is .*start a new sweep") as raised:
        latest(recipe)
    assert "another recipe" not in str(raised.value)


def test_what_does_not_change_results_may_change_and_holds_from_then_on(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    folder = create(make_recipe(output=str(tmp_path)))
    changed = make_recipe(output=str(tmp_path), sweep__max_concurrent=1, train__cpus_per_worker=0.3)
    latest(changed).store_recipe(changed)
    assert folder.recipe() == changed


def test_sweeps_of_other_names_and_recipes_are_passed_over(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    mine = make_recipe(output=str(tmp_path))
    folder = create(mine)
    folder.path.rename(tmp_path / "tiny-test-20260101-000000")
    other = create(make_recipe(output=str(tmp_path), train__lr=0.1))
    other.path.rename(tmp_path / "tiny-test-20260102-000000")
    longer = create(make_recipe(output=str(tmp_path), name="tiny-test-9"))
    longer.path.rename(tmp_path / "tiny-test-9-20260103-000000")
    assert latest(mine).path.name == "tiny-test-20260101-000000"


def test_a_finished_sweep_grows_by_seeds_and_methods(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = create(make_recipe(output=str(tmp_path), sweep__methods=["standard"], sweep__seeds=[1]))
    folder.update(status="finished")
    assert latest(make_recipe(output=str(tmp_path), sweep__methods=["standard"], sweep__seeds=[1, 2])) == folder
    assert latest(make_recipe(output=str(tmp_path), sweep__methods=["mirror", "standard"], sweep__seeds=[1])) == folder


def test_a_grid_does_not_shrink(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    create(make_recipe(output=str(tmp_path), sweep__methods=["standard", "mirror"], sweep__seeds=[1, 2]))
    with pytest.raises(UserError, match=r"sweep.seeds: \[1, 2\] -> \[1, 3\]"):
        latest(make_recipe(output=str(tmp_path), sweep__methods=["standard", "mirror"], sweep__seeds=[1, 3]))
    with pytest.raises(UserError, match=r"sweep.methods: "):
        latest(make_recipe(output=str(tmp_path), sweep__methods=["standard"], sweep__seeds=[1, 2]))


def test_a_composed_method_of_earlier_runs_stays_as_it_was(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    mine = {"mine": {"extends": "mirror", "density": "p_pots"}}
    create(make_recipe(output=str(tmp_path), methods=mine, sweep__methods=["mine"]))
    more = mine | {"other": {"extends": "standard", "mask": "fixed_size"}}
    latest(make_recipe(output=str(tmp_path), methods=more, sweep__methods=["mine", "other"]))
    changed = {"mine": {"extends": "mirror", "mask": "fixed_size"}}
    with pytest.raises(UserError, match=r"methods.mine"):
        latest(make_recipe(output=str(tmp_path), methods=changed, sweep__methods=["mine"]))


def test_an_adaptive_sweep_takes_no_other_methods(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    seeds = {"initial": 2, "max": 4, "stop_when": "decided(mirror, standard)"}
    create(make_recipe(output=str(tmp_path), sweep__methods=["standard", "mirror"], sweep__seeds=seeds))
    with pytest.raises(UserError, match=r"sweep\.methods"):
        latest(make_recipe(output=str(tmp_path), sweep__methods=["standard", "mirror", "ema"], sweep__seeds=seeds))


def test_the_same_sweep_is_not_run_twice_at_once(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path))
    folder = create(recipe)
    with owned(folder), pytest.raises(UserError, match="another process is running it"):
        create(recipe)
    with owned(folder):
        assert create(make_recipe(output=str(tmp_path), train__lr=0.1)) != folder


def test_of_two_that_begin_at_once_one_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, both, told = make_recipe(output=str(tmp_path)), Barrier(2), Barrier(2)

    def begin_one() -> str:
        both.wait()
        try:
            with taken(recipe, {}, create):
                told.wait()  # the other one is refused, or has begun too
                return ""
        except UserError as error:
            told.wait()
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = sorted(future.result() for future in [pool.submit(begin_one) for _ in range(2)])
    assert said[0] == "" and "another process is running it" in said[1]
    assert len(list(tmp_path.glob("*/sweep.json"))) == 1


def test_a_folder_that_another_process_has_just_made_is_left_to_it(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime(2026, 5, 1, 12, 0, 59)
    monkeypatch.setattr(begin, "_next_moment", lambda recipe: moment)
    (tmp_path / "tiny-test-20260501-120059").mkdir()
    assert create(make_recipe(output=str(tmp_path))).path.name == "tiny-test-20260501-120100"


def test_folders_stay_in_order_when_the_clock_goes_back(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        now_is = datetime(2026, 5, 1, 12, 0, 0)

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return cls.now_is

    monkeypatch.setattr(begin, "datetime", Clock)
    recipe = make_recipe(output=str(tmp_path))
    first = create(recipe)
    Clock.now_is = datetime(2020, 1, 1)
    second = create(recipe)
    third = create(recipe)
    assert first.path.name < second.path.name < third.path.name
    assert latest(recipe) == third


def test_a_driver_elsewhere_finds_the_sweep_on_the_storage(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    storage = str(tmp_path / "storage")
    folder = create(make_recipe(output=str(tmp_path / "one"), storage_path=storage))
    folder.update(status="interrupted")
    folder.storage.write("trials/standard-s1/result.json", b'{"status": "finished"}')
    folder.storage.write("calibrations/bernoulli/density.json", b"{}")
    found = latest(make_recipe(output=str(tmp_path / "two"), storage_path=storage))
    assert found.path == tmp_path / "two" / folder.path.name
    assert found.state()["status"] == "interrupted"
    assert ended(found, ("standard", 1))
    assert (found.calibrations / "bernoulli" / "density.json").exists()


def test_a_failed_run_is_set_aside_with_its_error(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = create(make_recipe(output=str(tmp_path)))
    for number in (1, 2):
        write_json(folder.trial("standard", 1) / "result.json", {"status": "failed", "error": f"no {number}"})
        set_aside(folder, ("standard", 1))
        assert not ended(folder, ("standard", 1))
        assert f"no {number}" in (folder.trial("standard", 1) / f"failure-{number}.json").read_text()


def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a sweep"):
        opened(tmp_path)


def test_a_sweep_is_opened_by_its_folder(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = create(make_recipe(output=str(tmp_path)))
    assert opened(folder.path) == folder == SweepFolder(folder.path)


def test_an_unfinished_sweep_comes_before_a_newer_one_that_would_grow(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path), sweep__seeds=[1, 2])
    unfinished = create(recipe)
    unfinished.update(status="interrupted")
    create(make_recipe(output=str(tmp_path), sweep__seeds=[1])).update(status="finished")
    assert latest(recipe) == unfinished


def test_a_crash_between_recipe_and_state_loses_no_sweep(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_recipe(output=str(tmp_path), sweep__seeds=[1])
    grown = make_recipe(output=str(tmp_path), sweep__seeds=[1, 2])
    folder = create(small)
    folder.update(status="interrupted")
    write, after = SweepFolder.write, []

    def crash(self: SweepFolder, name: str, content: str) -> None:
        if after:
            raise KeyboardInterrupt
        write(self, name, content)
        after.extend([name] * (name == "recipe.yaml"))

    monkeypatch.setattr(SweepFolder, "write", crash)
    with pytest.raises(KeyboardInterrupt):
        folder.store_recipe(grown)
    monkeypatch.undo()
    assert latest(grown) == folder


def test_a_driver_that_comes_back_takes_over_what_another_did(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    storage = str(tmp_path / "storage")
    here = make_recipe(output=str(tmp_path / "one"), storage_path=storage)
    folder = create(here)
    folder.write("trials/standard-s1/result.json", '{"status": "failed"}')
    folder.update(status="interrupted")
    other = latest(make_recipe(output=str(tmp_path / "two"), storage_path=storage))
    set_aside(other, ("standard", 1))
    other.update(stopped="elsewhere")
    assert latest(here) == folder
    assert folder.state()["stopped"] == "elsewhere"
    assert not ended(folder, ("standard", 1))
