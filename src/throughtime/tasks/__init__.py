"""Applications, one in each file: options, data, model, loss, metrics, baselines. Importing this imports no torch."""

from throughtime.tasks.adding import AddingTask
from throughtime.tasks.caption import CaptionTask
from throughtime.tasks.chat import ChatTask
from throughtime.tasks.classify import ClassifyTask
from throughtime.tasks.compose import ComposeTask
from throughtime.tasks.copy import CopyTask
from throughtime.tasks.echo import EchoTask
from throughtime.tasks.files import FileTask
from throughtime.tasks.fill import FillTask
from throughtime.tasks.forecast import ForecastTask
from throughtime.tasks.frames import FramesTask
from throughtime.tasks.generated import GeneratedTask
from throughtime.tasks.intent import IntentTask
from throughtime.tasks.recommend import RecommendTask
from throughtime.tasks.registry import find_task
from throughtime.tasks.search import SearchTask
from throughtime.tasks.tag import TagTask
from throughtime.tasks.task import Task, data_option
from throughtime.tasks.text import TextTask
from throughtime.tasks.translate import TranslateTask

__all__ = [
    "AddingTask",
    "CaptionTask",
    "ChatTask",
    "ClassifyTask",
    "ComposeTask",
    "CopyTask",
    "EchoTask",
    "FileTask",
    "FillTask",
    "ForecastTask",
    "FramesTask",
    "GeneratedTask",
    "IntentTask",
    "RecommendTask",
    "SearchTask",
    "TagTask",
    "Task",
    "TextTask",
    "TranslateTask",
    "data_option",
    "find_task",
]
