"""A toy run in a process of its own, for tests that kill it: ``child.py OUTPUT_DIR FAULT``.

Faults: ``kill-in-save`` (SIGKILL while step 4 is written), ``two-interrupts`` (Ctrl-C twice in one
step), ``hold`` (say so and wait for the end of standard input), ``none``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from mindformers.parallel.runtime import start_runtime
from mindformers.training import step_folder
from mindformers.training.callbacks import Callback, CheckpointMonitor
from mindformers.training.loop import train
from mindformers.training.run import TrainSettings
from tests.unit.training.toy import Losses, ToyData, toy_step


class KillInSave(Callback):
    """Die between the weights and the optimizer of step 4."""

    def on_step_end(self, run, report):
        if report.global_step != 4:
            return
        write = step_folder.write_safetensors

        def write_then_die(path, tensors):
            write(path, tensors)
            if path.name != "optimizer.safetensors":
                os.kill(os.getpid(), signal.SIGKILL)

        step_folder.write_safetensors = write_then_die


class InterruptTwice(Callback):
    """Be interrupted twice, then work on for a long time."""

    def on_step_end(self, run, report):
        if report.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(600)


class Hold(Callback):
    """Keep the output folder until standard input ends."""

    def on_train_begin(self, run):
        print("holding", flush=True)
        sys.stdin.read()


def main(output_dir: str, fault: str) -> int:
    start_runtime(mode=1)
    faults = {"kill-in-save": KillInSave, "two-interrupts": InterruptTwice, "hold": Hold}
    callbacks = [faults[fault]()] if fault in faults else []
    monitor = CheckpointMonitor("toy", save_checkpoint_steps=2, checkpoint_format="safetensors")
    settings = TrainSettings(output_dir=output_dir, seed=5)
    result = train(toy_step(), ToyData(), settings, callbacks=[*callbacks, Losses(), monitor])
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
