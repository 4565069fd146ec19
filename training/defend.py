"""Put a defence around the static network of a checkpoint: an inference rule, nothing is trained.

    python -m training.defend --ckpt runs/plain/model.safetensors --defence anti-adversary --out defended.safetensors

The result is a checkpoint like any other: judge it, export it and serve it. "Block on" is the defence then, "block off"
the static network. A block and a threshold of self_gradient=auto that the checkpoint has are left out.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sgn_serve.common.command_parser import CommandParser, file_to_write, whole_number
from sgn_serve.common.error_text import say
from training.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint, save_checkpoint
from training.common.command_line import number
from training.common.errors import TrainingError
from training.common.files import check_writable
from training.networks.defences.build import DEFENCES, DefenceConfig, build_defence
from training.networks.defences.defence import Defence
from training.networks.errors import ArchitectureError
from training.networks.gradient_oracle import GradientOracle
from training.networks.self_gradient import SelfGradientNetwork

PROGRAM = "python -m training.defend"


def defended(
    network: SelfGradientNetwork, info: CheckpointInfo, config: DefenceConfig
) -> tuple[Defence, CheckpointInfo]:
    """Return a defence around the static network of another, in eval mode, and its description.

    Args:
        network: The network. Its backbone is shared, not copied; its block is left out.
        info: Its description.
        config: The defence.

    Raises:
        ArchitectureError: There is no such defence, or the network is a gradient oracle, which needs labels.
    """
    if isinstance(network, GradientOracle):
        raise ArchitectureError("a gradient oracle needs labels; put a defence around a network of another --method")
    defence = build_defence(config, network.backbone, info.mean, info.std, info.image_size)
    # The history tells of the network as it was trained, with its block.
    return defence.eval(), replace(info, block=None, auto_margin=None, history={}, defence=config)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(PROGRAM, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="checkpoint of the static network")
    parser.add_argument("--defence", choices=tuple(DEFENCES), required=True, help="the inference rule")
    parser.add_argument(
        "--steps", type=whole_number, help="gradient steps, or noisy copies (default: the usual number)"
    )
    parser.add_argument(
        "--scale",
        type=number,
        help="size of a step, or deviation of the noise, in units of pixel intensity; of gradient-denoiser, the share "
        "of its step (default: the usual one)",
    )
    parser.add_argument("--out", type=file_to_write, required=True, metavar="PATH", help="a .safetensors to write")
    return parser


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    options = build_parser().parse_args(command_line)
    usual = DEFENCES[options.defence]
    try:
        if options.out.suffix != ".safetensors":
            raise CheckpointError(f"--out {options.out}: a checkpoint is a .safetensors file; name one")
        check_writable(options.out)
        config = DefenceConfig.from_values(
            {
                "name": usual.name,
                "steps": usual.steps if options.steps is None else options.steps,
                "scale": usual.scale if options.scale is None else options.scale,
            }
        )
        defence, info = defended(*load_checkpoint(options.ckpt), config)
        save_checkpoint(options.out, defence.state_dict(), info)
    except ArchitectureError as error:  # what the options ask for
        say(f"error: --defence {options.defence}: {error}")
        return TrainingError.exit_status
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    print(f"wrote {options.out}: {info.architecture} with the defence {config.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
