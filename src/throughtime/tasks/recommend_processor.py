"""Items of a session as they come, and the items that are likely to be next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from throughtime.data.assets import Assets
from throughtime.data.readers.sessions import items_of
from throughtime.sessions.processor import Carried, Processor

if TYPE_CHECKING:
    from throughtime.tasks.recommend import RecommendTask


class RecommendProcessor(Processor):
    """Takes items by their names, and gives those that are most likely after the last of them; null before the first."""

    def __init__(self, task: RecommendTask, assets: Assets) -> None:
        self.task, self.assets = task, assets

    def about(self) -> dict[str, Any]:
        return {
            "kind": "tokens",
            "takes": "a list of the names of items",
            "gives": f"next: the {self.task.top} best items after the last one; score: theirs",
            "labels": list(self.assets.labels["item"]),
        }

    def read(self, data: Any, carried: Carried) -> tuple[Tensor, Carried]:
        ids = self.task.ids(self.assets, [] if data == [] else items_of(data))
        if not self.task.unseen:
            return ids, carried
        return ids, {**carried, "held": sorted({*carried.get("held", ()), *ids.tolist()})}

    def write(self, outputs: Tensor, carried: Carried) -> tuple[Any, Carried]:
        if not len(outputs):
            return carried.get("answer", {"next": None, "score": None}), carried
        answer = self.task.best(self.assets, outputs[-1].cpu(), carried.get("held", ()))
        return answer, {**carried, "answer": answer}
