"""The command line of `python -m training`: what it refuses, and with which words."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.checkpoints import save_untrained, tiny_info
from tests.training.tiny_run import arguments, failure, rows
from training.command import main
from training.evaluate import command
from training.train import kept_line


def test_mistakes_get_one_line_that_names_the_fix(picture_folder, runs, capsys):
    assert "known are: wrn-D-K" in failure(capsys, arguments(picture_folder, "a", "--arch", "vgg"))
    assert "nothing to resume" in failure(capsys, arguments(picture_folder, "a", "--resume"))
    assert "lower --batch-size, such as --batch-size " in failure(
        capsys, arguments(picture_folder, "a", "--batch-size", "500")
    )
    assert "write 8 of 255 levels as 8/255" in failure(capsys, arguments(picture_folder, "a", "--epsilon", "8"))
    assert "--method standard" in failure(capsys, arguments(picture_folder, "a", "--attack-steps", "0"))
    assert "it is for trades" in failure(capsys, arguments(picture_folder, "a", "--trades-beta", "3"))
    assert "--activation such as silu" in failure(capsys, arguments(picture_folder, "a", "--attack-view", "full"))
    assert "no such file" in failure(capsys, arguments(picture_folder, "a", "--init-from", "none.safetensors"))
    # The folder is empty: whoever got as far as reading pictures would say so.
    nowhere = runs / "nowhere"
    nowhere.mkdir(parents=True)
    for name in ("gpu", "cuda:99"):
        assert "pass --device cpu" in failure(capsys, arguments(nowhere, "a", "--device", name))
    for count in ("0", "-1"):
        assert "--threads must be at least 1" in failure(capsys, arguments(nowhere, "a", "--threads", count))
    assert "--threads must not be 999" in failure(capsys, arguments(nowhere, "a", "--threads", "9" * 30))
    for name in ("../x", "/tmp/x", "a/../../b", ".", "a//b"):
        error = failure(capsys, arguments(nowhere, name))
        assert f"--run {name!r} is no name of a folder in runs/; give one without '..'" in error
    assert "is not UTF-8; give a name that is" in failure(capsys, arguments(nowhere, "n\udcff"))
    assert "--run has a part of 256 bytes, too long" in failure(capsys, arguments(nowhere, "a/" + "\xfc" * 128))
    for option in ("--cutout=9", "--crop-padding=9"):
        error = failure(capsys, arguments(nowhere, "a", "--image-size=8", option))
        assert "9 is more than the 8 pixels of a picture's side; pass a smaller one" in error
        assert "is more than the 8 pixels" in failure(capsys, arguments(picture_folder, "a", option))
    assert "--lr-warmup does nothing" in failure(
        capsys, arguments(nowhere, "a", "--lr-schedule=step", "--lr-warmup=0.1")
    )
    for arch, side in (("wrn-10-1", 2), ("preact-resnet-18", 4)):
        small = (f"--arch={arch}", f"--image-size={side}", "--precision=bf16")
        assert "pass --precision float32, or a larger --image-size" in failure(capsys, arguments(nowhere, "a", *small))
    tiny = ("--image-size=1", "--crop-padding=0", "--batch-size=1", "--arch=preact-resnet-18")
    assert "pass a larger --batch-size or --image-size" in failure(capsys, arguments(nowhere, "a", *tiny))
    assert not (runs / "a").exists()


def test_a_number_that_is_none_is_refused_by_its_flag(picture_folder, capsys):
    for text in ("8/0", "x", "nan", "1e999"):
        with pytest.raises(SystemExit):
            main(arguments(picture_folder, "a", "--epsilon", text))
        error, usage = capsys.readouterr().err.splitlines()
        assert error == f"error: argument --epsilon/--eps: {text!r} is not a number; write it like 0.1 or 8/255"
        assert usage.startswith("usage: python -m training --data-root ")


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(picture_folder, runs, capsys):
    standard = ("--method", "standard")
    assert main(arguments(picture_folder, "a", *standard, epochs=1)) == 0
    before = (runs / "a" / "model.safetensors").read_bytes()
    assert "add --resume" in failure(capsys, arguments(picture_folder, "a", *standard, epochs=1))
    error = failure(capsys, arguments(picture_folder, "a", *standard, "--resume", "--seed", "5", epochs=1))
    assert "seed (was 0, now 5)" in error
    error = failure(capsys, arguments(picture_folder, "a", *standard, "--resume", "--arch", "wrn-16-1", epochs=1))
    assert "arch (was wrn-10-1, now wrn-16-1); give the same ones as then" in error
    assert (runs / "a" / "model.safetensors").read_bytes() == before
    assert main(arguments(picture_folder, "a", *standard, "--resume", epochs=1)) == 0
    (row,) = rows(runs / "a")
    shown = [f"{name} {float(row[name]):.4g}" for name in ("val_clean", "val_lowest")]
    told = capsys.readouterr().out
    assert f"kept so far: epoch 1, {', '.join(shown)}\n" in told
    assert f"\nkept: epoch 1, {', '.join(shown)} (epochs trained: 1)\n" in told
    (runs / "a" / "state.pt").unlink()
    assert "move it away or give another --run" in failure(capsys, arguments(picture_folder, "a", *standard, epochs=1))


def test_the_epoch_that_is_kept_is_that_of_the_checkpoint(tmp_path):
    history = {"epoch": 7, "val_clean": 0.8125, "val_lowest": 0.25, "val_fgsm": 0.5}
    checkpoint = save_untrained(tmp_path, replace(tiny_info(), history=history))
    assert kept_line(checkpoint) == "kept so far: epoch 7, val_clean 0.8125, val_lowest 0.25"
    assert kept_line(tmp_path / "none.safetensors") == ""


def test_other_pictures_are_refused_before_they_are_read(picture_folder, runs, tmp_path, capsys):
    standard = ("--method", "standard")
    assert main(arguments(picture_folder, "a", *standard, epochs=1)) == 0
    fewer = tmp_path / "fewer"
    for name in ("blue", "red"):
        (fewer / "train" / name).mkdir(parents=True)
        # A file that is no picture: that it goes unnoticed shows that no picture was opened.
        (fewer / "train" / name / "0.png").write_text("not a picture")
    fix = "2 classes (blue, red), but the checkpoint is for 3 classes (blue, green, red); give the --dataset"
    assert fix in failure(capsys, arguments(fewer, "a", *standard, "--resume", epochs=1))
    start = ("--init-from", str(runs / "a" / "model.safetensors"))
    assert fix in failure(capsys, arguments(fewer, "b", *standard, *start, epochs=1))
    assert fix in evaluation_failure(capsys, runs / "a" / "model.safetensors", fewer)


def evaluation_failure(capsys, checkpoint: Path, data_root: Path) -> str:
    assert command.main([f"--ckpt={checkpoint}", f"--data-root={data_root}", "--split=train", "--device=cpu"]) == 2
    return capsys.readouterr().err
