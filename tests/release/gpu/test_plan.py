"""The order of stages and their limits of time."""

from release.gpu.plan import ALL, PLAN, Stage, choose, limit


def test_shares_leave_what_later_stages_reserve() -> None:
    stages = (
        Stage("one", "", 100),
        Stage("two", "", 3600, share=0.5),
        Stage("three", "", 3600, share=1.0),
        Stage("four", "", 3600, reserved=60),
    )
    assert limit(stages, 0, 500) == 100
    assert limit(stages, 0, 30) == 30
    assert limit(stages, 1, 260) == 100
    assert limit(stages, 2, 160) == 100
    assert limit(stages, 2, 50) == 0
    assert limit(stages, 3, 60) == 60


def test_nine_minutes_leave_time_to_train_even_if_all_else_takes_its_limit() -> None:
    index = [stage.name for stage in PLAN].index("train-plain")
    usual = {"environment": 6, "kernels": 60, "tests": 90, "peak": 20, "speed": 120, "serving": 3, "pictures": 20}
    left = 540 - sum(usual[stage.name] for stage in PLAN[:index])
    assert limit(PLAN, index, left) > 60


def test_stages_are_chosen_in_the_order_of_the_plan() -> None:
    assert [stage.name for stage in choose(["attacks", "recipes", "peak"])] == ["peak", "recipes", "attacks"]
    assert choose([]) == PLAN
    assert [stage.name for stage in ALL if stage not in PLAN] == ["train-resnet-18", "recipes"]
