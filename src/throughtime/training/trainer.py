"""The loop: a batch, an optimizer step, again, until the budget is spent."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from throughtime import bptt
from throughtime.data.batch import Batch
from throughtime.errors import InputError, RunError
from throughtime.layers.eval_mode import evaluating
from throughtime.models.build import limits
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.runs.run import CONFIG
from throughtime.tasks import Task
from throughtime.tasks.recorded import init_weights, model_config_of
from throughtime.training import checkpoint
from throughtime.training.config import TrainingConfig
from throughtime.training.evaluation import Evaluation, evaluate
from throughtime.training.guard import Guard
from throughtime.training.interrupt import Interrupted, Interrupts
from throughtime.training.journal import Journal, Position
from throughtime.training.processes import Processes
from throughtime.training.reporting import Reporter, TrainingResult, TrainingStart
from throughtime.training.schedule import Budget, EvaluationSchedule, epochs, factor
from throughtime.training.spikes import Place
from throughtime.training.step import Step

Sampler = Callable[[nn.Module], str]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


class Trainer:
    """A training in progress; see `throughtime.training.train`. First `begin`, then `go`."""

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
        self.model_config: ModelConfig = model_config_of(run)
        self.budget = Budget.of(config)
        torch.manual_seed(config.seed)
        self.model = task.build(self.model_config, run.assets)
        if config.init_from is not None:
            init_weights(self.model, Run.open(config.init_from))
        self.model.to(self.device)
        processes.share([*self.model.parameters(), *self.model.buffers()])
        if processes.rank:  # the same weights everywhere, but not the same dropout masks
            torch.manual_seed(config.seed + 1_000_003 * processes.rank)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.data = task.batches(
            run.assets,
            steps=window,
            batch=config.batch,
            seed=config.seed,
            rank=processes.rank,
            world=processes.world,
        )
        self.step = Step(self.model, task.training_loss(run.assets), config, processes, self.generator)
        check_strategy(self.model, self.step.strategy, window if task.stream else None)
        self.guard = Guard(config, self.step, self.device)
        self.journal = Journal(run, report, self.guard, task.describe_loss, writes=processes.first)
        self.steps, self.spent, self.lr = 0, 0.0, 0.0
        self.evaluations = EvaluationSchedule(config)
        self.state: Any = None
        self.latest: Evaluation | None = None
        self.best: Evaluation | None = None
        self.waited = 0  # evaluations since the best one
        self.seconds = self._seconds_before = self._saved_at = self._since = 0.0

    def begin(self, resume: bool) -> None:
        """Load the run's checkpoint, or start.

        Raises: RunError when there is a checkpoint and `resume` is not set, or it cannot be this training's.
        """
        tree = self.processes.tell(self.run.load_checkpoint() if self.processes.first else None)
        if tree is not None:
            if not resume:
                raise RunError(
                    f"{self.run.path} holds a training; choose another --out, or --resume to continue it"
                )
            self._restore(tree)
        if self.processes.first:
            self.run.rewind_history(self.steps)
        self.report.start(
            TrainingStart(
                unit=self.task.unit,
                budget=str(self.budget),
                strategy=self.step.strategy.describe(),
                parameters=sum(parameter.numel() for parameter in self.step.parameters),
                device=str(self.device),
                processes=self.processes.world,
                path=self.run.path,
                resumed_at=self.steps,
            )
        )
        for remark in (*self.task.remarks(self.model_config), *self._limits()):
            self.report.message(remark)
        if self.spent >= 1:
            self.report.message(
                f"the training is complete: {self.budget}, {self.steps} steps. {self._longer()}"
            )

    def go(self, interrupts: Interrupts) -> TrainingResult:
        """Train until the budget is spent."""
        self._since = time.monotonic()
        if self.steps == 0:
            self._write_sample()
        config = self.config
        for batch in self._batches():
            count, stopped = self._agree(batch, interrupts)
            self.lr = config.lr * factor(config.schedule, config.warmup, self.spent, self.steps)
            self.lr *= self.guard.before(self.steps)
            before = self._state_for(batch)
            place = Place.of(self.data, reset=before is None, lr=self.lr)
            reading, self.state = self.step.gradients(batch, before, count, place)
            self.journal.meter.add(reading)
            if self.guard.at_once and self.journal.read(self.seconds):
                self.state = None  # the weights that made it were discarded
            else:
                if (every := self.guard.watch.every) and (self.steps + 1) % every == 0:
                    self._watch(batch, before)
                self.step.update(self.lr)
            self.steps += 1
            if self.processes.world == 1:
                self.seconds = self._clock()
            self.spent = self.budget.spent(self.steps, self.data, self.seconds)
            self._after_step()
            if stopped and self.spent < 1:
                self._save()
                raise Interrupted(self._how_to_resume(), stopped)
        return TrainingResult(
            step=self.steps,
            epoch=epochs(self.data),
            targets=self.journal.meter.targets,
            seconds=self.seconds,
            loss=self.journal.loss,
            evaluation=self.latest,
            best=self.best,
            path=self.run.path,
        )

    def evaluate(self, split: str) -> Evaluation | None:
        """The model on a split; None if there is none."""
        batches = self.task.evaluation_batches(
            self.run.assets, split, steps=self.window, batch=self.config.batch
        )
        if batches is None:
            return None
        metrics = self.task.metrics(self.run.assets)
        precision = self.config.precision
        return evaluate(self.model, batches, self.task.loss, metrics, device=self.device, precision=precision)

    def _batches(self) -> Iterator[Batch]:
        while self.spent < 1:
            for batch in self.data.epoch():
                yield batch
                if self.spent >= 1:
                    return

    def _clock(self) -> float:
        return self._seconds_before + time.monotonic() - self._since

    def _agree(self, batch: Batch, interrupts: Interrupts) -> tuple[int, int]:
        """What all processes must know alike: the targets of all of them, the first one's clock, and a signal."""
        seconds = self._clock() if self.processes.first else 0.0
        if self.processes.world == 1:
            self.seconds = seconds
            return batch.num_targets, interrupts.received
        flags = (float(interrupts.received == number) for number in _SIGNALS)
        count, self.seconds, *received = self.processes.sum(batch.num_targets, seconds, *flags)
        return int(count), next((int(n) for n, flag in zip(_SIGNALS, received, strict=True) if flag), 0)

    def _state_for(self, batch: Batch) -> Any:
        if batch.reset:
            return None
        if isinstance(self.state, checkpoint.CarriedState):
            return self.state.restore(self.model, batch.to(self.device))
        return self.state

    def _after_step(self) -> None:
        """Report, evaluate and save what is due."""
        config = self.config
        left = self.budget.seconds_left(self.spent, self.seconds)
        at = Position(self.steps, epochs(self.data), self.spent, self.seconds, left, self.lr)
        due = self.evaluations.due(self.steps, self.spent, self.seconds)
        self.journal.progress(at, now=self.spent >= 1 or self.steps == 1)
        if self.spent >= 1 or self.steps % config.log_every == 0:
            self.journal.record(at)
        if due:
            self._evaluate(at)
            self._write_sample()
        by_steps = config.checkpoint_steps is not None and self.steps % config.checkpoint_steps == 0
        if self.spent >= 1 or by_steps or self.seconds - self._saved_at >= config.checkpoint_seconds:
            self._save()

    def _watch(self, batch: Batch, before: Any) -> None:
        """Measure the gradient through time, between a step's gradient and its update."""
        self.journal.read(self.seconds)
        if not self.processes.first or self.guard.watch.refusal is not None:
            return
        step, norm = self.steps + 1, self.journal.meter.norm
        found = self.guard.watch.measure(step, batch, before, norm)
        if found is None:
            self.report.message(f"the gradient through time is not measured: {self.guard.watch.refusal}")
            return
        at = Position(step, epochs(self.data), self.spent, self.seconds, None, self.lr)
        self.journal.watched(at, found)

    def _evaluate(self, at: Position) -> None:
        self.journal.read(self.seconds)
        # Every process does all of it: the same arithmetic on the same weights, and nobody waits for another.
        start = time.monotonic()
        latest = self.evaluate("validation")
        if latest is None:
            return
        # What decides when the training evaluates and ends must be the same in all processes: the first one's.
        seconds, better = self.processes.tell((time.monotonic() - start, latest.better_than(self.best)))
        self.evaluations.took(seconds)
        self.latest, self.best = latest, latest if better else self.best
        self.waited = 0 if better else self.waited + 1
        self.journal.evaluated(at, latest, better)
        if better and self.config.keep == "best" and self.processes.first:
            self.run.save_model(self.model.state_dict())
        if self.config.patience is not None and self.waited >= self.config.patience and self.spent < 1:
            self.report.message(
                f"step {self.steps}: stopped early, {self.waited} evaluations without an improvement (patience)"
            )
            self.spent = 1.0
            self.journal.record(at)

    def _write_sample(self) -> None:
        if self.sample is None or not self.processes.first:
            return
        # A CPU's generator is always kept; of an accelerator that of the one device.
        devices, kind = (
            ([], "cuda") if self.device.type == "cpu" else ([self.device.index or 0], self.device.type)
        )
        with torch.random.fork_rng(devices, device_type=kind), evaluating(self.model):
            text = self.sample(self.model)
        if text:
            self.report.sample(text)

    def _save(self) -> None:
        self.journal.read(self.seconds)  # nothing is saved after a step that went wrong
        own = checkpoint.own_part(self.data, self.state, self.generator, self.device)
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
            "evaluations": self.evaluations.state_dict(),
            "latest": checkpoint.numbers_of(self.latest),
            "best": checkpoint.numbers_of(self.best),
            "waited": self.waited,
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
        checkpoint.restore_own_part(part, self.data, self.generator, self.device)
        self.state = None if part["carried"] is None else checkpoint.CarriedState(part["carried"])
        self.steps, self.spent, self.waited = tree["steps"], tree["spent"], tree["waited"]
        self.evaluations.load_state_dict(tree["evaluations"])
        self.latest, self.best = (
            checkpoint.evaluation_of(tree[name], self.task.metrics(self.run.assets))
            for name in ("latest", "best")
        )
        self.seconds = self._seconds_before = self._saved_at = tree["seconds"]
        self.journal.load_state_dict(tree["journal"], self.seconds)
        self.guard.load_state_dict(tree["guard"])

    def _limits(self) -> list[str]:
        """What a model without recurrence cannot see of this data."""
        config = self.model_config
        if config.receptive_field is None:
            return []
        steps = None
        if not self.task.stream:  # the first batch of an evaluation has the longest sequences
            batches = self.task.evaluation_batches(
                self.run.assets, "validation", steps=self.window, batch=self.config.batch
            )
            first = None if batches is None else next(batches, None)
            steps = None if first is None else first.steps
        return limits(config, self.model, steps)

    def _task_name(self) -> str:
        """The task as it was typed, which may be a file and a class."""
        typed = shlex.split(str(self.run.config.get("command", "")))[1:3]
        return shlex.quote(typed[1]) if typed[:1] == ["train"] else self.task.name

    def _longer(self) -> str:
        """How to train longer: the learning rate was decayed for that end, so a longer training is another one."""
        path, kind = self.run.path, self.budget.kind
        out = shlex.quote(str(path.with_name(path.name + "-longer")))
        command = f"throughtime train {self._task_name()} --config {shlex.quote(str(path / CONFIG))}"
        return (
            "It cannot continue, as its learning rate was decayed for that end; to train longer, start again from its "
            f"weights: {command} --init-from {shlex.quote(str(path))} --{kind} {self.budget.amount:g} --out {out}"
        )

    def _how_to_resume(self) -> str:
        command = f"throughtime train {self._task_name()} --resume --out {shlex.quote(str(self.run.path))}"
        return f"training was interrupted at step {self.steps}; all of it is saved, continue with: {command}"


def check_strategy(model: nn.Module, strategy: bptt.Strategy, steps: int | None) -> None:
    """Refuse a strategy that would cut a sequence which the model must read whole.

    Args: steps, of every batch; None where they differ.
    Raises: InputError saying what to do.
    """
    if strategy.runs_whole:
        return
    if what := getattr(model, "needs_whole", ""):
        raise InputError(
            f"{what} reads a whole sequence at once, and {strategy.describe().partition(':')[0]} BPTT cuts it: train with "
            "bptt = full"
        )
    if (what := getattr(model, "whole_gradient", "")) and not isinstance(strategy, bptt.Checkpointed):
        raise InputError(
            f"{what} needs the gradient through whole sequences, and {strategy.describe().partition(':')[0]} BPTT cuts it: train "
            "with bptt = full, or with checkpointed:N, which gives the same gradient in less memory"
        )
    bptt.check_module(model, strategy, steps)
