"""The loop: a window, a step of the optimiser, again, until the budget is spent."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import Any

import torch

from throughtime.errors import RunError
from throughtime.runs import Run
from throughtime.runs.run import CONFIG
from throughtime.training import checkpoint
from throughtime.training.budget import Budget, epochs
from throughtime.training.config import TrainingConfig
from throughtime.training.evaluation import Evaluation, evaluate, to_device
from throughtime.training.interrupt import Interrupted, Interrupts
from throughtime.training.journal import Journal, Position
from throughtime.training.looks import Looks
from throughtime.training.processes import Processes
from throughtime.training.reporter import Plan, Reporter, Summary
from throughtime.training.sample import Sampler, sample_of
from throughtime.training.schedule import factor
from throughtime.training.spikes import Place
from throughtime.training.spikes_guard import Guard
from throughtime.training.step import Step
from throughtime.training.task import Task, Window


class Trainer:
    """One training under way; see `throughtime.training.train`. First `begin`, then `go`."""

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        window: int,
        run: Run,
        processes: Processes,
        report: Reporter,
        sample: Sampler | None,
    ) -> None:
        self.task, self.config, self.window, self.run = task, config, window, run
        self.processes, self.device = processes, processes.device
        self.report, self.sample = report, sample
        self.budget = Budget.of(config)
        torch.manual_seed(config.seed)
        self.model = task.build().to(self.device)
        processes.share([*self.model.parameters(), *self.model.buffers()])
        if processes.rank:  # the same weights everywhere, but not the same dropout masks
            torch.manual_seed(config.seed + 1_000_003 * processes.rank)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.streams = task.streams(
            window, config.batch, seed=config.seed, rank=processes.rank, world=processes.world
        )
        self.step = Step(self.model, task.loss, config, processes, self.generator)
        self.guard = Guard(config, self.step, task, self.device)
        self.journal = Journal(run, report, self.guard, writes=processes.first)
        self.steps, self.spent, self.lr = 0, 0.0, 0.0
        self.looks = Looks(config.evaluate_every)
        self.state: Any = None
        self.latest: Evaluation | None = None
        self.best: Evaluation | None = None
        self.seconds = self._seconds_before = self._saved_at = self._since = 0.0

    def begin(self, resume: bool) -> None:
        """Take up the run's checkpoint, or start.

        Raises: RunError when there is a checkpoint and `resume` is not set, or it cannot be this training's.
        """
        tree = self.processes.tell(self.run.load_checkpoint() if self.processes.first else None)
        if tree is not None:
            if not resume:
                raise RunError(
                    f"{self.run.path} holds a training; choose another --out, or --resume to go on"
                )
            self._restore(tree)
        if self.processes.first:
            self.run.rewind_history(self.steps)
        plan = Plan(
            unit=self.task.unit,
            budget=str(self.budget),
            strategy=self.step.strategy.describe(),
            window=self.window,
            batch=self.config.batch * self.processes.world,
            steps_per_epoch=len(self.streams),
            parameters=sum(parameter.numel() for parameter in self.step.parameters),
            device=str(self.device),
            processes=self.processes.world,
            path=self.run.path,
            resumed_at=self.steps,
        )
        self.report.start(plan)
        for remark in self.task.remarks():
            self.report.message(remark)
        if self.spent >= 1:
            self.report.message(
                f"the training is complete: {self.budget}, {self.steps} steps. {self._longer()}"
            )

    def go(self, interrupts: Interrupts) -> Summary:
        """Train until the budget is spent."""
        self._since = time.monotonic()
        if self.steps == 0:
            self._write_sample()
        config = self.config
        for window in self._windows():
            count, signal = self._agree(window, interrupts)
            self.lr = config.lr * factor(config.schedule, config.warmup, self.spent, self.steps)
            self.lr *= self.guard.before(self.steps)
            before = self._state_for(window)
            place = Place.of(self.streams, fresh=before is None, lr=self.lr)
            reading, self.state = self.step.gradients(window, before, count, place)
            self.journal.meter.add(reading)
            if self.guard.at_once and self.journal.read(self.seconds):
                self.state = None  # the weights that made it are gone
            else:
                if self.guard.watch.due(self.steps + 1):
                    self._watch(window, before)
                self.step.update(self.lr)
            self.steps += 1
            if self.processes.world == 1:
                self.seconds = self._clock()
            self.spent = self.budget.spent(self.steps, self.streams, self.seconds)
            self._after_step()
            if signal and self.spent < 1:
                self._save()
                raise Interrupted(self._how_to_go_on(), signal)
        return Summary(
            step=self.steps,
            epoch=epochs(self.streams),
            tokens=self.journal.meter.tokens,
            seconds=self.seconds,
            loss=self.journal.loss,
            evaluation=self.latest,
            best=self.best,
            path=self.run.path,
        )

    def _windows(self) -> Iterator[Window]:
        while self.spent < 1:
            for window in self.streams.epoch():
                yield window
                if self.spent >= 1:
                    return

    def _clock(self) -> float:
        return self._seconds_before + time.monotonic() - self._since

    def _agree(self, window: Window, interrupts: Interrupts) -> tuple[int, int]:
        """What all processes must know alike: the targets of all of them, the first one's clock, and a signal."""
        seconds = self._clock() if self.processes.first else 0.0
        count, self.seconds, signal = self.processes.sum(window.count, seconds, interrupts.received)
        return int(count), interrupts.received or int(signal)

    def _state_for(self, window: Window) -> Any:
        if window.fresh:
            return None
        if isinstance(self.state, checkpoint.Carried):
            return self.state.state(self.model, to_device(window.inputs, self.device))
        return self.state

    def _after_step(self) -> None:
        """Tell, evaluate and save what is due."""
        config, done = self.config, self.spent >= 1
        left = self.budget.seconds_left(self.spent, self.seconds)
        at = Position(self.steps, epochs(self.streams), self.spent, self.seconds, left, self.lr)
        self.journal.tell(at, now=done or self.steps == 1)
        if done or self.steps % config.log_every == 0:
            self.journal.record(at)
        if self.looks.due(self.steps, self.spent):
            self._evaluate(at)
            self._write_sample()
        due = config.checkpoint_steps is not None and self.steps % config.checkpoint_steps == 0
        if done or due or self.seconds - self._saved_at >= config.checkpoint_seconds:
            self._save()

    def _watch(self, window: Window, before: Any) -> None:
        """Look at the gradient's way through time, between a step's gradient and its update."""
        self.journal.read(self.seconds)
        if not self.processes.first:
            return
        step, norm = self.steps + 1, self.journal.meter.norm
        found = self.guard.watch.look(step, window, before, norm)
        if found is None:
            self.report.message(f"the gradient's way is not watched: {self.guard.watch.refusal}")
            return
        at = Position(step, epochs(self.streams), self.spent, self.seconds, None, self.lr)
        self.journal.watched(at, found)

    def _evaluate(self, at: Position) -> None:
        windows = self.task.validation(self.window, self.config.batch)
        if windows is None:
            return
        self.journal.read(self.seconds)
        # Every process does all of it: the same arithmetic on the same weights, and nobody waits for another.
        precision = self.config.precision
        latest = evaluate(self.model, windows, self.task.loss, device=self.device, precision=precision)
        better = self.best is None or latest.loss < self.best.loss
        self.latest, self.best = latest, latest if better else self.best
        self.journal.evaluated(at, latest, better)
        if better and self.config.keep == "best" and self.processes.first:
            self.run.save_model(self.model.state_dict())

    def _write_sample(self) -> None:
        if self.sample is None or not self.processes.first:
            return
        if text := sample_of(self.model, self.sample, self.device):
            self.report.sample(text)

    def _save(self) -> None:
        self.journal.read(self.seconds)  # nothing is saved after a step that went wrong
        own = checkpoint.own_part(self.streams, self.state, self.generator, self.device)
        parts = self.processes.gather(own)
        self._saved_at = self.seconds
        if not self.processes.first:
            return
        # The model first: a training that is killed between the two makes the same model again.
        if self.config.keep == "last" or self.best is None:
            self.run.save_model(self.model.state_dict())
        tree = {
            "steps": self.steps,
            "spent": self.spent,
            "seconds": self.seconds,
            "looks": self.looks.state_dict(),
            "latest": checkpoint.numbers_of(self.latest),
            "best": checkpoint.numbers_of(self.best),
            "journal": self.journal.state_dict(),
            "guard": self.guard.state_dict(),
            "model": dict(self.model.state_dict()),
            "optimizer": self.step.optimizer.state_dict(),
            "parts": parts,
        }
        self.run.save_checkpoint(tree)

    def _restore(self, tree: dict[str, Any]) -> None:
        part = checkpoint.check_world(tree["parts"], self.processes)
        checkpoint.load_weights(tree, self.model, self.step.optimizer, self.run.path)
        checkpoint.restore_own_part(part, self.streams, self.generator, self.device)
        self.state = None if part["carried"] is None else checkpoint.Carried(part["carried"])
        self.steps, self.spent = tree["steps"], tree["spent"]
        self.looks.load_state_dict(tree["looks"])
        self.latest, self.best = map(checkpoint.evaluation_of, (tree["latest"], tree["best"]))
        self.seconds = self._seconds_before = self._saved_at = tree["seconds"]
        self.journal.load_state_dict(tree["journal"], self.seconds)
        self.guard.load_state_dict(tree["guard"])

    def _longer(self) -> str:
        """What to do for more of it: the learning rate has come down, so a longer training starts anew."""
        path, kind = self.run.path, self.budget.kind
        command = f"throughtime train {self.task.name} --config {shlex.quote(str(path / CONFIG))}"
        out = shlex.quote(str(path.with_name(path.name + "-longer")))
        return (
            "It cannot go on, as its learning rate was planned for that end; "
            f"for a longer one, train anew: {command} --{kind} {2 * self.budget.amount:g} --out {out}"
        )

    def _how_to_go_on(self) -> str:
        command = f"throughtime train {self.task.name} --resume --out {shlex.quote(str(self.run.path))}"
        return f"training was interrupted at step {self.steps}; all of it is saved, go on with: {command}"
