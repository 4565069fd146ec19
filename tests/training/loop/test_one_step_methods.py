"""Whole runs by the one-step methods: they resume to the same network, and stop where they overfit."""

import pytest
import torch

from tests.training.tiny_run import arguments, failure, rows
from training.checkpoint import load_checkpoint
from training.command import main
from training.loop import trainer
from training.loop.perturbations import PerturbationStore
from training.loop.validation import Validation

METHODS = {
    "nuat": ("--method=nuat", "--ema-decay=0.9", "--attack-start=prior"),
    "liet": ("--method=liet", "--label-smoothing=0.1"),
    "prior": ("--method=pgd", "--attack-steps=1", "--attack-start=prior", "--start-consistency=10"),
}
ONE_EPOCH = trainer.Trainer._train_epoch


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_gives_the_uninterrupted_network(name, picture_folder, runs, monkeypatch):
    def stopping(self, index, bar):
        if index == 1:
            raise KeyboardInterrupt
        return ONE_EPOCH(self, index, bar)

    assert main(arguments(picture_folder, "whole", *METHODS[name], epochs=2)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_train_epoch", stopping)
        assert main(arguments(picture_folder, "parts", *METHODS[name], epochs=2)) == 130
    assert main(arguments(picture_folder, "parts", *METHODS[name], "--resume", epochs=2)) == 0
    whole, parts = (torch.load(runs / run / "state.pt", weights_only=True) for run in ("whole", "parts"))
    for part in ("model", "average") if "average" in whole else ("model",):
        for key, value in whole[part].items():
            assert torch.equal(value, parts[part][key]), key
    assert ("perturbations" in whole) == ("--attack-start=prior" in METHODS[name])
    if "perturbations" in whole:
        assert whole["perturbations"].dtype == torch.int8
        assert whole["perturbations"].shape == (120, 3, 10, 10)
        assert torch.equal(whole["perturbations"], parts["perturbations"])
        assert whole["perturbations"].abs().float().mean() < 127  # not the corners that it started with


def test_every_step_starts_where_the_picture_was_left(picture_folder, runs, monkeypatch):
    """The second epoch's starts are the first epoch's ends: there is one crop, and there are no mirror images."""
    starts, ends = [], []
    take, put = PerturbationStore.take, PerturbationStore.put

    def taking(self, chosen, placement):
        starts.append(dict(zip(chosen.tolist(), take(self, chosen, placement), strict=True)))
        return take(self, chosen, placement)

    def putting(self, chosen, placement, perturbations):
        ends.append(dict(zip(chosen.tolist(), perturbations, strict=True)))
        put(self, chosen, placement, perturbations)

    monkeypatch.setattr(PerturbationStore, "take", taking)
    monkeypatch.setattr(PerturbationStore, "put", putting)
    options = ("--method=pgd", "--attack-steps=1", "--attack-start=prior", "--crop-padding=0", "--no-flip")
    assert main(arguments(picture_folder, "run", *options, epochs=2)) == 0
    steps = len(starts) // 2
    last = {index: end for batch in ends[:steps] for index, end in batch.items()}
    compared = 0
    for batch in starts[steps:]:
        for index, start in batch.items():
            if index in last:
                assert (start - last[index]).abs().max() < 8 / 255 / 127
                compared += 1
    assert compared > 50


@pytest.mark.parametrize("name", ["nuat", "liet"])
def test_training_stops_where_the_figures_show_catastrophic_overfitting(
    name, picture_folder, runs, capsys, monkeypatch
):
    epochs = iter([{"val_fgsm": 0.5, "val_pgd10": 0.45}, {"val_fgsm": 0.9, "val_pgd10": 0.0}])

    def measured(self, model, tell):
        figures = next(epochs)
        return {"val_clean": 0.95, "val_cw10": figures["val_pgd10"], "val_lowest": figures["val_pgd10"], **figures}

    monkeypatch.setattr(Validation, "measure", measured)
    monkeypatch.setattr("training.loop.trainer.attacked_pictures", lambda *_: 500)
    error = failure(capsys, arguments(picture_folder, "run", *METHODS[name]))
    assert "epoch 2: catastrophic overfitting" in error
    assert len(rows(runs / "run")) == 2
    _, info = load_checkpoint(runs / "run" / "model.safetensors")
    assert info.history["epoch"] == 1


def test_a_state_without_its_perturbations_is_refused(picture_folder, runs, capsys):
    options = arguments(picture_folder, "run", *METHODS["prior"], epochs=1)
    assert main(options) == 0
    state = torch.load(runs / "run" / "state.pt", weights_only=True)
    del state["perturbations"]
    torch.save(state, runs / "run" / "state.pt")
    capsys.readouterr()
    assert "a training state without its perturbations" in failure(capsys, [*options, "--resume"])


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_they_train_and_resume_on_a_gpu(name, picture_folder, runs):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that PyTorch can use")
    options = (*METHODS[name], "--device=cuda", "--precision=bf16")
    assert main(arguments(picture_folder, "run", *options, epochs=1)) == 0
    assert main(arguments(picture_folder, "run", *options, "--resume", epochs=2)) == 0
    assert [row["epoch"] for row in rows(runs / "run")] == ["1", "2"]
    network, _ = load_checkpoint(runs / "run" / "model.safetensors")
    assert all(parameter.isfinite().all() for parameter in network.parameters())
